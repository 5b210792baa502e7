//! TLS over a real port: who is let in, and who is believed.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{ErrorKind, Read},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::Duration,
};

use assert_cmd::Command;
use morph_coordinator::{Handle, Options, Tls};
use morph_proto::v1::{
    Hello, SessionRequest, SessionResponse, agents_client::AgentsClient, session_request, session_response,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

fn certs(dir: &TempDir, args: &[&str]) -> (i32, String) {
    let mut command = Command::cargo_bin("morphctl").unwrap();
    let out = command.current_dir(dir.path()).arg("certs").args(args).output().unwrap();
    (out.status.code().unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// An authority with a certificate of each kind.
fn authority(dir: &TempDir, ca: &str) {
    assert_eq!(certs(dir, &["init", ca]).0, 0);
    for kind in ["coordinator", "agent", "client"] {
        let (code, err) = certs(dir, &["issue", "--ca", ca, "--kind", kind, "--name", kind, "--out", ca]);
        assert_eq!(code, 0, "{err}");
    }
}

struct World {
    runtime: Runtime,
    dir: TempDir,
    handle: Handle,
}

impl World {
    /// A coordinator with a certificate of `own`, which trusts `trusted`.
    fn new(trusted: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        authority(&dir, "own");
        authority(&dir, "other");
        let bundle: String =
            trusted.iter().map(|ca| fs::read_to_string(dir.path().join(ca).join("ca.crt")).unwrap()).collect();
        fs::write(dir.path().join("bundle.crt"), bundle).unwrap();
        let path = |name: &str| dir.path().join(name);
        let tls = Tls { cert: path("own/coordinator.crt"), key: path("own/coordinator.key"), ca: path("bundle.crt") };
        let options = Options { home: path("home"), tls: Some(tls), ..Options::default() };
        let runtime = Runtime::new().unwrap();
        let handle = runtime.block_on(morph_coordinator::start(options)).unwrap();
        Self { runtime, dir, handle }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn morphctl(&self, ca: Option<&str>, token: Option<&str>) -> (i32, String) {
        let mut command = Command::cargo_bin("morphctl").unwrap();
        for name in ["MORPH_CA", "MORPH_CERT", "MORPH_KEY", "MORPH_TOKEN", "MORPH_TOKEN_FILE"] {
            command.env_remove(name);
        }
        command.current_dir(self.dir.path()).args(["--coordinator", &self.handle.url(), "get", "runs"]);
        if let Some(ca) = ca {
            command.arg("--ca").arg(self.path(ca));
        }
        if let Some(token) = token {
            command.env("MORPH_TOKEN", token);
        }
        let out = command.output().unwrap();
        (out.status.code().unwrap(), String::from_utf8_lossy(&out.stderr).into_owned())
    }

    /// What an agent hears that presents the certificate `pair` (certificate and key), having said nothing.
    fn agent(&self, pair: Option<(&str, &str)>) -> Result<(), Status> {
        self.hears(pair, Vec::new()).map(drop)
    }

    /// The first that an agent hears that presents the certificate `pair` and says `all`.
    fn hears(&self, pair: Option<(&str, &str)>, all: Vec<SessionRequest>) -> Result<Option<SessionResponse>, Status> {
        let read = |name: &str| fs::read(self.path(name)).unwrap();
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("own/ca.crt")));
        if let Some((cert, key)) = pair {
            tls = tls.identity(Identity::from_pem(read(cert), read(key)));
        }
        let endpoint = Endpoint::from_shared(self.handle.url()).unwrap().tls_config(tls).unwrap();
        self.runtime.block_on(async {
            let gone = |e: tonic::transport::Error| Status::unavailable(format!("{e:?}"));
            let channel = endpoint.connect().await.map_err(gone)?;
            let mut client = AgentsClient::new(channel);
            let (says, stream) = mpsc::channel(4);
            // Who says something stays and listens.
            let _stays = (!all.is_empty()).then(|| says.clone());
            all.into_iter().for_each(|message| says.try_send(message).unwrap());
            drop(says);
            let session = tokio::time::timeout(Duration::from_secs(5), client.session(ReceiverStream::new(stream)));
            let mut answers = session.await.unwrap()?.into_inner();
            tokio::time::timeout(Duration::from_secs(5), answers.message()).await.unwrap()
        })
    }
}

/// An agent's certificate that has run out.
fn expired(world: &World) {
    let ca_key = KeyPair::from_pem(&fs::read_to_string(world.path("own/ca.key")).unwrap()).unwrap();
    let pem = fs::read(world.path("own/ca.crt")).unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    let ca = pem.parse_x509().unwrap();
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = DistinguishedName::new();
    issuer
        .distinguished_name
        .push(DnType::CommonName, ca.subject().iter_common_name().next().unwrap().as_str().unwrap());
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 2, 1);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI("spiffe://morph/agent/late".try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &Issuer::new(issuer, ca_key)).unwrap();
    fs::write(world.path("late.crt"), cert.pem()).unwrap();
    fs::write(world.path("late.key"), key.serialize_pem()).unwrap();
}

#[test]
fn agents_are_let_in_by_their_certificates_alone() {
    let world = World::new(&["own"]);
    // One that is let in is told that it did not introduce itself.
    let met = world.agent(Some(("own/agent.crt", "own/agent.key"))).unwrap_err();
    assert_eq!(met.code(), Code::InvalidArgument, "{met}");
    let none = world.agent(None).unwrap_err();
    assert!(none.code() == Code::Unauthenticated && none.message().contains("--kind agent"), "{none}");
    let kind = world.agent(Some(("own/client.crt", "own/client.key"))).unwrap_err();
    assert!(kind.code() == Code::PermissionDenied && kind.message().contains("of kind client"), "{kind}");
    expired(&world);
    for (why, pair) in [
        ("a certificate that has run out", ("late.crt", "late.key")),
        ("another authority's", ("other/agent.crt", "other/agent.key")),
        ("a coordinator's", ("own/coordinator.crt", "own/coordinator.key")),
    ] {
        let refused = world.agent(Some(pair)).unwrap_err();
        // Whether the alert or the end of the connection is seen first is a matter of chance.
        let shut = matches!(refused.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
        assert!(shut, "{why} was let in: {refused:?}");
    }
}

#[test]
fn an_agent_cannot_take_the_place_of_a_worker_with_another_certificate() {
    let world = World::new(&["own"]);
    let issue = ["issue", "--ca", "own", "--kind", "agent", "--name", "node-9", "--out", "own"];
    assert_eq!(certs(&world.dir, &issue).0, 0);
    let hello = |incarnation: &str| {
        let hello = Hello {
            worker: "01J00000000000000000000000".into(),
            incarnation: incarnation.into(),
            process: incarnation.into(),
            host: "127.0.0.1".into(),
            slots: 1,
            version: env!("CARGO_PKG_VERSION").into(),
            ..Hello::default()
        };
        vec![SessionRequest { message: Some(session_request::Message::Hello(hello)) }]
    };
    let welcome = |answer: Option<SessionResponse>| {
        assert!(matches!(answer.unwrap().message, Some(session_response::Message::Welcome(_))));
    };
    let own = Some(("own/agent.crt", "own/agent.key"));
    welcome(world.hears(own, hello("a")).unwrap());
    let refused = world.hears(Some(("own/node-9.crt", "own/node-9.key")), hello("b")).unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("certificate \"agent\", this one's is \"node-9\""), "{refused}");
    welcome(world.hears(own, hello("b")).unwrap());
}

#[test]
fn who_never_ends_a_handshake_is_cut_off() {
    let world = World::new(&["own"]);
    let mut silent = TcpStream::connect(world.handle.address()).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let end = silent.read(&mut [0]);
    assert!(end.as_ref().is_ok_and(|n| *n == 0) || end.is_err_and(|e| e.kind() == ErrorKind::ConnectionReset));
}

#[test]
fn who_says_nothing_after_the_handshake_is_cut_off() {
    let world = World::new(&["own"]);
    let mut roots = rustls::RootCertStore::empty();
    let pem = fs::read(world.path("own/ca.crt")).unwrap();
    let (_, ca) = x509_parser::pem::parse_x509_pem(&pem).unwrap();
    roots.add(ca.contents.into()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider().into();
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let name = "127.0.0.1".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut silent = TcpStream::connect(world.handle.address()).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    while client.is_handshaking() {
        client.complete_io(&mut silent).unwrap();
    }
    let end = rustls::Stream::new(&mut client, &mut silent).read(&mut [0]);
    let cut = |e: &std::io::Error| matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof);
    assert!(end.as_ref().is_ok_and(|n| *n == 0) || end.as_ref().is_err_and(cut), "{end:?}");
}

#[test]
fn people_believe_only_their_authority_and_show_a_token() {
    let world = World::new(&["own"]);
    let owner = world.handle.owner().expose().to_owned();
    assert_eq!(world.morphctl(Some("own/ca.crt"), Some(&owner)).0, 0);
    let (code, err) = world.morphctl(Some("own/ca.crt"), None);
    assert!(code == 5 && err.contains("MORPH_TOKEN"), "{code} {err}");
    let (code, err) = world.morphctl(Some("other/ca.crt"), Some(&owner));
    assert!(code == 6 && err.contains("certificate"), "{code} {err}");
    let (code, err) = world.morphctl(None, Some(&owner));
    assert!(code == 2 && err.contains("--ca"), "{code} {err}");
}

#[test]
fn two_authorities_are_believed_while_one_replaces_the_other() {
    let world = World::new(&["own", "other"]);
    for ca in ["own", "other"] {
        let met = world.agent(Some((&format!("{ca}/agent.crt"), &format!("{ca}/agent.key")))).unwrap_err();
        assert_eq!(met.code(), Code::InvalidArgument, "{ca}: {met}");
    }
}

#[test]
fn keys_are_private_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    authority(&dir, "ca");
    for key in ["ca.key", "agent.key", "coordinator.key"] {
        let mode = fs::metadata(dir.path().join("ca").join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let before = fs::read(dir.path().join("ca/ca.key")).unwrap();
    assert_eq!(certs(&dir, &["init", "ca"]).0, 4);
    assert_eq!(certs(&dir, &["issue", "--ca", "ca", "--kind", "agent", "--name", "agent", "--out", "ca"]).0, 4);
    assert_eq!(fs::read(dir.path().join("ca/ca.key")).unwrap(), before);
    let issue = |more: &[&str]| certs(&dir, &[&["issue", "--ca", "ca"], more].concat());
    assert_eq!(issue(&["--kind", "agent", "--name", "../x"]).0, 2);
    assert_eq!(issue(&["--kind", "agent", "--name", "x", "--dns", "x"]).0, 2, "nobody connects to an agent");
    assert_eq!(issue(&["--kind", "coordinator", "--name", "x", "--dns", "not a host"]).0, 2);
    assert_eq!(issue(&["--kind", "coordinator", "--name", "x", "--ip", "head"]).0, 2);
    assert_eq!(issue(&["--kind", "root", "--name", "x"]).0, 2);
    assert_eq!(certs(&dir, &["issue", "--ca", "none", "--kind", "agent", "--name", "x"]).0, 3);
    fs::write(dir.path().join("ca/ca.key"), fs::read(dir.path().join("ca/agent.key")).unwrap()).unwrap();
    let (code, err) = issue(&["--kind", "agent", "--name", "x"]);
    assert!(code == 2 && err.contains("is not the key of"), "{code} {err}");
}

#[test]
fn a_coordinator_says_which_file_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    authority(&dir, "ca");
    let path = |name: &str| dir.path().join("ca").join(name);
    let runtime = Runtime::new().unwrap();
    let start = |cert: &str, key: &str, ca: &str| {
        let tls = Tls { cert: path(cert), key: path(key), ca: path(ca) };
        let options = Options { home: dir.path().join("home"), tls: Some(tls), ..Options::default() };
        runtime.block_on(morph_coordinator::start(options)).unwrap_err().to_string()
    };
    assert!(start("none.crt", "coordinator.key", "ca.crt").contains("--tls-cert"));
    assert!(start("coordinator.crt", "coordinator.crt", "ca.crt").contains("--tls-key"));
    let mismatch = start("coordinator.crt", "agent.key", "ca.crt");
    assert!(mismatch.contains("--tls-key"), "{mismatch}");
    let key = start("coordinator.crt", "coordinator.key", "ca.key");
    assert!(key.contains("--tls-ca") && key.contains("only certificates"), "{key}");
    assert!(!dir.path().join("home").exists());
}
