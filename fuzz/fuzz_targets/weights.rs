//! `cargo fuzz run weights`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::weights(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run weights: without libFuzzer there is nothing to run here");
}
