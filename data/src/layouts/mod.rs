//! How raw datasets lie on disk or in a bucket, and what their tables say. A layout lists; it decodes nothing.

pub mod covid19;
pub mod csv;
mod fault;
pub mod folders;
pub mod padchest;
mod place;
mod root;
pub mod rsna;
mod table;
mod xlsx;

use std::collections::{BTreeMap, BTreeSet};

use morph_spec::dataset::{Dataset, Layout, Unknown};

pub(crate) use self::place::file_name;
pub use self::{fault::Fault, place::Place, root::Root};
use crate::{Error, readers::Facts, synth};

/// One image that a dataset's tables or folders promise.
#[derive(Debug, Clone)]
pub struct Item {
    /// Name of the image, unique in the dataset.
    pub id: String,
    /// The person, or the image where persons are not known.
    pub patient: String,
    /// Label in the source's words.
    pub label: String,
    /// What was found, in lower case; the label, where a layout has no findings.
    pub findings: BTreeSet<String>,
    /// Path relative to the source's root.
    pub source: String,
    /// Where the file is.
    pub place: Place,
    /// x, y, width, height in pixels of `box_side`.
    pub boxes: Vec<[f32; 4]>,
    /// Side in pixels of the square in which boxes are given; 0: the image's own pixels.
    pub box_side: f32,
    /// The file's own id must be this, when it has one.
    pub check_id: bool,
    /// What tables say; they are believed before the file.
    pub facts: Facts,
    /// The split that a table names: `train`, `val` or `test`.
    pub split: Option<&'static str>,
    /// How many bits of its words a table says that are used.
    pub bits: Option<u32>,
    /// A table says that low values are bright (MONOCHROME1), and the file does not.
    pub inverted: bool,
    /// Where the image comes from, where one source mixes several.
    pub origin: Option<String>,
    /// What a table has in the columns that `filter.columns` names.
    pub columns: BTreeMap<String, String>,
}

impl Item {
    /// An image of whom nothing else is known: it counts as a person of its own.
    pub(crate) fn new(id: String, label: String, source: String, place: Place) -> Self {
        Self {
            patient: id.clone(),
            findings: BTreeSet::from([label.to_lowercase()]),
            id,
            label,
            source,
            place,
            boxes: Vec::new(),
            box_side: 0.0,
            check_id: false,
            facts: Facts::default(),
            split: None,
            bits: None,
            inverted: false,
            origin: None,
            columns: BTreeMap::new(),
        }
    }
}

/// A file that is left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Skipped {
    /// Path relative to the source's root.
    pub source: String,
    /// What is wrong, for people.
    pub reason: String,
}

/// Why a file that is no image is left out.
const NO_KIND: &str = "its name ends in no known way: png, jpg, dcm, npy, nii, nii.gz are read";

/// What a layout found.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Images, by id.
    pub items: Vec<Item>,
    /// What cannot be used, known without reading it.
    pub skipped: Vec<Skipped>,
    /// Whether patients are persons.
    pub persons: bool,
    /// Whether all of it was drawn, and is of nobody.
    pub synthetic: bool,
}

impl Listing {
    fn skip(&mut self, source: String, reason: impl Into<String>) {
        self.skipped.push(Skipped { source, reason: reason.into() });
    }
}

/// Lists what `spec` describes.
///
/// # Errors
/// [`Error::Source`] when a table or a folder cannot be used.
pub fn list(spec: &Dataset) -> Result<Listing, Error> {
    let root = &Root::open(&spec.source.root)?;
    let columns: Vec<&str> = spec.filter.columns.keys().map(String::as_str).collect();
    let mut listing = match spec.source.layout {
        Layout::Rsna => rsna::list(root, spec.source.patient_map.as_deref())?,
        Layout::Folders => folders::list(root)?,
        Layout::Padchest => padchest::list(root, spec.source.labels.as_deref(), &columns)?,
        Layout::Covid19Radiography => covid19::list(root, |class| asks_for_origins(spec, class))?,
        Layout::Csv => csv::list(root, &spec.source.tables, &spec.source.columns, &columns)?,
    };
    if let Some(file) = &spec.source.bad_images {
        let known: BTreeSet<String> = table::lines(&root.place(file))?.into_iter().collect();
        let (bad, good): (Vec<_>, Vec<_>) = listing.items.into_iter().partition(|item| {
            let name = file_name(&item.source);
            known.contains(&item.source) || known.contains(name) || known.contains(&item.id)
        });
        listing.items = good;
        listing.skipped.extend(
            bad.into_iter().map(|item| Skipped { source: item.source, reason: "it is listed in bad_images".into() }),
        );
    }
    listing.synthetic = synth::is_synthetic(root);
    csv::splits(root, &spec.split.files, &mut listing)?;
    twice(&listing)?;
    Ok(listing)
}

/// Whether images of this class are left out when it is not known where they come from.
fn asks_for_origins(spec: &Dataset, class: &str) -> bool {
    let label = spec.labels.get(class).map_or(class, String::as_str);
    let taken =
        spec.only_labels.is_empty() || !spec.classes.is_empty() || spec.only_labels.iter().any(|only| only == label);
    taken && !spec.filter.without_origins.is_empty() && spec.filter.unknown == Unknown::Drop
}

/// Refuses listings in which an image comes twice: its rows could contradict each other, and lie in two splits.
fn twice(listing: &Listing) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    match listing.items.iter().find(|item| !seen.insert(&*item.id)) {
        None => Ok(()),
        Some(item) => {
            Err(Error::Source { path: item.source.clone(), why: format!("two images are called {:?}", item.id) })
        }
    }
}

/// The split with this name.
fn split(name: &str) -> Option<&'static str> {
    ["train", "val", "test"].into_iter().find(|split| *split == name)
}
