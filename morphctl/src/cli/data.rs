//! `data …`.

use std::path::PathBuf;

use clap::Subcommand;

use super::Set;

/// Verbs for datasets.
#[derive(Debug, Subcommand)]
pub enum Data {
    /// Writes phantom chest X-rays in RSNA's layout: JPEG-compressed DICOM files and both tables.
    #[command(after_help = "Example:
  morphctl data synth morph-demo/raw/rsna-phantom --healthy 900 --opacity 150 --other 40

The same arguments give the same bytes. Phantom numbers say nothing about patients.")]
    Synth {
        /// The folder to write to.
        root: PathBuf,
        /// How many show nothing.
        #[arg(long, default_value_t = 900)]
        healthy: u32,
        /// How many show lung opacity.
        #[arg(long, default_value_t = 150)]
        opacity: u32,
        /// How many show something else: effusion, a large heart, a nodule.
        #[arg(long, default_value_t = 40)]
        other: u32,
        /// Everything follows from it.
        #[arg(long, default_value_t = 2109)]
        seed: u64,
        /// Side in pixels.
        #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..=8192))]
        size: u32,
    },
    /// Reads raw images, preprocesses and splits them, and writes shards and a manifest.
    #[command(after_help = "Examples:
  morphctl data prepare configs/datasets/rsna-phantom.yaml
  morphctl data prepare configs/datasets/rsna.yaml --set source.root=/data/rsna --set preprocess.size=256
  morphctl data prepare configs/datasets/padchest.yaml --workers 8 --coordinator https://head:7070

Files that cannot be read are listed in skipped.csv beside the manifest. Run again, it says what it reuses; after a kill it goes on
where it was. With --workers the agents of a coordinator make the shards; source and output must be places that they and this machine
see. docs/data.md has every layout and option.")]
    Prepare {
        /// The dataset's YAML.
        file: PathBuf,
        /// Fields to change.
        #[command(flatten)]
        set: Set,
        /// Replace another dataset at the same place.
        #[arg(long)]
        overwrite: bool,
        /// Images decoded at a time; 0: one per core.
        #[arg(long, default_value_t = 0)]
        jobs: usize,
        /// Memory that it may take, about, in MiB.
        #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(256..))]
        memory: u32,
        /// Have a coordinator's agents make the shards, at most so many at a time; --jobs and --memory are then each agent's.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        workers: Option<u32>,
    },
    /// Compares every shard of a prepared dataset with its checksum.
    Verify {
        /// The dataset's folder, or its YAML.
        dataset: String,
    },
    /// Says how two prepared datasets differ: samples, splits, labels, pixels, options. Fails when they do.
    Diff {
        /// The first one's folder, or its YAML.
        a: String,
        /// The second one's.
        b: String,
    },
    /// Shows what is in a prepared dataset.
    #[command(after_help = "Examples:
  morphctl data inspect morph-demo/datasets/rsna-phantom
  morphctl data inspect s3://bucket/rsna --verify
  morphctl data inspect morph-demo/datasets/rsna-phantom --sheet cases.png --split test")]
    Inspect {
        /// The dataset's folder, or its YAML.
        dataset: String,
        /// Compare every shard with its checksum.
        #[arg(long)]
        verify: bool,
        /// Also draw the first images of a split into this PNG file.
        #[arg(long, value_name = "FILE")]
        sheet: Option<PathBuf>,
        /// The split to draw.
        #[arg(long, default_value = "train")]
        split: String,
        /// How many images to draw.
        #[arg(short, long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
        number: u32,
    },
}
