//! Which sets of files lie in the cache whole: a scheduler places work where its dataset is.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use morph_spec::Digest;

use super::NodeCache;

/// Sets that are told, at most: the most recently used ones.
const MOST: usize = 256;

impl NodeCache {
    /// Notes that `files`, which are here, are of `set`, with those that were noted for it before. A note that cannot be written only
    /// means that [`Self::sets`] does not know.
    pub fn note(&self, set: Digest, files: impl IntoIterator<Item = Digest>) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = self.sets.join(set.to_string());
        let mut all = read(&path).unwrap_or_default();
        all.extend(files);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let tmp = self.sets.join(format!("{set}.tmp.{}.{unique}", std::process::id()));
        let text: String = all.iter().map(|file| format!("{file}\n")).collect();
        if let Err(e) = fs::write(&tmp, text).and_then(|()| fs::rename(&tmp, &path)) {
            tracing::debug!(path = %path.display(), error = %e, "cannot note which files are of a set");
            drop(fs::remove_file(&tmp));
        }
    }

    /// The sets that were noted and all of whose files are here still, the most recently used first. Notes of sets that are gone to
    /// the last file are removed.
    pub fn sets(&self) -> Vec<Digest> {
        let here: BTreeSet<Digest> = names(&self.files).into_iter().filter_map(|(name, _)| name.parse().ok()).collect();
        let mut whole: Vec<(SystemTime, Digest)> = Vec::new();
        for (name, noted) in names(&self.sets) {
            // What is being written has another name.
            let Ok(set) = name.parse::<Digest>() else { continue };
            let path = self.sets.join(&name);
            match read(&path) {
                Ok(files) if !files.is_empty() && files.is_subset(&here) => whole.push((noted, set)),
                Ok(files) if files.is_disjoint(&here) => drop(fs::remove_file(&path)),
                Ok(_) => {}
                Err(e) => tracing::debug!(path = %path.display(), error = %e, "cannot read which files are of a set"),
            }
        }
        whole.sort_by(|a, b| b.cmp(a));
        whole.into_iter().map(|(_, set)| set).take(MOST).collect()
    }
}

/// The files of a set. A line that is none was not written here, and names no file that could be missing.
fn read(path: &Path) -> io::Result<BTreeSet<Digest>> {
    Ok(fs::read_to_string(path)?.lines().filter_map(|line| line.parse().ok()).collect())
}

/// What lies in `folder`, and since when.
fn names(folder: &Path) -> Vec<(String, SystemTime)> {
    let listing = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = listing.filter_map(|entry| {
        let since = entry.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        Some((entry.file_name().into_string().ok()?, since))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    fn file(dir: &Path, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        fs::write(dir.join("blake3").join(digest.to_string()), content).unwrap();
        digest
    }

    #[test]
    fn a_set_is_here_as_long_as_all_its_files_are() {
        let dir = tempfile::tempdir().unwrap();
        let cache = NodeCache::open(dir.path(), 1 << 30).unwrap();
        let [a, b, c] = [b"a", b"b", b"c"].map(|content| file(dir.path(), content));
        let [one, two] = [b"one", b"two"].map(|name| Digest::of(name));
        cache.note(one, [a]);
        thread::sleep(Duration::from_millis(20));
        cache.note(two, [b]);
        assert_eq!(cache.sets(), [two, one], "the last used first");
        // Another experiment uses more of the same dataset.
        thread::sleep(Duration::from_millis(20));
        cache.note(one, [c]);
        assert_eq!(cache.sets(), [one, two]);

        let remove = |file: Digest| fs::remove_file(dir.path().join("blake3").join(file.to_string())).unwrap();
        remove(a);
        assert_eq!(cache.sets(), [two], "a part of it is not it");
        file(dir.path(), b"a");
        assert_eq!(cache.sets(), [one, two], "it came back");
        [a, b, c].into_iter().for_each(remove);
        assert!(cache.sets().is_empty());
        assert_eq!(fs::read_dir(dir.path().join("sets")).unwrap().count(), 0, "notes of what is gone do not pile up");
    }

    #[test]
    fn notes_that_make_no_sense_are_no_sets() {
        let dir = tempfile::tempdir().unwrap();
        let cache = NodeCache::open(dir.path(), 1 << 30).unwrap();
        let sets = dir.path().join("sets");
        fs::write(sets.join("README"), "no digest").unwrap();
        fs::write(sets.join(Digest::of(b"empty").to_string()), "").unwrap();
        fs::create_dir(sets.join(Digest::of(b"a folder").to_string())).unwrap();
        assert!(cache.sets().is_empty());
    }

    #[test]
    fn no_more_are_told_than_a_message_may_hold() {
        let dir = tempfile::tempdir().unwrap();
        let cache = NodeCache::open(dir.path(), 1 << 30).unwrap();
        let a = file(dir.path(), b"a");
        for i in 0..300u32 {
            cache.note(Digest::of(&i.to_le_bytes()), [a]);
        }
        assert_eq!(cache.sets().len(), MOST);
    }
}
