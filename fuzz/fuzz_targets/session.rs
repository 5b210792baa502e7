//! `cargo fuzz run session`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::session(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run session: without libFuzzer there is nothing to run here");
}
