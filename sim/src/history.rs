//! Whole histories, recorded for good: the events of some lives, and the state that they fold to. Those of every release must
//! fold to the same for ever.

use std::collections::{BTreeMap, BTreeSet};

use morph_control::{Cluster, Event, Policy, evolve, goodput::Ledger};
use morph_spec::RunId;
use serde_json::{Value, json};

use crate::Life;

/// `events`, a line each, as databases have them.
pub fn lines(events: &[Event]) -> String {
    let line = |e| serde_json::to_string(e).expect("invariant: events are plain values") + "\n";
    events.iter().map(line).collect()
}

/// What `events` fold to: each piece of the state, and of each run where its time went.
pub fn state(events: &[Event]) -> Vec<Value> {
    let mut cluster = Cluster::new(Policy::default());
    let mut ledgers: BTreeMap<RunId, Ledger> = BTreeMap::new();
    for event in events {
        evolve(&mut cluster, event);
        if let Some(run) = event.run() {
            ledgers.entry(run).or_default().take(event);
        }
    }
    let plain = |value: serde_json::Result<Value>| value.expect("invariant: states are plain values with text keys");
    let pieces = cluster.pieces().map(|piece| plain(serde_json::to_value(piece)));
    let ledgers = ledgers.iter().map(|(run, ledger)| json!({"ledger": {"run": run, "of": ledger}}));
    pieces.chain(ledgers).collect()
}

/// Of `lives` a few that together come by every kind of event that any of them does, those first that bring the most for their
/// length.
pub fn chosen(mut lives: Vec<Life>) -> Vec<Life> {
    let kinds = |life: &Life| life.events.iter().map(Event::kind).collect::<BTreeSet<_>>();
    let mut missing: BTreeSet<&str> = lives.iter().flat_map(kinds).collect();
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let worth = |life: &Life| {
            let new = kinds(life).intersection(&missing).count() as f64;
            new.powi(4) / lines(&life.events).len() as f64
        };
        let all = 0..lives.len();
        let Some(best) = all.max_by(|a, b| worth(&lives[*a]).total_cmp(&worth(&lives[*b]))) else { break };
        let best = lives.swap_remove(best);
        missing = missing.difference(&kinds(&best)).copied().collect();
        chosen.push(best);
    }
    chosen
}
