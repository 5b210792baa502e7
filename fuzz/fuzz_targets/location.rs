//! `cargo fuzz run location`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::location(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run location: without libFuzzer there is nothing to run here");
}
