//! One line for each event, and nothing in it that commands a terminal: what is logged may come from elsewhere, and must not look
//! like a line of our own (CWE-117).

use std::{
    borrow::Cow,
    io::{self, Write},
};

/// Writes events, each in one piece, as lines of text.
#[derive(Debug)]
pub(crate) struct Lines<W> {
    to: W,
    /// Whether there are colours.
    ansi: bool,
}

impl<W: Write> Lines<W> {
    pub(crate) fn new(to: W, ansi: bool) -> Self {
        Self { to, ansi }
    }
}

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.to.write_all(line(&String::from_utf8_lossy(event), self.ansi).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// `event` with its control characters written out, but for the end of the line.
fn line(event: &str, ansi: bool) -> Cow<'_, str> {
    let (text, end) = event.strip_suffix('\n').map_or((event, ""), |text| (text, "\n"));
    let is_bad =
        |at: usize, c: char| c.is_control() && c != '\t' && !(ansi && c == '\x1b' && is_colour(&text[at + 1..]));
    if !text.char_indices().any(|(at, c)| is_bad(at, c)) {
        return Cow::Borrowed(event);
    }
    let mut clean = String::with_capacity(event.len() + 8);
    for (at, c) in text.char_indices() {
        if is_bad(at, c) {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    Cow::Owned(clean + end)
}

/// Whether what follows an escape says no more than how characters look (SGR, ECMA-48 8.3.117).
fn is_colour(rest: &str) -> bool {
    let Some(rest) = rest.strip_prefix('[') else { return false };
    rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m')
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{fmt, layer::SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_logged_cannot_forge_a_line_or_command_a_terminal() {
        for ansi in [false, true] {
            let kept = Kept::default();
            let to = kept.clone();
            let layer = fmt::layer().with_ansi(ansi).without_time().with_writer(move || Lines::new(to.clone(), ansi));
            let foreign = "x\n2026-01-01T00:00:00Z  INFO all is well\r\u{1b}]0;owned\u{7}\u{9b}2J";
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                tracing::info!(host = foreign, error = %foreign, "said: {foreign}");
                tracing::info!("next\tto it");
            });
            let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), 2, "{text:?}");
            assert!(!text.contains(['\r', '\u{7}', '\u{9b}']) && !text.contains("\u{1b}]"), "{text:?}");
            assert!(text.contains("all is well") && text.contains("next\tto it"), "{text:?}");
            assert_eq!(text.contains('\u{1b}'), ansi);
        }
    }
}
