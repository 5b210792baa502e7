//! YAML and JSON.

use std::{path::Path, str};

use morph_control::{
    Event, Policy,
    snapshot::{Piece, Restore},
};
use morph_scores::{cases::Cases, evaluation::Evaluation};
use morph_spec::load::{self, Document, Options, Problems};

/// `morph_spec::load`: experiments, sweeps, datasets, clusters. What is read is written as what is read again.
pub fn yaml(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    match read(text) {
        Ok(document) => {
            let written = document.to_yaml();
            assert_eq!(read(&written).as_ref(), Ok(&document), "{written}");
        }
        Err(problems) => assert!(!problems.to_string().is_empty(), "an error says what is wrong"),
    }
}

/// Beside the file there is nothing.
fn read(text: &str) -> Result<Document, Problems> {
    load::text(text, "fuzz.yaml", Path::new("/nonexistent"), &Options::default())
}

/// A prepared dataset's `manifest.json`.
pub fn dataset_manifest(data: &[u8]) {
    let Ok(manifest) = morph_data::manifest::parse(data, "memory:///manifest.json") else { return };
    assert!(manifest.samples() >= manifest.split("train").map(|s| s.samples).max().unwrap_or(0));
    assert!(manifest.bytes() >= manifest.shards.iter().map(|s| s.bytes).max().unwrap_or(0));
    let again = serde_json::to_vec(&manifest).expect("invariant: a manifest is JSON");
    let again = morph_data::manifest::parse(&again, "memory:///again.json").expect("what was written is read");
    assert_eq!(again, manifest);
}

/// A checkpoint's `manifest.json`.
pub fn checkpoint_manifest(data: &[u8]) {
    let Ok(manifest) = morph_checkpoint::Manifest::parse(data, "memory:///manifest.json") else { return };
    let again = serde_json::to_vec(&manifest).expect("invariant: a manifest is JSON");
    let again = morph_checkpoint::Manifest::parse(&again, "memory:///again.json").expect("what was written is read");
    assert_eq!(again, manifest);
}

/// A run's scores, `evaluation.json`. What is read is written as what is read again, and can be told.
pub fn evaluation(data: &[u8]) {
    let Ok(evaluation) = Evaluation::from_json("evaluation.json", data) else { return };
    let written = evaluation.to_json();
    let again = Evaluation::from_json("again.json", written.as_bytes()).expect("what was written is read");
    assert_eq!(again, evaluation);
    assert!(!evaluation.text().is_empty());
}

/// A run's table of cases, `cases.csv`.
pub fn cases(data: &[u8]) {
    let Ok(cases) = Cases::from_csv("cases.csv", data) else { return };
    let again = Cases::from_csv("again.csv", cases.to_csv().as_bytes()).expect("what was written is read");
    assert_eq!(again, cases);
}

/// What the coordinator reads back of its own: an event of its database, or a line of its snapshot.
pub fn event(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if let Ok(event) = Event::from_json(text) {
        assert!(!event.kind().is_empty() && event.run().is_none_or(|_| event.sweep().is_none()));
        drop(event.text());
        let again = serde_json::to_string(&event).expect("invariant: events are JSON");
        assert_eq!(Event::from_json(&again).expect("what was written is read"), event);
    }
    if let Ok(piece) = serde_json::from_str::<Piece<'_>>(text) {
        let mut restore = Restore::new(Policy::default());
        restore.put(piece);
        drop(restore.done());
    }
}
