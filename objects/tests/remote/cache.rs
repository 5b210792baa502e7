//! The node's cache among processes, crashes and foreign hands.

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use morph_objects::{NodeCache, Objects, Wanted};
use morph_spec::Digest;

use crate::common::{Fault, Server, body, bucket, options};

const SHARDS: u64 = 5;

fn shard(i: u64) -> Bytes {
    body(i, 200_000 + i as usize)
}

fn all() -> Vec<Wanted> {
    let wanted = |i| Wanted { key: format!("{i}"), bytes: shard(i).len() as u64, digest: Digest::of(&shard(i)) };
    (0..SHARDS).map(wanted).collect()
}

async fn fill(objects: &Objects) {
    for i in 0..SHARDS {
        objects.put(&i.to_string(), shard(i)).await.unwrap();
    }
}

/// In a process of its own: fetches all shards..
#[tokio::test]
async fn a_rank() {
    let (Ok(server), Ok(folder)) = (env::var("T_SERVER"), env::var("T_CACHE")) else { return };
    let objects = Objects::open_with("s3://xrays/some folder/x", &options(&server, "the-secret")).unwrap();
    let cache = NodeCache::open(Path::new(&folder), 1 << 30).unwrap();
    let files = cache.fetch_all(&objects, &all()).await.unwrap();
    for (i, file) in (0..SHARDS).zip(&files) {
        assert!(fs::read(file.path()).unwrap() == shard(i));
    }
}

fn rank(server: &Server, folder: &Path) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["cache::a_rank", "--exact", "--nocapture"])
        .envs([("T_SERVER", server.url.as_str()), ("T_CACHE", folder.to_str().unwrap())])
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn leftovers(folder: &Path) -> usize {
    let names = ["blake3", "stamps"].into_iter().flat_map(|sub| fs::read_dir(folder.join(sub)).unwrap().flatten());
    names.filter(|entry| entry.file_name().to_string_lossy().contains(".tmp.")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_processes_fetch_each_object_once() {
    let (dir, server, objects) = bucket().await;
    fill(&objects).await;
    // Slow enough that all of them want the same at the same time.
    server.plan(|seen| if seen.is_get() { Fault::Slow(50_000, Duration::from_millis(50)) } else { Fault::None });
    let folder = dir.path().join("cache");
    let ranks: Vec<Child> = (0..4).map(|_| rank(&server, &folder)).collect();
    for mut rank in ranks {
        assert!(tokio::task::spawn_blocking(move || rank.wait().unwrap()).await.unwrap().success());
    }
    let gets = server.gets();
    let paths: BTreeSet<&str> = gets.iter().map(|s| s.path.as_str()).collect();
    assert_eq!((gets.len(), paths.len()), (SHARDS as usize, SHARDS as usize), "{gets:?}");
    assert_eq!(leftovers(&folder), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_in_the_middle_leaves_nothing_in_the_way() {
    let (dir, server, objects) = bucket().await;
    fill(&objects).await;
    let folder = dir.path().join("cache");
    server.plan(|seen| if seen.is_get() { Fault::Stall(100_000) } else { Fault::None });
    let mut child = rank(&server, &folder);
    let half_written = || {
        let files = fs::read_dir(folder.join("blake3")).into_iter().flatten().flatten();
        files.filter(|e| e.metadata().is_ok_and(|m| m.len() > 0)).count() as u64
    };
    while half_written() < SHARDS {
        assert!(child.try_wait().unwrap().is_none(), "it waits for the rest");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Who opens the cache now leaves alone what is being written.
    drop(NodeCache::open(&folder, 1 << 30).unwrap());
    assert_eq!(leftovers(&folder), SHARDS as usize);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(leftovers(&folder), SHARDS as usize, "a killed process tidies nothing");
    fs::write(folder.join("stamps").join(format!("{}.tmp.stamp", all()[0].digest)), "1 2").unwrap();
    server.plan(|_| Fault::None);
    let cache = NodeCache::open(&folder, 1 << 30).unwrap();
    assert_eq!(leftovers(&folder), 0, "but the next one does");
    for (i, file) in (0..SHARDS).zip(cache.fetch_all(&objects, &all()).await.unwrap()) {
        assert!(fs::read(file.path()).unwrap() == shard(i));
    }
}

#[tokio::test]
async fn what_was_verified_is_hashed_again_only_when_it_changed() {
    let (dir, server, objects) = bucket().await;
    fill(&objects).await;
    let (folder, wanted) = (dir.path().join("cache"), all());
    // Each opens the cache for itself, as processes do. What it hashed, and how much was fetched until then.
    let open = async || {
        let cache = NodeCache::open(&folder, 1 << 30).unwrap();
        for (i, file) in (0..SHARDS).zip(cache.fetch_all(&objects, &wanted).await.unwrap()) {
            assert!(fs::read(file.path()).unwrap() == shard(i));
        }
        (cache.hashed(), server.gets().len() as u64)
    };
    assert_eq!(open().await, (0, SHARDS), "hashed on the way");
    assert_eq!(open().await, (0, SHARDS));
    let (digest, bytes) = (wanted[2].digest.to_string(), wanted[2].bytes);
    let (file, stamp) = (folder.join("blake3").join(&digest), folder.join("stamps").join(&digest));
    let good = fs::read_to_string(&stamp).unwrap();
    // Half a stamp, none, another's: hashed, found good, stamped anew.
    for end in 0..good.len() {
        fs::write(&stamp, &good[..end]).unwrap();
        assert_eq!(open().await, (bytes, SHARDS), "{end} bytes of the stamp");
        assert_eq!(open().await, (0, SHARDS));
    }
    fs::remove_file(&stamp).unwrap();
    assert_eq!(open().await, (bytes, SHARDS));
    fs::copy(folder.join("stamps").join(wanted[1].digest.to_string()), &stamp).unwrap();
    assert_eq!(open().await, (bytes, SHARDS));
    // The same bytes in another file.
    fs::copy(&file, folder.join("copy")).unwrap();
    fs::rename(folder.join("copy"), &file).unwrap();
    assert_eq!(open().await, (bytes, SHARDS));
    // One byte is changed, and the time set back: the size is the same, and so is the time of the last change that is shown.
    let (mut hurt, modified) = (fs::read(&file).unwrap(), fs::metadata(&file).unwrap().modified().unwrap());
    hurt[1000] ^= 1;
    tokio::time::sleep(Duration::from_millis(20)).await;
    fs::write(&file, &hurt).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    assert_eq!(open().await, (bytes, SHARDS + 1), "hashed, found wrong, fetched again");
    // Another size: no need to hash.
    fs::write(&file, &hurt[1..]).unwrap();
    assert_eq!(open().await, (0, SHARDS + 2));
    assert_eq!(open().await, (0, SHARDS + 2));
}

#[tokio::test]
async fn being_used_keeps_a_file_and_its_stamp() {
    let (dir, server, objects) = bucket().await;
    fill(&objects).await;
    let (folder, wanted) = (dir.path().join("cache"), all());
    let cache = NodeCache::open(&folder, 3 * 210_000).unwrap();
    let fetch = async |i: usize| {
        let w = &wanted[i];
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(cache.fetch(&objects, &w.key, w.bytes, w.digest).await.unwrap());
    };
    // 0 is the oldest, but used again before the fourth comes.
    for i in [0, 1, 2, 0, 3] {
        fetch(i).await;
    }
    let left = |sub: &str| {
        let names = fs::read_dir(folder.join(sub)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        names.collect::<BTreeSet<_>>()
    };
    let expected: BTreeSet<String> = [0, 2, 3].map(|i: usize| wanted[i].digest.to_string()).into();
    assert_eq!((left("blake3"), left("stamps")), (expected.clone(), expected));
    let gets = server.gets().len();
    for i in [0, 2, 3] {
        fetch(i).await;
    }
    assert_eq!((cache.hashed(), server.gets().len()), (0, gets), "being used has not changed the files");
}

#[tokio::test]
async fn the_first_failure_ends_all_and_leaves_nothing() {
    let (dir, server, objects) = bucket().await;
    fill(&objects).await;
    let folder = dir.path().join("cache");
    let mut wanted = all();
    wanted[1].digest = Digest::of(b"another");
    server.plan(|seen| if seen.path.ends_with("/3") { Fault::Stall(1000) } else { Fault::None });
    let cache = NodeCache::open(&folder, 1 << 30).unwrap();
    let error = cache.fetch_all(&objects, &wanted).await.unwrap_err().to_string();
    assert!(error.contains("/x/1: corrupt"), "{error}");
    assert_eq!(leftovers(&folder), 0, "not even of those that were on their way");
}
