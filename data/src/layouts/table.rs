//! CSV tables, plain or gzipped, read row by row; what is wrong is said with file, line and column.

use std::{collections::BTreeMap, io::Read};

use flate2::read::MultiGzDecoder;

use super::Place;
use crate::Error;

/// A row, with the columns that were asked for.
pub(super) struct Row<'a> {
    place: &'a Place,
    names: &'a [&'a str],
    at: &'a [Option<usize>],
    more: &'a [(&'a str, usize)],
    record: &'a csv::StringRecord,
}

impl Row<'_> {
    /// The trimmed field of the column that was asked for as number `i`; empty when the table has no such column.
    pub(super) fn get(&self, i: usize) -> &str {
        self.at[i].and_then(|at| self.record.get(at)).unwrap_or_default().trim()
    }

    /// The same, none when nothing is in it.
    pub(super) fn some(&self, i: usize) -> Option<&str> {
        known(self.get(i))
    }

    /// What is in the columns that the YAML asks for by name, where there is anything.
    pub(super) fn more(&self) -> BTreeMap<String, String> {
        let text = |at: usize| known(self.record.get(at).unwrap_or_default().trim());
        self.more.iter().filter_map(|(name, at)| Some(((*name).to_owned(), text(*at)?.to_owned()))).collect()
    }

    /// Something is wrong with field `i`.
    pub(super) fn bad(&self, i: usize, why: &str) -> Error {
        let line = self.record.position().map_or(0, csv::Position::line);
        Error::Source { path: format!("{}:{line}", self.place), why: format!("column {:?}: {why}", self.names[i]) }
    }
}

/// `text`, none when nothing is in it.
fn known(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty() && !text.eq_ignore_ascii_case("nan"))
}

/// Reads the table at `place` and hands its rows on. The first `needed` of `names` must be columns of it, and all that are asked for
/// by name in `more`; empty names are none.
///
/// # Errors
/// [`Error::Source`] when it is missing, is no table, or lacks a column; `hint` helps those who look for it elsewhere.
pub(super) fn each(
    place: &Place,
    hint: &str,
    names: &[&str],
    needed: usize,
    more: &[&str],
    mut row: impl FnMut(&Row<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let bad = |why: String| Error::Source { path: place.to_string(), why };
    let file = place.open().map_err(|e| {
        let help = if hint.is_empty() { String::new() } else { format!("; {hint}") };
        bad(format!("{e}{help}"))
    })?;
    let packed = place.to_string().to_lowercase().ends_with(".gz");
    let source: Box<dyn Read> = if packed { Box::new(MultiGzDecoder::new(file)) } else { file };
    let mut reader = csv::ReaderBuilder::new().from_reader(source);
    let header = reader.headers().map_err(|e| bad(e.to_string()))?.clone();
    // Excel puts a mark before the first name.
    let find = |name: &str| header.iter().position(|h| h.trim_start_matches('\u{feff}').trim() == name);
    let missing =
        |name: &str| bad(format!("column {name:?} is missing; it has {:?}", header.iter().collect::<Vec<_>>()));
    let at: Vec<Option<usize>> = names.iter().map(|n| if n.is_empty() { None } else { find(n) }).collect();
    if let Some((name, _)) = names.iter().zip(&at).take(needed).find(|(_, at)| at.is_none()) {
        return Err(missing(name));
    }
    let more: Vec<(&str, usize)> =
        more.iter().map(|name| Ok((*name, find(name).ok_or_else(|| missing(name))?))).collect::<Result<_, Error>>()?;
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|e| bad(e.to_string()))? {
        row(&Row { place, names, at: &at, more: &more, record: &record })?;
    }
    Ok(())
}

/// The lines of the text file at `place` that are not empty and no comment.
///
/// # Errors
/// [`Error::Source`] when it cannot be read.
pub(super) fn lines(place: &Place) -> Result<Vec<String>, Error> {
    let read = || {
        let mut text = String::new();
        place.open().map_err(|e| e.to_string())?.read_to_string(&mut text).map_err(|e| e.to_string())?;
        Ok(text)
    };
    let text = read().map_err(|why| Error::Source { path: place.to_string(), why })?;
    let named = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(named.map(str::to_owned).collect())
}
