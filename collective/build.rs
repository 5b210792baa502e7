//! Compiles the C++ shim over libtorch's c10d, and lets binaries find libtorch: by an absolute rpath to where it was built
//! against, and by one beside the binary for packages.
use std::{
    env,
    path::{Path, PathBuf},
};

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
        .file("shim/cuda.cpp")
        .file("shim/native.cpp")
        .compile("morph_c10d");
    nccl(&include, &lib);
    println!("cargo:rustc-link-search=native={lib}");
    println!("cargo:rustc-link-lib=torch_cpu");
    println!("cargo:rustc-link-lib=c10");
    for rpath in [lib.as_str(), "$ORIGIN/../lib/morph"] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{rpath}");
    }
}

/// Compiles what needs libtorch's CUDA half into a shared object, which the crate carries in itself: it is loaded where that half is.
fn nccl(include: &Path, lib: &str) {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo says where the crate is"));
    let cuda = root.join("../third_party/cuda/nvidia/cu13/include");
    assert!(cuda.join("cuda_runtime_api.h").exists(), "{} holds no headers of CUDA; run scripts/setup", cuda.display());
    let object = PathBuf::from(env::var("OUT_DIR").expect("cargo says where to write")).join("libmorph_nccl.so");
    let mut compiler = cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .warnings(false)
        .flag("-fvisibility=hidden")
        .flag_if_supported("-Wno-interference-size")
        .include("shim/cuda_stub")
        .include(include)
        .include(include.join("torch/csrc/api/include"))
        .include(&cuda)
        .get_compiler()
        .to_command();
    let compiler = compiler.arg("-shared").arg("shim/nccl.cpp").arg("-o").arg(&object);
    let linked = compiler.arg(format!("-L{lib}")).args(["-ltorch_cpu", "-lc10", "-s"]);
    let status = linked.status().expect("the C++ compiler starts");
    assert!(status.success(), "shim/nccl.cpp does not compile: {status}");
    println!("cargo:rustc-env=MORPH_NCCL_OBJECT={}", object.display());
}
