//! `cargo fuzz run checkpoint_manifest`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::checkpoint_manifest(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run checkpoint_manifest: without libFuzzer there is nothing to run here");
}
