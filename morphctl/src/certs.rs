//! `certs`: a certificate authority of one's own, for the coordinator and its agents.

use std::{
    fs,
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Subcommand, ValueEnum};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use serde_json::json;
use x509_parser::{certificate::X509Certificate, pem::parse_x509_pem};

use crate::{
    cli::{Format, Global},
    fail::{NOT_FOUND, REFUSED, USAGE, coded},
    print, text,
};

/// How long an authority holds.
const CA_DAYS: u32 = 3650;
/// Certificates hold from a little before they are made: clocks differ.
const SKEW: u64 = 3600;
const DAY: u64 = 86_400;

/// Verbs for certificates.
#[derive(Debug, Subcommand)]
pub enum Certs {
    /// Makes an authority: DIR/ca.crt, which all get, and DIR/ca.key (mode 0600), which stays there.
    #[command(after_help = "Example:
  morphctl certs init ca")]
    Init {
        /// Where to; made when it is not there.
        dir: PathBuf,
    },
    /// Issues a certificate: NAME.crt and NAME.key (mode 0600).
    #[command(after_help = "Examples:
  morphctl certs issue --ca ca --kind coordinator --name head --dns head.example.org --ip 10.0.0.1
  morphctl certs issue --ca ca --kind agent --name node-7 --days 90 --out node-7")]
    Issue {
        /// The authority's folder.
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// Whose it is.
        #[arg(long, value_enum)]
        kind: Kind,
        /// The holder's name, and the files'.
        #[arg(long)]
        name: String,
        /// For a coordinator: a host name by which it is reached; may be said again. localhost is always one.
        #[arg(long, value_name = "HOST")]
        dns: Vec<String>,
        /// For a coordinator: an address at which it is reached; may be said again. 127.0.0.1 and ::1 always are.
        #[arg(long, value_name = "ADDR")]
        ip: Vec<IpAddr>,
        /// How long it holds.
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Folder to write to.
        #[arg(long, value_name = "DIR", default_value = ".")]
        out: PathBuf,
    },
}

/// Whose a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A coordinator: shows clients that they speak to the right one.
    Coordinator,
    /// An agent: lets it serve.
    Agent,
    /// A person or program. What it may do its token says.
    Client,
}

impl Kind {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Agent => "agent",
            Self::Client => "client",
        }
    }
}

/// Does what `command` says.
///
/// # Errors
/// When files are there already, or cannot be read or written.
pub fn run(global: &Global, command: Certs) -> Result<()> {
    match command {
        Certs::Init { dir } => init(global, &dir),
        Certs::Issue { ca, kind, name, dns, ip, days, out } => {
            issue(global, &ca, &Wanted { kind, name, dns, ip, days }, &out)
        }
    }
}

struct Wanted {
    kind: Kind,
    name: String,
    dns: Vec<String>,
    ip: Vec<IpAddr>,
    days: u32,
}

fn init(global: &Global, dir: &Path) -> Result<()> {
    let (crt, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    free(&[&crt, &key])?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("create {}", dir.display()))?;
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a key")?;
    let mut params = params(CA_DAYS, 0);
    // Two authorities must not have one name: while one replaces the other, both are trusted.
    params.distinguished_name = named(&format!("morph CA {}", text::instant(text::now())));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&pair).context("sign the authority's certificate")?;
    write(&key, &pair.serialize_pem(), 0o600)?;
    write(&crt, &certificate.pem(), 0o644)?;
    done(global, &crt, &key)?;
    if !global.quiet {
        say!("keep {} where only you can read it: whoever has it can be any agent, or the coordinator", key.display());
    }
    Ok(())
}

fn issue(global: &Global, ca: &Path, wanted: &Wanted, out: &Path) -> Result<()> {
    let Wanted { kind, name, days, .. } = wanted;
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 63 || name.starts_with('.') || !name.chars().all(fits) {
        return Err(coded(
            USAGE,
            format!("--name {name:?}: 1 to 63 letters, digits, '-', '_' and '.', and no '.' first"),
        ));
    }
    let (crt, key) = (out.join(format!("{name}.crt")), out.join(format!("{name}.key")));
    free(&[&crt, &key])?;
    let (subject, until, signer) = authority(ca)?;
    let now = text::now() / 1_000_000;
    if now + u64::from(*days) * DAY > until {
        let left = until.saturating_sub(now) / DAY;
        let why = format!(
            "--days {days}: the authority itself ends in {left} days; ask for fewer, or make a new one (docs/security.md)"
        );
        return Err(coded(USAGE, why));
    }
    let mut issuer_params = CertificateParams::default();
    issuer_params.distinguished_name = named(&subject);
    issuer_params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let issuer = Issuer::new(issuer_params, signer);
    let mut params = params(*days, SKEW);
    params.distinguished_name = named(name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match kind {
        Kind::Coordinator => ExtendedKeyUsagePurpose::ServerAuth,
        Kind::Agent | Kind::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.subject_alt_names = alternatives(wanted)?;
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("make a key")?;
    let certificate = params.signed_by(&pair, &issuer).context("sign the certificate")?;
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    write(&key, &pair.serialize_pem(), 0o600)?;
    write(&crt, &certificate.pem(), 0o644)?;
    done(global, &crt, &key)
}

/// The names that the certificate is good for.
fn alternatives(wanted: &Wanted) -> Result<Vec<SanType>> {
    let Wanted { kind, name, dns, ip, .. } = wanted;
    let ascii = |text: &str| text.try_into().map_err(|_| coded(USAGE, format!("{text:?}: only ASCII names")));
    let word = kind.word();
    let mut names =
        vec![SanType::URI(ascii(&format!("{}{word}/{name}", morph_coordinator::auth::certificate::PREFIX))?)];
    if *kind != Kind::Coordinator {
        if !dns.is_empty() || !ip.is_empty() {
            let why = format!("--dns and --ip are for coordinators: nobody connects to one of kind {word}");
            return Err(coded(USAGE, why));
        }
        return Ok(names);
    }
    let fits = |label: &str| {
        let inside = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        inside && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    for name in dns.iter().map(String::as_str).chain(["localhost"]) {
        if name.len() > 253 || !name.strip_prefix("*.").unwrap_or(name).split('.').all(fits) {
            return Err(coded(USAGE, format!("--dns {name:?}: is no host name; for an address there is --ip")));
        }
        names.push(SanType::DnsName(ascii(name)?));
    }
    let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    names.extend(ip.iter().copied().chain(own).map(SanType::IpAddress));
    Ok(names)
}

/// The authority's name, the second when it ends, and its key.
fn authority(dir: &Path) -> Result<(String, u64, KeyPair)> {
    let (crt, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                let dir = dir.display();
                coded(
                    NOT_FOUND,
                    format!("{}: there is none; morphctl certs init {dir} makes an authority", path.display()),
                )
            }
            _ => anyhow::Error::new(e).context(format!("read {}", path.display())),
        })
    };
    let bad = |path: &Path, why: String| coded(USAGE, format!("{}: {why}", path.display()));
    let (_, pem) = parse_x509_pem(read(&crt)?.as_bytes()).map_err(|e| bad(&crt, e.to_string()))?;
    let certificate: X509Certificate<'_> = pem.parse_x509().map_err(|e| bad(&crt, e.to_string()))?;
    let subject = certificate.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok());
    let subject = subject.ok_or_else(|| bad(&crt, "has no name".into()))?.to_owned();
    let until = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    // The file's contents are a secret: the message says nothing of them.
    let pair = KeyPair::from_pem(&read(&key)?).map_err(|_| bad(&key, "is no private key in PEM".into()))?;
    if pair.public_key_raw() != certificate.public_key().subject_public_key.data.as_ref() {
        return Err(bad(&key, format!("is not the key of {}", crt.display())));
    }
    Ok((subject, until, pair))
}

fn named(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn params(days: u32, skew: u64) -> CertificateParams {
    let now = text::now() / 1_000_000;
    let at = |second: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(second);
    let mut params = CertificateParams::default();
    params.not_before = at(now.saturating_sub(skew));
    params.not_after = at(now + u64::from(days) * DAY);
    params
}

fn free(paths: &[&Path]) -> Result<()> {
    match paths.iter().find(|p| p.exists()) {
        Some(path) => Err(taken(path)),
        None => Ok(()),
    }
}

fn taken(path: &Path) -> anyhow::Error {
    coded(REFUSED, format!("{}: there is such a file, and it is not overwritten; move it away first", path.display()))
}

fn write(path: &Path, content: &str, mode: u32) -> Result<()> {
    let file = fs::File::options().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(|e| match e.kind() {
        std::io::ErrorKind::AlreadyExists => taken(path),
        _ => anyhow::Error::new(e).context(format!("create {}", path.display())),
    })?;
    file.write_all(content.as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("write {}", path.display()))
}

fn done(global: &Global, crt: &Path, key: &Path) -> Result<()> {
    match global.output {
        Format::Json | Format::Yaml => {
            print::value(global, &json!({"certificate": crt.display().to_string(), "key": key.display().to_string()}))
        }
        Format::Table | Format::Name => print::line(&format!("{}\n{}", crt.display(), key.display())),
    }
}
