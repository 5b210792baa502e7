//! `cargo fuzz run nifti`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::nifti(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run nifti: without libFuzzer there is nothing to run here");
}
