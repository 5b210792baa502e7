//! Who fills a gap must not change who is first in line: else it is let in and stopped for ever.

use super::*;
use crate::Project;

/// Two workers' worth of projects, a worker with `slots`, and `busy` runs of project `z` on it that stay.
fn busy(projects: [(&str, Project); 2], slots: u32, busy: u32) -> World {
    let mut w = World::new();
    w.cluster.policy.projects = projects.map(|(name, project)| (name.to_owned(), project)).into();
    w.worker(1, slots);
    for n in 0..busy {
        let run = w.scheduled(&format!("busy{n}"), 1, json!({"project": "z", "preemptible": false, "priority": 1}));
        w.train(run);
    }
    w
}

/// Attempts that were begun so far.
fn placements(w: &World) -> usize {
    w.log.iter().filter(|e| matches!(e.what, What::RunPlaced { .. })).count()
}

#[test]
fn none_is_let_in_that_takes_the_quota_which_the_first_in_line_needs() {
    // Found by the simulator, seed 600098331.
    let quota = Project { slots: Some(3000), ..Project::default() };
    let mut w = busy([("x", quota), ("z", Project::default())], 3, 2);
    let wide = w.scheduled("wide", 3, json!({"project": "x", "priority": 1}));
    let other = w.scheduled("other", 1, json!({"project": "z", "priority": 1, "preemptible": false}));
    let small = w.scheduled("small", 1, json!({"project": "x", "slot_share": 0.5}));
    w.pass(10_000);
    assert!([wide, other, small].iter().all(|run| !w.is_live(*run)), "{:?}", w.log.last());
    assert_eq!(placements(&w), 2);
    assert_eq!(w.reason(small), "waits behind wide for 0.5 of 1 slot");
    // Nobody else's quota is in the way of another project's.
    let stranger = w.scheduled("stranger", 1, json!({"project": "z", "slot_share": 0.5}));
    assert!(w.is_live(stranger) && w.stop_of(stranger).is_none());
}

#[test]
fn nor_what_its_sweep_may_run_at_a_time() {
    let mut w = busy([("x", Project::default()), ("z", Project::default())], 3, 2);
    let mut spec = sweep(json!({"trainer.world_size": {"values": [3, 1]}}));
    spec.max_parallel = 1;
    spec.experiment.iter_mut().for_each(|e| e.scheduling.project = "x".into());
    let datasets = [(URL.to_owned(), dataset())].into();
    w.tell(Command::SubmitSweep { key: "s".into(), sweep: Box::new(spec), datasets }).unwrap();
    w.pass(10_000);
    assert_eq!(placements(&w), 2, "the narrow one would keep the wide one waiting");
}

#[test]
fn what_a_gap_holds_does_not_count_against_the_first_of_its_project() {
    let heavy = Project { weight: 4, ..Project::default() };
    let mut w = busy([("x", Project::default()), ("z", heavy)], 3, 2);
    let older = w.scheduled("older", 2, json!({"project": "z", "preemptible": false}));
    let wide = w.scheduled("wide", 3, json!({"project": "x"}));
    let filler = w.scheduled("filler", 1, json!({"project": "x"}));
    w.pass(10_000);
    assert!(w.is_live(filler) && w.stop_of(filler).is_none(), "{:?}", w.log.last());
    assert!(!w.is_live(older) && !w.is_live(wide));
    assert_eq!(placements(&w), 3);
}
