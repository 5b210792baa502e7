//! `cargo fuzz run messages`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::messages(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run messages: without libFuzzer there is nothing to run here");
}
