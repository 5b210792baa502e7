//! `cargo fuzz run tables`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::tables(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run tables: without libFuzzer there is nothing to run here");
}
