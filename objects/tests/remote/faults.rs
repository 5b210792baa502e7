//! Servers and networks that fail: a read goes on or ends with the cause, and never brings or keeps a wrong byte.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use morph_objects::{Error, NodeCache, Objects, Wanted};
use morph_spec::{Digest, Rng};

use crate::common::{Fault, Seen, body, bucket, options};

fn wanted(key: &str, bytes: &Bytes) -> Wanted {
    Wanted { key: key.to_owned(), bytes: bytes.len() as u64, digest: Digest::of(bytes) }
}

/// Names in the cache's folder of files; each must have the bytes that it is named after.
fn cached(dir: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(dir.join("blake3")).unwrap().map(|entry| {
        let (path, name) = entry.map(|e| (e.path(), e.file_name().into_string().unwrap())).unwrap();
        assert_eq!(
            Digest::of(&fs::read(path).unwrap()).to_string(),
            name,
            "the cache holds wrong bytes or a temporary"
        );
        name
    });
    names.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_storm_of_faults_no_byte_is_wrong() {
    let (dir, server, objects) = bucket().await;
    let sizes = [0, 1, 900, 65_537, 300_000, 300_001, 1 << 20, 3 << 20];
    let bodies: Vec<Bytes> = sizes.iter().enumerate().map(|(i, size)| body(i as u64, *size)).collect();
    let mut all = Vec::new();
    for (i, bytes) in bodies.iter().enumerate() {
        objects.put(&format!("shard {i}"), bytes.clone()).await.unwrap();
        all.push(wanted(&format!("shard {i}"), bytes));
    }
    let hurt = Arc::new(Mutex::new(BTreeSet::new()));
    let (mut came, mut failed) = (0, 0);
    for seed in 0..12u64 {
        let (kinds, calm) = (Arc::clone(&hurt), server.gets().len());
        assert!(seed > 0 || calm == 0);
        server.plan(move |seen: &Seen| {
            if !seen.is_get() {
                return Fault::None;
            }
            // By the object and how often it was asked for: it does not matter which of the six that run at once comes first.
            let mut rng = Rng::keyed(seed, &seen.path, seen.nth as u64);
            let at = rng.next_u64() as usize % (1 << 20);
            let (kind, fault) = match rng.next_u64() % 12 {
                0 => ("503", Fault::Answer(503, "<Error><Code>SlowDown</Code></Error>".into())),
                1 => ("500", Fault::Answer(500, "oops".into())),
                2 | 3 => ("cut", Fault::Cut(at)),
                4 => ("truncate", Fault::Truncate(at / 8)),
                5 => ("flip", Fault::Flip(at)),
                6 => ("slow", Fault::Slow(1 << 18, Duration::from_millis(5))),
                7 => ("untagged", Fault::Untagged(Some(at))),
                _ => ("none", Fault::None),
            };
            kinds.lock().unwrap().insert(kind);
            fault
        });
        let folder = dir.path().join(format!("cache {seed}"));
        let cache = NodeCache::open(&folder, 1 << 30).unwrap();
        match cache.fetch_all(&objects, &all).await {
            Ok(files) => {
                came += 1;
                for (file, bytes) in files.iter().zip(&bodies) {
                    assert!(fs::read(file.path()).unwrap() == *bytes, "seed {seed}: in the order that was asked for");
                }
            }
            Err(e) => {
                failed += 1;
                assert!(matches!(e, Error::Corrupt { .. } | Error::Unavailable { .. }), "seed {seed}: {e:?}");
                assert!(e.to_string().contains("s3://xrays/some folder/x/shard "), "seed {seed}: {e}");
            }
        }
        let before = cached(&folder).len();
        server.plan(|_| Fault::None);
        let files = cache.fetch_all(&objects, &all).await.unwrap();
        assert_eq!((files.len(), cached(&folder).len()), (8, 8), "seed {seed}: {before} had come before");
    }
    assert_eq!(hurt.lock().unwrap().len(), 8, "{hurt:?}");
    assert!(came >= 6, "{came} came through, {failed} failed");
}

#[tokio::test]
async fn a_read_that_is_cut_goes_on_for_as_long_as_bytes_come() {
    let (_dir, server, objects) = bucket().await;
    let bytes = body(1, 2 << 20);
    objects.put("shard", bytes.clone()).await.unwrap();
    // Twenty cuts: many more than the two repetitions that get nowhere.
    server.plan(|seen| if seen.is_get() { Fault::Cut(100 << 10) } else { Fault::None });
    assert!(objects.get("shard").await.unwrap() == bytes);
    let starts: Vec<u64> = server.gets().iter().map(|s| s.from.unwrap_or(0)).collect();
    assert!(starts.len() > 15 && starts.is_sorted(), "nothing is read twice: {starts:?}");
    assert!(starts.windows(2).all(|w| w[0] < w[1]), "{starts:?}");
}

#[tokio::test]
async fn versions_are_never_put_together() {
    let (dir, server, objects) = bucket().await;
    for (old, fault) in [("tagged", Fault::Cut(500_000)), ("untagged", Fault::Untagged(Some(500_000)))] {
        let (first, second) = (body(1, 1 << 20), body(2, 1 << 20));
        objects.put(old, first.clone()).await.unwrap();
        let path = dir.path().join("xrays/some folder/x").join(old);
        let (begun, next) = (fault.clone(), second.clone());
        server.plan(move |seen| match seen.nth {
            0 if seen.is_get() => begun.clone(),
            1 if seen.is_get() => {
                // Replaced as a server replaces: at once, and with another tag.
                fs::write(&path, &next).unwrap();
                for entry in fs::read_dir(path.ancestors().nth(4).unwrap()).unwrap().flatten() {
                    if entry.file_name().to_string_lossy().contains("internal") {
                        drop(fs::remove_file(entry.path()));
                    }
                }
                if old == "untagged" { Fault::Untagged(None) } else { Fault::None }
            }
            _ if seen.is_get() && old == "untagged" => Fault::Untagged(None),
            _ => Fault::None,
        });
        let read = objects.get(old).await.unwrap();
        assert!(read == second, "{old}: all of the second, and nothing of the first");
    }
}

#[tokio::test]
async fn parts_are_of_the_version_that_was_listed() {
    let (_dir, server, objects) = bucket().await;
    let (first, second) = (body(1, 1 << 20), body(2, 1 << 20));
    objects.put("images.zip", first.clone()).await.unwrap();
    let entry = objects.list("").await.unwrap().remove(0);
    // Cut in the middle, and there again.
    server.plan(|seen| if seen.is_get() && seen.nth == 1 { Fault::Cut(1000) } else { Fault::None });
    for range in [0..1, 100_000..400_000, 300_000..300_000, (1 << 20) - 5..u64::MAX, 5 << 20..6 << 20] {
        let read = objects.get_range(&entry, range.clone()).await.unwrap();
        let [start, end] = [range.start, range.end].map(|at| at.min(1 << 20) as usize);
        assert!(read == first.slice(start..end), "{range:?}");
    }
    server.plan(|_| Fault::None);
    // Server and listing know seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    objects.put("images.zip", second).await.unwrap();
    let error = objects.get_range(&entry, 0..9).await.unwrap_err().to_string();
    assert!(error.contains("changed since it was listed"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_continued_is_begun_again() {
    let (dir, server, objects) = bucket().await;
    let bytes = body(3, 400_000);
    objects.put("shard", bytes.clone()).await.unwrap();
    server.plan(|seen| match seen.nth {
        0 | 1 if seen.is_get() => Fault::Untagged(Some(300_000)),
        _ if seen.is_get() => Fault::Untagged(None),
        _ => Fault::None,
    });
    let cache = NodeCache::open(&dir.path().join("cache"), 1 << 30).unwrap();
    let file = cache.fetch(&objects, "shard", bytes.len() as u64, Digest::of(&bytes)).await.unwrap();
    assert!(fs::read(file.path()).unwrap() == bytes);
    assert!(server.gets().iter().all(|s| s.from.is_none()) && server.gets().len() == 3);
}

#[tokio::test]
async fn a_server_that_gets_nowhere_is_given_up_with_the_cause() {
    let (dir, server, objects) = bucket().await;
    let bytes = body(4, 1 << 20);
    objects.put("shard", bytes.clone()).await.unwrap();
    let cache = NodeCache::open(&dir.path().join("cache"), 1 << 30).unwrap();
    let fetch = || cache.fetch(&objects, "shard", bytes.len() as u64, Digest::of(&bytes));
    let cases: [(Fault, &str); 4] = [
        (Fault::Cut(10), "check the network"),
        (Fault::Untagged(Some(700_000)), "check the network"),
        (
            Fault::Answer(503, "<Error><Code>SlowDown</Code><Message>Reduce</Message></Error>".into()),
            "SlowDown: Reduce; the server is",
        ),
        (Fault::Answer(500, "<html>a page</html>".into()), "500 Internal Server Error; the server is overloaded"),
    ];
    for (fault, says) in cases {
        let (before, plan) = (server.gets().len(), fault.clone());
        server.plan(move |seen| if seen.is_get() { plan.clone() } else { Fault::None });
        let error = fetch().await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{fault:?}: {error:?}");
        let text = error.to_string();
        assert!(text.starts_with("read s3://xrays/some folder/x/shard: ") && text.contains(says), "{fault:?}: {text}");
        let asked = server.gets().len() - before;
        assert!((3..=9).contains(&asked), "{fault:?}: two repetitions, each with two of its own, and not {asked}");
        assert!(cached(&dir.path().join("cache")).is_empty());
    }
    server.plan(|_| Fault::None);
    assert!(fs::read(fetch().await.unwrap().path()).unwrap() == bytes);
}

#[tokio::test]
async fn slow_streams_come_and_stalled_ones_do_not() {
    let (_dir, server, _) = bucket().await;
    let mut limits = options(&server.url, "the-secret");
    limits.timeout = Duration::from_secs(1);
    limits.retries = 1;
    let objects = Objects::open_with("s3://xrays/x", &limits).unwrap();
    let bytes = body(5, 4 << 20);
    objects.put("slow", bytes.clone()).await.unwrap();
    // Three seconds at least, by requests of one second at most.
    server.plan(|seen| if seen.is_get() { Fault::Slow(128 << 10, Duration::from_millis(100)) } else { Fault::None });
    assert!(objects.get("slow").await.unwrap() == bytes);
    assert!(server.gets().len() > 2, "no request lasts longer than a second");
    server.plan(|seen| if seen.is_get() { Fault::Stall(1000) } else { Fault::None });
    let text = objects.get("slow").await.unwrap_err().to_string();
    assert!(text.contains("read s3://xrays/x/slow") && text.contains("timed out; the connection"), "{text}");
}

#[tokio::test]
async fn a_read_that_is_not_answered_is_asked_for_once_more() {
    let (dir, server, plain) = bucket().await;
    let bytes = body(9, 300_000);
    plain.put("shard", bytes.clone()).await.unwrap();
    let opened = |hedge: &str| {
        let mut limits = options(&server.url, "the-secret");
        limits.timeout = Duration::from_secs(2);
        limits.retries = 0;
        limits.settings.insert("MORPH_HEDGE_MS".into(), hedge.into());
        Objects::open_with("s3://xrays/some folder/x", &limits)
    };
    // Every other request is answered by nobody.
    let silent = || {
        let first = server.gets().len();
        let never = Duration::from_secs(3600);
        server.plan(move |seen| if seen.is_get() && seen.nth == first { Fault::Late(never) } else { Fault::None });
    };
    silent();
    assert!(opened("0").unwrap().get("shard").await.is_err(), "nobody asks twice who was not told to");

    let hedged = opened("200").unwrap();
    let before = server.gets().len();
    silent();
    assert!(hedged.get("shard").await.unwrap() == bytes);
    assert_eq!(server.gets().len() - before, 2);
    silent();
    let entry = hedged.list("").await.unwrap().into_iter().find(|entry| entry.key == "shard").unwrap();
    assert!(hedged.get_range(&entry, 10..20_000).await.unwrap() == bytes.slice(10..20_000));
    silent();
    let cache = NodeCache::open(&dir.path().join("cache"), 1 << 30).unwrap();
    let held = cache.fetch(&hedged, "shard", bytes.len() as u64, Digest::of(&bytes)).await.unwrap();
    assert!(fs::read(held.path()).unwrap() == bytes);

    // The second fails, and the first comes after all.
    let first = server.gets().len();
    server.plan(move |seen| match seen.nth.checked_sub(first) {
        Some(0) if seen.is_get() => Fault::Late(Duration::from_secs(1)),
        Some(1) if seen.is_get() => Fault::Answer(500, "oops".into()),
        _ => Fault::None,
    });
    assert!(hedged.get("shard").await.unwrap() == bytes);
    // Who is answered in time asks once.
    server.plan(|_| Fault::None);
    let before = server.gets().len();
    assert!(opened("1000").unwrap().get("shard").await.unwrap() == bytes);
    assert_eq!(server.gets().len() - before, 1);
    let why = opened("soon").unwrap_err().to_string();
    assert!(why.contains("MORPH_HEDGE_MS \"soon\": expected a number of milliseconds"), "{why}");
}

#[tokio::test]
async fn wrong_bytes_are_fetched_again_and_never_kept() {
    let (dir, server, objects) = bucket().await;
    let bytes = body(6, 200_000);
    objects.put("shard", bytes.clone()).await.unwrap();
    let folder = dir.path().join("cache");
    let cache = NodeCache::open(&folder, 1 << 30).unwrap();
    let fetch = || cache.fetch(&objects, "shard", bytes.len() as u64, Digest::of(&bytes));
    for fault in [Fault::Flip(77), Fault::Truncate(150_000), Fault::Truncate(0)] {
        let (before, plan) = (server.gets().len(), fault.clone());
        server.plan(move |seen| if seen.is_get() { plan.clone() } else { Fault::None });
        let error = fetch().await.unwrap_err();
        assert!(matches!(&error, Error::Corrupt { found, .. } if *found != Digest::of(&bytes)), "{fault:?}: {error:?}");
        assert!(error.to_string().starts_with("s3://xrays/some folder/x/shard: corrupt: expected "), "{error}");
        assert_eq!((server.gets().len() - before, cached(&folder).len()), (3, 0), "{fault:?}");
    }
    let before = server.gets().len();
    server.plan(move |seen| if seen.is_get() && seen.nth == before { Fault::Flip(0) } else { Fault::None });
    assert!(fs::read(fetch().await.unwrap().path()).unwrap() == bytes, "hurt once on the way");
    assert_eq!(server.gets().len() - before, 2);
}

#[tokio::test]
async fn credentials_that_expire_are_said_and_never_shown() {
    let (dir, server, _) = bucket().await;
    let token = "FwoGZXIvYXdzEBYaDHqa0AP1example1token2";
    let mut limits = options(&server.url, "the-secret");
    limits.settings.insert("AWS_SESSION_TOKEN".into(), token.into());
    assert!(!format!("{limits:?}").contains("the-secret") && !format!("{limits:?}").contains(token));
    let plain = Objects::open_with("s3://xrays/x", &options(&server.url, "the-secret")).unwrap();
    let bytes = body(7, 1 << 20);
    plain.put("shard", bytes.clone()).await.unwrap();
    let objects = Objects::open_with("s3://xrays/x", &limits).unwrap();
    let folder = dir.path().join("cache");
    let cache = NodeCache::open(&folder, 1 << 30).unwrap();
    // S3 says 400 or 403, and repeats what it was sent.
    let said = "<Error><Code>ExpiredToken</Code><Message>The provided token {token} has expired.</Message>\
                <Token-0>{token}</Token-0><CanonicalRequest>authorization:{authorization}</CanonicalRequest></Error>";
    for status in [400, 403, 401] {
        for middle in [false, true] {
            server.plan(move |seen| match seen.is_get() {
                true if middle && seen.from.is_none() => Fault::Cut(300_000),
                true => Fault::Answer(status, said.into()),
                false => Fault::None,
            });
            let error = cache.fetch(&objects, "shard", bytes.len() as u64, Digest::of(&bytes)).await.unwrap_err();
            assert!(matches!(error, Error::Denied { .. }), "{status}: {error:?}");
            let text = format!("{error} {error:?} {objects:?}");
            assert!(text.contains("whether they have expired") && text.contains("ExpiredToken"), "{text}");
            for secret in [token, "the-secret", "Signature=", "AWS4-HMAC", "Credential="] {
                assert!(!text.contains(secret), "{secret}: {text}");
            }
            assert!(cached(&folder).is_empty());
        }
    }
}

#[tokio::test]
async fn a_listing_that_changes_meanwhile_misses_nothing_that_stays() {
    let (dir, server, objects) = bucket().await;
    let folder = dir.path().join("xrays/some folder/x");
    fs::create_dir_all(&folder).unwrap();
    let name = |i: usize| format!("{i:04}");
    for i in 0..1100 {
        fs::write(folder.join(name(i)), b"x").unwrap();
    }
    let changed = Arc::new(Mutex::new(0));
    let (at, count) = (folder.clone(), Arc::clone(&changed));
    server.plan(move |seen| {
        if seen.is_list() && seen.query.contains("continuation-token") {
            *count.lock().unwrap() += 1;
            // One that was listed, one that was not yet, and a new one on either side.
            for gone in [5, 1050] {
                drop(fs::remove_file(at.join(format!("{gone:04}"))));
            }
            for new in ["0005a", "1050a"] {
                fs::write(at.join(new), b"x").unwrap();
            }
        }
        // The first page breaks in the middle, once.
        if seen.is_list() && seen.nth == 0 { Fault::Cut(5_000) } else { Fault::None }
    });
    let keys: Vec<String> = objects.list("").await.unwrap().into_iter().map(|e| e.key).collect();
    assert!(*changed.lock().unwrap() > 0, "there were two pages");
    assert!(keys.windows(2).all(|w| w[0] < w[1]), "sorted, each once");
    let stayed = (0..1100).filter(|i| ![5, 1050].contains(i)).map(name);
    let keys: BTreeSet<String> = keys.into_iter().collect();
    assert!(stayed.clone().all(|key| keys.contains(&key)));
    server.plan(|_| Fault::None);
    objects.delete_all("").await.unwrap();
    assert!(objects.list("").await.unwrap().is_empty());
}
