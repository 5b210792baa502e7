//! Tells the compiler of the `--cfg fuzzing` that cargo-fuzz builds with.
fn main() {
    println!("cargo::rustc-check-cfg=cfg(fuzzing)");
    println!("cargo::rerun-if-changed=build.rs");
}
