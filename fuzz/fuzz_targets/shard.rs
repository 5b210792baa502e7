//! `cargo fuzz run shard`
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| morph_fuzz::shard(data));

#[cfg(not(fuzzing))]
fn main() {
    eprintln!("cargo fuzz run shard: without libFuzzer there is nothing to run here");
}
