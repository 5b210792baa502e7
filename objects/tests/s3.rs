//! S3, spoken over real HTTP with a real server (s3s on files), in this process.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use morph_objects::{Committed, Error, NodeCache, Objects, Options};
use morph_spec::Digest;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};

struct Server {
    url: String,
    gets: Arc<AtomicUsize>,
}

async fn serve(root: &Path) -> Server {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single("key", "secret"));
    let service = builder.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gets = Arc::new(AtomicUsize::new(0));
    let counter = gets.clone();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (service, counter) = (service.clone(), counter.clone());
            let service = tower::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                if request.method() == hyper::Method::GET && request.uri().query().is_none() {
                    counter.fetch_add(1, Ordering::SeqCst);
                }
                let mut service = service.clone();
                async move { tower::Service::call(&mut service, request).await }
            });
            tokio::spawn(async move {
                let http = Builder::new(TokioExecutor::new());
                // A client that goes away in the middle is its own affair.
                drop(http.serve_connection(TokioIo::new(socket), TowerToHyperService::new(service)).await);
            });
        }
    });
    Server { url, gets }
}

fn options(endpoint: &str, secret: &str) -> Options {
    let settings = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("AWS_REGION", "us-east-1"),
    ];
    Options {
        retries: 2,
        retry_for: Duration::from_secs(3),
        timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(1),
        settings: settings.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>(),
        ..Options::default()
    }
}

async fn bucket() -> (tempfile::TempDir, Server, Objects) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("xrays")).unwrap();
    let server = serve(dir.path()).await;
    let objects = Objects::open_with("s3://xrays/some folder/x", &options(&server.url, "secret")).unwrap();
    (dir, server, objects)
}

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
    assert_eq!(server.gets.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn wrong_credentials_and_dead_servers_are_said_plainly() {
    let (_dir, server, _objects) = bucket().await;
    let wrong = Objects::open_with("s3://xrays/x", &options(&server.url, "guess")).unwrap();
    let error = wrong.get("k").await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(!error.to_string().contains("guess"), "{error}");

    let gone = Objects::open_with("s3://xrays/x", &options("http://127.0.0.1:9", "secret")).unwrap();
    let error = gone.get("k").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("s3://xrays/x/k"), "{error}");
}
