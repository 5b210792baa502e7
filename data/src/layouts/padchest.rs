//! PadChest (BIMCV): PNG files of 16 bit in `<root>/<ImageDir>/`, in `<root>/`, or in the published zip files `<root>/*.zip`, which
//! are read as they are; and its label table (`PADCHEST_*.csv` or `.csv.gz`). What was found is a list in Python's notation with stray
//! spaces; images without findings, or marked to be excluded, are left out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Item, Listing, Place, Root, file_name, place::Archive, table};
use crate::{
    Error,
    readers::{Facts, Kind, OLDEST},
};

/// Labels of images, when the YAML has no `classes`: exactly `normal`, and all else.
const NORMAL: &str = "Normal";
const ABNORMAL: &str = "Abnormal";

const COLUMNS: [&str; 10] = [
    "ImageID",
    "ImageDir",
    "PatientID",
    "Labels",
    "Projection",
    "StudyDate_DICOM",
    "PatientBirth",
    "PatientSex_DICOM",
    "PhotometricInterpretation_DICOM",
    "BitsStored_DICOM",
];
/// So many of them must be there.
const NEEDED: usize = 4;

/// Files that were missing or broken in downloads of others (torchxrayvision and other public loaders). A good copy of them is left out
/// too; what is broken beyond them shows when it is decoded.
const BAD: [&str; 45] = [
    "216840111366964012283393834152009027091819347_00-007-136",
    "216840111366964012283393834152009033102258826_00-059-087",
    "216840111366964012283393834152009033140208626_00-059-118",
    "216840111366964012339356563862009068084200743_00-045-105",
    "216840111366964012339356563862009072111404053_00-043-192",
    "216840111366964012373310883942009077082646386_00-047-124",
    "216840111366964012373310883942009117084022290_00-064-025",
    "216840111366964012373310883942009152114636712_00-102-045",
    "216840111366964012373310883942009170084120009_00-097-074",
    "216840111366964012373310883942009180082307973_00-097-011",
    "216840111366964012487858717522009280135853083_00-075-001",
    "216840111366964012558082906712009300162151055_00-078-079",
    "216840111366964012558082906712009301143450268_00-075-157",
    "216840111366964012558082906712009327122220177_00-102-064",
    "216840111366964012819207061112010281134410801_00-129-131",
    "216840111366964012819207061112010306085429121_04-020-102",
    "216840111366964012819207061112010307142602253_04-014-084",
    "216840111366964012819207061112010315104455352_04-024-184",
    "216840111366964012904401302362010336141343749_03-198-010",
    "216840111366964012904401302362010337093236130_03-198-079",
    "216840111366964012959786098432011033083840143_00-176-115",
    "216840111366964012989926673512011074122523403_00-163-058",
    "216840111366964012989926673512011083134050913_00-168-009",
    "216840111366964012989926673512011101154138555_00-191-086",
    "216840111366964012989926673512011132200139442_00-157-099",
    "216840111366964012989926673512011151082430686_00-157-045",
    "216840111366964013076187734852011178154626671_00-145-086",
    "216840111366964013076187734852011262112534962_00-134-007",
    "216840111366964013076187734852011287092959219_00-195-171",
    "216840111366964013076187734852011291090445391_00-196-188",
    "216840111366964013076187734852011297123949023_01-001-162",
    "216840111366964013590140476722013043111952381_02-065-198",
    "216840111366964013590140476722013049100117076_02-063-097",
    "216840111366964013590140476722013057095145100_02-065-148",
    "216840111366964013590140476722013058110301622_02-056-111",
    "216840111366964013649110343042013092101343018_02-075-146",
    "216840111366964013686042548532013190085910247_02-033-156",
    "216840111366964013686042548532013208193054515_02-026-007",
    "216840111366964013686042548532013283123624619_02-086-157",
    "216840111366964013829543166512013353113303615_02-092-190",
    "216840111366964013962490064942014134093945580_01-178-104",
    "267593312931260619142226905522973356507_dfimnx",
    "269300710246070740096540277379121868595_e7zsan",
    "315366742299617648846204862485207109881_beilul",
    "83271681649958405552864211916792219179_6anlem",
];

/// Lists the images under `root`, with what the table has in the columns `more`; `labels` names the table, when it is not the only one
/// there.
///
/// # Errors
/// [`Error::Source`] when there is no table, or it is none of PadChest's, or names an image twice, or a folder or zip file cannot be read.
pub fn list(root: &Root, labels: Option<&str>, more: &[&str]) -> Result<Listing, Error> {
    let labels = match labels {
        Some(name) => root.place(name),
        None => find_table(root)?,
    };
    let mut listing = Listing { persons: true, ..Listing::default() };
    let mut found = files(root, &mut listing)?;
    let mut seen = BTreeSet::new();
    let hint = "source.labels names PadChest's label table";
    table::each(&labels, hint, &COLUMNS, NEEDED, more, |row| {
        let file = row.get(0).to_owned();
        if file.is_empty() {
            return Err(row.bad(0, "it is empty"));
        }
        if !seen.insert(file.clone()) {
            return Err(row.bad(0, &format!("{file:?} is listed twice: which row is right?")));
        }
        let (stem, folder) = (file.strip_suffix(".png").unwrap_or(&file).to_owned(), row.get(1));
        let source = if folder.is_empty() { file.clone() } else { format!("{folder}/{file}") };
        let place = found.remove(&file);
        if BAD.contains(&&*stem) {
            listing.skip(source, "it is known to be missing or broken in PadChest's files");
            return Ok(());
        }
        let Some(place) = place else {
            listing.skip(source, "listed, but the file is missing");
            return Ok(());
        };
        let findings = findings(row.get(3)).ok_or_else(|| row.bad(3, &format!("{:?} is no list", row.get(3))))?;
        let label = match label(&findings) {
            Ok(label) => label,
            Err(reason) => {
                listing.skip(source, reason);
                return Ok(());
            }
        };
        let patient = row.some(2).ok_or_else(|| row.bad(2, "the patient is missing"))?;
        listing.items.push(Item {
            patient: patient.to_owned(),
            findings,
            columns: row.more(),
            facts: Facts {
                id: None,
                view: row.some(4).map(str::to_owned),
                sex: row.some(7).filter(|s| matches!(*s, "M" | "F")).map(str::to_owned),
                age: age(row.get(5), row.get(6)),
                burned_in: false,
            },
            inverted: row.get(8) == "MONOCHROME1",
            bits: row.some(9).and_then(|b| b.parse::<f64>().ok()).map(|b| b as u32).filter(|b| (1..=16).contains(b)),
            ..Item::new(stem, label.to_owned(), source, place)
        });
        Ok(())
    })?;
    for name in found.into_keys() {
        listing.skip(name, "it is not in the label table");
    }
    listing.items.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(listing)
}

fn find_table(root: &Root) -> Result<Place, Error> {
    let is_table = |name: &str| {
        let name = name.to_lowercase();
        name.starts_with("padchest") && (name.ends_with(".csv") || name.ends_with(".csv.gz"))
    };
    let all: Vec<String> = root.names("", &mut Listing::default())?.into_iter().filter(|name| is_table(name)).collect();
    let bad = |why: String| Error::Source { path: root.show(""), why };
    match &all[..] {
        [one] => Ok(root.place(one)),
        [] => {
            Err(bad("no PADCHEST_*.csv or .csv.gz lies here; source.labels says where the label table is".to_owned()))
        }
        many => Err(bad(format!("several tables lie here: {}; source.labels says which", many.join(", ")))),
    }
}

/// Every image below `root`, by its name; what lies where images are expected and is none goes into `listing`.
fn files(root: &Root, listing: &mut Listing) -> Result<BTreeMap<String, Place>, Error> {
    const OTHER: &str = "it is no image of PadChest: those end in .png";
    let mut found = BTreeMap::new();
    let is_image = |name: &str| matches!(Kind::of(name), Some((Kind::Png, _)));
    for name in root.names("", listing)? {
        let place = root.place(&name);
        if is_image(&name) {
            found.insert(name, place);
        } else if name.to_lowercase().ends_with(".zip") {
            let archive = Archive::open(place)?;
            for (entry, inside) in archive.names() {
                let inner = file_name(&inside);
                if is_image(inner) {
                    found.entry(inner.to_owned()).or_insert_with(|| Place::Zip(archive.clone(), entry));
                } else {
                    listing.skip(format!("{name}/{inside}"), OTHER);
                }
            }
        } else if root.is_folder(&name) {
            for inner in root.names(&name, listing)? {
                let source = format!("{name}/{inner}");
                if is_image(&inner) {
                    // What is unpacked already is read from there.
                    found.insert(inner, root.place(&source));
                } else {
                    listing.skip(source, OTHER);
                }
            }
        } else if Kind::of(&name).is_some() {
            listing.skip(name, OTHER);
        }
    }
    Ok(found)
}

/// A list in Python's notation: `['infiltrates', ' pneumonia']`; none when it is no list.
fn findings(text: &str) -> Option<BTreeSet<String>> {
    if text.is_empty() || text.eq_ignore_ascii_case("nan") {
        return Some(BTreeSet::new());
    }
    let mut rest = text.strip_prefix('[')?.strip_suffix(']')?.trim();
    let mut all = BTreeSet::new();
    while !rest.is_empty() {
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let mut item = String::new();
        let mut chars = rest.char_indices().skip(1);
        let end = loop {
            match chars.next()? {
                (_, '\\') => item.push(chars.next()?.1),
                (at, c) if c == quote => break at + 1,
                (_, c) => item.push(c),
            }
        };
        all.insert(item.trim().to_lowercase());
        rest = rest[end..].trim_start();
        match rest.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None if rest.is_empty() => {}
            None => return None,
        }
    }
    all.remove("");
    Some(all)
}

/// The label of an image without `classes`, or why it is left out.
fn label(findings: &BTreeSet<String>) -> Result<&'static str, &'static str> {
    let has = |finding: &str| findings.contains(finding);
    if findings.is_empty() {
        Err("it has no labels")
    } else if has("exclude") {
        Err("it is labelled \"exclude\"")
    } else if has("suboptimal study") {
        Err("it is labelled \"suboptimal study\"")
    } else if findings.iter().all(|f| f == "unchanged") {
        Err("it is only labelled \"unchanged\"")
    } else if findings.len() == 1 && has("normal") {
        Ok(NORMAL)
    } else {
        Ok(ABNORMAL)
    }
}

/// Years between the study (`20140915`) and birth (`1950.0`): right to a year.
fn age(study: &str, birth: &str) -> Option<u32> {
    let study: u32 = study.get(..4)?.parse().ok()?;
    let birth: f64 = birth.parse().ok()?;
    (birth.fract() == 0.0 && birth >= 1800.0).then(|| study.checked_sub(birth as u32))?.filter(|age| *age <= OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn lists_as_they_are_in_the_table() {
        assert_eq!(findings("['infiltrates', ' pneumonia']"), Some(set(&["infiltrates", "pneumonia"])));
        assert_eq!(findings("['', 'Normal ']"), Some(set(&["normal"])));
        assert_eq!(findings(r#"["kerley's line", 'it\'s']"#), Some(set(&["kerley's line", "it's"])));
        for empty in ["", "nan", "[]", "['']"] {
            assert_eq!(findings(empty), Some(set(&[])), "{empty}");
        }
        for wrong in ["normal", "['normal'", "[normal]", "['normal' 'x']", "['normal", "['a\\"] {
            assert_eq!(findings(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_normal_is_normal() {
        assert_eq!(label(&set(&["normal"])), Ok("Normal"));
        assert_eq!(label(&set(&["normal", "pneumonia"])), Ok("Abnormal"));
        for out in [&[][..], &["exclude", "normal"], &["suboptimal study"], &["unchanged"]] {
            assert!(label(&set(out)).is_err(), "{out:?}");
        }
    }

    #[test]
    fn ages_by_years() {
        assert_eq!(age("20140915", "1950.0"), Some(64));
        assert_eq!(age("20140915", "1950"), Some(64));
        for unknown in [
            ("", "1950"),
            ("20140915", ""),
            ("20140915", "nan"),
            ("20140915", "2020"),
            ("20140915", "1850"),
            ("ä", "1"),
        ] {
            assert_eq!(age(unknown.0, unknown.1), None, "{unknown:?}");
        }
    }

    #[test]
    fn the_known_bad_ones_are_told_apart() {
        assert!(BAD.is_sorted() && BAD.windows(2).all(|w| w[0] != w[1]));
    }
}
