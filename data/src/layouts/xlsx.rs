//! The first sheet of a workbook (ECMA-376), as texts.

use std::io::{Cursor, Read};

use quick_xml::{Reader, events::Event};
use zip::ZipArchive;

use super::Place;

/// A sheet of a hundred thousand rows is far below it.
const LARGEST: u64 = 256 << 20;
/// Columns beyond are not looked at.
const WIDEST: usize = 256;

/// The rows of the first sheet of the workbook at `place`.
///
/// # Errors
/// A text that says why it is no workbook.
pub(super) fn rows(place: &Place) -> Result<Vec<Vec<String>>, String> {
    let mut zip = ZipArchive::new(Cursor::new(place.read().map_err(|e| e.to_string())?))
        .map_err(|e| format!("no readable workbook: {e}"))?;
    let mut part = |name: &str| -> Result<Option<String>, String> {
        let Ok(entry) = zip.by_name(name) else { return Ok(None) };
        let mut text = String::new();
        entry.take(LARGEST).read_to_string(&mut text).map_err(|e| format!("no readable workbook: {name}: {e}"))?;
        Ok(Some(text))
    };
    let shared = part("xl/sharedStrings.xml")?.map_or(Ok(Vec::new()), |text| texts(&text))?;
    let sheet = part("xl/worksheets/sheet1.xml")?.ok_or("no readable workbook: it has no first sheet")?;
    cells(&sheet, &shared)
}

fn bad(e: impl std::fmt::Display) -> String {
    format!("no readable workbook: {e}")
}

/// The shared strings: what lies in each `si`.
fn texts(xml: &str) -> Result<Vec<String>, String> {
    let mut reader = Reader::from_str(xml);
    let (mut all, mut one, mut inside) = (Vec::new(), String::new(), false);
    loop {
        match reader.read_event().map_err(bad)? {
            Event::Start(e) if e.local_name().as_ref() == b"si" => one.clear(),
            Event::Start(e) if e.local_name().as_ref() == b"t" => inside = true,
            Event::Text(t) if inside => one.push_str(&t.decode().map_err(bad)?),
            Event::GeneralRef(name) if inside => one.push_str(entity(&name.decode().map_err(bad)?)),
            Event::End(e) if e.local_name().as_ref() == b"t" => inside = false,
            Event::End(e) if e.local_name().as_ref() == b"si" => all.push(std::mem::take(&mut one)),
            Event::Empty(e) if e.local_name().as_ref() == b"si" => all.push(String::new()),
            Event::Eof => return Ok(all),
            _ => {}
        }
    }
}

fn entity(name: &str) -> &'static str {
    match name {
        "amp" => "&",
        "lt" => "<",
        "gt" => ">",
        "quot" => "\"",
        "apos" => "'",
        _ => "",
    }
}

fn cells(xml: &str, shared: &[String]) -> Result<Vec<Vec<String>>, String> {
    let mut reader = Reader::from_str(xml);
    let (mut rows, mut row): (Vec<Vec<String>>, Vec<String>) = (Vec::new(), Vec::new());
    let (mut column, mut is_shared, mut inside, mut value) = (0, false, false, String::new());
    loop {
        match reader.read_event().map_err(bad)? {
            Event::Start(e) if e.local_name().as_ref() == b"row" => row = Vec::new(),
            Event::Start(e) if e.local_name().as_ref() == b"c" => {
                let attribute = |name: &str| {
                    let found = e.try_get_attribute(name).ok().flatten()?;
                    String::from_utf8(found.value.into_owned()).ok()
                };
                column = attribute("r").and_then(|r| number(&r)).unwrap_or(row.len());
                is_shared = attribute("t").as_deref() == Some("s");
                value.clear();
            }
            // A value, or an inline text.
            Event::Start(e) if matches!(e.local_name().as_ref(), b"v" | b"t") => inside = true,
            Event::Text(t) if inside => value.push_str(&t.decode().map_err(bad)?),
            Event::GeneralRef(name) if inside => value.push_str(entity(&name.decode().map_err(bad)?)),
            Event::End(e) if matches!(e.local_name().as_ref(), b"v" | b"t") => inside = false,
            Event::End(e) if e.local_name().as_ref() == b"c" && column < WIDEST => {
                row.resize(row.len().max(column + 1), String::new());
                row[column] = if is_shared {
                    value.trim().parse::<usize>().ok().and_then(|i| shared.get(i)).cloned().unwrap_or_default()
                } else {
                    value.clone()
                };
            }
            Event::End(e) if e.local_name().as_ref() == b"row" => rows.push(std::mem::take(&mut row)),
            Event::Eof => return Ok(rows),
            _ => {}
        }
    }
}

/// The column of a cell's name: `B7` is 1.
fn number(name: &str) -> Option<usize> {
    let letters: Vec<usize> =
        name.bytes().take_while(u8::is_ascii_uppercase).map(|b| usize::from(b - b'A') + 1).collect();
    if letters.is_empty() || letters.len() > 3 {
        return None;
    }
    Some(letters.iter().fold(0, |n, letter| n * 26 + letter) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_shared_inline_and_left_out() {
        let shared =
            texts("<sst><si><t>FILE NAME</t></si><si><r><t>a &amp; </t></r><r><t>b</t></r></si></sst>").unwrap();
        assert_eq!(shared, ["FILE NAME", "a & b"]);
        let sheet = r#"<worksheet><sheetData><row r="1"><c r="A1" t="s"><v>0</v></c><c r="C1" t="inlineStr"><is><t>x</t></is></c></row>
            <row r="2"><c r="B2" t="s"><v>1</v></c><c r="C2"><v>7</v></c><c r="D2" t="s"><v>99</v></c></row></sheetData></worksheet>"#;
        let rows = cells(sheet, &shared).unwrap();
        assert_eq!(rows, [vec!["FILE NAME", "", "x"], vec!["", "a & b", "7", ""]]);
        assert_eq!((number("AA10"), number("7"), number("ABCD1")), (Some(26), None, None));
        assert!(cells("<row><c", &[]).is_err());
    }
}
