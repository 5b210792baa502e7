//! Files and the node's cache.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use morph_objects::{Committed, Error, NodeCache, Objects, Wanted, split_url};
use morph_spec::Digest;

fn folder() -> (tempfile::TempDir, Objects) {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::open(dir.path().join("a b/ü").to_str().unwrap()).unwrap();
    (dir, objects)
}

#[tokio::test]
async fn put_get_list_delete() {
    let (dir, objects) = folder();
    assert!(objects.list("").await.unwrap().is_empty());
    objects.put("x/1 2.bin", Bytes::from_static(b"one")).await.unwrap();
    objects.put("x/1 2.bin", Bytes::from_static(b"two")).await.unwrap();
    objects.put("y", Bytes::new()).await.unwrap();
    assert_eq!(objects.get("x/1 2.bin").await.unwrap(), "two");
    assert!(dir.path().join("a b/ü/x/1 2.bin").is_file(), "names are names, not escapes");
    let keys: Vec<_> = objects.list("").await.unwrap().into_iter().map(|e| (e.key, e.bytes)).collect();
    assert_eq!(keys, [("x/1 2.bin".to_owned(), 3), ("y".to_owned(), 0)]);
    assert_eq!(objects.at("x").list("").await.unwrap().len(), 1);
    objects.delete("y").await.unwrap();
    objects.delete("y").await.unwrap();
    assert!(matches!(objects.get("y").await, Err(Error::NotFound { .. })));
    objects.delete_all("x").await.unwrap();
    assert!(objects.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn commit_creates_once() {
    let (_dir, objects) = folder();
    assert_eq!(objects.commit("m", Bytes::from_static(b"1")).await.unwrap(), Committed::Created);
    assert_eq!(objects.commit("m", Bytes::from_static(b"1")).await.unwrap(), Committed::AlreadySame);
    assert!(matches!(objects.commit("m", Bytes::from_static(b"2")).await, Err(Error::Conflict { .. })));
    assert_eq!(objects.get("m").await.unwrap(), "1");
}

#[tokio::test]
async fn names_cannot_climb_out() {
    let (_dir, objects) = folder();
    for key in ["../x", "a/../../x", "", "."] {
        assert!(matches!(objects.put(key, Bytes::new()).await, Err(Error::BadUrl { .. })), "{key:?}");
    }
}

#[tokio::test]
async fn urls_lead_back_to_their_objects() {
    let (_dir, objects) = folder();
    objects.put("k", Bytes::from_static(b"v")).await.unwrap();
    let (folder, key) = split_url(&objects.url_of("k")).unwrap();
    assert_eq!(folder.get(&key).await.unwrap(), "v");
    assert!(matches!(Objects::open("ftp://x/y"), Err(Error::BadUrl { .. })));
    assert!(matches!(Objects::open(""), Err(Error::BadUrl { .. })));
}

#[tokio::test]
async fn the_cache_verifies_and_survives_damage() {
    let (dir, objects) = folder();
    objects.put("s", Bytes::from_static(b"shard")).await.unwrap();
    let digest = Digest::of(b"shard");
    let cache = NodeCache::open(&dir.path().join("cache"), 1 << 20).unwrap();
    let path = cache.fetch(&objects, "s", 5, digest).await.unwrap().path().to_owned();
    std::fs::write(&path, b"sh").unwrap();
    let again = cache.fetch(&objects, "s", 5, digest).await.unwrap();
    assert_eq!(std::fs::read(again.path()).unwrap(), b"shard", "a damaged copy is fetched again");

    objects.put("t", Bytes::from_static(b"flipped")).await.unwrap();
    let promised = Digest::of(b"promise");
    let error = cache.fetch(&objects, "t", 7, promised).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("/t: corrupt"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_before_anything_is_fetched() {
    let (dir, objects) = folder();
    let wanted = |name: &str, bytes| Wanted { key: name.into(), bytes, digest: Digest::of(name.as_bytes()) };
    for n in ["a", "b", "c"] {
        objects.put(n, Bytes::from(n)).await.unwrap();
    }
    let refused = async |max_bytes: u64, all: &[Wanted]| {
        let cache = NodeCache::open(&dir.path().join("cache"), max_bytes).unwrap();
        let error = cache.fetch_all(&objects, all).await.unwrap_err();
        assert!(matches!(error, Error::NoRoom { .. }), "{error}");
        assert_eq!(std::fs::read_dir(dir.path().join("cache/blake3")).unwrap().count(), 0);
        error.to_string()
    };
    let small = [wanted("a", 1), wanted("b", 1), wanted("c", 1)];
    let said = refused(2, &small).await;
    assert!(said.contains("3 bytes are wanted") && said.contains("--cache-gib"), "{said}");
    let said = refused(u64::MAX, &[wanted("a", 1), wanted("b", 1 << 60)]).await;
    assert!(
        said.contains("no space left on the device: 0 of them are there") && said.contains("another disk"),
        "{said}"
    );
    let cache = NodeCache::open(&dir.path().join("cache"), 3).unwrap();
    // The same bytes under two names are there once.
    let again = [&small[..], &small[..]].concat();
    assert_eq!(cache.fetch_all(&objects, &again).await.unwrap().len(), 6);
}

#[tokio::test]
async fn eviction_takes_the_oldest_and_spares_what_is_held() {
    let (dir, objects) = folder();
    let cache = NodeCache::open(&dir.path().join("cache"), 250).unwrap();
    let body = |n: u8| vec![n; 100];
    for n in 0..4u8 {
        objects.put(&n.to_string(), Bytes::from(body(n))).await.unwrap();
    }
    let fetch = |n: u8| {
        let (cache, objects) = (cache.clone(), objects.clone());
        async move { cache.fetch(&objects, &n.to_string(), 100, Digest::of(&[n; 100])).await.unwrap() }
    };
    let held = fetch(0).await;
    let path1 = fetch(1).await.path().to_owned();
    drop(fetch(2).await);
    assert!(held.path().exists(), "it is in use");
    assert!(!path1.exists(), "it was the oldest that nobody holds");
    drop(held);
    drop(fetch(3).await);
    let left = std::fs::read_dir(dir.path().join("cache/blake3")).unwrap().count();
    assert_eq!(left, 2, "250 bytes hold two files of 100");
}

/// Between finding a file free and removing its name, another process could give that name to a new one that it holds: whoever does
/// that has the object's lock, so eviction must have it.
#[tokio::test]
async fn what_another_is_about_to_hold_is_not_evicted() {
    let (dir, objects) = folder();
    let cache = NodeCache::open(&dir.path().join("cache"), 150).unwrap();
    let digest = |n: u8| Digest::of(&[n; 100]);
    for n in 0..3u8 {
        objects.put(&n.to_string(), Bytes::from(vec![n; 100])).await.unwrap();
    }
    let first = cache.fetch(&objects, "0", 100, digest(0)).await.unwrap().path().to_owned();
    let stamp = dir.path().join("cache/stamps").join(digest(0).to_string());
    let lock = std::fs::File::open(dir.path().join("cache/locks").join(digest(0).to_string())).unwrap();
    lock.lock().unwrap();
    drop(cache.fetch(&objects, "1", 100, digest(1)).await.unwrap());
    assert!(first.exists() && stamp.exists(), "another process is at it");
    lock.unlock().unwrap();
    drop(cache.fetch(&objects, "2", 100, digest(2)).await.unwrap());
    assert!(!first.exists() && !stamp.exists(), "nobody wants it any more");
}
