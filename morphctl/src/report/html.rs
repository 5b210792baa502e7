//! Markup that nothing put into it can break: text becomes markup by being escaped, and in no other way.

use std::fmt::Write as _;

/// A piece of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(String);

impl Html {
    /// Nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// What stands in this program's own text as markup: a style sheet, a script.
    pub fn constant(markup: &'static str) -> Self {
        Self(markup.to_owned())
    }

    /// JSON inside a `script` that is no program. No text in it can end the element.
    pub fn json(value: &serde_json::Value) -> Self {
        Self(value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))
    }

    /// The markup.
    pub fn into_string(self) -> String {
        self.0
    }

    /// Whether there is nothing.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Html {
    fn from(text: &str) -> Self {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&quot;"),
                '\'' => out.push_str("&#39;"),
                // No character of HTML, and what turns the direction of the text around it.
                '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{7f}'..='\u{9f}' => out.push('\u{fffd}'),
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
                c => out.push(c),
            }
        }
        Self(out)
    }
}

impl From<String> for Html {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<Vec<Self>> for Html {
    fn from(parts: Vec<Self>) -> Self {
        parts.into_iter().collect()
    }
}

impl<const N: usize> From<[Self; N]> for Html {
    fn from(parts: [Self; N]) -> Self {
        parts.into_iter().collect()
    }
}

impl FromIterator<Self> for Html {
    fn from_iter<T: IntoIterator<Item = Self>>(parts: T) -> Self {
        let mut out = String::new();
        parts.into_iter().for_each(|p| out.push_str(&p.0));
        Self(out)
    }
}

/// Elements that have no end.
const VOID: [&str; 3] = ["meta", "img", "br"];

/// `<name attribute="value">inner</name>`.
pub fn tag(name: &'static str, attributes: &[(&'static str, &str)], inner: impl Into<Html>) -> Html {
    let mut out = format!("<{name}");
    for (key, value) in attributes {
        write!(out, " {key}=\"{}\"", Html::from(*value).0).expect("invariant: writing to a String");
    }
    out.push('>');
    if !VOID.contains(&name) {
        out.push_str(&inner.into().0);
        write!(out, "</{name}>").expect("invariant: writing to a String");
    }
    Html(out)
}

/// An element without attributes.
pub fn plain(name: &'static str, inner: impl Into<Html>) -> Html {
    tag(name, &[], inner)
}

/// A head of a table's column.
#[derive(Debug, Clone)]
pub struct Head {
    /// What it says.
    pub text: String,
    /// Whether the column is of numbers, which stand at the right.
    pub number: bool,
    /// Whether the reader may sort by it: not where rows are of different things.
    pub sorts: bool,
}

impl Head {
    /// Of texts.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), number: false, sorts: false }
    }

    /// Of numbers that the reader may sort by.
    pub fn number(text: impl Into<String>) -> Self {
        Self { text: text.into(), number: true, sorts: true }
    }

    /// Of numbers of different things.
    pub fn mixed(text: impl Into<String>) -> Self {
        Self { text: text.into(), number: true, sorts: false }
    }
}

/// A cell of a table.
#[derive(Debug, Clone)]
pub struct Cell {
    /// What it shows.
    pub shown: Html,
    /// The number by which it is sorted, in full.
    pub value: Option<f64>,
}

impl Cell {
    /// A cell that is not sorted by.
    pub fn of(shown: impl Into<Html>) -> Self {
        Self { shown: shown.into(), value: None }
    }

    /// A number with so many decimals.
    pub fn number(value: f64, decimals: usize) -> Self {
        Self { shown: format!("{value:.decimals$}").into(), value: Some(value) }
    }

    /// A count.
    pub fn count(value: usize) -> Self {
        Self { shown: value.to_string().into(), value: Some(value as f64) }
    }

    /// Nothing to show.
    pub fn empty() -> Self {
        Self::of("–")
    }
}

/// A table whose first column heads its rows. It scrolls by itself where the page is narrow.
pub fn table(caption: &str, heads: &[Head], rows: Vec<Vec<Cell>>) -> Html {
    let head = heads.iter().map(|h| match (h.number, h.sorts) {
        (_, true) => {
            let button = tag("button", &[("type", "button")], h.text.as_str());
            tag("th", &[("scope", "col"), ("class", "number"), ("aria-sort", "none")], button)
        }
        (true, false) => tag("th", &[("scope", "col"), ("class", "number")], h.text.as_str()),
        (false, false) => tag("th", &[("scope", "col")], h.text.as_str()),
    });
    let body = rows.into_iter().map(|row| {
        let cells = row.into_iter().enumerate().map(|(i, cell)| {
            let class = if heads.get(i).is_some_and(|h| h.number) { "number" } else { "" };
            let value = cell.value.map(|v| format!("{v:?}"));
            let mut attributes = Vec::new();
            if !class.is_empty() {
                attributes.push(("class", class));
            }
            if let Some(value) = &value {
                attributes.push(("data-value", value.as_str()));
            }
            if i == 0 {
                attributes.push(("scope", "row"));
                tag("th", &attributes, cell.shown)
            } else {
                tag("td", &attributes, cell.shown)
            }
        });
        plain("tr", cells.collect::<Html>())
    });
    let table = plain(
        "table",
        [
            plain("caption", caption),
            plain("thead", plain("tr", head.collect::<Html>())),
            plain("tbody", body.collect::<Html>()),
        ],
    );
    tag("div", &[("class", "scroll"), ("tabindex", "0"), ("role", "region"), ("aria-label", caption)], table)
}

/// A part of the page, reachable by `#id`.
pub fn section(id: &str, title: &str, inner: impl Into<Html>) -> Html {
    let heading = format!("{id}-title");
    let title = tag("h2", &[("id", &heading)], title);
    tag("section", &[("id", id), ("aria-labelledby", &heading)], [title, inner.into()])
}

/// A paragraph.
pub fn p(text: impl Into<Html>) -> Html {
    plain("p", text)
}

/// A list of sentences.
pub fn list(items: impl IntoIterator<Item = String>) -> Html {
    let items: Html = items.into_iter().map(|i| plain("li", i)).collect();
    if items.is_none() { items } else { plain("ul", items) }
}

/// Names with what belongs to them.
pub fn pairs(items: Vec<(&str, Html)>) -> Html {
    let items = items.into_iter().filter(|(_, value)| !value.is_none());
    plain("dl", items.map(|(name, value)| Html::from([plain("dt", name), plain("dd", value)])).collect::<Html>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_cannot_get_out() {
        let evil = "</td><script>alert(1)</script>\" onload='x' &amp; \u{202e}\u{7}";
        let out = tag("td", &[("title", evil)], evil).into_string();
        assert_eq!(out.matches('<').count(), 2, "{out}");
        assert!(!out.contains("\" onload") && !out.contains('\u{202e}') && out.contains("&amp;amp;"), "{out}");
        let json = Html::json(&serde_json::json!({ "name": "</script><!--" })).into_string();
        assert!(
            !json.contains('<') && serde_json::from_str::<serde_json::Value>(&json).unwrap()["name"] == "</script><!--"
        );
    }

    #[test]
    fn tables_have_heads_for_columns_and_rows() {
        let rows = vec![vec![Cell::of("a<b"), Cell::number(0.1 + 0.2, 3)]];
        let out = table("Scores", &[Head::text("Method"), Head::number("AUROC")], rows).into_string();
        assert!(out.contains("<th scope=\"row\">a&lt;b</th>"), "{out}");
        assert!(out.contains("data-value=\"0.30000000000000004\">0.300</td>"), "{out}");
        assert!(out.contains("<caption>Scores</caption>") && out.contains("aria-sort=\"none\"><button"), "{out}");
    }
}
