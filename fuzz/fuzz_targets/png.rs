//! `cargo fuzz run png`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::png(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run png: without libFuzzer there is nothing to run here");
}
