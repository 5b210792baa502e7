//! `cargo fuzz run cases`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::cases(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run cases: without libFuzzer there is nothing to run here");
}
