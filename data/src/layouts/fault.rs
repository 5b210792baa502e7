//! Whose fault it is that a file cannot be read: its own, or that of where it lies.

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    path::Path,
};

use crate::error::io_text;

/// Why a file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The file is to blame: it is left out. The text goes into reports and names neither file nor place, for files are named after
    /// patients.
    File(String),
    /// The storage is: what it says of this file it may say of every other. The job ends, and the text says why.
    Storage(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::File(why) | Self::Storage(why)) = self;
        f.write_str(why)
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::File(why)
    }
}

impl From<&str> for Fault {
    fn from(why: &str) -> Self {
        Self::File(why.to_owned())
    }
}

impl From<morph_objects::Error> for Fault {
    fn from(e: morph_objects::Error) -> Self {
        use morph_objects::Error as E;
        match e {
            E::NotFound { .. } => "it was listed, but is not there any more".into(),
            E::TooLarge { most, .. } => Self::File(format!("it has more than {most} bytes")),
            e => Self::Storage(e.to_string()),
        }
    }
}

impl Fault {
    /// What `e` means, which came from the file at `path`.
    pub(super) fn of(path: &Path, e: &io::Error) -> Self {
        match e.kind() {
            ErrorKind::InvalidData
            | ErrorKind::UnexpectedEof
            | ErrorKind::InvalidInput
            | ErrorKind::InvalidFilename
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory => Self::File(io_text(e)),
            // One file may vanish, or be closed to us. When its whole folder did, a file system has gone.
            ErrorKind::NotFound | ErrorKind::PermissionDenied => {
                if lists(path.parent().unwrap_or(path)) {
                    Self::File(io_text(e))
                } else {
                    Self::Storage(format!(
                        "{}; its folder is gone, empty or closed: is the file system still mounted?",
                        io_text(e)
                    ))
                }
            }
            _ => Self::Storage(io_text(e)),
        }
    }

    /// What `e` means, which came from within a zip file: only what [`Lost`] marks is of its storage.
    pub(super) fn packed(e: &io::Error) -> Self {
        match e.get_ref().and_then(|inner| inner.downcast_ref::<Lost>()) {
            Some(Lost(why)) => Self::Storage(why.clone()),
            None => Self::File(format!("its entry cannot be read: {e}")),
        }
    }
}

/// Whether something lies in `folder`, as far as we are told.
fn lists(folder: &Path) -> bool {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    fs::read_dir(folder).is_ok_and(|mut names| names.next().is_some_and(|name| name.is_ok()))
}

/// An error of storage on its way through a reader of zip files, which makes errors of its own.
#[derive(Debug)]
pub(super) struct Lost(pub String);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lost {}

impl From<Lost> for io::Error {
    fn from(lost: Lost) -> Self {
        Self::other(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_may_be_bad_a_whole_storage_may_not() {
        let dir = tempfile::tempdir().unwrap();
        let (here, gone) = (dir.path().join("a.png"), dir.path().join("b/a.png"));
        fs::write(dir.path().join("c.png"), "").unwrap();
        let of = |path: &Path, kind: ErrorKind| Fault::of(path, &kind.into());
        for kind in [ErrorKind::NotFound, ErrorKind::PermissionDenied] {
            assert!(matches!(of(&here, kind), Fault::File(_)), "{kind}");
            assert!(matches!(of(&gone, kind), Fault::Storage(why) if why.contains("still mounted")), "{kind}");
        }
        assert!(matches!(of(&here, ErrorKind::IsADirectory), Fault::File(_)));
        // EIO, EMFILE, ESTALE.
        for code in [5, 24, 116] {
            assert!(matches!(Fault::of(&here, &io::Error::from_raw_os_error(code)), Fault::Storage(_)), "{code}");
        }
        assert_eq!(Fault::packed(&Lost("cut".into()).into()), Fault::Storage("cut".into()));
        assert!(matches!(Fault::packed(&io::Error::other("sum")), Fault::File(why) if why.contains("sum")));
    }

    #[test]
    fn what_goes_into_reports_names_no_object() {
        let url = "s3://bucket/patient-17.dcm".to_owned();
        for e in [
            morph_objects::Error::NotFound { url: url.clone() },
            morph_objects::Error::TooLarge { url: url.clone(), most: 7 },
        ] {
            assert!(matches!(Fault::from(e), Fault::File(why) if !why.contains("17")));
        }
        let denied = morph_objects::Error::Denied { action: "read", url, why: "expired".into() };
        assert!(matches!(Fault::from(denied), Fault::Storage(why) if why.contains("expired")));
    }
}
