//! Preparing packed volumes takes no more memory than it was given, however many are in work: each is far larger than its file.
#![allow(clippy::unwrap_used)]

use std::{env, fs, io::Write, process::Command};

use flate2::{Compression, write::GzEncoder};
use morph_data::{
    Silent,
    prepare::{self, Options},
};
use morph_spec::dataset::Dataset;
use serde_json::json;

const CHILD: &str = "MORPH_TEST_VOLUMES";
/// A side in voxels: 128 MiB of 16 bit.
const SIDE: u16 = 407;
const VOLUMES: usize = 16;
const MIB: u64 = 1 << 20;

fn volume() -> Vec<u8> {
    let mut header = vec![0; 352];
    header[..4].copy_from_slice(&348u32.to_le_bytes());
    for (at, value) in [(40, 3), (42, SIDE), (44, SIDE), (46, SIDE), (70, 512)] {
        header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    header[108..112].copy_from_slice(&352f32.to_le_bytes());
    header[344..348].copy_from_slice(b"n+1\0");
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&header).unwrap();
    let row: Vec<u8> = (0..SIDE).flat_map(|i| (i * 150).to_le_bytes()).collect();
    for _ in 0..u32::from(SIDE) * u32::from(SIDE) {
        packed.write_all(&row).unwrap();
    }
    packed.finish().unwrap()
}

/// The most memory that this process has had.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Run by the test below, in a process of its own.
#[tokio::test]
async fn prepare_in_a_process_of_its_own() {
    let Some(spec) = env::var_os(CHILD) else { return };
    let spec: Dataset = serde_json::from_slice(&fs::read(spec).unwrap()).unwrap();
    let options = Options { jobs: VOLUMES, memory: 256 * MIB, ..Options::default() };
    let report = prepare::prepare(&spec, &options, &Silent).await.unwrap();
    assert_eq!(report.manifest.samples(), VOLUMES as u64, "{:?}", report.skipped);
    assert!(peak() < 256 * MIB, "{} MiB", peak() / MIB);
}

#[test]
fn sixteen_packed_volumes_at_a_time_share_what_memory_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("raw/Normal");
    fs::create_dir_all(&folder).unwrap();
    let volume = volume();
    assert!((volume.len() as u64) < 4 * MIB, "files themselves must be small: {} bytes", volume.len());
    for i in 0..VOLUMES {
        fs::write(folder.join(format!("{i}.nii.gz")), &volume).unwrap();
    }
    let spec = json!({
        "kind": "dataset", "name": "volumes", "output": dir.path().join("out"),
        "source": {"layout": "folders", "root": dir.path().join("raw"), "slice": {"axis": 1}},
        "preprocess": {"size": 32}, "split": {"val": 0.2, "test": 0.2},
    });
    let path = dir.path().join("spec.json");
    fs::write(&path, spec.to_string()).unwrap();
    let mut child = Command::new(env::current_exe().unwrap());
    let out = child.args(["--exact", "prepare_in_a_process_of_its_own"]).env(CHILD, path).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
}
