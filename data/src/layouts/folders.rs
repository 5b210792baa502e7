//! Class folders of image files: `<root>/<label>/*`, or `<root>/<label>/images/*`.

use std::{fs, path::Path};

use super::{Item, Listing, Place};
use crate::{Error, error::io_text, readers::Kind};

/// The names in a folder, sorted.
pub(super) fn names(path: &Path) -> Result<Vec<String>, Error> {
    let bad = |e: &std::io::Error| Error::Source { path: path.display().to_string(), why: io_text(e) };
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(|e| bad(&e))? {
        names.extend(entry.map_err(|e| bad(&e))?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Lists the images under `root`. Persons are not known: every image counts as its own.
///
/// # Errors
/// [`Error::Source`] when a folder cannot be read.
pub fn list(root: &Path) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    for label in names(root)?.into_iter().filter(|name| root.join(name).is_dir()) {
        let inner = root.join(&label).join("images");
        let (folder, prefix) =
            if inner.is_dir() { (inner, format!("{label}/images")) } else { (root.join(&label), label.clone()) };
        for name in names(&folder)? {
            let Some((_, stem)) = Kind::of(&name) else { continue };
            let (id, source) = (format!("{label}/{stem}"), format!("{prefix}/{name}"));
            listing.items.push(Item::new(id, label.clone(), source, Place::File(folder.join(&name))));
        }
    }
    Ok(listing)
}
