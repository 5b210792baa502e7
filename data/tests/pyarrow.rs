//! The example of docs/data.md, run by Python: pyarrow finds in a shard what was written. MORPH_PYARROW names a Python that has pyarrow;
//! scripts/test makes one. Without it nothing is run, and that is said.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command};

use morph_data::{
    Samples, Silent,
    prepare::{self, Options},
    synth,
};
use morph_objects::{NodeCache, Objects};
use morph_spec::{dataset::Dataset, experiment::Subset};
use serde_json::{Value, json};

/// What the example leaves in its variables, of the last shard.
const TOLD: &str = "
print(json.dumps({
    'split': shard['split'], 'shape': images.shape, 'sum': int(images.sum()), 'first': images[0].ravel().tolist(),
    'id': table['id'].to_pylist(), 'label': table['label'].to_pylist(), 'age': table['age'].to_pylist(),
    'boxes': [len(of) for of in table['boxes'].to_pylist()], 'digest': [d.hex() for d in table['digest'].to_pylist()],
}))";

#[tokio::test]
async fn the_example_of_the_docs_reads_what_was_written() {
    let Some(python) = std::env::var_os("MORPH_PYARROW") else {
        eprintln!("left out: MORPH_PYARROW names no Python with pyarrow (scripts/test makes one)");
        return;
    };
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/data.md")).unwrap();
    let example = docs.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    let options = synth::Options { root: raw.clone(), seed: 7, healthy: 20, opacity: 6, other: 2, size: 64 };
    synth::write(&options, &Silent).unwrap();
    // Where the example looks, from the folder in which somebody has run the demo.
    let spec: Dataset = serde_json::from_value(json!({
        "kind": "dataset", "name": "rsna-phantom", "source": {"layout": "rsna", "root": raw},
        "output": dir.path().join("morph-demo/datasets/rsna-phantom"),
        "preprocess": {"size": 16}, "split": {"val": 0.25, "test": 0.25}, "shard_samples": 8,
    }))
    .unwrap();
    let report = prepare::prepare(&spec, &Options::default(), &Silent).await.unwrap();

    let script = format!("{example}{TOLD}");
    let out = Command::new(python).args(["-c", &script]).current_dir(dir.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let said = String::from_utf8(out.stdout).unwrap();
    // One line a shard, and the counts of labels may take more.
    let shapes = said.lines().filter(|line| line.contains(", 16, 16)")).count();
    assert_eq!(shapes, report.manifest.shards.len(), "{said}");
    let found: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();

    let shard = report.manifest.shards.last().unwrap();
    let subset = Subset { split: shard.split.clone(), labels: Vec::new() };
    let cache = NodeCache::open(&dir.path().join("cache"), 1 << 30).unwrap();
    let samples = Samples::open(&Objects::open(&report.url).unwrap(), &report.manifest, &subset, &cache).await.unwrap();
    // The last shard of its split: the last samples.
    let rows = samples.len() - shard.samples as usize..samples.len();
    let metas: Vec<_> = rows.clone().map(|i| samples.meta(i)).collect();
    let sum: u64 = rows.clone().flat_map(|i| samples.image(i)).map(|v| u64::from(*v)).sum();
    let wanted = json!({
        "split": shard.split, "shape": [shard.samples, 16, 16], "sum": sum, "first": samples.image(rows.start),
        "id": metas.iter().map(|m| &m.id).collect::<Vec<_>>(), "label": metas.iter().map(|m| &m.label).collect::<Vec<_>>(),
        "age": metas.iter().map(|m| m.age).collect::<Vec<_>>(), "boxes": metas.iter().map(|m| m.boxes.len()).collect::<Vec<_>>(),
        "digest": metas.iter().map(|m| m.digest.to_string()).collect::<Vec<_>>(),
    });
    assert_eq!(found, wanted);
}
