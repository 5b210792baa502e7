//! Compiles the C++ shim over libtorch's c10d, and lets binaries find libtorch: by an absolute rpath to where it was built
//! against, and by one beside the binary for packages.
use std::{env, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim");
    let lib = env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names its library folder; run scripts/setup first");
    let include = Path::new(&lib).parent().expect("the library folder has a parent").join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .warnings(false)
        .define("USE_C10D_GLOO", None)
        .include("shim/gloo_stub")
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("shim/c10d.cpp")
        .file("shim/native.cpp")
        .compile("morph_c10d");
    println!("cargo:rustc-link-search=native={lib}");
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    for rpath in [lib.as_str(), "$ORIGIN/../lib/morph"] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{rpath}");
    }
}
