//! The checkpoint that a run goes on from: read, or said to be lost. What is said to be lost the coordinator strikes for good, so it is
//! said only where the run's storage is visibly there: on a node that has not mounted it, every checkpoint is missing.

use morph_checkpoint::{Best, Error, Snapshot, inspect, load, retention::Kept};
use morph_objects::Objects;
use morph_spec::Digest;

use crate::rank::failure::Failure;

/// The checkpoint whose manifest lies at `url`; all of the run's lie in `folder`.
///
/// # Errors
/// [`Failure::NoCheckpoint`] when it is not there or damaged, or when the best one before it is, which training may have to come back to.
pub async fn read(url: &str, digest: Digest, folder: &Objects) -> Result<Snapshot, Failure> {
    let snapshot = match twice(async || load(url, Some(digest)).await).await {
        Ok(snapshot) => snapshot,
        Err(e) if is_lost(&e) => return Err(lost(url, &e.to_string(), folder).await),
        Err(e) => return Err(e.into()),
    };
    let best = snapshot.state.best.as_ref().map(|best| best.url.as_str());
    if let Some(best) = best.filter(|best| !best.is_empty() && *best != url) {
        match inspect(best).await {
            Err(e) if is_lost(&e) => {
                return Err(lost(url, &format!("the best one before {url}: {e}"), folder).await);
            }
            found => drop(found?),
        }
    }
    Ok(snapshot)
}

/// What `load` brings, or, if that is damaged, what it brings the next time: a bad line or memory may have made it so on the way here.
async fn twice<T>(load: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
    match load().await {
        Err(Error::Corrupt { .. }) => load().await,
        found => found,
    }
}

/// `older`, of which retention keeps `best` in any case: when the newest checkpoint was struck, nothing else says any more which of those
/// before it was the best.
pub fn keeping_the_best(older: &[Kept], best: Option<&Best>) -> Vec<Kept> {
    let is_best = |kept: &Kept| kept.best || best.is_some_and(|best| best.url == kept.url);
    older.iter().map(|kept| Kept { best: is_best(kept), ..kept.clone() }).collect()
}

/// Whether it is the checkpoint that is at fault. One that is whole and cannot be read for all that is of another build, which this one
/// must not throw away.
fn is_lost(e: &Error) -> bool {
    use morph_objects::Error as E;
    matches!(e, Error::Corrupt { .. } | Error::Objects(E::NotFound { .. } | E::TooLarge { .. }))
}

/// That the checkpoint at `url` is lost (`why`), unless nothing at all lies in `folder`.
async fn lost(url: &str, why: &str, folder: &Objects) -> Failure {
    match folder.list("").await {
        Ok(found) if found.is_empty() => Failure::Infra(format!(
            "checkpoint {url} is not there, and neither is any other: is the storage mounted on this node?"
        )),
        Ok(_) => Failure::NoCheckpoint(why.to_owned()),
        Err(e) => Failure::Infra(format!("{why}; whether others are there cannot be seen: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, fs};

    use morph_checkpoint::{Dtype, Saved, State, TensorData, Tensors, remove, save};

    use super::*;
    use crate::rank::runtime;

    /// A checkpoint of `step` in `folder`, which names `best`.
    async fn saved(folder: &Objects, step: u64, best: Option<&Saved>) -> Saved {
        let weights = TensorData { dtype: Dtype::F32, shape: vec![1], bytes: vec![0; 4] };
        let state = State {
            step,
            epoch: 0,
            batch: 0,
            world_size: 1,
            early_stopping: Default::default(),
            optimizer_steps: Default::default(),
            sums: Default::default(),
            best: best.map(|saved| Best { url: saved.url.clone(), step: 1, score: 0.5 }),
            schedulers: serde_json::Value::Null,
            experiment: serde_json::Value::Null,
            dataset: Digest::of(b""),
            weights: None,
        };
        let snapshot = Snapshot { tensors: Tensors::from([("model/w".to_owned(), weights)]), state };
        save(folder, &format!("step-{step}-a1"), &snapshot).await.unwrap()
    }

    #[test]
    fn what_is_gone_or_damaged_is_lost_but_not_where_nothing_is_there_at_all() {
        let home = tempfile::tempdir().unwrap();
        let folder = Objects::open(home.path().to_str().unwrap()).unwrap().at("checkpoints");
        runtime().unwrap().block_on(async {
            let first = saved(&folder, 1, None).await;
            let read = async |saved: &Saved| read(&saved.url, saved.digest, &folder).await;
            assert_eq!(read(&first).await.unwrap().state.step, 1);
            let second = saved(&folder, 2, Some(&first)).await;
            read(&second).await.unwrap();

            let tensors = home.path().join("checkpoints/step-2-a1/tensors.safetensors");
            let whole = fs::read(&tensors).unwrap();
            let mut flipped = whole.clone();
            *flipped.last_mut().unwrap() ^= 1;
            for damaged in [&flipped[..], &whole[1..], &[&whole[..], b"x"].concat()] {
                fs::write(&tensors, damaged).unwrap();
                let said = read(&second).await.unwrap_err();
                assert!(matches!(said, Failure::NoCheckpoint(_)), "{said:?}");
            }
            fs::write(&tensors, &whole).unwrap();

            remove(&first.url).await.unwrap();
            let said = read(&second).await.unwrap_err();
            assert!(matches!(&said, Failure::NoCheckpoint(why) if why.contains("the best one before")), "{said:?}");
            let said = read(&first).await.unwrap_err();
            assert!(matches!(&said, Failure::NoCheckpoint(why) if why.contains("not found")), "{said:?}");

            remove(&second.url).await.unwrap();
            let said = read(&second).await.unwrap_err();
            assert!(matches!(&said, Failure::Infra(why) if why.contains("mounted on this node")), "{said:?}");
            fs::remove_dir_all(home.path().join("checkpoints")).unwrap();
            assert!(matches!(read(&second).await, Err(Failure::Infra(_))), "as where it is not mounted");
        });
    }

    #[test]
    fn what_comes_damaged_once_is_not_damaged_and_what_is_not_there_is_not_asked_for_again() {
        let damaged = || Error::Corrupt {
            url: "u".into(),
            expected: Digest::of(b"a"),
            bytes: 1,
            found: Digest::of(b"b"),
            found_bytes: 1,
        };
        let gone = || Error::Objects(morph_objects::Error::NotFound { url: "u".into() });
        let asked = Cell::new(0);
        let times = |good_from: u32, bad: &dyn Fn() -> Error| {
            asked.set(0);
            let found = runtime().unwrap().block_on(twice(async || {
                asked.set(asked.get() + 1);
                if asked.get() < good_from { Err(bad()) } else { Ok(()) }
            }));
            (found.is_ok(), asked.get())
        };
        assert_eq!(times(1, &damaged), (true, 1));
        assert_eq!(times(2, &damaged), (true, 2));
        assert_eq!(times(3, &damaged), (false, 2));
        assert_eq!(times(2, &gone), (false, 1));
    }

    #[test]
    fn a_whole_checkpoint_of_another_build_is_not_lost() {
        let home = tempfile::tempdir().unwrap();
        let folder = Objects::open(home.path().to_str().unwrap()).unwrap();
        let text = br#"{"version": 99}"#;
        fs::write(home.path().join("manifest.json"), text).unwrap();
        let url = folder.url_of("manifest.json");
        let said = runtime().unwrap().block_on(read(&url, Digest::of(text), &folder)).unwrap_err();
        assert!(matches!(said, Failure::User(_)), "{said:?}");
    }

    #[test]
    fn retention_keeps_what_the_checkpoint_calls_the_best() {
        let kept = |step: u64| Kept { url: step.to_string(), step, best: false };
        let best = Best { url: "1".into(), step: 1, score: 0.5 };
        let bests = |all: Vec<Kept>| all.into_iter().map(|kept| kept.best).collect::<Vec<_>>();
        assert_eq!(bests(keeping_the_best(&[kept(1), kept(2)], Some(&best))), [true, false]);
        assert_eq!(bests(keeping_the_best(&[Kept { best: true, ..kept(1) }, kept(2)], None)), [true, false]);
    }
}
