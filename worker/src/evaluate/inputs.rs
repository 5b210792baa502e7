//! What an evaluation is made of beside datasets, which have manifests: files of weights, and what is known of images beside their
//! dataset. Their contents go into the record as digests, so that who reproduces it can tell other files from other numbers.

use std::path::Path;

use morph_objects::Objects;
use morph_scores::evaluation::Input;
use morph_spec::{Digest, Experiment};

use crate::rank::{failure::Failure, group::Group};

/// 16-bit words of a digest.
const WORDS: usize = 16;

/// One file, for the record: the field of the experiment that names it, and where it lies.
pub fn file(field: &str, url: &str, blake3: Digest) -> Input {
    Input { field: field.to_owned(), url: url.to_owned(), files: 1, blake3: blake3.to_string() }
}

/// Whether the folder of evaluation.truth is there: looked at before training, for scoring comes last. In a bucket there are no folders,
/// and nothing is looked for.
///
/// # Errors
/// When it is a path, and of no folder.
pub fn truth_is_there(experiment: &Experiment) -> Result<(), Failure> {
    let Some(truth) = &experiment.evaluation.truth else { return Ok(()) };
    let url = Objects::open(truth)?.url();
    match url.strip_prefix("file://") {
        Some(path) if !Path::new(path).is_dir() => Err(Failure::User(format!(
            "evaluation.truth: {path} is no folder on this machine: say where masks/, twins/ and lesions/ are, or leave it out"
        ))),
        _ => Ok(()),
    }
}

/// Many files as one digest, in whatever order and by whichever rank they are read: their digests' words are added up, exactly.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Files {
    /// Sums of the words, then the number of files.
    sums: [f64; WORDS + 1],
}

impl Files {
    /// Takes in files by their digests, which must be of their names, too.
    pub fn add(&mut self, files: &[Digest]) {
        for Digest(bytes) in files {
            let words = bytes.as_chunks().0.iter().map(|word| f64::from(u16::from_le_bytes(*word)));
            self.sums.iter_mut().zip(words.chain([1.0])).for_each(|(sum, word)| *sum += word);
        }
    }

    /// The files of all ranks.
    ///
    /// # Errors
    /// When a peer is gone.
    pub fn of_all(mut self, group: &Group) -> Result<Self, Failure> {
        group.sum(&mut self.sums)?;
        Ok(self)
    }

    /// These and the others.
    pub fn merge(&mut self, others: &Self) {
        self.sums.iter_mut().zip(others.sums).for_each(|(sum, other)| *sum += other);
    }

    /// For the record: the field of the experiment that names them, and where they lie.
    pub fn input(&self, field: &str, url: &str) -> Input {
        let bytes: Vec<u8> = self.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let files = self.sums[WORDS] as u64;
        Input { field: field.to_owned(), url: url.to_owned(), files, blake3: Digest::of(&bytes).to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_that_is_not_there_is_missed_before_training() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("file"), "x").unwrap();
        std::fs::create_dir(home.path().join("a folder")).unwrap();
        let there = |truth: Option<&str>| {
            let text = r#"{"kind": "experiment", "name": "x", "dataset": {"url": "x"}, "model": {"method": "ae-s"}}"#;
            let mut experiment: Experiment = serde_json::from_str(text).unwrap();
            experiment.evaluation.truth = truth.map(|name| home.path().join(name).to_str().unwrap().to_owned());
            truth_is_there(&experiment)
        };
        there(None).unwrap();
        there(Some("a folder")).unwrap();
        for wrong in ["nothing", "file"] {
            let said = there(Some(wrong)).unwrap_err();
            assert!(matches!(&said, Failure::User(why) if why.contains(wrong)), "{said}");
        }
    }

    #[test]
    fn the_order_of_files_does_not_matter_and_each_does() {
        let all: Vec<Digest> = (0..5u8).map(|i| Digest::of(&[i])).collect();
        let input = |parts: &[&[Digest]]| {
            let mut files = Files::default();
            for part in parts {
                let mut more = Files::default();
                more.add(part);
                files.merge(&more);
            }
            files.input("evaluation.truth", "/truth")
        };
        let whole = input(&[&all]);
        assert_eq!(whole.files, 5);
        let turned: Vec<Digest> = all.iter().rev().copied().collect();
        assert_eq!(input(&[&turned[..2], &turned[2..]]), whole);
        assert_ne!(input(&[&all[1..]]).blake3, whole.blake3);
        let mut other = all;
        other[3] = Digest::of(b"another");
        assert_ne!(input(&[&other]).blake3, whole.blake3);
        // Two files that have exchanged their contents are other files, since names are hashed, too.
        let named = |name: &str, bytes: &str| Digest::of(format!("{name}\0{bytes}").as_bytes());
        assert_ne!(input(&[&[named("a", "1"), named("b", "2")]]), input(&[&[named("a", "2"), named("b", "1")]]));
    }
}
