//! Image files that CSV tables name, and splits that they say: one column `filename` is enough, as in the reference's.

use std::collections::{BTreeMap, BTreeSet};

use morph_spec::dataset::{Columns, SplitFiles, Table};

use super::{Item, Listing, NO_KIND, Root, file_name, table};
use crate::{
    Error,
    readers::{Facts, Kind, OLDEST},
};

/// Lists the files that `tables` name, relative to `root`, with what they have in the columns `more`.
///
/// # Errors
/// [`Error::Source`] when a table cannot be read, lacks the column of file names, or says no label.
pub fn list(root: &Root, tables: &[Table], columns: &Columns, more: &[&str]) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    let c = columns;
    let names = [&*c.file, &*c.label, &*c.patient, &*c.split, &*c.view, &*c.sex, &*c.age];
    let mut seen = BTreeSet::new();
    let mut persons = true;
    for given in tables {
        table::each(&root.place(&given.file), "it is named in source.tables", &names, 1, more, |row| {
            let source = row.some(0).ok_or_else(|| row.bad(0, "the name of the file is missing"))?.replace('\\', "/");
            let Some((_, stem)) = Kind::of(&source) else {
                listing.skip(source, NO_KIND);
                return Ok(());
            };
            if !seen.insert(source.clone()) {
                return Err(row.bad(0, &format!("{source:?} is named twice")));
            }
            let label = given.label.as_deref().or(row.some(1));
            let label = label.ok_or_else(|| {
                row.bad(1, "the label is missing: fill the column, or give the table a label in source.tables")
            })?;
            let split = match given.split.as_deref().or(row.some(3)) {
                None => None,
                Some(name) => Some(
                    super::split(name).ok_or_else(|| row.bad(3, &format!("{name:?} is none of train, val, test")))?,
                ),
            };
            let age = match row.some(6) {
                None => None,
                Some(text) => {
                    let years: f64 =
                        text.parse().map_err(|_| row.bad(6, &format!("{text:?} is no number of years")))?;
                    Some(years as u32).filter(|age| *age <= OLDEST && years >= 0.0)
                }
            };
            let patient = row.some(2);
            persons &= patient.is_some();
            if !root.is_file(&source) {
                listing.skip(source, "listed, but the file is missing");
                return Ok(());
            }
            let item = Item::new(stem.to_owned(), label.to_owned(), source.clone(), root.place(&source));
            listing.items.push(Item {
                patient: patient.unwrap_or(stem).to_owned(),
                split,
                columns: row.more(),
                facts: Facts {
                    view: row.some(4).map(str::to_owned),
                    sex: row.some(5).filter(|s| matches!(*s, "M" | "F")).map(str::to_owned),
                    age,
                    ..Facts::default()
                },
                ..item
            });
            Ok(())
        })?;
    }
    listing.persons = persons && !listing.items.is_empty();
    listing.items.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(listing)
}

/// Gives every image of `listing` the split that `files` say; those that are in none are left out. Without files nothing changes.
///
/// # Errors
/// [`Error::Source`] when a table cannot be read, names an image twice, or puts an image or a patient into two splits.
pub(super) fn splits(root: &Root, files: &SplitFiles, listing: &mut Listing) -> Result<(), Error> {
    if files.is_empty() {
        return Ok(());
    }
    // Paths in tables begin wherever their author stood: their ends are compared, from the file's name on.
    let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (i, item) in listing.items.iter().enumerate() {
        by_name.entry(file_name(&item.source)).or_default().push(i);
    }
    let mut chosen: Vec<Option<&'static str>> = vec![None; listing.items.len()];
    let mut missing = Vec::new();
    for (split, file) in files.all() {
        table::each(&root.place(file), "it is named in split.files", &["filename"], 1, &[], |row| {
            let name = row.some(0).ok_or_else(|| row.bad(0, "the name of the file is missing"))?.replace('\\', "/");
            let alike = by_name.get(file_name(&name)).map_or(&[][..], Vec::as_slice);
            let common = |i: &usize| {
                let (a, b) = (listing.items[*i].source.rsplit('/'), name.rsplit('/'));
                a.zip(b).take_while(|(a, b)| a == b).count()
            };
            let most = alike.iter().map(common).max().unwrap_or(0);
            let best: Vec<usize> = alike.iter().copied().filter(|i| common(i) == most).collect();
            match best[..] {
                [] => missing.push(name),
                [i] => match chosen[i].replace(split) {
                    Some(other) if other != split => {
                        return Err(
                            row.bad(0, &format!("{name:?} is in {split} and in {other}: nothing may be in two splits"))
                        );
                    }
                    _ => {}
                },
                _ => {
                    return Err(
                        row.bad(0, &format!("{name:?} may be one of {} images: name its folder too", best.len()))
                    );
                }
            }
            Ok(())
        })?;
    }
    let items = std::mem::take(&mut listing.items);
    for (mut item, split) in items.into_iter().zip(chosen) {
        match split {
            Some(_) => {
                item.split = split;
                listing.items.push(item);
            }
            None => listing.skip(item.source, "no table in split.files names it"),
        }
    }
    let skipped: BTreeSet<&str> = listing.skipped.iter().map(|s| file_name(&s.source)).collect();
    let unknown: Vec<&String> = missing.iter().filter(|name| !skipped.contains(file_name(name))).collect();
    let all: Vec<String> = unknown.into_iter().cloned().collect();
    for name in all {
        listing.skip(name, "a table in split.files names it, but it is not there");
    }
    Ok(())
}
