//! `kind: dataset`: where raw images lie, in which layout, and how they become shards.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A dataset YAML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Must be `dataset`.
    pub kind: Kind,
    /// Name of the dataset; becomes the manifest's name.
    pub name: String,
    /// Where the raw files are.
    pub source: Source,
    /// Where shards and manifest go: a URL (`file:///…`, `s3://bucket/prefix`) or a path, relative to the working
    /// folder. `${VAR}` is replaced from the environment.
    pub output: String,
    /// How an image is made ready.
    #[serde(default)]
    pub preprocess: Preprocess,
    /// Which images are taken; all by default.
    #[serde(default)]
    pub filter: Filter,
    /// Labels out of findings: the first whose conditions hold names the image; images of none are left out. Without any, the
    /// layout's own labels are taken.
    #[serde(default)]
    pub classes: Vec<Class>,
    /// Which sample goes to which split.
    #[serde(default)]
    pub split: Split,
    /// Labels as the source names them → labels as this dataset calls them. Labels that are not listed keep their name.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Only samples with these labels (after renaming); empty: all.
    #[serde(default)]
    pub only_labels: Vec<String>,
    /// What must not leave the machine.
    #[serde(default)]
    pub privacy: Privacy,
    /// A shard is closed when it holds this many samples, or 64 MiB of pixels.
    #[serde(default = "default_shard_samples")]
    pub shard_samples: u32,
}

impl Dataset {
    /// Every place that is read or written, with the name of its field: where it is for somebody in `folder`, an absolute path. There
    /// is no other list of them: who may not be led somewhere is kept from it here.
    pub fn places(&self, folder: &str) -> Vec<(String, String)> {
        let source = &self.source;
        let root = joined(folder, &source.root);
        let there = |name: &String| joined(&root, name);
        let mut places =
            vec![("source.root".to_owned(), root.clone()), ("output".to_owned(), joined(folder, &self.output))];
        places.extend(source.patient_map.iter().map(|map| ("source.patient_map".to_owned(), joined(folder, map))));
        places.extend(source.labels.iter().map(|name| ("source.labels".to_owned(), there(name))));
        places.extend(source.bad_images.iter().map(|name| ("source.bad_images".to_owned(), there(name))));
        let tables = source.tables.iter().enumerate();
        places.extend(tables.map(|(i, table)| (format!("source.tables.{i}.file"), there(&table.file))));
        places.extend(self.split.files.all().map(|(split, file)| (format!("split.files.{split}"), there(file))));
        places
    }

    /// Whether anything in it is a path that starts at the working folder.
    pub fn is_relative(&self) -> bool {
        let map = self.source.patient_map.as_ref();
        let mut starts = [&self.source.root, &self.output].into_iter().chain(map);
        starts.any(|place| !place.contains("://") && !Path::new(place).is_absolute())
    }
}

/// `name` in `folder`, unless it is a URL or a path from the top.
fn joined(folder: &str, name: &str) -> String {
    if name.contains("://") {
        return name.to_owned();
    }
    Path::new(folder).join(name).to_string_lossy().into_owned()
}

fn default_shard_samples() -> u32 {
    1024
}

/// The word in `kind:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `dataset`
    Dataset,
}

/// Raw images and their layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// How files and labels lie.
    pub layout: Layout,
    /// The folder: a path, or a URL of a bucket that can be listed (`s3://bucket/prefix`). `${VAR}` is replaced from the environment.
    pub root: String,
    /// RSNA only: a CSV `patientId,person` that maps images to persons. Without it splits are by image, and said so.
    #[serde(default)]
    pub patient_map: Option<String>,
    /// PadChest only: the label table, plain or `.gz`; a name is looked for in `root`. Without it the one that lies in `root`.
    #[serde(default)]
    pub labels: Option<String>,
    /// A text file with names of images that are known to be bad, one a line. PadChest's known ones need not be listed.
    #[serde(default)]
    pub bad_images: Option<String>,
    /// CSV only: the tables.
    #[serde(default)]
    pub tables: Vec<Table>,
    /// CSV only: what the tables call their columns.
    #[serde(default)]
    pub columns: Columns,
    /// Which slice is taken of `.npy` and `.nii` files of three dimensions.
    #[serde(default)]
    pub slice: Option<Slice>,
}

impl Source {
    /// Files in `root`, without anything that only some layouts have.
    pub fn new(layout: Layout, root: impl Into<String>) -> Self {
        Self {
            layout,
            root: root.into(),
            patient_map: None,
            labels: None,
            bad_images: None,
            tables: Vec::new(),
            columns: Columns::default(),
            slice: None,
        }
    }
}

/// Known layouts of raw datasets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// RSNA Pneumonia Detection Challenge 2018, stage 2: DICOM + two CSVs.
    Rsna,
    /// Class folders of image files: `<root>/<label>/*.png`.
    Folders,
    /// PadChest: PNG files of 16 bit in `<root>/<ImageDir>/`, in `<root>/`, or in its zip files, and the label table.
    Padchest,
    /// Kaggle's COVID-19 Radiography Database: `<class>/images/*.png` and `<class>.metadata.xlsx`.
    #[serde(rename = "covid19-radiography")]
    Covid19Radiography,
    /// Image files that CSV tables name.
    Csv,
}

/// A table of image files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// The file; a relative name is looked for in `root`.
    pub file: String,
    /// The label of all its images, when it has no column of labels.
    #[serde(default)]
    pub label: Option<String>,
    /// The split of all its images.
    #[serde(default)]
    pub split: Option<String>,
}

/// Names of columns. Only `file` must be there; empty: there is none such.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// Path of the image, relative to `root`.
    pub file: String,
    /// The label.
    pub label: String,
    /// The person.
    pub patient: String,
    /// `train`, `val` or `test`.
    pub split: String,
    /// `AP`, `PA`, ….
    pub view: String,
    /// `M` or `F`.
    pub sex: String,
    /// Years.
    pub age: String,
}

impl Default for Columns {
    fn default() -> Self {
        let [file, label, patient, split, view, sex, age] =
            ["filename", "label", "patient", "split", "view", "sex", "age"].map(str::to_owned);
        Self { file, label, patient, split, view, sex, age }
    }
}

/// One plane of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// The dimension that is cut, counted from 0 as numpy and nibabel do.
    pub axis: u32,
    /// Which plane; without it the middle one.
    #[serde(default)]
    pub index: Option<u32>,
}

/// Which images are taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Views, as the source names them (`PA`, `AP`, `L`, `AP_horizontal`); empty: all.
    pub views: Vec<String>,
    /// `M`, `F`; empty: all.
    pub sex: Vec<String>,
    /// Years, from.
    pub min_age: Option<u32>,
    /// Years, to (included).
    pub max_age: Option<u32>,
    /// At least one of these findings; empty: any.
    pub findings: Vec<String>,
    /// None of these findings.
    pub without_findings: Vec<String>,
    /// None that come from these places (COVID-19 Radiography: the URL in its table holds one of these texts).
    pub without_origins: Vec<String>,
    /// PadChest and CSV only: columns of the table, each with the values of which an image must have one (`Pediatric: ["No"]`), in upper
    /// or lower case.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, Vec<String>>,
    /// What becomes of images of which what is asked for is not known: view, sex, age, origin, a column.
    pub unknown: Unknown,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            views: Vec::new(),
            sex: Vec::new(),
            min_age: None,
            max_age: None,
            findings: Vec::new(),
            without_findings: Vec::new(),
            without_origins: Vec::new(),
            columns: BTreeMap::new(),
            unknown: Unknown::Drop,
        }
    }
}

/// What becomes of images of which something is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// They pass.
    Keep,
    /// They are left out.
    Drop,
}

/// A label and the findings that make it. Findings are compared as whole words in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Class {
    /// The label.
    pub label: String,
    /// All findings are these, and nothing else is found.
    #[serde(default)]
    pub exactly: Vec<String>,
    /// One of these is found.
    #[serde(default)]
    pub any: Vec<String>,
    /// None of these is found.
    #[serde(default)]
    pub none: Vec<String>,
}

/// What must not leave the machine. Names and dates never do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Privacy {
    /// Ids of images and patients, and names of files, are replaced by keyed hashes.
    pub hash_ids: bool,
    /// The key of the hashes: who has it can tell whether an id is in the dataset.
    pub salt: String,
    /// DICOM files that say that text is burnt into their pixels.
    pub burned_in: BurnedIn,
}

/// What becomes of images with text in their pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BurnedIn {
    /// They are left out.
    #[default]
    Skip,
    /// They are taken.
    Keep,
}

/// From a decoded image to u8 pixels of the training size. The order is fixed: modality rescale, grey levels to 8 bit,
/// photometric inversion, aspect, resize, equalisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preprocess {
    /// Side in pixels; images become square.
    pub size: u32,
    /// The resampling.
    pub resize: Resize,
    /// What becomes of images that are not square.
    #[serde(skip_serializing_if = "is_default")]
    pub aspect: Aspect,
    /// Which values become black and white.
    #[serde(skip_serializing_if = "is_default")]
    pub levels: Levels,
    /// `levels: percentile` only: shares in percent of an image's values that become black, and that do not become white.
    #[serde(skip_serializing_if = "is_default")]
    pub percentile: Percentile,
    /// `levels: window` only.
    #[serde(skip_serializing_if = "is_default")]
    pub window: Option<Window>,
    /// Contrast-limited adaptive histogram equalisation of the resized image; none by default.
    #[serde(skip_serializing_if = "is_default")]
    pub clahe: Option<Clahe>,
}

impl Preprocess {
    /// The fields in which it differs from `other`: name, own value, the other's, for people.
    pub fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let fields = |p: &Self| serde_json::to_value(p).ok().and_then(|v| v.as_object().cloned()).unwrap_or_default();
        let (own, theirs) = (fields(self), fields(other));
        let names: BTreeSet<&String> = own.keys().chain(theirs.keys()).collect();
        let differ = names.into_iter().filter(|name| own.get(*name) != theirs.get(*name));
        let say = |value: Option<&Value>| value.map_or_else(|| "the default".to_owned(), Value::to_string);
        differ.map(|name| (name.clone(), say(own.get(name)), say(theirs.get(name)))).collect()
    }
}

/// Manifests hold what was asked for: builds from before an option can read those that do not use it.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for Preprocess {
    fn default() -> Self {
        Self {
            size: 128,
            resize: Resize::PillowBilinear,
            aspect: Aspect::default(),
            levels: Levels::default(),
            percentile: Percentile::default(),
            window: None,
            clahe: None,
        }
    }
}

/// Resampling filters, named after whose bits they reproduce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// Pillow's antialiased bilinear on 8-bit pixels, bit for bit (the reference's evaluation transform).
    PillowBilinear,
    /// torchvision 0.10's bilinear on tensors, without antialias (the reference's training transform), rounded to 8 bit.
    TorchBilinear,
}

/// What becomes of images that are not square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// They are stretched, as the reference does.
    #[default]
    Stretch,
    /// Black bars are put beside them.
    Pad,
    /// The square in their middle is taken.
    Crop,
}

/// Which values become black and white.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Levels {
    /// The range of the stored bits.
    #[default]
    Bits,
    /// The smallest and the largest value of the image.
    MinMax,
    /// Percentiles of the image's values.
    Percentile,
    /// A window, the same for all images.
    Window,
    /// The window that the DICOM file names; the stored bits where it names none.
    FileWindow,
}

/// Two shares in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Percentile {
    /// What lies below becomes black.
    pub low: f64,
    /// What lies above becomes white.
    pub high: f64,
}

impl Default for Percentile {
    fn default() -> Self {
        Self { low: 0.5, high: 99.5 }
    }
}

/// DICOM's linear window (PS3.3 C.11.2.1.2), in values after the modality rescale.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The value that becomes middle grey.
    pub center: f64,
    /// How many values lie between black and white.
    pub width: f64,
}

/// Contrast-limited adaptive histogram equalisation, as OpenCV does it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clahe {
    /// How far a grey level may be above the mean of its tile's histogram.
    #[serde(default = "default_clip")]
    pub clip: f64,
    /// Tiles across and down.
    #[serde(default = "default_tiles")]
    pub tiles: u32,
}

fn default_clip() -> f64 {
    2.0
}

fn default_tiles() -> u32 {
    8
}

/// Splitting by a hash of the patient: stable when images are added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Split {
    /// Seed of the hash.
    pub seed: u64,
    /// Share of healthy patients for validation.
    pub val: f64,
    /// Share of healthy patients for the test set; 1, with `val: 0`: the dataset is for tests only.
    pub test: f64,
    /// Labels that are healthy: only these are split into train, val and test. None: for tests only.
    pub healthy: Vec<String>,
    /// Where everything else goes. `test` as in the paper: nothing sick is seen in training.
    pub others: Others,
    /// Splits from tables instead of the hash; an image that is in none of them is left out.
    pub files: SplitFiles,
}

/// CSV files with a column `filename`, as the reference's; relative names are looked for in `source.root`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SplitFiles {
    /// Of the training set.
    pub train: Vec<String>,
    /// Of the validation set.
    pub val: Vec<String>,
    /// Of the test set.
    pub test: Vec<String>,
}

impl SplitFiles {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.train.is_empty() && self.val.is_empty() && self.test.is_empty()
    }

    /// Every file with its split.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &String)> {
        [("train", &self.train), ("val", &self.val), ("test", &self.test)]
            .into_iter()
            .flat_map(|(split, files)| files.iter().map(move |file| (split, file)))
    }
}

impl Split {
    /// Whether everything goes to `test`: nobody trains on the dataset, others' networks are scored on it.
    pub fn tests_only(&self) -> bool {
        self.val == 0.0 && self.test == 1.0
    }
}

impl Default for Split {
    fn default() -> Self {
        Self {
            seed: 2109,
            val: 0.1,
            test: 0.1,
            healthy: vec!["Normal".into()],
            others: Others::Test,
            files: SplitFiles::default(),
        }
    }
}

/// What happens to samples that are not healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Others {
    /// All go to `test`.
    Test,
    /// They are split as the healthy ones are.
    Split,
    /// They are left out.
    Drop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_for_tests_leaves_nothing_to_train_on() {
        let split = |val: f64, test: f64, healthy: &[&str]| {
            let spec: Dataset = serde_json::from_value(serde_json::json!({
                "kind": "dataset", "name": "x", "output": "o", "source": {"layout": "rsna", "root": "r"},
                "split": {"val": val, "test": test, "healthy": healthy},
            }))
            .unwrap();
            spec.validate().map_err(|problems| format!("{problems:?}"))
        };
        split(0.0, 1.0, &["Normal"]).unwrap();
        split(0.0, 1.0, &[]).unwrap();
        for (val, test, healthy, why) in [
            (0.5, 0.5, &["Normal"][..], "leave nothing to train on"),
            (0.1, 1.0, &["Normal"], "leave nothing to train on"),
            (0.0, 0.5, &[], "no label is healthy"),
            (0.0, 1.5, &["Normal"], "split.test"),
        ] {
            let said = split(val, test, healthy).unwrap_err();
            assert!(said.contains(why), "{val} {test}: {said}");
        }
    }

    #[test]
    fn every_place_is_named_where_it_is() {
        let mut spec: Dataset = serde_json::from_value(serde_json::json!({
            "kind": "dataset", "name": "x", "output": "s3://bucket/out",
            "source": {
                "layout": "csv", "root": "raw", "patient_map": "map.csv", "labels": "/labels.csv", "bad_images": "bad.txt",
                "tables": [{"file": "a.csv"}, {"file": "../b.csv"}],
            },
            "split": {"files": {"train": ["t.csv"], "val": [], "test": ["/u.csv"]}},
        }))
        .unwrap();
        let places = spec.places("/data");
        let wanted = [
            ("source.root", "/data/raw"),
            ("output", "s3://bucket/out"),
            ("source.patient_map", "/data/map.csv"),
            ("source.labels", "/labels.csv"),
            ("source.bad_images", "/data/raw/bad.txt"),
            ("source.tables.0.file", "/data/raw/a.csv"),
            ("source.tables.1.file", "/data/raw/../b.csv"),
            ("split.files.train", "/data/raw/t.csv"),
            ("split.files.test", "/u.csv"),
        ];
        assert_eq!(places, wanted.map(|(field, place)| (field.to_owned(), place.to_owned())));
        assert!(spec.is_relative());
        (spec.source.root, spec.source.patient_map) = ("/raw".into(), None);
        assert!(!spec.is_relative());
    }
}
