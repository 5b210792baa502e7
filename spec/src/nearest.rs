//! "Did you mean …?"

/// The known name that `name` was most likely meant to be.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // People write optimiser for optimizer and image-size for image_size: neither is more than a letter or two away.
    let plain = |s: &str| s.chars().take(80).collect::<String>().to_lowercase().replace('-', "_");
    let name = plain(name);
    if name.is_empty() {
        return None;
    }
    let most = (name.chars().count() / 3).clamp(1, 4);
    known
        .into_iter()
        .map(|k| (strsim::damerau_levenshtein(&name, &plain(k)), k))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, k)| k)
}

/// "did you mean `x`?", or the list of what is known.
pub(crate) fn suggest(name: &str, known: &[&str]) -> String {
    match nearest(name, known.iter().copied()) {
        Some(k) => format!("did you mean `{k}`?"),
        None => format!("known here: {}", one_of(known)),
    }
}

/// "`a`, `b` or `c`".
pub(crate) fn one_of(known: &[&str]) -> String {
    let quoted: Vec<String> = known.iter().map(|k| format!("`{k}`")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_a_stranger_finds_none() {
        let known = ["optimizer", "loss", "image_size", "lr"];
        assert_eq!(nearest("optimiser", known), Some("optimizer"));
        assert_eq!(nearest("Image-Size", known), Some("image_size"));
        assert_eq!(nearest("rl", known), Some("lr"));
        assert_eq!(nearest("bananas", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(suggest("x y z q", &known), "known here: `optimizer`, `loss`, `image_size` or `lr`");
    }
}
