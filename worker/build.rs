//! Finds libtorch at run time: an absolute rpath to where it was built against, and one beside the binary for packages.
fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let lib =
        std::env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names its library folder; run scripts/setup first");
    for rpath in [lib.as_str(), "$ORIGIN/../lib/morph"] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{rpath}");
    }
}
