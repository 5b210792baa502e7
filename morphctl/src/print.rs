//! What goes to stdout.

use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use crate::cli::{Color, Global};

/// What may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For people with much time.
    Yaml,
    /// Only names, as `run/NAME`.
    Name,
    /// For spreadsheets and statistics; compare only.
    Csv,
    /// For papers; compare only.
    Latex,
    /// For READMEs; compare only.
    Markdown,
}

impl Output {
    /// The format of every command; `None` where only `compare` has it.
    pub fn format(self) -> Option<Format> {
        match self {
            Self::Table => Some(Format::Table),
            Self::Json => Some(Format::Json),
            Self::Yaml => Some(Format::Yaml),
            Self::Name => Some(Format::Name),
            Self::Csv | Self::Latex | Self::Markdown => None,
        }
    }
}

/// Formats of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For people with much time.
    Yaml,
    /// Only names, as `run/NAME`.
    Name,
}

/// Writes `text` and a line's end to stdout. A reader that has gone away (`| head`) is no error.
///
/// # Errors
/// When stdout cannot be written.
pub fn line(text: &str) -> Result<()> {
    let text = if std::io::stdout().is_terminal() { harmless(text) } else { text.into() };
    match writeln!(anstream::stdout().lock(), "{text}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("write to stdout"),
    }
}

/// Writes `text` and a line's end to stderr; nobody there is no error.
pub fn note(text: &str) {
    let text = if std::io::stderr().is_terminal() { harmless(text) } else { text.into() };
    writeln!(anstream::stderr().lock(), "{text}").ok();
}

/// `text` as a terminal may have it: what others wrote (names, errors, log lines) must not move the cursor, rename the
/// window or hide lines. Nothing of morph's own that passes here has such characters.
fn harmless(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || (c.is_control() && !matches!(c, '\n' | '\t'))
    };
    if !text.contains(harmful) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) { out.extend(c.escape_unicode()) } else { out.push(c) }
    }
    out.into()
}

/// Follows `--color`; otherwise NO_COLOR, TERM and the kind of stdout decide.
pub fn set_color(global: &Global) {
    match global.color {
        Color::Auto => {}
        Color::Always => anstream::ColorChoice::Always.write_global(),
        Color::Never => anstream::ColorChoice::Never.write_global(),
    }
}

/// A list of things, in all formats.
#[derive(Debug)]
pub struct Listing {
    /// `run`, `sweep`, …
    pub kind: &'static str,
    /// Heads of columns.
    pub columns: Vec<&'static str>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
    /// For programs.
    pub json: Vec<Value>,
    /// Of each thing.
    pub names: Vec<String>,
}

/// Prints `list`. An empty one is said on stderr and is no error.
///
/// # Errors
/// When stdout cannot be written.
pub fn list(global: &Global, list: Listing) -> Result<()> {
    match global.output {
        Format::Json | Format::Yaml => value(global, &Value::Array(list.json)),
        Format::Name => {
            for name in &list.names {
                line(&format!("{}/{name}", list.kind))?;
            }
            Ok(())
        }
        Format::Table if list.rows.is_empty() => {
            if !global.quiet {
                say!("no {}s", list.kind);
            }
            Ok(())
        }
        Format::Table => line(&table(&list.columns, list.rows)),
    }
}

/// Prints one document.
///
/// # Errors
/// When stdout cannot be written.
pub fn value(global: &Global, value: &Value) -> Result<()> {
    match global.output {
        Format::Yaml => line(serde_saphyr::to_string(value).context("write YAML")?.trim_end()),
        _ => line(&serde_json::to_string_pretty(value)?),
    }
}

/// A table without lines, as kubectl's. Columns of numbers are set to the right.
pub fn table(columns: &[&str], rows: Vec<Vec<String>>) -> String {
    let numeric: Vec<bool> = (0..columns.len())
        .map(|c| rows.iter().all(|r| r.get(c).is_none_or(|v| v.is_empty() || v == "-" || v.parse::<f64>().is_ok())))
        .collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numeric.get(index).copied().unwrap_or(false) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_cannot_command_a_terminal() {
        assert_eq!(harmless("loss 0.5\tüß\nnext"), "loss 0.5\tüß\nnext");
        assert_eq!(harmless("a\u{1b}[2Jb\rc\u{7}"), "a\\u{1b}[2Jb\\u{d}c\\u{7}");
        assert_eq!(harmless("\u{9b}31m\u{202e}txt"), "\\u{9b}31m\\u{202e}txt");
    }

    #[test]
    fn tables_are_plain_and_numbers_stand_right() {
        let rows = vec![vec!["a".into(), "1.5".into()], vec!["long".into(), "10.25".into()]];
        assert_eq!(table(&["NAME", "SCORE"], rows), "NAME  SCORE\na       1.5\nlong  10.25");
    }
}
