//! `cargo fuzz run submit`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::submit(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run submit: without libFuzzer there is nothing to run here");
}
