//! `cargo fuzz run pickle`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::pickle(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run pickle: without libFuzzer there is nothing to run here");
}
