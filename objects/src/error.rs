//! What can go wrong with an object, said so that a person knows what to do.

use std::io;

use morph_spec::Digest;

use crate::policy::Denied;

/// A failed operation on object storage or the cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such object.
    #[error("{url}: not found")]
    NotFound {
        /// The object.
        url: String,
    },
    /// Credentials are missing, wrong or not enough.
    #[error(
        "{action} {url}: denied; check the credentials in the environment (AWS_ACCESS_KEY_ID, …) and their rights: {why}"
    )]
    Denied {
        /// What was attempted.
        action: &'static str,
        /// The object.
        url: String,
        /// The server's words.
        why: String,
    },
    /// A create-only write found other bytes there.
    #[error("{url}: exists already with other content")]
    Conflict {
        /// The object.
        url: String,
    },
    /// The bytes are not those that were promised.
    #[error(
        "{url}: corrupt: expected {expected} of {bytes} bytes, found {found} of {found_bytes}; restore the file or prepare the data again"
    )]
    Corrupt {
        /// The object.
        url: String,
        /// BLAKE3 promised.
        expected: Digest,
        /// Size promised.
        bytes: u64,
        /// BLAKE3 found.
        found: Digest,
        /// Size found.
        found_bytes: u64,
    },
    /// More than the reader is ready to hold.
    #[error("{url}: larger than {most} bytes; is it what it should be?")]
    TooLarge {
        /// The object.
        url: String,
        /// The limit in bytes.
        most: u64,
    },
    /// No space is left where the object or its copy should go.
    #[error("{action} {url}: no space left on the device; free some or choose another place")]
    DiskFull {
        /// What was attempted.
        action: &'static str,
        /// The object or file.
        url: String,
    },
    /// http(s) locations can be read, not written.
    #[error("write {url}: http locations are read-only; use a file, s3, gs or az location")]
    ReadOnly {
        /// The object.
        url: String,
    },
    /// The location makes no sense.
    #[error("{url}: {why}")]
    BadUrl {
        /// The location, without credentials.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Everything else, after the retries.
    #[error("{action} {url}: {source}")]
    Unavailable {
        /// What was attempted.
        action: &'static str,
        /// The object or file.
        url: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    pub(crate) fn of(action: &'static str, url: String, e: object_store::Error) -> Self {
        use object_store::Error as E;
        match e {
            E::NotFound { .. } => Self::NotFound { url },
            E::AlreadyExists { .. } => Self::Conflict { url },
            E::PermissionDenied { source, .. } | E::Unauthenticated { source, .. } => {
                Self::Denied { action, url, why: root(source.as_ref()) }
            }
            other if is_disk_full(&other) => Self::DiskFull { action, url },
            other => match denied(&other) {
                Some(why) => Self::BadUrl { url, why },
                None => Self::Unavailable { action, url, source: Box::new(other) },
            },
        }
    }

    pub(crate) fn io(action: &'static str, path: &std::path::Path, e: io::Error) -> Self {
        let url = path.display().to_string();
        match e.kind() {
            io::ErrorKind::NotFound => Self::NotFound { url },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { action, url },
            io::ErrorKind::PermissionDenied => Self::Denied { action, url, why: e.to_string() },
            _ => Self::Unavailable { action, url, source: Box::new(e) },
        }
    }
}

/// `e` and what it came from, outermost first.
fn causes<'a>(e: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(e), |e| e.source())
}

fn denied(e: &(dyn std::error::Error + 'static)) -> Option<String> {
    causes(e).find_map(|e| e.downcast_ref::<Denied>()).map(Denied::to_string)
}

fn is_disk_full(e: &(dyn std::error::Error + 'static)) -> bool {
    let mut io = causes(e).filter_map(|e| e.downcast_ref::<io::Error>());
    io.any(|io| matches!(io.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

fn root(e: &(dyn std::error::Error + 'static)) -> String {
    causes(e).last().unwrap_or(e).to_string()
}

/// `url` without user and password.
pub(crate) fn redact(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host = rest.split('/').next().unwrap_or_default();
    match host.rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn credentials_are_cut_out_of_urls() {
        assert_eq!(super::redact("s3://key:secret@bucket/a@b"), "s3://bucket/a@b");
        assert_eq!(super::redact("s3://bucket/a@b"), "s3://bucket/a@b");
        assert_eq!(super::redact("a@b/c"), "a@b/c");
    }
}
