//! How raw datasets lie on disk, and what their tables say. A layout lists; it decodes nothing.

pub mod folders;
pub mod rsna;

use std::path::PathBuf;

/// One image that a dataset's tables or folders promise.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Name of the image, unique in the dataset.
    pub id: String,
    /// The person, or the image where persons are not known.
    pub patient: String,
    /// Label in the source's words.
    pub label: String,
    /// Path relative to the source's root.
    pub source: String,
    /// Where the file is.
    pub path: PathBuf,
    /// x, y, width, height in pixels of `box_side`.
    pub boxes: Vec<[f32; 4]>,
    /// Side in pixels of the square in which boxes are given; 0: the image's own pixels.
    pub box_side: f32,
    /// The file's own id must be this, when it has one.
    pub check_id: bool,
}

/// A file that is left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// Path relative to the source's root.
    pub source: String,
    /// What is wrong, for people.
    pub reason: String,
}

/// What a layout found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listing {
    /// Images, by id.
    pub items: Vec<Item>,
    /// What cannot be used, known without reading it.
    pub skipped: Vec<Skipped>,
    /// Whether patients are persons.
    pub persons: bool,
}
