//! One picture of a run or sweep for all who watch it: it is made in the loop, where nothing else is decided meanwhile.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{Stream, stream};
use morph_control::{Refusal, Target, WorkerState};
use morph_proto::v1;
use tokio::{
    sync::{self, Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{PACE, not_found, stopping};
use crate::view::View;

/// Pictures take one part in so many of the loop's time, at most: all of all that are watched.
const SHARE: u32 = 50;
/// How often one is made although nothing has changed: why a run waits may change by time alone.
const BEAT: Duration = Duration::from_secs(1);

/// A picture as it comes from the loop: it, whether nothing more will follow, and how long it took.
pub(super) type Painted = Result<(v1::WatchResponse, bool, Duration), Status>;

#[derive(Debug)]
struct Picture {
    shows: Result<v1::WatchResponse, Status>,
    /// Nothing follows.
    last: bool,
    /// Changes of the state that it has in it.
    changes: u64,
}

/// One target that is watched.
#[derive(Debug, Clone)]
struct Wall {
    newest: Arc<watch::Sender<Option<Arc<Picture>>>>,
    /// Somebody has seen the newest.
    seen: Arc<Notify>,
}

/// All that is watched.
#[derive(Debug)]
pub struct Gallery {
    walls: Mutex<BTreeMap<Target, Wall>>,
    /// When the next picture may be made; held while one is.
    due: sync::Mutex<Instant>,
}

impl Default for Gallery {
    fn default() -> Self {
        Self { walls: Mutex::default(), due: sync::Mutex::new(Instant::now()) }
    }
}

/// Where pictures of one target come from.
#[derive(Debug, Clone)]
pub(super) struct Source<F> {
    /// Makes one.
    pub paint: F,
    /// Counts changes of the state.
    pub changes: watch::Receiver<u64>,
    /// Ends all.
    pub stop: CancellationToken,
}

/// In front of a wall: what hangs there, and whom to tell that it was seen.
type Place = (watch::Receiver<Option<Arc<Picture>>>, Arc<Notify>);

/// Who looks at a wall.
struct Visitor<F> {
    gallery: Arc<Gallery>,
    target: Target,
    source: Source<F>,
    /// Older pictures than from then are not looked at: the visitor may have changed something before.
    since: u64,
    /// `None`: it has seen the last picture.
    at: Option<Place>,
}

impl Gallery {
    /// Pictures of `target` as they come. Each is taken when it is asked for: who is slow misses some, and holds none.
    pub(super) fn watch<F, P>(
        self: &Arc<Self>,
        target: Target,
        source: Source<F>,
    ) -> impl Stream<Item = Result<v1::WatchResponse, Status>> + Send + use<F, P>
    where
        F: Fn() -> P + Clone + Send + Sync + 'static,
        P: Future<Output = Painted> + Send + 'static,
    {
        let since = *source.changes.borrow();
        let at = Some(self.enter(target, &source));
        let visitor = Visitor { gallery: self.clone(), target, source, since, at };
        stream::unfold(visitor, async |mut visitor| Some((visitor.next().await?, visitor)))
    }

    /// Goes to the wall of `target`; has pictures hung there from now on, if there are none yet.
    fn enter<F, P>(self: &Arc<Self>, target: Target, source: &Source<F>) -> Place
    where
        F: Fn() -> P + Clone + Send + Sync + 'static,
        P: Future<Output = Painted> + Send + 'static,
    {
        let mut walls = self.walls.lock().unwrap_or_else(PoisonError::into_inner);
        let wall = walls.get(&target).cloned().unwrap_or_else(|| {
            let wall = Wall { newest: Arc::new(watch::Sender::new(None)), seen: Arc::default() };
            walls.insert(target, wall.clone());
            tokio::spawn(self.clone().hang(target, wall.clone(), source.clone()));
            wall
        });
        let mut newest = wall.newest.subscribe();
        newest.mark_changed();
        (newest, wall.seen)
    }

    /// Hangs pictures as long as somebody looks at them.
    async fn hang<F, P>(self: Arc<Self>, target: Target, wall: Wall, mut source: Source<F>)
    where
        F: Fn() -> P + Clone + Send + Sync + 'static,
        P: Future<Output = Painted> + Send + 'static,
    {
        let mut first = true;
        loop {
            let changes = *source.changes.borrow_and_update();
            let painted = tokio::select! {
                biased;
                () = source.stop.cancelled() => Err(stopping()),
                painted = self.painted(&source.paint, first) => painted,
            };
            let (shows, last) = match painted {
                Ok((response, over, _)) => (Ok(response), over),
                Err(status) => (Err(status), true),
            };
            if last {
                // First, so that who comes now starts anew.
                self.close(target, &wall, true);
            }
            wall.newest.send_replace(Some(Arc::new(Picture { shows, last, changes })));
            if last {
                return;
            }
            first = false;
            let due = async {
                wall.seen.notified().await;
                tokio::select! {
                    // The loop has ended: the next question says so.
                    _ = source.changes.changed() => {}
                    () = sleep(BEAT) => {}
                }
                sleep(PACE).await;
            };
            tokio::select! {
                () = due => {}
                () = wall.newest.closed() => if self.close(target, &wall, false) { return },
                () = source.stop.cancelled() => {}
            }
        }
    }

    /// Has one picture made, when it is time for it. A target's first is made at once: it costs no more than to ask for it.
    async fn painted<P: Future<Output = Painted>>(&self, paint: impl Fn() -> P, first: bool) -> Painted {
        loop {
            let mut due = self.due.lock().await;
            if first || *due <= Instant::now() {
                let painted = paint().await;
                let took = painted.as_ref().map_or(Duration::ZERO, |(_, _, took)| *took);
                *due = Instant::now() + took * SHARE;
                return painted;
            }
            let at = *due;
            drop(due);
            sleep_until(at).await;
        }
    }

    /// Closes the wall of `target`, if `sure` or when nobody is there; whether it is closed.
    fn close(&self, target: Target, wall: &Wall, sure: bool) -> bool {
        let mut walls = self.walls.lock().unwrap_or_else(PoisonError::into_inner);
        let closes = sure || wall.newest.receiver_count() == 0;
        if closes {
            walls.remove(&target);
        }
        closes
    }
}

impl<F, P> Visitor<F>
where
    F: Fn() -> P + Clone + Send + Sync + 'static,
    P: Future<Output = Painted> + Send + 'static,
{
    async fn next(&mut self) -> Option<Result<v1::WatchResponse, Status>> {
        loop {
            let (newest, seen) = self.at.as_mut()?;
            if newest.changed().await.is_err() {
                // What was last there was too old.
                self.at = Some(self.gallery.enter(self.target, &self.source));
                continue;
            }
            let Some(picture) = newest.borrow_and_update().clone() else { continue };
            seen.notify_one();
            if picture.shows.is_ok() && picture.changes < self.since {
                continue;
            }
            if picture.last {
                self.at = None;
            }
            return Some(picture.shows.clone());
        }
    }
}

/// All of a run or sweep that a watcher is shown, and whether it is over.
pub(super) fn snapshot(view: &View<'_>, target: Target) -> Result<(v1::WatchResponse, bool), Refusal> {
    let cluster = view.cluster;
    let (sweep, runs) = match target {
        Target::Run(id) => (None, vec![id]),
        Target::Sweep(id) => {
            let sweep = cluster.sweeps.get(&id).ok_or_else(|| not_found("sweep"))?;
            (Some(sweep), sweep.runs.clone())
        }
    };
    let runs: Vec<_> = runs.iter().filter_map(|id| cluster.runs.get(id)).collect();
    let over = sweep.map_or_else(|| runs.iter().all(|r| r.is_over()), |s| s.end.is_some());
    let ready = || cluster.workers.values().filter(|w| w.state == WorkerState::Ready);
    let total: u32 = ready().map(|w| w.slots).sum();
    let idle: u32 = ready().map(|w| cluster.idle(w.id)).sum();
    let response = v1::WatchResponse {
        sweep: sweep.map(|s| view.sweep(s, false)),
        runs: runs.into_iter().map(|r| view.run(r, false)).collect(),
        workers_ready: ready().count() as u32,
        slots_free: idle,
        slots_total: total,
    };
    Ok((response, over))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::{FutureExt, StreamExt};
    use morph_spec::{Rng, RunId, Timestamp};

    use super::*;

    fn target(n: u64) -> Target {
        Target::Run(RunId::new(Timestamp(n), &mut Rng::keyed(n, "watch", 0)))
    }

    /// Pictures that take as long as said, counted; and what changes the state.
    fn studio(
        took: Duration,
    ) -> (Source<impl Fn() -> std::future::Ready<Painted> + Clone>, watch::Sender<u64>, Arc<AtomicUsize>) {
        let (change, changes) = watch::channel(0);
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        let paint = move || {
            let n = count.fetch_add(1, Ordering::Relaxed) as u32;
            std::future::ready(Ok((v1::WatchResponse { slots_free: n, ..Default::default() }, false, took)))
        };
        (Source { paint, changes, stop: CancellationToken::new() }, change, made)
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_watch_see_one_picture() {
        let gallery = Arc::new(Gallery::default());
        let (source, change, made) = studio(Duration::ZERO);
        let mut all: Vec<_> = (0..250).map(|_| Box::pin(gallery.watch(target(1), source.clone()))).collect();
        for n in 0..3 {
            for visitor in &mut all {
                assert_eq!(visitor.next().await.unwrap().unwrap().slots_free, n);
            }
            assert_eq!(made.load(Ordering::Relaxed), n as usize + 1);
            change.send_modify(|n| *n += 1);
        }
        // Who comes after a change sees nothing from before it.
        let late = gallery.watch(target(1), source.clone());
        assert_eq!(Box::pin(late).next().await.unwrap().unwrap().slots_free, 3);
        drop(all);
        sleep(Duration::from_secs(5)).await;
        assert!(gallery.walls.lock().unwrap().is_empty(), "nobody is there any more");
    }

    #[tokio::test(start_paused = true)]
    async fn none_is_made_before_the_last_was_seen_and_who_is_slow_sees_the_newest() {
        let gallery = Arc::new(Gallery::default());
        let (source, _change, made) = studio(Duration::ZERO);
        let mut slow = Box::pin(gallery.watch(target(1), source.clone()));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(made.load(Ordering::Relaxed), 1);
        let mut quick = Box::pin(gallery.watch(target(1), source));
        for n in 0..5 {
            assert_eq!(quick.next().await.unwrap().unwrap().slots_free, n, "by time alone");
        }
        assert_eq!(slow.next().await.unwrap().unwrap().slots_free, 4);
        assert!(slow.next().now_or_never().is_none(), "it held no others");
    }

    #[tokio::test(start_paused = true)]
    async fn all_targets_together_take_a_share_of_the_loop() {
        let gallery = Arc::new(Gallery::default());
        let took = Duration::from_millis(20);
        let (source, change, made) = studio(took);
        let since = Instant::now();
        for n in 0..40 {
            let mut visitor = Box::pin(gallery.watch(target(n), source.clone()));
            assert!(visitor.next().await.unwrap().is_ok());
            tokio::spawn(async move { while visitor.next().await.is_some() {} });
        }
        assert_eq!((made.load(Ordering::Relaxed), since.elapsed()), (40, Duration::ZERO), "the first are made at once");
        for _ in 0..100 {
            change.send_modify(|n| *n += 1);
            sleep(Duration::from_millis(100)).await;
        }
        let most = since.elapsed().as_millis() / (took * SHARE).as_millis() + 1;
        let more = made.load(Ordering::Relaxed) - 40;
        assert!((2..=most as usize).contains(&more), "{more} of {most}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_it_though_the_next_picture_is_not_due_for_long() {
        let gallery = Arc::new(Gallery::default());
        let (source, change, _) = studio(Duration::from_secs(100));
        let mut visitor = Box::pin(gallery.watch(target(1), source.clone()));
        assert!(visitor.next().await.unwrap().is_ok());
        change.send_modify(|n| *n += 1);
        sleep(Duration::from_secs(5)).await;
        let since = Instant::now();
        source.stop.cancel();
        assert!(visitor.next().await.unwrap().is_err() && since.elapsed() < Duration::from_millis(10));
        assert!(visitor.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_picture_ends_it_and_who_comes_then_starts_anew() {
        let gallery = Arc::new(Gallery::default());
        let (source, _change, made) = studio(Duration::ZERO);
        let paint = source.paint.clone();
        let over = Source {
            paint: move || paint().map(|painted| painted.map(|(response, _, took)| (response, true, took))),
            changes: source.changes,
            stop: source.stop,
        };
        for n in 0..2 {
            let all: Vec<_> = Box::pin(gallery.watch(target(1), over.clone())).collect().await;
            assert_eq!((all.len(), all[0].as_ref().unwrap().slots_free), (1, n));
        }
        assert_eq!(made.load(Ordering::Relaxed), 2);
    }
}
