//! Runs go where their dataset is.

use super::*;

impl World {
    /// Worker `n`, with one slot, introduces itself with `cached` in its cache.
    fn holds(&mut self, n: u64, cached: &[Digest]) {
        let hello = Hello { cached: cached.iter().copied().collect(), ..introduction(n, 1, "a") };
        self.tell(Command::Hello(Box::new(hello))).unwrap();
    }

    fn placed_on(&self, run: RunId) -> WorkerId {
        self.cluster.attempt(self.fence(run)).unwrap().ranks[0].worker
    }

    fn ready(&mut self, run: RunId, cached: &[Digest]) -> usize {
        let before = self.log.len();
        let cached = cached.iter().copied().collect();
        self.say(self.fence(run), 0, Report::RankReady { rank: 0, step: 0, total_steps: 100, cached });
        let news = self.log[before..]
            .iter()
            .filter(|e| matches!(&e.what, What::RankReady { cached, .. } if !cached.is_empty()));
        news.count()
    }
}

#[test]
fn a_run_goes_where_its_dataset_is_now_and_not_where_it_once_was() {
    for [has, lacks] in [[1, 2], [2, 1]] {
        let mut w = World::new();
        w.holds(has, &[dataset()]);
        w.holds(lacks, &[]);
        let first = w.run("first", 1);
        assert_eq!(w.placed_on(first), worker(has));
        w.train(first);
        w.finish(first, 0.7);

        // Another dataset had to make room there, by other hands: the agents say so when they come back.
        w.holds(has, &[]);
        w.holds(lacks, &[dataset()]);
        let second = w.run("second", 1);
        assert_eq!(w.placed_on(second), worker(lacks), "an agent knows what it holds");
    }
}

#[test]
fn a_dataset_that_had_to_go_for_another_is_known_to_be_gone() {
    let other = Digest::of(b"another");
    for [has, lacks] in [[1, 2], [2, 1]] {
        let mut w = World::new();
        w.holds(has, &[dataset()]);
        let first = w.run("first", 1);
        assert_eq!(w.ready(first, &[dataset()]), 0, "nothing new");
        w.finish(first, 0.7);
        assert_eq!(w.cluster.workers[&worker(has)].cached, [dataset()].into());

        let url = "file:///data/another";
        let manifest = Box::new(manifest());
        w.tell(Command::RegisterDataset { url: url.into(), digest: other, manifest }).unwrap();
        let mut experiment = Box::new(experiment(1));
        experiment.dataset.url = url.into();
        w.tell(Command::SubmitRun { key: "other".into(), name: String::new(), experiment, dataset: other }).unwrap();
        let crate::Submission::Run(second) = w.cluster.keys["other"] else { panic!("a run was submitted") };
        assert_eq!(w.ready(second, &[other]), 1);
        assert_eq!(w.cluster.workers[&worker(has)].cached, [other].into());
        w.finish(second, 0.7);

        w.holds(lacks, &[dataset()]);
        let third = w.run("third", 1);
        assert_eq!(w.placed_on(third), worker(lacks));
        // Agents that say nothing of their cache have at least what their ranks opened.
        w.ready(third, &[]);
        assert!(w.cluster.workers[&worker(lacks)].cached.contains(&dataset()));
    }
}
