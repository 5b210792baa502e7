//! Finds libtorch at run time: an absolute rpath to where it was built against, and one beside the binary for packages. And says
//! which code this is: the version, and in a git checkout the commit.

use std::{env, path::Path, process::Command};

/// The rooms that a worker is made of. A change of these compiles it anew anyway, so no build is due to looking at them; what changes
/// elsewhere is no change of it.
const ROOMS: [&str; 11] = [
    "spec",
    "proto",
    "control",
    "objects",
    "data",
    "scores",
    "checkpoint",
    "model",
    "collective",
    "telemetry",
    "worker",
];
/// What of a room is part of the program.
const PARTS: [&str; 5] = ["src", "shim", "morph", "build.rs", "Cargo.toml"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let lib = env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names its library folder; run scripts/setup first");
    for rpath in [lib.as_str(), "$ORIGIN/../lib/morph"] {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{rpath}");
    }
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let commit = commit(Path::new("..")).map(|commit| format!("+{commit}")).unwrap_or_default();
    println!("cargo:rustc-env=MORPH_VERSION={version}{commit}");
}

/// The commit of which the sources below `root` are, with `.dirty` where they are not; `None` outside of a git checkout of them.
fn commit(root: &Path) -> Option<String> {
    let git = |args: &[&str]| {
        // Looking must not lock the index against whoever works there.
        let out = Command::new("git").current_dir(root).env("GIT_OPTIONAL_LOCKS", "0").args(args).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
    };
    // Sources that were unpacked inside of something else's checkout are not of its commits.
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() || git(&["ls-files", "worker/build.rs"])?.is_empty() {
        return None;
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let rooms = ROOMS.iter().flat_map(|room| PARTS.map(|part| format!("{room}/{part}")));
    let parts: Vec<String> = rooms
        .chain(["Cargo.toml".to_owned(), "Cargo.lock".to_owned()])
        .filter(|part| root.join(part).exists())
        .collect();
    // Where a commit would show.
    for place in ["HEAD", "refs/heads", "packed-refs"] {
        let path = root.join(git(&["rev-parse", "--git-path", place])?);
        // Of what is not there cargo thinks that it has changed, each time.
        if path.exists() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    parts.iter().for_each(|part| println!("cargo:rerun-if-changed=../{part}"));
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(parts.iter().map(String::as_str));
    let dirty = if git(&status)?.is_empty() { "" } else { ".dirty" };
    Some(format!("{commit}{dirty}"))
}
