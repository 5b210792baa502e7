//! S3, spoken over real HTTP with a real server (s3s on files), in this process.

use bytes::Bytes;
use morph_objects::{Committed, Error, NodeCache, Objects};
use morph_spec::Digest;

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
