//! `cargo fuzz run dicom`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::dicom(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run dicom: without libFuzzer there is nothing to run here");
}
