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
        "{action} {url}: denied; check the credentials in the environment (AWS_ACCESS_KEY_ID, …), whether they have expired, and \
         their rights: {why}"
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
    /// What is wanted at a time is more than the cache may hold, or its disk.
    #[error("{bytes} bytes are wanted in the cache {path}: {why}")]
    NoRoom {
        /// The cache's folder.
        path: String,
        /// How much is wanted.
        bytes: u64,
        /// What it may hold, and what to do.
        why: String,
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
    /// What `e` is to a person. The server's own words are in it, for which see [`told`].
    pub(crate) fn of(action: &'static str, url: String, e: &object_store::Error, secrets: &[String]) -> Self {
        use object_store::Error as E;
        let inner = || causes(e).filter_map(|e| e.downcast_ref::<E>());
        if inner().any(|e| matches!(e, E::NotFound { .. })) {
            Self::NotFound { url }
        } else if matches!(e, E::AlreadyExists { .. }) {
            Self::Conflict { url }
        } else if inner().any(|e| matches!(e, E::PermissionDenied { .. } | E::Unauthenticated { .. })) || has_expired(e)
        {
            Self::Denied { action, url, why: clean(&root(e), secrets) }
        } else if is_disk_full(e) {
            Self::DiskFull { action, url }
        } else if let Some(why) = denied(e) {
            Self::BadUrl { url, why }
        } else {
            // As text: the chain of causes would carry along what was just left out.
            Self::Unavailable { action, url, source: told(e, secrets).into() }
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
pub(crate) fn causes<'a>(
    e: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
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

/// S3 says that a token has expired by 400, not by 403.
fn has_expired(e: &(dyn std::error::Error + 'static)) -> bool {
    let text = root(e);
    let codes = ["ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed"];
    codes.iter().any(|code| text.contains(&format!("<Code>{code}</Code>")))
}

/// `e` and its deepest cause, without credentials. Servers repeat in their answers what they were sent: S3 the session's token when it
/// has expired, and all signed headers when the signature is wrong.
pub(crate) fn told(e: &(dyn std::error::Error + 'static), secrets: &[String]) -> String {
    let (text, root) = (clean(&e.to_string(), secrets), clean(&root(e), secrets));
    let hint = hint(&text, &root);
    if text.contains(&root) { format!("{text}{hint}") } else { format!("{text}: {root}{hint}") }
}

/// What to do about an error of the network.
fn hint(text: &str, root: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|w| text.contains(w) || root.contains(w));
    if has(&["code: 5", "code: 429", "code: 408"]) {
        "; the server is overloaded or out of order: try again later"
    } else if has(&[
        "timed out",
        "body ended too early",
        "decoding",
        "body error",
        "before message completed",
        "reset",
        "closed",
    ]) {
        "; the connection breaks or is too slow: check the network between here and there"
    } else if has(&["refused", "dns", "error sending request", "unreachable"]) {
        "; is the server up, its address right, and can this machine reach it?"
    } else {
        ""
    }
}

/// The words in front of a server's answer in object_store's errors.
const ANSWERS: [&str; 2] = ["Server returned non-2xx status code: ", "Server returned error response: "];

/// `text` without credentials: of a server's answer only its code and message, URLs without user and query, no word that is one of
/// `secrets` or could be a key.
pub(crate) fn clean(text: &str, secrets: &[String]) -> String {
    let start = ANSWERS.iter().find_map(|words| Some(text.find(words)? + words.len()));
    let (head, answer) = text.split_at(start.unwrap_or(text.len()));
    let mut clean = words(head, false);
    if !answer.is_empty() {
        let (status, body) = answer.split_once(": ").unwrap_or((answer, ""));
        clean.push_str(status.trim_end_matches(':'));
        let body = gist(body);
        if !body.is_empty() {
            clean.push_str(": ");
            clean.push_str(&words(&body, true));
        }
    }
    secrets.iter().filter(|s| !s.is_empty()).fold(clean, |text, secret| text.replace(secret.as_str(), "…"))
}

/// Most characters of an answer that are passed on.
const ANSWER: usize = 200;

/// What a server's answer says: the code and message of XML (S3, Azure) or JSON (Google); else its first line.
fn gist(body: &str) -> String {
    let between = |start: &str, end: &str| {
        let rest = &body[body.find(start)? + start.len()..];
        Some(rest[..rest.find(end)?].trim())
    };
    let xml = [between("<Code>", "</Code>"), between("<Message>", "</Message>")];
    let said: Vec<&str> = match xml {
        [None, None] => match between("\"message\": \"", "\"").or_else(|| between("\"message\":\"", "\"")) {
            Some(message) => vec![message],
            // Of a page that nobody knows, nothing is safe.
            None if body.trim_start().starts_with('<') => Vec::new(),
            None => body.lines().next().into_iter().collect(),
        },
        found => found.into_iter().flatten().collect(),
    };
    said.join(": ").lines().next().unwrap_or_default().chars().take(ANSWER).collect()
}

/// `text` with URLs' users and queries left out and, with `strict`, every word that is long and mixed enough to be a key.
fn words(text: &str, strict: bool) -> String {
    let key = |word: &str| {
        let has = |f: fn(&char) -> bool| word.chars().any(|c| f(&c));
        word.len() >= 20 && has(char::is_ascii_digit) && has(char::is_ascii_alphabetic)
    };
    let word = |word: &str| match word.split_once("://") {
        Some(_) => redact(word.split(['?', '#']).next().unwrap_or_default()),
        None if strict && word.split(['=', '/', ',', ';', '"', '\'', '<', '>']).any(key) => "…".to_owned(),
        None => word.to_owned(),
    };
    text.split_inclusive(char::is_whitespace)
        .map(|w| {
            let bare = w.trim_end();
            word(bare) + &w[bare.len()..]
        })
        .collect()
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

    #[test]
    fn answers_are_cut_to_what_they_say() {
        let token = "FwoGZXIvYXdzEBYaDHqa0AP1".repeat(4);
        let answer = format!(
            "Error performing GET http://u:pw@h:1/b/k?X-Amz-Signature=beef in 2ms - Server returned non-2xx status code: 400 Bad \
             Request: <?xml version=\"1.0\"?><Error><Code>ExpiredToken</Code><Message>The token {token} has expired</Message>\
             <Token-0>{token}</Token-0><StringToSign>hush</StringToSign></Error>"
        );
        let clean = super::clean(&answer, &["expired".to_owned()]);
        assert_eq!(
            clean,
            "Error performing GET http://h:1/b/k in 2ms - Server returned non-2xx status code: 400 Bad Request: ExpiredToken: The \
             token … has …"
        );
        let of = |body: &str| super::clean(&format!("{}503 Service Unavailable: {body}", super::ANSWERS[0]), &[]);
        assert!(of("{\"error\": {\"code\": 503, \"message\": \"backend\"}}").ends_with("Unavailable: backend"));
        assert!(of("{\"error\":{\"message\":\"backend\"}}").ends_with("Unavailable: backend"));
        assert!(of("<html>Authorization: AWS4 hush</html>").ends_with("503 Service Unavailable"));
        assert!(of("slow down\nsecret").ends_with(": slow down"));
    }
}
