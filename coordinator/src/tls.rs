//! The coordinator's side of TLS: its own certificate, and whose agents it believes.

use std::{fs, path::Path, time::Duration};

use tonic::transport::{Certificate, Identity, ServerTlsConfig};
use x509_parser::pem::Pem;

use crate::{Error, options::Tls};

/// How long a handshake may take: who never ends one holds a connection.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Reads what `tls` names. People need no certificate, so none is asked for in the handshake; one that is presented must
/// be genuine and in date.
pub(crate) fn config(tls: &Tls) -> Result<ServerTlsConfig, Error> {
    let cert = read("--tls-cert", &tls.cert)?;
    let key = read("--tls-key", &tls.key)?;
    let ca = read("--tls-ca", &tls.ca)?;
    let (leaf, _) = certificates("--tls-cert", &tls.cert, &cert)?;
    certificates("--tls-ca", &tls.ca, &ca)?;
    in_date("--tls-cert", &tls.cert, &leaf)?;
    Ok(ServerTlsConfig::new()
        .identity(Identity::from_pem(cert, key))
        .client_ca_root(Certificate::from_pem(ca))
        .client_auth_optional(true)
        .timeout(HANDSHAKE))
}

/// A message that names the option whose file is to blame.
pub(crate) fn unusable(tls: &Tls, source: &dyn std::error::Error) -> Error {
    let mut cause = source;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let why = format!("{cause}; it must be the private key of --tls-cert {}", tls.cert.display());
    Error::Tls { option: "--tls-key", path: tls.key.clone(), why }
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| Error::Tls { option, path: path.to_owned(), why: e.to_string() })
}

/// The first certificate in `pem`, and how many there are.
fn certificates(option: &'static str, path: &Path, pem: &[u8]) -> Result<(Vec<u8>, usize), Error> {
    let bad = |why: &str| Error::Tls { option, path: path.to_owned(), why: why.to_owned() };
    let mut first = None;
    let mut count = 0;
    for block in Pem::iter_from_buffer(pem) {
        let block = block.map_err(|e| bad(&e.to_string()))?;
        if block.label != "CERTIFICATE" {
            return Err(bad(&format!("holds a {}; only certificates belong there", block.label)));
        }
        block.parse_x509().map_err(|e| bad(&e.to_string()))?;
        first.get_or_insert(block.contents);
        count += 1;
    }
    let first = first.ok_or_else(|| bad("holds no certificate in PEM; morphctl certs issue makes one"))?;
    Ok((first, count))
}

fn in_date(option: &'static str, path: &Path, der: &[u8]) -> Result<(), Error> {
    let bad = |why: String| Error::Tls { option, path: path.to_owned(), why };
    let (_, leaf) = x509_parser::parse_x509_certificate(der).map_err(|e| bad(e.to_string()))?;
    if leaf.validity().is_valid() {
        return Ok(());
    }
    let (from, to) = (leaf.validity().not_before, leaf.validity().not_after);
    Err(bad(format!("holds from {from} to {to}, and not now: issue a new one (morphctl certs issue)")))
}
