//! Class folders of PNG files: `<root>/<label>/*.png`, or `<root>/<label>/images/*.png` as COVID-19 Radiography has it.

use std::{fs, path::Path};

use super::{Item, Listing};
use crate::Error;

/// Lists the images under `root`. Persons are not known: every image counts as its own.
///
/// # Errors
/// [`Error::Source`] when a folder cannot be read.
pub fn list(root: &Path) -> Result<Listing, Error> {
    let bad = |path: &Path, e: std::io::Error| Error::Source { path: path.display().to_string(), why: e.to_string() };
    let names = |path: &Path| -> Result<Vec<String>, Error> {
        let mut names: Vec<String> = fs::read_dir(path)
            .map_err(|e| bad(path, e))?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        Ok(names)
    };
    let mut listing = Listing::default();
    for label in names(root)?.into_iter().filter(|name| root.join(name).is_dir()) {
        let inner = root.join(&label).join("images");
        let (folder, prefix) =
            if inner.is_dir() { (inner, format!("{label}/images")) } else { (root.join(&label), label.clone()) };
        for name in names(&folder)? {
            let Some(stem) = name.strip_suffix(".png").or_else(|| name.strip_suffix(".PNG")) else { continue };
            let id = format!("{label}/{stem}");
            listing.items.push(Item {
                patient: id.clone(),
                id,
                label: label.clone(),
                source: format!("{prefix}/{name}"),
                path: folder.join(&name),
                boxes: Vec::new(),
                box_side: 0.0,
                check_id: false,
            });
        }
    }
    Ok(listing)
}
