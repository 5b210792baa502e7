//! `cargo fuzz run padchest`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::padchest(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run padchest: without libFuzzer there is nothing to run here");
}
