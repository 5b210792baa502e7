//! `cargo fuzz run workbook`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::workbook(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run workbook: without libFuzzer there is nothing to run here");
}
