//! Which queued run goes where, which must make room, and for what the others wait. The same walk decides and explains, so
//! that the reason shown is the true one.
//!
//! Order: higher priority first, raised with waiting so that nothing starves; then the project that has the smallest part
//! of the cluster for its weight; then the older run. The first that does not fit just now is *first in line*:
//!
//! - It takes the slots of preemptible runs of lower priority, fewest and youngest first, if it then fits. They save a
//!   checkpoint, stop, and are queued again: no work is lost.
//! - Preemptible runs behind it may fill the gaps that it leaves, until it can start: then they make room again, too.
//!   Others wait behind it, or narrow runs could keep a wide one waiting for ever.
//!   What they hold does not count against the runs of their project that they make room for, and none is let in that would use up
//!   what its project or sweep may have and the first in line needs: else it would no longer be first, and the two would take turns.
//! - Who may go to none of the workers that it may go to does not stand behind it (`scheduling.nodes`), and may be first in a line
//!   of its own.
//! - One that could not even start on an empty cluster holds back nobody.

mod preempt;
mod reason;
mod room;

use std::{cmp::Reverse, collections::BTreeMap, iter::Peekable};

use morph_spec::{RunId, SweepId, Timestamp, WorkerId};

use crate::{
    Cluster, Run, RunState,
    index::{Line, Usage, line},
    placement::{Node, place},
    sabotage::{Mechanism, is_broken},
};
use room::{Demand, Rooms};

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Start a run.
    Place {
        /// Which.
        run: RunId,
        /// Workers by rank.
        ranks: Vec<WorkerId>,
        /// Slots of the workers, by rank.
        devices: Vec<u32>,
        /// Whether it fills a gap.
        backfill: bool,
        /// By how much waiting has raised its priority.
        raised: u64,
    },
    /// Have a run save, stop, and wait again.
    Stop {
        /// Which.
        run: RunId,
        /// For people.
        reason: String,
    },
}

/// What there is to do just now, in order.
pub fn plan(cluster: &Cluster, now: Timestamp) -> Vec<Step> {
    if cluster.draining.is_some() || cluster.index.queued.is_empty() {
        return Vec::new();
    }
    let mut walk = Walk::new(cluster, now, None);
    walk.go();
    walk.steps
}

/// Why each queued run waits: one line for people.
pub fn reasons(cluster: &Cluster, now: Timestamp) -> BTreeMap<RunId, String> {
    let mut reasons = Reasons::new(cluster, now);
    let queued = cluster.index.queued.values().flatten().filter_map(|(_, id)| cluster.runs.get(id));
    queued.map(|run| (run.id, reasons.of(run))).collect()
}

/// Why queued runs wait, found out for those that are asked for: the walk goes as far as anything can be placed, and who
/// stands behind that is looked at alone. A queue may be long.
#[derive(Debug)]
pub struct Reasons<'a>(Walk<'a>);

impl<'a> Reasons<'a> {
    /// Of `cluster` as it is at `now`.
    pub fn new(cluster: &'a Cluster, now: Timestamp) -> Self {
        let mut walk = Walk::new(cluster, now, Some(BTreeMap::new()));
        walk.go();
        Self(walk)
    }

    /// Why `run` waits: one line for people.
    pub fn of(&mut self, run: &'a Run) -> String {
        let walk = &mut self.0;
        if let Some(known) = walk.reasons.as_ref().and_then(|r| r.get(&run.id)) {
            return known.clone();
        }
        if let Some(why) = walk.ended.get(&line(&walk.cluster.policy, run)) {
            return why.clone();
        }
        match walk.consider(run) {
            Verdict::Wait(why) | Verdict::AllWait(why) => why,
            Verdict::Place { .. } => "about to be placed".into(),
        }
    }
}

/// What a run gets.
enum Verdict {
    Place {
        ranks: Vec<WorkerId>,
        devices: Vec<u32>,
        backfill: bool,
    },
    Wait(String),
    /// And so do all behind it in its line.
    AllWait(String),
}

/// A run that all others wait behind that could take its place.
#[derive(Debug, Clone, Copy)]
struct First<'a> {
    run: &'a Run,
    /// Room is being made for it: nobody gets in between.
    imminent: bool,
}

impl First<'_> {
    /// Whether it may go anywhere: then all wait behind it.
    fn is_everywhere(&self) -> bool {
        self.run.experiment.scheduling.nodes.is_empty()
    }
}

/// A run in a gap.
#[derive(Debug, Clone, Copy)]
struct Filler {
    seq: u64,
    priority: i32,
    /// Thousandths.
    slots: u64,
}

/// What decides how many ranks of a run a cluster could ever hold.
type Kind<'a> = (u32, u64, &'a Labels);

/// What a worker must have to be asked.
type Labels = BTreeMap<String, String>;

#[derive(Debug)]
struct Walk<'a> {
    cluster: &'a Cluster,
    now: Timestamp,
    rooms: Rooms<'a>,
    projects: BTreeMap<&'a str, Usage>,
    /// By project.
    fillers: BTreeMap<&'a str, Vec<Filler>>,
    /// Live runs by sweep.
    sweeps: BTreeMap<SweepId, u32>,
    /// Those that are first in line; no two could go to the same worker.
    firsts: Vec<First<'a>>,
    /// Runs tried behind one that is first in line.
    tried: usize,
    /// Whether there are workers that have both.
    common: BTreeMap<(&'a Labels, &'a Labels), bool>,
    /// Lines of which nobody can be placed, and why.
    ended: BTreeMap<Line, String>,
    /// Ranks that fit on the empty cluster.
    capacities: BTreeMap<Kind<'a>, u32>,
    steps: Vec<Step>,
    /// Only when they are asked for: deciding needs no words.
    reasons: Option<BTreeMap<RunId, String>>,
}

type Waiting<'a> = Peekable<std::collections::btree_set::Iter<'a, (u64, RunId)>>;

impl<'a> Walk<'a> {
    fn new(cluster: &'a Cluster, now: Timestamp, reasons: Option<BTreeMap<RunId, String>>) -> Self {
        let mut walk = Self {
            cluster,
            now,
            rooms: Rooms::new(cluster, cluster.workers.values().filter(|w| w.serves())),
            projects: cluster.index.projects.iter().map(|(name, usage)| (name.as_str(), *usage)).collect(),
            fillers: BTreeMap::new(),
            sweeps: cluster.index.sweeps.iter().map(|(id, usage)| (*id, usage.runs)).collect(),
            firsts: Vec::new(),
            tried: 0,
            common: BTreeMap::new(),
            ended: BTreeMap::new(),
            capacities: BTreeMap::new(),
            steps: Vec::new(),
            reasons,
        };
        for run in cluster.index.fillers.iter().filter_map(|id| cluster.runs.get(id)) {
            walk.fills(run, run.attempt().map_or(0, |a| a.ranks.len()));
        }
        walk
    }

    /// Takes note of a run in a gap.
    fn fills(&mut self, run: &'a Run, ranks: usize) {
        let filler =
            Filler { seq: run.seq, priority: self.cluster.priority(run), slots: ranks as u64 * u64::from(run.share()) };
        self.fillers.entry(run.experiment.scheduling.project.as_str()).or_default().push(filler);
    }

    fn go(&mut self) {
        let mut lines: Vec<(&Line, Waiting<'a>)> =
            self.cluster.index.queued.iter().map(|(line, runs)| (line, runs.iter().peekable())).collect();
        while let Some(i) = self.next(&mut lines) {
            if self.is_done() {
                return;
            }
            let Some(run) = lines[i].1.next().and_then(|(_, id)| self.cluster.runs.get(id)) else { continue };
            match self.consider(run) {
                Verdict::Place { ranks, devices, backfill } => {
                    self.settle(run, ranks.len());
                    if backfill {
                        self.fills(run, ranks.len());
                    }
                    self.say(run.id, "about to be placed");
                    let raised = self.raised(run.id);
                    self.steps.push(Step::Place { run: run.id, ranks, devices, backfill, raised });
                }
                Verdict::Wait(why) => self.say(run.id, &why),
                Verdict::AllWait(why) => {
                    self.say(run.id, &why);
                    let (line, _) = lines.swap_remove(i);
                    if self.reasons.is_some() {
                        self.ended.insert(line.clone(), why);
                    }
                }
            }
        }
    }

    fn say(&mut self, run: RunId, why: &str) {
        if let Some(reasons) = &mut self.reasons {
            reasons.insert(run, why.to_owned());
        }
    }

    /// Whether nothing more can be placed.
    fn is_done(&self) -> bool {
        let everywhere = || self.firsts.iter().filter(|f| f.is_everywhere());
        everywhere().any(|f| f.imminent)
            || everywhere().next().is_some() && self.rooms.are_full()
            || !self.firsts.is_empty() && self.tried >= self.cluster.policy.backfill
    }

    /// Who is first in the line that `run` stands in.
    fn ahead(&mut self, run: &'a Run) -> Option<First<'a>> {
        let own = &run.experiment.scheduling.nodes;
        let Self { firsts, common, rooms, .. } = self;
        let shares = |f: &&First<'a>| {
            let others = &f.run.experiment.scheduling.nodes;
            *common.entry((others, own)).or_insert_with(|| rooms.suit_both(others, own))
        };
        firsts.iter().find(shares).copied()
    }

    /// Ranks like those of `run` that fit on the empty cluster.
    fn capacity(&mut self, run: &'a Run, demand: &Demand<'a>) -> u32 {
        let scheduling = &run.experiment.scheduling;
        let kind = (run.share(), scheduling.memory.0, &scheduling.nodes);
        *self.capacities.entry(kind).or_insert_with(|| self.rooms.hold(demand))
    }

    /// The line whose first run is next.
    fn next(&self, lines: &mut Vec<(&'a Line, Waiting<'a>)>) -> Option<usize> {
        lines.retain_mut(|(_, runs)| runs.peek().is_some());
        let key = |(line, runs): &mut (&'a Line, Waiting<'a>)| {
            let (seq, id) = runs.peek()?;
            let priority = i64::from(line.priority).saturating_add_unsigned(self.raised(*id));
            let made_room = self.fillers.get(line.project.as_str()).into_iter().flatten();
            let made_room = made_room.filter(|f| f.seq > *seq && f.priority <= line.priority).map(|f| f.slots).sum();
            Some((Reverse(priority), self.part(&line.project, made_room), *seq))
        };
        (0..lines.len()).filter_map(|i| Some((key(&mut lines[i])?, i))).min().map(|(_, i)| i)
    }

    /// The part of the cluster that `project` has for its weight, but for so many thousandths of slots.
    fn part(&self, project: &str, without: u64) -> u64 {
        let weight = u64::from(self.cluster.project(project).unwrap_or_default().weight.max(1));
        let has = self.projects.get(project).map_or(0, |u| u.slots);
        has.saturating_sub(without) * 1000 / weight
    }

    /// Whether `first`, the older one, would go before `other` if that were stopped and waited: else `other` would be let in again, and
    /// so on for ever.
    fn goes_before(&self, first: &Run, other: &Run) -> bool {
        let priority = |run: &Run| i64::from(self.cluster.priority(run));
        let own = priority(first).saturating_add_unsigned(self.raised(first.id));
        let (mine, others) = (&first.experiment.scheduling.project, &other.experiment.scheduling.project);
        let slots = other.attempt().map_or(0, |a| a.ranks.len() as u64) * u64::from(other.share());
        let part = |project| self.part(project, if project == others { slots } else { 0 });
        own > priority(other) || own == priority(other) && part(mine) <= part(others)
    }

    /// By how much waiting raises a run's priority.
    fn raised(&self, run: RunId) -> u64 {
        let aging = self.cluster.policy.aging.as_micros();
        match self.cluster.runs.get(&run).map(|r| &r.state) {
            Some(RunState::Queued { since, .. }) if aging > 0 => (self.now.since(*since).as_micros() / aging) as u64,
            _ => 0,
        }
    }

    /// Takes note of a placement.
    fn settle(&mut self, run: &'a Run, ranks: usize) {
        let usage = self.projects.entry(run.experiment.scheduling.project.as_str()).or_default();
        usage.slots += ranks as u64 * u64::from(run.share());
        usage.runs += 1;
        if let Some(sweep) = run.sweep {
            *self.sweeps.entry(sweep).or_default() += 1;
        }
    }

    fn consider(&mut self, run: &'a Run) -> Verdict {
        if let Some(verdict) = self.not_yet(run) {
            return verdict;
        }
        let mut most = match self.allowed(run) {
            Ok(most) => most,
            Err(verdict) => return verdict,
        };
        let (mut least, demand) = (run.least_width(), Demand::of(run));
        if is_broken(Mechanism::WholeGangs) {
            least = 1;
        }
        let slots = self.capacity(run, &demand);
        if slots < least {
            return Verdict::Wait(reason::too_wide(self.cluster, run, &self.rooms, slots));
        }
        let behind = self.ahead(run);
        if let Some(First { run: first, imminent }) = behind {
            self.tried += 1;
            most = most.min(self.beside(run, first));
            let fills = run.experiment.scheduling.preemptible && most >= least;
            if imminent || !fills || self.tried > self.cluster.policy.backfill {
                return Verdict::Wait(reason::behind(run, first));
            }
        }
        let nodes: Vec<Node> = self.rooms.nodes(&demand);
        let free: u32 = nodes.iter().map(|n| n.free).sum();
        if let Ok(chosen) = place(&nodes, most.min(free).max(least)) {
            let (ranks, devices) = self.rooms.take(&demand, &chosen);
            return Verdict::Place { ranks, devices, backfill: behind.is_some() };
        }
        if let Some(First { run: first, .. }) = behind {
            return Verdict::Wait(reason::behind(run, first));
        }
        let victims = preempt::victims(self.cluster, &self.rooms, run, &demand, |other| self.goes_before(run, other));
        self.firsts.push(First { run, imminent: victims.is_some() });
        match victims {
            Some(victims) => {
                let stop = |victim: &Run| {
                    let reason = format!("makes room for {}, which goes first", reason::named(run, victim));
                    Step::Stop { run: victim.id, reason }
                };
                self.steps.extend(victims.iter().filter_map(|id| self.cluster.runs.get(id)).map(stop));
                Verdict::Wait(reason::making_room(self.cluster, run, &victims))
            }
            None => Verdict::Wait(reason::short(run, free, slots, nodes.iter().filter(|n| n.slots > 0).count())),
        }
    }

    /// What has nothing to do with room.
    fn not_yet(&self, run: &Run) -> Option<Verdict> {
        let RunState::Queued { not_before, .. } = run.state else { return Some(Verdict::Wait(String::new())) };
        if let Some(why) = &self.cluster.draining {
            return Some(Verdict::AllWait(format!("waits for the coordinator, which is stopping: {why}")));
        }
        if not_before > self.now {
            return Some(Verdict::Wait(reason::again(run, not_before, self.now)));
        }
        if let Some(why) = reason::unmet(self.cluster, run) {
            return Some(Verdict::Wait(why));
        }
        let limit = run.sweep.and_then(|s| self.cluster.sweeps.get(&s)).map_or(0, |s| s.spec.max_parallel);
        let running = run.sweep.and_then(|s| self.sweeps.get(&s).copied()).unwrap_or(0);
        if limit > 0 && running >= limit {
            let why = format!("waits for its turn: its sweep runs at most {limit} at a time");
            return Some(Verdict::AllWait(why));
        }
        if self.rooms.is_empty() {
            return Some(Verdict::AllWait(reason::nobody(self.cluster)));
        }
        None
    }

    /// How many ranks `run` can have and leave `first` what their project and their sweep let it have.
    fn beside(&self, run: &Run, first: &Run) -> u32 {
        let limit = run.sweep.and_then(|s| self.cluster.sweeps.get(&s)).map_or(0, |s| s.spec.max_parallel);
        let running = run.sweep.and_then(|s| self.sweeps.get(&s).copied()).unwrap_or(0);
        if limit > 0 && run.sweep == first.sweep && running + 2 > limit {
            return 0;
        }
        let name = &run.experiment.scheduling.project;
        let project = self.cluster.project(name).filter(|_| *name == first.experiment.scheduling.project);
        let Some(project) = project else { return u32::MAX };
        let has = self.projects.get(name.as_str()).copied().unwrap_or_default();
        if project.runs.is_some_and(|most| has.runs + 2 > most) {
            return 0;
        }
        let Some(quota) = project.slots else { return u32::MAX };
        let kept = u64::from(first.least_width()) * u64::from(first.share());
        u32::try_from(quota.saturating_sub(has.slots + kept) / u64::from(run.share())).unwrap_or(u32::MAX)
    }

    /// How many ranks the run's project lets it have.
    fn allowed(&self, run: &Run) -> Result<u32, Verdict> {
        let name = &run.experiment.scheduling.project;
        let Some(project) = self.cluster.project(name) else {
            return Err(Verdict::AllWait(format!("project {name} is not one of this cluster's projects any more")));
        };
        let has = self.projects.get(name.as_str()).copied().unwrap_or_default();
        if let Some(most) = project.runs.filter(|most| has.runs >= *most) {
            return Err(Verdict::AllWait(format!("waits for its project {name}, which has its {most} runs already")));
        }
        let Some(quota) = project.slots else { return Ok(run.width()) };
        let left = quota.saturating_sub(has.slots) / u64::from(run.share());
        let most = run.width().min(u32::try_from(left).unwrap_or(u32::MAX));
        if most < run.least_width() {
            let slots = |thousandths: u64| thousandths as f64 / 1000.0;
            let why =
                format!("waits for its project {name}, which has {} of its {} slots", slots(has.slots), slots(quota));
            // When all of it is taken, nobody of the project gets anything.
            return Err(if has.slots >= quota { Verdict::AllWait(why) } else { Verdict::Wait(why) });
        }
        Ok(most)
    }
}
