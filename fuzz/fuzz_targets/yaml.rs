//! `cargo fuzz run yaml`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::yaml(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run yaml: without libFuzzer there is nothing to run here");
}
