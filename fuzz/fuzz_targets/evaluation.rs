//! `cargo fuzz run evaluation`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::evaluation(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run evaluation: without libFuzzer there is nothing to run here");
}
