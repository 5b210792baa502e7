//! From what people write to a configuration, and from errors to words.

use std::{error::Error as _, fs, path::Path, str::FromStr};

use postgres::error::SqlState;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::{Config, Host, SslMode, here};

/// The configuration that `url` means, and a name of the server without secrets.
pub(super) fn config(url: &str) -> Result<(Config, String), String> {
    // rustls verifies certificates and names whatever it is asked: libpq's two words for that mean no more than `require`.
    let url = url.replace("sslmode=verify-full", "sslmode=require").replace("sslmode=verify-ca", "sslmode=require");
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err("it begins with postgresql://".into());
    }
    let mut config = Config::from_str(&url).map_err(|e| explain(&e))?;
    if config.get_hosts().is_empty() {
        return Err("it names no host".into());
    }
    if config.get_password().is_none()
        && let Ok(password) = std::env::var("PGPASSWORD")
    {
        config.password(password);
    }
    if config.get_ssl_mode() == SslMode::Prefer {
        // In clear only where it was said, or where nobody listens in.
        let near = config.get_hosts().iter().all(here);
        config.ssl_mode(if near { SslMode::Disable } else { SslMode::Require });
    }
    let port = |n: usize| match config.get_ports() {
        [] => 5432,
        [port] => *port,
        ports => ports.get(n).copied().unwrap_or(5432),
    };
    let host = |(n, host): (usize, &Host)| match host {
        Host::Tcp(host) => format!("{host}:{}", port(n)),
        Host::Unix(path) => path.display().to_string(),
    };
    let hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    let name = format!("PostgreSQL at {}", hosts.join(","));
    let name = config.get_dbname().map_or(name.clone(), |database| format!("{name}/{database}"));
    Ok((config, name))
}

/// Whom to believe.
pub(super) fn tls(ca: Option<&Path>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let text = fs::read(path).map_err(|e| e.to_string())?;
            for cert in CertificateDer::pem_slice_iter(&text) {
                roots.add(cert.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
            }
            if roots.is_empty() {
                return Err("it holds no certificate in PEM".into());
            }
        }
        // A machine that believes nobody finds out when it is shown a certificate.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let provider = rustls::crypto::aws_lc_rs::default_provider().into();
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(|e| e.to_string())?.with_root_certificates(roots).with_no_client_auth())
}

/// An error in words: PostgreSQL's own, or the cause in the end.
pub(super) fn explain(e: &postgres::Error) -> String {
    if let Some(db) = e.as_db_error() {
        let more = [db.detail(), db.hint()].into_iter().flatten().map(|t| format!("; {t}")).collect::<String>();
        return format!("{} ({}){more}", db.message(), db.code().code());
    }
    let mut causes = vec![e.to_string()];
    let mut source = e.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if causes.last().is_none_or(|last| !last.ends_with(&text)) {
            causes.push(text);
        }
        source = cause.source();
    }
    causes.join(": ")
}

/// Whether the same may succeed on a new connection: the server went away, restarts, or is no longer the primary.
pub(super) fn passing(e: &postgres::Error) -> bool {
    let again = [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::READ_ONLY_SQL_TRANSACTION,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::TOO_MANY_CONNECTIONS,
    ];
    match e.code() {
        // Class 08: connections.
        Some(code) => again.contains(code) || code.code().starts_with("08"),
        None => e.is_closed() || e.source().is_some_and(|s| s.is::<std::io::Error>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_understood_and_its_secret_is_not_shown() {
        let (config, name) = config("postgresql://morph:hunter2@db.lab:6000/m?sslmode=verify-full").unwrap();
        assert_eq!(name, "PostgreSQL at db.lab:6000/m");
        assert_eq!(config.get_ssl_mode(), SslMode::Require);
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn nothing_travels_in_clear_unless_it_is_near_or_said() {
        let mode = |url: &str| config(url).unwrap().0.get_ssl_mode();
        assert_eq!(mode("postgresql://u@db.lab/m"), SslMode::Require);
        assert_eq!(mode("postgresql://u@db.lab/m?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("postgresql://u@127.0.0.1/m"), SslMode::Disable);
        assert_eq!(mode("postgresql://u@localhost,db.lab/m"), SslMode::Require);
    }

    #[test]
    fn nonsense_is_named() {
        for url in ["mysql://a/b", "postgresql://", "postgresql://a:b:c@/", "postgresql://h/d?nonsense=1"] {
            assert!(config(url).is_err(), "{url}");
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ca");
        fs::write(&file, "hello").unwrap();
        assert!(tls(Some(&file)).unwrap_err().contains("no certificate"));
    }
}
