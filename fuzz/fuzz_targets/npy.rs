//! `cargo fuzz run npy`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::npy(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run npy: without libFuzzer there is nothing to run here");
}
