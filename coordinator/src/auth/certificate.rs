//! What a certificate says of its holder: a URI `spiffe://morph/KIND/NAME` among its alternative names, as
//! `morphctl certs issue` writes it. That the certificate is genuine and in date the TLS handshake has checked.

use std::time::{Duration, SystemTime};

use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// Before KIND/NAME.
pub const PREFIX: &str = "spiffe://morph/";

/// The kind (`agent`, `client`, `coordinator`) and name in a certificate (DER).
pub fn identity(der: &[u8]) -> Option<(String, String)> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => {
            let (kind, name) = uri.strip_prefix(PREFIX)?.split_once('/')?;
            Some((kind.to_owned(), name.to_owned()))
        }
        _ => None,
    })
}

/// When the certificate (DER) ends.
pub fn ends(der: &[u8]) -> Option<SystemTime> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}
