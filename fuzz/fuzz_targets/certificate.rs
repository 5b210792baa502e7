//! `cargo fuzz run certificate`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::certificate(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run certificate: without libFuzzer there is nothing to run here");
}
