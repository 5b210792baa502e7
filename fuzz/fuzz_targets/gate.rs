//! `cargo fuzz run gate`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::gate(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run gate: without libFuzzer there is nothing to run here");
}
