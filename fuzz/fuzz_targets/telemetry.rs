//! `cargo fuzz run telemetry`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::telemetry(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run telemetry: without libFuzzer there is nothing to run here");
}
