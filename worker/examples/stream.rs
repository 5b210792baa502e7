//! How fast batches are made, for `scripts/bench data stream`: what a rank does while it trains, without the training.
//!
//! Writes images into the folder that it is given, as shards for itself and as PNG files and one raw file for the peers, and prints
//! one JSON object a line.
#![allow(clippy::print_stdout, reason = "that is how a bench speaks")]

use std::{fs, io::BufWriter, path::Path, sync::Arc, time::Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use morph_data::{Meta, Samples, augment::Augmenter, sampler::Sampler, shard::Writer};
use morph_objects::{NodeCache, Objects};
use morph_spec::{
    Augment, Digest, Manifest, Rng,
    experiment::{Residency, Subset},
    manifest::{PatientIds, Shard, VERSION},
};
use morph_worker::rank::{
    batches::{Batches, Order},
    group::Place,
    images::Images,
};
use serde_json::json;
use tch::{Device, Kind};

/// Measures how fast batches are made.
#[derive(Debug, Parser)]
struct Cli {
    /// Where the images are written.
    folder: std::path::PathBuf,
    /// Images.
    #[arg(long, default_value_t = 8192)]
    images: u32,
    /// Their side in pixels.
    #[arg(long, default_value_t = 128)]
    side: u32,
    /// Images of a batch.
    #[arg(long, default_value_t = 64)]
    batch: u32,
    /// Passes over the images that are measured.
    #[arg(long, default_value_t = 5)]
    epochs: u32,
    /// Samples of the large dataset, of 8 × 8 pixels, on which a start is measured.
    #[arg(long, default_value_t = 1_000_000)]
    large: u32,
}

const PLACE: Place = Place { device: Device::Cpu, kind: Kind::Float };

/// A soft shape with grain: what a decoder meets in a radiograph, not in noise.
fn image(number: u32, side: u32) -> Vec<u8> {
    let mut rng = Rng::keyed(7, "bench", u64::from(number));
    let (fx, fy) = (rng.next_u64() % 5 + 1, rng.next_u64() % 5 + 1);
    let pixel = |i: u32| {
        let (x, y) = (f64::from(i % side) / f64::from(side), f64::from(i / side) / f64::from(side));
        110.0 + 90.0 * (x * fx as f64 * 3.1).sin() * (y * fy as f64 * 3.1).cos()
    };
    (0..side * side).map(|i| (pixel(i) + (rng.next_u64() % 9) as f64) as u8).collect()
}

/// Writes `count` images of `side` as a dataset of shards of `each`.
async fn write(folder: &Path, count: u32, side: u32, each: u32, image: impl Fn(u32) -> Vec<u8>) -> Result<Objects> {
    let data = Objects::open(&folder.display().to_string())?;
    let mut shards = Vec::new();
    for start in (0..count).step_by(each as usize) {
        let mut writer = Writer::new(side, side);
        for i in start..count.min(start + each) {
            let id = format!("{i:08}");
            let meta = Meta {
                patient: id.clone(),
                source: format!("{id}.png"),
                digest: Digest::of(id.as_bytes()),
                id,
                label: "Normal".into(),
                view: Some("PA".into()),
                sex: None,
                age: None,
                boxes: Vec::new(),
            };
            writer.push(&image(i), meta);
        }
        let (labels, samples, file) = (writer.labels(), writer.len() as u64, format!("train-{start:08}.arrow"));
        let bytes = writer.finish()?;
        let (blake3, size) = (Digest::of(&bytes), bytes.len() as u64);
        data.put(&file, bytes.into()).await?;
        shards.push(Shard { file, split: "train".into(), samples, bytes: size, blake3, labels });
    }
    let counts = [("train".to_owned(), [("Normal".to_owned(), u64::from(count))].into())].into();
    let manifest = Manifest {
        version: VERSION,
        name: "bench".into(),
        preprocess: morph_spec::dataset::Preprocess { size: side, ..Default::default() },
        fingerprint: Digest::of(b"bench"),
        image_size: [side, side],
        shards,
        counts,
        patient_ids: PatientIds::Image,
        synthetic: true,
        skipped: Default::default(),
    };
    morph_data::manifest::commit(&data, &manifest).await?;
    Ok(data)
}

async fn open(data: &Objects, cache: &Path) -> Result<Samples> {
    let (manifest, _) = morph_data::manifest::read(data).await?;
    let cache = NodeCache::open(cache, 1 << 40)?;
    let subset = Subset { split: "train".into(), labels: vec!["Normal".into()] };
    Ok(Samples::open(data, &manifest, &subset, &cache).await?)
}

/// The peers' copies of the same images.
fn for_peers(folder: &Path, cli: &Cli) -> Result<()> {
    fs::create_dir_all(folder.join("png"))?;
    let mut raw = Vec::new();
    for i in 0..cli.images {
        let pixels = image(i, cli.side);
        let file = BufWriter::new(fs::File::create(folder.join(format!("png/{i:08}.png")))?);
        let mut encoder = png::Encoder::new(file, cli.side, cli.side);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header()?.write_image_data(&pixels)?;
        raw.extend(pixels);
    }
    fs::write(folder.join("raw.bin"), raw)?;
    Ok(())
}

/// A line of `/proc/self/status`, in MB.
fn memory(name: &str) -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok());
    line.unwrap_or_default() / 1024.0
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    morph_worker::rank::set_up(1, Device::Cpu).map_err(anyhow::Error::msg)?;
    if cli.folder.exists() {
        fs::remove_dir_all(&cli.folder).context("remove what an earlier bench left")?;
    }
    for_peers(&cli.folder, &cli)?;
    let side = cli.side;
    let data = write(&cli.folder.join("shards"), cli.images, side, 1024, |i| image(i, side)).await?;
    let usual = Augment { flip: 0.5, rotate: 5.0, translate: 0.02, scale: 0.05, contrast: 0.1, ..Augment::default() };
    let none = Augment::default();
    let cases = [
        (Residency::Mmap, none, 1),
        (Residency::Device, none, 1),
        (Residency::Mmap, usual, 1),
        (Residency::Mmap, usual, 2),
    ];
    for (residency, augment, threads) in cases {
        stream(&cli, &data, residency, augment, threads).await?;
    }
    start(&cli).await
}

async fn stream(cli: &Cli, data: &Objects, residency: Residency, augment: Augment, threads: usize) -> Result<()> {
    let samples = Arc::new(open(data, &cli.folder.join("cache")).await?);
    let sampler = Sampler { samples: samples.len() as u64, batch_size: cli.batch, seed: 1, drop_last: true };
    let augmenter = Augmenter::new(augment, sampler.seed);
    let order =
        Order { sampler, batches: sampler.batches(), epochs: cli.epochs + 1, rank: 0, world: 1, augmenter, threads };
    let images = Images::new(samples, residency, PLACE).map_err(anyhow::Error::msg)?;
    let mut batches = Batches::begin(images, order, 0, 0).map_err(anyhow::Error::msg)?;
    let (mut since, mut sum) = (Instant::now(), 0.0);
    for step in 0..u64::from(order.epochs) * order.batches {
        if step == order.batches {
            // The first pass has warmed everything up.
            since = Instant::now();
        }
        // Looked at, as training would.
        sum += batches.take().map_err(anyhow::Error::msg)?.x.double_value(&[0, 0, 0, 0]);
    }
    let measured = f64::from(cli.epochs) * (order.batches * u64::from(cli.batch)) as f64;
    ensure!(sum > 0.0, "the images are black");
    let varied = if augmenter.is_some() { format!(", varied by {threads}") } else { String::new() };
    let name = format!("morph, {}{varied}", serde_json::to_value(residency)?.as_str().unwrap_or_default());
    let (rate, mb) = (measured / since.elapsed().as_secs_f64(), memory("RssAnon:"));
    println!("{}", json!({"peer": name, "what": "warm cache", "images_per_second": rate, "own_memory_mb": mb}));
    Ok(())
}

/// From nothing to the first batch, and to a batch in the middle of an epoch.
async fn start(cli: &Cli) -> Result<()> {
    let folder = cli.folder.join("large");
    let data = write(&folder, cli.large, 8, 20_000, |i| i.to_le_bytes().repeat(16)).await?;
    for what in ["fetched now", "first batch", "resumed mid-epoch"] {
        let since = Instant::now();
        let before = memory("RssAnon:");
        let samples = Arc::new(open(&data, &cli.folder.join("large-cache")).await?);
        let sampler = Sampler { samples: samples.len() as u64, batch_size: cli.batch, seed: 1, drop_last: true };
        let order =
            Order { sampler, batches: sampler.batches(), epochs: 9, rank: 0, world: 1, augmenter: None, threads: 1 };
        let images = Images::new(samples, Residency::Mmap, PLACE).map_err(anyhow::Error::msg)?;
        let (epoch, index) = if what == "resumed mid-epoch" { (5, order.batches / 2) } else { (0, 0) };
        let first =
            Batches::begin(images, order, epoch, index).and_then(|mut b| b.take()).map_err(anyhow::Error::msg)?;
        ensure!((first.epoch, first.index) == (epoch, index), "another batch");
        let (seconds, mb) = (since.elapsed().as_secs_f64(), memory("RssAnon:") - before);
        println!(
            "{}",
            json!({"peer": "morph", "what": format!("{} samples, {what}", cli.large), "seconds": seconds,
            "more_memory_mb": mb, "sampler_bytes": size_of::<Sampler>()})
        );
    }
    Ok(())
}
