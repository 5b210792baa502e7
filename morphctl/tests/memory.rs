//! Preparing large images takes no more memory than it was given, however many are in work. Alone in its program: what children took
//! is known of all of them together.
#![allow(clippy::unwrap_used)]

use std::{fs, io::BufWriter};

use assert_cmd::Command;
use nix::sys::resource::{UsageWho, getrusage};

/// An image's side: 16 million pixels of 16 bit, as the largest detectors have them.
const SIDE: u32 = 4000;
const IMAGES: usize = 64;

/// Bytes.
const MIB: i64 = 1 << 20;

#[test]
fn sixty_four_large_images_at_a_time_share_what_memory_there_is() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("raw/Normal");
    fs::create_dir_all(&folder).unwrap();
    let first = folder.join("00.png");
    let mut encoder = png::Encoder::new(BufWriter::new(fs::File::create(&first).unwrap()), SIDE, SIDE);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.set_compression(png::Compression::Fast);
    let pixels: Vec<u8> = (0..SIDE * SIDE).flat_map(|i| ((i / 7 % 4096) as u16).to_be_bytes()).collect();
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    for i in 1..IMAGES {
        fs::copy(&first, folder.join(format!("{i:02}.png"))).unwrap();
    }
    let dataset = home.path().join("large.yaml");
    let text = format!(
        "kind: dataset\nname: large\nsource: {{layout: folders, root: {}}}\noutput: {}\npreprocess: {{size: 64}}\nshard_samples: 1024\n\
         split: {{healthy: [Normal], val: 0.2, test: 0.2}}\n",
        home.path().join("raw").display(),
        home.path().join("out").display()
    );
    fs::write(&dataset, text).unwrap();

    let mut command = Command::cargo_bin("morphctl").unwrap();
    command.env("MORPH_HOME", home.path()).args(["data", "prepare", "--jobs", "64", "--memory", "1024"]).arg(&dataset);
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let manifest = fs::read_to_string(home.path().join("out/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let counts = manifest["counts"].as_object().unwrap().values();
    let samples: u64 = counts.flat_map(|of| of.as_object().unwrap().values()).map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(samples, IMAGES as u64);

    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss() * 1024;
    // With memory enough for all 64 it is 1.5 GiB.
    assert!(peak < 1024 * MIB, "{} MiB", peak / MIB);
}
