//! `cargo fuzz run event`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::event(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run event: without libFuzzer there is nothing to run here");
}
