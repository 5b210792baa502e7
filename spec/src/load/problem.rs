//! What is wrong with a file, shown where it is wrong.

use std::fmt;

/// Everything that was found wrong, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problem {
    /// The file as it was named, or `--set`.
    pub file: String,
    /// Line, from 1; none for `--set` and for files that could not be read.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
    /// Dotted field, empty for the file as a whole.
    pub field: String,
    /// What is wrong, in one line.
    pub message: String,
    /// What was expected at the marked place.
    pub expected: String,
    /// The way out.
    pub help: Option<String>,
    /// Where else it comes from: an alias, a sweep that uses it.
    pub note: Option<String>,
    /// The line of the file (or the argument) and what to mark in it.
    pub snippet: Option<Snippet>,
}

/// A line and the characters in it that are to blame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snippet {
    /// The line, without its end.
    pub text: String,
    /// First marked character, from 0.
    pub start: usize,
    /// Number of marked characters, at least 1.
    pub width: usize,
}

impl Snippet {
    /// `line` from its column `start` on. Users and passwords in its URLs are hidden, character for character, so that the marks stay
    /// where they belong.
    pub(super) fn new(line: &str, start: usize, width: usize) -> Self {
        let (mut text, mut rest) = (String::with_capacity(line.len()), line);
        while let Some((before, after)) = rest.split_once("://") {
            let end = after.find(|c: char| c.is_whitespace() || "/?#'\"".contains(c)).unwrap_or(after.len());
            let user = after[..end].rfind('@').unwrap_or(0);
            text.extend([before, "://"]);
            text.extend(after[..user].chars().map(|_| '*'));
            rest = &after[user..];
        }
        text.push_str(rest);
        Self { text, start, width }
    }
}

/// Longer lines are cut around the marked place.
const WIDEST: usize = 110;

impl Snippet {
    /// The line ready to print, and the marks below it.
    fn drawn(&self) -> (String, String) {
        let chars: Vec<char> = self.text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let start = self.start.min(chars.len());
        let from = if chars.len() > WIDEST { start.saturating_sub(WIDEST / 3) } else { 0 };
        let to = chars.len().min(from + WIDEST);
        let width = self.width.clamp(1, (to - start).max(1));
        let mut line: String = chars[from..to].iter().collect();
        let mut indent = start - from;
        if from > 0 {
            line.insert(0, '…');
            indent += 1;
        }
        if to < chars.len() {
            line.push('…');
        }
        (line.trim_end().to_owned(), format!("{}{}", " ".repeat(indent), "^".repeat(width)))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        let number = self.line.map_or_else(String::new, |l| l.to_string());
        let gutter = " ".repeat(number.len().max(1));
        if !self.file.is_empty() {
            write!(f, "\n {gutter}--> {}", self.file)?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
                if let Some(column) = self.column {
                    write!(f, ":{column}")?;
                }
            }
            if !self.field.is_empty() {
                write!(f, " (field {})", self.field)?;
            }
        }
        if let Some(snippet) = &self.snippet {
            let (line, marks) = snippet.drawn();
            let number = if number.is_empty() { &gutter } else { &number };
            write!(f, "\n {gutter} |\n {number} | {line}\n {gutter} | {marks}")?;
            if !self.expected.is_empty() {
                write!(f, " {}", self.expected)?;
            }
        } else if !self.expected.is_empty() {
            write!(f, "\n {gutter} = {}", self.expected)?;
        }
        for (what, text) in [("note", &self.note), ("help", &self.help)] {
            if let Some(text) = text {
                write!(f, "\n {gutter} = {what}: {text}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marks_lie_below_what_they_mark() {
        let snippet = Snippet { text: "  lr: fäst # x".into(), start: 6, width: 4 };
        let problem = Problem {
            file: "a.yaml".into(),
            line: Some(12),
            column: Some(7),
            field: "trainer.optimizer.lr".into(),
            message: "`fäst` is no number".into(),
            expected: "expected a number".into(),
            help: Some("write 1e-3".into()),
            note: None,
            snippet: Some(snippet),
        };
        assert_eq!(
            problem.to_string(),
            "error: `fäst` is no number\n   --> a.yaml:12:7 (field trainer.optimizer.lr)\n    |\n 12 |   lr: fäst # x\n    |       ^^^^ expected a number\n    = help: write 1e-3"
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_marks() {
        let snippet = Snippet { text: "x".repeat(5000), start: 3000, width: 9000 };
        let (line, marks) = snippet.drawn();
        assert!(line.chars().count() <= WIDEST + 2 && marks.chars().count() <= WIDEST + 2);
        let beyond = Snippet { text: "ab".into(), start: 90, width: 5 };
        assert_eq!(beyond.drawn(), ("ab".into(), "  ^".into()));
    }
}
