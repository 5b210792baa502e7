//! Local files that are never seen in part, and never overwritten unasked.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Whether what is at `to` may be written to: nothing is there, or it may be replaced.
///
/// # Errors
/// `AlreadyExists`, or when its folder is not there.
pub fn is_free(to: &Path, force: bool) -> io::Result<()> {
    if !force && to.symlink_metadata().is_ok() {
        return Err(io::Error::from(io::ErrorKind::AlreadyExists));
    }
    let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::NotFound)) }
}

/// Where the content of `to` is written first: beside it, on the same file system.
pub fn beside(to: &Path) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    to.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// Makes the finished file `from` the file `to`; with `force` in place of what is there.
///
/// # Errors
/// `AlreadyExists` when something is there; the file system's. Then `from` is gone.
pub fn publish(from: &Path, to: &Path, force: bool) -> io::Result<()> {
    let published = fs::File::open(from).and_then(|f| f.sync_all()).and_then(|()| {
        if force {
            return fs::rename(from, to);
        }
        match fs::hard_link(from, to) {
            // Where there are no hard links, only a writer in the same moment could be overwritten.
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                is_free(to, force).and_then(|()| fs::rename(from, to))
            }
            linked => linked,
        }
    });
    // After a rename there is nothing left to remove.
    drop(fs::remove_file(from));
    published
}

/// Writes `bytes` to `to`; with `force` in place of what is there.
///
/// # Errors
/// As [`publish`]'s.
pub fn write(to: &Path, bytes: &[u8], force: bool) -> io::Result<()> {
    is_free(to, force)?;
    let half = beside(to);
    let written = fs::File::create(&half).and_then(|mut f| f.write_all(bytes));
    if let Err(e) = written {
        drop(fs::remove_file(&half));
        return Err(e);
    }
    publish(&half, to, force)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_unless_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights.pt");
        write(&path, b"one", false).unwrap();
        assert_eq!(write(&path, b"two", false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        // Somebody else was faster.
        fs::write(beside(&path), b"three").unwrap();
        assert_eq!(publish(&beside(&path), &path, false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        write(&path, b"four", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"four");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing half-written is left");
        let lost = folder.path().join("no/such/folder.pt");
        assert_eq!(write(&lost, b"", true).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
