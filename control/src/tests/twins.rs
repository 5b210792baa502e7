//! Agents with one id, started from copies of one home.

use super::*;

/// An agent of worker 1: `process` speaks as `incarnation`.
fn hello(incarnation: &str, process: &str) -> Hello {
    let (worker, slots) = (worker(1), 2);
    let (incarnation, process) = (incarnation.to_owned(), process.to_owned());
    let (host, version) = (process.clone(), "0.1.0".to_owned());
    let (live, cached, labels, memory) = (Vec::new(), BTreeSet::new(), BTreeMap::new(), 0);
    let before = Vec::new();
    Hello {
        worker,
        incarnation,
        process,
        before,
        host,
        slots,
        version,
        live,
        cached,
        labels,
        memory,
        certificate: String::new(),
    }
}

/// It joins.
fn join(w: &mut World, incarnation: &str, process: &str) -> Result<Vec<Effect>, Refusal> {
    w.tell(Command::Hello(Box::new(hello(incarnation, process))))
}

fn is_turned_away(answer: &Result<Vec<Effect>, Refusal>) -> bool {
    matches!(answer, Err(Refusal::Replaced(why)) if why.contains("--home of its own"))
}

#[test]
fn who_was_replaced_is_turned_away() {
    let mut w = World::new();
    join(&mut w, "a", "a").unwrap();
    let run = w.run("k", 2);
    join(&mut w, "b", "b").unwrap();
    assert!(matches!(w.state(run), RunState::Queued { .. }), "its ranks count as lost: {:?}", w.state(run));
    assert!(is_turned_away(&join(&mut w, "a", "a")));
    join(&mut w, "b", "b").expect("the same, back from a broken connection");
    assert!(is_turned_away(&join(&mut w, "a", "c")), "nor is what the first left behind heard any more");
}

#[test]
fn of_two_processes_that_speak_as_one_incarnation_the_newer_is_heard() {
    let mut w = World::new();
    join(&mut w, "a", "a").unwrap();
    let run = w.run("k", 2);
    // The home was copied with its journal: the copy tells first what the journal says.
    join(&mut w, "a", "copy").unwrap();
    assert!(w.cluster.runs[&run].attempt().is_some(), "what the journal has of its ranks may still come");
    assert!(is_turned_away(&join(&mut w, "a", "a")), "or what it says would be taken for said already");
    join(&mut w, "a", "copy").expect("the same, back from a broken connection");
    join(&mut w, "b", "copy").expect("it has told all, and begins anew");
    assert!(is_turned_away(&join(&mut w, "a", "a")));
}

#[test]
fn agents_that_do_not_name_their_process_are_told_apart_by_incarnation() {
    let mut w = World::new();
    join(&mut w, "a", "").unwrap();
    join(&mut w, "a", "").unwrap();
    join(&mut w, "b", "").unwrap();
    assert!(is_turned_away(&join(&mut w, "a", "")));
}

#[test]
fn what_a_copy_was_acknowledged_is_not_the_originals() {
    let mut w = World::new();
    let after = |process: &str, before: &[&str]| {
        let before = before.iter().map(|p| (*p).to_owned()).collect();
        Hello { before, ..hello("a", process) }
    };
    assert!(!w.cluster.acknowledges(&after("a", &[])), "who is not known, or was forgotten, says all of it again");
    join(&mut w, "a", "a").unwrap();
    assert!(w.cluster.acknowledges(&after("a", &[])), "the same process");
    assert!(w.cluster.acknowledges(&after("next", &["a"])), "it goes on with that one's journal");
    assert!(w.cluster.acknowledges(&after("third", &["a", "next"])), "whether or not the second was ever here");
    join(&mut w, "a", "copy").unwrap();
    assert!(!w.cluster.acknowledges(&after("next", &["a"])), "the copy has numbered what it said by itself");
    assert!(w.cluster.acknowledges(&after("of-copy", &["a", "copy"])));
    assert!(w.cluster.acknowledges(&hello("b", "b")), "nothing was acknowledged to that incarnation");
    assert!(w.cluster.acknowledges(&hello("a", "")), "agents of 0.1.0 do not say");
}

#[test]
fn a_worker_belongs_to_the_certificate_that_it_joined_with() {
    let mut w = World::new();
    let as_of = |incarnation: &str, certificate: &str| {
        Command::Hello(Box::new(Hello { certificate: certificate.into(), ..hello(incarnation, incarnation) }))
    };
    w.tell(as_of("a", "")).expect("the coordinator had no TLS yet");
    w.tell(as_of("b", "node-7")).expect("whoever has a certificate first");
    let run = w.run("k", 2);
    for incarnation in ["b", "c"] {
        let answer = w.tell(as_of(incarnation, "node-9"));
        let named = |why: &str| why.contains("\"node-7\"") && why.contains("\"node-9\"") && why.contains("--home");
        assert!(matches!(&answer, Err(Refusal::Forbidden(why)) if named(why)), "{answer:?}");
    }
    assert!(w.cluster.runs[&run].attempt().is_some(), "and what runs there is none of its business");
    w.tell(as_of("b", "node-7")).expect("the same, with a new certificate of that name");
    w.tell(as_of("d", "")).expect("the coordinator has no TLS any more");
    assert!(w.tell(as_of("e", "node-9")).is_err(), "whose it is is not forgotten by that");
    assert!(w.tell(as_of("e", "node-7")).is_ok());
}
