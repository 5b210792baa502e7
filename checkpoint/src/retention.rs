//! Which checkpoints may go.

/// A recorded checkpoint, as retention sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// URL of its manifest.
    pub url: String,
    /// Its step.
    pub step: u64,
    /// Whether it is the best so far.
    pub best: bool,
}

/// The URLs that may be removed when the newest `keep_last` (at least one) and the best are to stay. All of `recorded` must
/// be acknowledged by the coordinator: what it does not know of, it cannot go on from.
pub fn expired(recorded: &[Kept], keep_last: u32) -> Vec<String> {
    let mut newest: Vec<&Kept> = recorded.iter().collect();
    newest.sort_by_key(|k| std::cmp::Reverse(k.step));
    newest.into_iter().skip(keep_last.max(1) as usize).filter(|k| !k.best).map(|k| k.url.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::{Kept, expired};

    #[test]
    fn the_newest_and_the_best_stay() {
        let kept = |step: u64, best| Kept { url: step.to_string(), step, best };
        let all = [kept(10, true), kept(30, false), kept(20, false), kept(40, false)];
        assert_eq!(expired(&all, 2), ["20"]);
        assert_eq!(expired(&all, 0), ["30", "20"]);
        assert!(expired(&all[..1], 1).is_empty());
    }
}
