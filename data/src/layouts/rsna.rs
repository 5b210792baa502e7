//! RSNA Pneumonia Detection Challenge 2018, stage 2, as Kaggle ships it: `stage_2_train_images/<patientId>.dcm`,
//! `stage_2_train_labels.csv` (`patientId,x,y,width,height,Target`, one row a box, x and y top-left in pixels of 1024) and
//! `stage_2_detailed_class_info.csv` (`patientId,class`, one row a box too: a naive join would multiply rows).

use std::collections::{BTreeMap, BTreeSet};

use super::{Item, Listing, Place, Root, Skipped, table};
use crate::Error;

pub(crate) const IMAGES: &str = "stage_2_train_images";
pub(crate) const LABELS: &str = "stage_2_train_labels.csv";
pub(crate) const CLASSES: &str = "stage_2_detailed_class_info.csv";
pub(crate) const SIDE: f32 = 1024.0;
/// The class of images with boxes.
pub(crate) const OPACITY: &str = "Lung Opacity";

fn rows(place: &Place, columns: &[&str]) -> Result<Vec<Vec<String>>, Error> {
    let hint = format!("source.root must be the folder that holds {IMAGES}, {LABELS} and {CLASSES}");
    let mut rows = Vec::new();
    table::each(place, &hint, columns, columns.len(), &[], |row| {
        rows.push((0..columns.len()).map(|i| row.get(i).to_owned()).collect());
        Ok(())
    })?;
    Ok(rows)
}

/// Lists the images under `root`; `patient_map` is a CSV `patientId,person`.
///
/// # Errors
/// [`Error::Source`] when a table is missing or is none.
pub fn list(root: &Root, patient_map: Option<&str>) -> Result<Listing, Error> {
    let mut classes: BTreeMap<String, String> = BTreeMap::new();
    let mut broken: BTreeMap<String, String> = BTreeMap::new();
    for mut row in rows(&root.place(CLASSES), &["patientId", "class"])? {
        let (id, class) = (row.remove(0), row.remove(0));
        let other = classes.insert(id.clone(), class.clone()).filter(|other| *other != class);
        if let Some(other) = other {
            broken.insert(id, format!("{CLASSES} says both {other:?} and {class:?} of it"));
        }
    }
    let mut boxes: BTreeMap<String, Vec<[f32; 4]>> = BTreeMap::new();
    for row in rows(&root.place(LABELS), &["patientId", "x", "y", "width", "height", "Target"])? {
        let list = boxes.entry(row[0].clone()).or_default();
        // The two tables are of the same readings: Target is 1 for this class, and for no other.
        let (found, class) = (row[5] == "1", classes.get(&row[0]));
        if let Some(class) = class.filter(|class| (*class == OPACITY) != found) {
            let target = u8::from(found);
            broken.insert(row[0].clone(), format!("{LABELS} says Target {target} of it, {CLASSES} {class:?}"));
        }
        if !found {
            continue;
        }
        let numbers: Vec<f32> = row[1..5].iter().filter_map(|v| v.parse().ok()).collect();
        match numbers[..] {
            [x, y, w, h] if numbers.iter().all(|v| v.is_finite()) && w > 0.0 && h > 0.0 => list.push([x, y, w, h]),
            _ => drop(broken.insert(row[0].clone(), format!("its box {:?} in {LABELS} is no box", &row[1..5]))),
        }
    }
    let persons: Option<BTreeMap<String, String>> = match patient_map {
        None => None,
        Some(path) => Some(
            rows(&Place::File(path.into()), &["patientId", "person"])?
                .into_iter()
                .map(|mut r| (r.remove(0), r.remove(0)))
                .collect(),
        ),
    };
    let mut listing = Listing { persons: persons.is_some(), ..Listing::default() };
    let mut found = BTreeSet::new();
    for name in root.names(IMAGES, &mut listing)? {
        match name.strip_suffix(".dcm") {
            Some(id) => drop(found.insert(id.to_owned())),
            None => listing.skip(format!("{IMAGES}/{name}"), "its name does not end in .dcm"),
        }
    }
    for id in found.iter().chain(classes.keys()).collect::<BTreeSet<_>>() {
        let source = format!("{IMAGES}/{id}.dcm");
        let mut skip =
            |reason: &str| listing.skipped.push(Skipped { source: source.clone(), reason: reason.to_owned() });
        let Some(label) = classes.get(id) else {
            skip(&format!("it is not in {CLASSES}"));
            continue;
        };
        if !found.contains(id) {
            skip("listed, but the file is missing");
            continue;
        }
        if let Some(why) = broken.get(id) {
            skip(why);
            continue;
        }
        let patient = match &persons {
            None => id.clone(),
            Some(map) => match map.get(id) {
                Some(person) => person.clone(),
                None => {
                    skip("the patient map does not know it");
                    continue;
                }
            },
        };
        let place = root.place(&source);
        listing.items.push(Item {
            patient,
            boxes: boxes.get(id).cloned().unwrap_or_default(),
            box_side: SIDE,
            check_id: true,
            ..Item::new(id.clone(), label.clone(), source, place)
        });
    }
    Ok(listing)
}
