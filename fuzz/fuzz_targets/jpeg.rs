//! `cargo fuzz run jpeg`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::jpeg(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run jpeg: without libFuzzer there is nothing to run here");
}
