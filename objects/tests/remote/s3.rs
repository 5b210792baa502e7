//! S3, spoken over real HTTP with a real server (s3s on files), in this process.

use std::{fs, path::Path, sync::Arc};

use bytes::Bytes;
use morph_objects::{Committed, Error, NodeCache, Objects, Options};
use morph_spec::Digest;
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::common::{bucket, options};

#[tokio::test]
async fn put_get_list_commit_delete() {
    let (_dir, _server, objects) = bucket().await;
    objects.put("a/b.arrow", Bytes::from_static(b"bytes")).await.unwrap();
    assert_eq!(objects.get("a/b.arrow").await.unwrap(), "bytes");
    assert_eq!(objects.commit("manifest.json", Bytes::from_static(b"1")).await.unwrap(), Committed::Created);
    assert_eq!(objects.commit("manifest.json", Bytes::from_static(b"1")).await.unwrap(), Committed::AlreadySame);
    let other = objects.commit("manifest.json", Bytes::from_static(b"2")).await;
    assert!(matches!(other, Err(Error::Conflict { .. })), "{other:?}");
    let keys: Vec<_> = objects.list("").await.unwrap().into_iter().map(|e| e.key).collect();
    assert_eq!(keys, ["a/b.arrow", "manifest.json"]);
    assert_eq!(objects.url_of("manifest.json"), "s3://xrays/some folder/x/manifest.json");
    objects.delete_all("a").await.unwrap();
    assert!(matches!(objects.get("a/b.arrow").await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn large_objects_go_in_parts() {
    let (_dir, _server, objects) = bucket().await;
    let body: Vec<u8> = (0..40usize << 20).map(|i| (i / 7) as u8).collect();
    objects.put("large", Bytes::from(body.clone())).await.unwrap();
    assert_eq!(Digest::of(&objects.get("large").await.unwrap()), Digest::of(&body));
}

#[tokio::test]
async fn eight_at_once_fetch_once() {
    let (dir, server, objects) = bucket().await;
    objects.put("shard", Bytes::from(vec![7; 1 << 20])).await.unwrap();
    let digest = Digest::of(&vec![7; 1 << 20]);
    let fetches = (0..8).map(|_| {
        // Each opens the cache for itself, as processes do.
        let cache = NodeCache::open(&dir.path().join("cache"), 1 << 30).unwrap();
        let objects = objects.clone();
        tokio::spawn(async move { cache.fetch(&objects, "shard", 1 << 20, digest).await.unwrap().path().to_owned() })
    });
    for fetch in fetches.collect::<Vec<_>>() {
        assert!(fetch.await.unwrap().is_file());
    }
    assert_eq!(server.gets().len(), 1);
}

#[tokio::test]
async fn wrong_credentials_and_dead_servers_are_said_plainly() {
    let (_dir, server, _objects) = bucket().await;
    let wrong = Objects::open_with("s3://xrays/x", &options(&server.url, "guess")).unwrap();
    let error = wrong.get("k").await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(!error.to_string().contains("guess"), "{error}");

    let gone = Objects::open_with("s3://xrays/x", &options("http://127.0.0.1:9", "the-secret")).unwrap();
    let error = gone.get("k").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("s3://xrays/x/k"), "{error}");
}

/// TLS before the server at `to`, with a certificate of an authority of its own, which lies at `ca`; its URL.
async fn encrypted(to: &str, ca: &Path) -> String {
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let root = authority.self_signed(&key).unwrap();
    fs::write(ca, root.pem()).unwrap();
    let issuer = rcgen::Issuer::new(authority, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = params.signed_by(&own, &issuer).unwrap();
    let key = PrivateKeyDer::try_from(own.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let to = to.strip_prefix("http://").unwrap().to_owned();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, to) = (acceptor.clone(), to.clone());
            tokio::spawn(async move {
                // Who does not believe the certificate hangs up.
                let Ok(mut client) = acceptor.accept(socket).await else { return };
                let mut server = TcpStream::connect(to).await.unwrap();
                drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
            });
        }
    });
    url
}

#[tokio::test]
async fn a_server_of_ones_own_with_an_authority_of_its_own_and_a_profile() {
    let (dir, server, _objects) = bucket().await;
    let ca = dir.path().join("ca.pem");
    let url = encrypted(&server.url, &ca).await;
    let opened = |settings: &[(&str, &str)]| {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let options = Options { settings: settings.collect(), ..options(&url, "") };
        Objects::open_with("s3://xrays/x", &options)
    };
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let credentials = file("credentials", "[lab]\naws_access_key_id = key\naws_secret_access_key = the-secret\n");
    let config = file("config", &format!("[profile lab]\nendpoint_url = {url}\n"));
    // Not in the profile: where this runs the environment may name one, which goes first.
    let ca = ca.display().to_string();
    let lab = [
        ("AWS_PROFILE", "lab"),
        ("AWS_SHARED_CREDENTIALS_FILE", credentials.as_str()),
        ("AWS_CONFIG_FILE", config.as_str()),
        ("AWS_CA_BUNDLE", ca.as_str()),
    ];
    let objects = opened(&lab).unwrap();
    objects.put("k", Bytes::from_static(b"bytes")).await.unwrap();
    assert_eq!(objects.get("k").await.unwrap(), "bytes");

    // Nobody vouches for it but that authority.
    let strange = opened(&lab[..3]).unwrap().get("k").await.unwrap_err();
    assert!(matches!(strange, Error::Unavailable { .. }), "{strange:?}");
    // What is wrong with the settings is said before anything is sent.
    for (bundle, why) in [(file("empty.pem", ""), "no certificate in it"), ("/nowhere.pem".to_owned(), "No such file")]
    {
        let refused = opened(&[lab[0], lab[1], lab[2], ("AWS_CA_BUNDLE", &bundle)]).unwrap_err().to_string();
        assert!(refused.contains(&bundle) && refused.contains(why), "{refused}");
    }
    let missing = opened(&[("AWS_PROFILE", "labb"), lab[1], lab[2]]).unwrap_err().to_string();
    assert!(missing.contains("labb") && missing.contains("credentials"), "{missing}");
}
