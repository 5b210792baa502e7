//! `${VAR}` in texts.

use std::collections::BTreeMap;

use super::tree::{Node, Value, parse};

/// Why a text could not be expanded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    Undefined(String),
    Unclosed,
    BadName(String),
}

/// Replaces `${VAR}` in `text` by what `look_up` says; `$${` stands for `${`. None: nothing was replaced.
pub(super) fn expand(text: &str, look_up: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, Problem> {
    if !text.contains("${") {
        return Ok(None);
    }
    let (mut out, mut rest) = (String::new(), text);
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.push_str("${");
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let (name, after) = after.split_once('}').ok_or(Problem::Unclosed)?;
            let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(good) {
                return Err(Problem::BadName(name.to_owned()));
            }
            out.push_str(&look_up(name).ok_or_else(|| Problem::Undefined(name.to_owned()))?);
            rest = after;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Ok(Some(out))
}

/// The text that [`expand`] turns into `text`.
pub(super) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

/// Looks into `vars`, then into the environment.
pub(super) fn look_up(vars: &BTreeMap<String, String>, name: &str) -> Option<String> {
    vars.get(name).cloned().or_else(|| std::env::var(name).ok())
}

/// Expands every text of `tree`. What became a number or a truth value is taken for one where a field wants it.
pub(super) fn expand_all(
    tree: &mut Node,
    look_up: &dyn Fn(&str) -> Option<String>,
    mut wrong: impl FnMut(&Node, Problem),
) {
    tree.each(&mut |node| {
        let Value::Text(text) = &node.value else { return };
        match expand(text, look_up) {
            Ok(None) => {}
            Ok(Some(text)) => {
                let scalar = parse(&text, 0).ok().map(|n| n.value);
                node.value = match scalar {
                    Some(value @ (Value::Number(_) | Value::Bool(_))) if text.trim() == text => value,
                    _ => Value::Text(text.clone()),
                };
                node.raw = Some(text);
            }
            Err(problem) => wrong(node, problem),
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(name: &str) -> Option<String> {
        (name == "A").then(|| "x".to_owned())
    }

    #[test]
    fn variables_are_replaced_and_escapes_kept() {
        let expand = |text| expand(text, &one);
        assert_eq!(expand("${A}/${A}b"), Ok(Some("x/xb".into())));
        assert_eq!(expand("$A $ $$ plain"), Ok(None));
        assert_eq!(expand("$${A} ${A} $5"), Ok(Some("${A} x $5".into())));
        assert_eq!(expand("${B}"), Err(Problem::Undefined("B".into())));
        assert_eq!(expand("${A"), Err(Problem::Unclosed));
        assert_eq!(expand("${A-b}"), Err(Problem::BadName("A-b".into())));
    }

    proptest! {
        #[test]
        fn an_escaped_text_is_itself(text in "[$${}a]{0,20}") {
            let escaped = escape(&text);
            prop_assert_eq!(expand(&escaped, &one).unwrap().unwrap_or(escaped), text);
        }
    }
}
