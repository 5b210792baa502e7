//! Kaggle's COVID-19 Radiography Database: `<class>/images/*.png` with `<class>/masks/*.png` beside them, and a workbook
//! `<class>.metadata.xlsx` (FILE NAME, FORMAT, SIZE, URL) that says where each image comes from: the class is known by its source as
//! much as by its disease, so one may want to leave sources out. Names in it differ from those of the files in upper and lower case.
//! Patients, ages, sexes and views are not known.

use std::collections::BTreeMap;

use super::{Listing, Place, Root, folders, xlsx};
use crate::Error;

/// Lists the images under `root`. Where images of a class come from must be known if `needed` says so.
///
/// # Errors
/// [`Error::Source`] when a folder or a workbook cannot be read, a workbook is missing that is needed, or `root` has no class folders.
pub fn list(root: &Root, needed: impl Fn(&str) -> bool) -> Result<Listing, Error> {
    let mut listing = folders::list(root)?;
    // Other folders may lie beside those of the classes.
    let of_a_class = |source: &str| source.contains("/images/");
    listing.items.retain(|item| of_a_class(&item.source));
    listing.skipped.retain(|skip| of_a_class(&skip.source));
    if listing.items.is_empty() {
        let why = "no <class>/images/ lies here; source.root must be the folder that holds COVID, Normal, Lung_Opacity and Viral Pneumonia";
        return Err(Error::Source { path: root.show(""), why: why.to_owned() });
    }
    let classes: std::collections::BTreeSet<String> = listing.items.iter().map(|i| i.label.clone()).collect();
    for class in classes {
        let workbook = format!("{class}.metadata.xlsx");
        // Copies of the dataset often come without them.
        if !root.is_file(&workbook) {
            if needed(&class) {
                let why = "it is missing, and filter.without_origins asks where images come from: put it there, or say \
                           `unknown: keep` in the filter to take images of which that is not known";
                return Err(Error::Source { path: root.show(&workbook), why: why.to_owned() });
            }
            continue;
        }
        let origins = origins(&root.place(&workbook))?;
        for item in listing.items.iter_mut().filter(|item| item.label == class) {
            let name = item.id.rsplit('/').next().unwrap_or_default();
            item.origin = origins.get(&name.to_lowercase()).cloned();
        }
    }
    Ok(listing)
}

/// The URL of each image, by its name in lower case.
fn origins(place: &Place) -> Result<BTreeMap<String, String>, Error> {
    let bad = |why: String| Error::Source { path: place.to_string(), why };
    let mut rows = xlsx::rows(place).map_err(bad)?.into_iter();
    let header = rows.next().unwrap_or_default();
    let column = |name: &str| {
        let at = header.iter().position(|h| h.trim().eq_ignore_ascii_case(name));
        at.ok_or_else(|| bad(format!("column {name:?} is missing; it has {header:?}")))
    };
    let (file, url) = (column("FILE NAME")?, column("URL")?);
    let pairs = rows.filter_map(|row| Some((row.get(file)?.trim().to_lowercase(), row.get(url)?.trim().to_owned())));
    Ok(pairs.filter(|(name, url)| !name.is_empty() && !url.is_empty()).collect())
}
