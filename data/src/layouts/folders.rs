//! Class folders of image files: `<root>/<label>/*`, or `<root>/<label>/images/*`.

use super::{Item, Listing, NO_KIND, Root};
use crate::{Error, readers::Kind};

/// Lists the images under `root`. Persons are not known: every image counts as its own.
///
/// # Errors
/// [`Error::Source`] when a folder cannot be read.
pub fn list(root: &Root) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    for label in root.names("", &mut listing)? {
        if !root.is_folder(&label) {
            // Tables and notes may lie there; images have no label.
            if Kind::of(&label).is_some() {
                listing.skip(label, "it lies in no folder of a label");
            }
            continue;
        }
        let inner = format!("{label}/images");
        let folder = if root.is_folder(&inner) { inner } else { label.clone() };
        for name in root.names(&folder, &mut listing)? {
            let source = format!("{folder}/{name}");
            let Some((_, stem)) = Kind::of(&name) else {
                let folder = root.is_folder(&source);
                listing.skip(source, if folder { "it is a folder: only files are read here" } else { NO_KIND });
                continue;
            };
            let place = root.place(&source);
            listing.items.push(Item::new(format!("{label}/{stem}"), label.clone(), source, place));
        }
    }
    Ok(listing)
}
