//! Exit codes (docs/exit-codes.md).

use std::fmt;

use anyhow::Error;
use morph_spec::load::Problems;
use tonic::{Code, Status};

/// Done.
pub const OK: u8 = 0;
/// Internal or I/O error.
pub const ERROR: u8 = 1;
/// Bad usage or an invalid file.
pub const USAGE: u8 = 2;
/// Not found, or ambiguous.
pub const NOT_FOUND: u8 = 3;
/// Conflict, or the state of things does not allow it.
pub const REFUSED: u8 = 4;
/// Not authenticated or not allowed.
pub const DENIED: u8 = 5;
/// The coordinator cannot be reached.
pub const UNREACHABLE: u8 = 6;
/// What was waited for failed.
pub const FAILED: u8 = 100;
/// What was trained again became something else.
pub const DIFFERS: u8 = 101;
/// What was waited for was cancelled.
pub const CANCELLED: u8 = 103;
/// The terminal was closed (SIGHUP).
pub const HANGUP: u8 = 129;
/// Ctrl-C.
pub const INTERRUPTED: u8 = 130;
/// SIGTERM.
pub const TERMINATED: u8 = 143;

/// A message with an exit code.
#[derive(Debug)]
pub struct Coded(pub u8, pub String);

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Coded {}

/// An error that ends with `code`.
pub fn coded(code: u8, message: impl Into<String>) -> Error {
    Coded(code, message.into()).into()
}

/// An error and its causes in one line, each once: some messages contain their cause already.
pub fn text(error: &Error) -> String {
    let mut out = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !out.contains(&cause) {
            out = if out.is_empty() { cause } else { format!("{out}: {cause}") };
        }
    }
    out
}

/// The exit code that an error deserves.
pub fn code(error: &Error) -> u8 {
    if let Some(Coded(code, _)) = error.downcast_ref() {
        return *code;
    }
    if error.downcast_ref::<Problems>().is_some() {
        return USAGE;
    }
    if let Some(e) = error.downcast_ref::<morph_coordinator::Error>() {
        return match e {
            morph_coordinator::Error::HomeInUse { .. } => REFUSED,
            _ => ERROR,
        };
    }
    if let Some(e) = error.downcast_ref::<morph_objects::Error>() {
        return of_objects(e);
    }
    if let Some(morph_checkpoint::Error::Objects(e)) = error.downcast_ref() {
        return of_objects(e);
    }
    if let Some(e) = error.downcast_ref::<morph_data::Error>() {
        return match e {
            morph_data::Error::Objects(e) => of_objects(e),
            morph_data::Error::Exists { .. } | morph_data::Error::Contested { .. } => REFUSED,
            morph_data::Error::Empty { .. } => USAGE,
            _ => ERROR,
        };
    }
    ERROR
}

fn of_objects(e: &morph_objects::Error) -> u8 {
    match e {
        morph_objects::Error::NotFound { .. } => NOT_FOUND,
        morph_objects::Error::Denied { .. } => DENIED,
        morph_objects::Error::BadUrl { .. } => USAGE,
        morph_objects::Error::Conflict { .. } => REFUSED,
        _ => ERROR,
    }
}

/// A gRPC answer as an error: its message is fit for people.
pub fn status(status: &Status) -> Error {
    let code = match status.code() {
        Code::NotFound => NOT_FOUND,
        Code::InvalidArgument => USAGE,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted | Code::ResourceExhausted => REFUSED,
        Code::Unauthenticated | Code::PermissionDenied => DENIED,
        // Cancelled: it did not answer in time.
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => UNREACHABLE,
        _ => ERROR,
    };
    let message = if status.message() == tonic::TimeoutExpired(()).to_string() {
        "the coordinator did not answer in time: it has too much to do, or waits for its disk; its log says more"
            .to_owned()
    } else if status.message().is_empty() {
        format!("the coordinator said {}", status.code())
    } else {
        status.message().to_owned()
    };
    coded(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let cause = std::io::Error::other("no such thing");
        let error = anyhow::anyhow!("read x: no such thing");
        assert_eq!(text(&error), "read x: no such thing");
        assert_eq!(text(&Error::new(cause).context("read x: no such thing")), "read x: no such thing");
        assert_eq!(text(&Error::new(std::io::Error::other("gone")).context("read x")), "read x: gone");
    }

    #[test]
    fn every_error_has_its_code() {
        assert_eq!(code(&status(&Status::not_found("x"))), NOT_FOUND);
        assert_eq!(code(&status(&Status::invalid_argument("x"))), USAGE);
        assert_eq!(code(&status(&Status::unavailable("x"))), UNREACHABLE);
        assert_eq!(code(&status(&Status::failed_precondition("x"))), REFUSED);
        let late = status(&Status::from_error(Box::new(tonic::TimeoutExpired(()))));
        assert_eq!(code(&late), UNREACHABLE);
        assert!(late.to_string().contains("did not answer in time"), "{late}");
        assert_eq!(code(&status(&Status::unauthenticated("x"))), DENIED);
        assert_eq!(code(&status(&Status::permission_denied("x"))), DENIED);
        assert_eq!(code(&status(&Status::resource_exhausted("x"))), REFUSED);
        assert_eq!(code(&coded(FAILED, "x").context("more")), FAILED, "context keeps the code");
        assert_eq!(code(&Problems(Vec::new()).into()), USAGE);
        assert_eq!(code(&anyhow::anyhow!("x")), ERROR);
    }
}
