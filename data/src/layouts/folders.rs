//! Class folders of image files: `<root>/<label>/*`, or `<root>/<label>/images/*`.

use super::{Item, Listing, Root};
use crate::{Error, readers::Kind};

/// Lists the images under `root`. Persons are not known: every image counts as its own.
///
/// # Errors
/// [`Error::Source`] when a folder cannot be read.
pub fn list(root: &Root) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    for label in root.names("")?.into_iter().filter(|name| root.is_folder(name)) {
        let inner = format!("{label}/images");
        let folder = if root.is_folder(&inner) { inner } else { label.clone() };
        for name in root.names(&folder)? {
            let Some((_, stem)) = Kind::of(&name) else { continue };
            let (id, source) = (format!("{label}/{stem}"), format!("{folder}/{name}"));
            let place = root.place(&source);
            listing.items.push(Item::new(id, label.clone(), source, place));
        }
    }
    Ok(listing)
}
