//! Agents, their ranks and the coordinator, when what lies between them fails.

use std::path::Path;

use turmoil::{hold, partition, partition_oneway, release, repair, repair_oneway};

use super::{peer::Peer, *};

/// The agent's machine.
const NODE: &str = "node";
/// The longest that a connection which is silent may go unnoticed: a question after 5 s, 5 s for the answer; and a moment.
const NOTICED: Duration = Duration::from_secs(11);

fn start(sim: &mut Sim<'_>, machine: &str, peer: &Peer) {
    let peer = peer.clone();
    sim.host(machine, move || peer.clone().serve());
}

/// Submits a run of so many steps, and waits until it trains.
async fn train(home: &Path, steps: u32) {
    persistently(async || people().submit_run(order(home, "x", steps)).await).await;
    wait_for("x", "running", |r| r.state() == v1::RunState::Running).await;
}

#[test]
fn what_is_cut_off_trains_on_and_tells_everything_once() {
    for seed in 0..3 {
        let home = tempfile::tempdir().unwrap();
        let mut sim = network(seed, home.path(), SOON);
        let peer = Peer::new(1, "a");
        start(&mut sim, NODE, &peer);
        let path = home.path().to_owned();
        sim.client(DESK, async move {
            train(&path, 600).await;
            // Each cut loses what is under way; what the ends of a connection make of it, keep-alive shows.
            for (down, up) in [(1, 14), (9, 13), (3, 1), (2, 8)] {
                partition(HEAD, NODE);
                let before = peer.seen().step;
                sleep(Duration::from_secs(down)).await;
                assert!(peer.seen().step > before, "it trains on");
                repair(HEAD, NODE);
                sleep(Duration::from_secs(up)).await;
            }
            let run = succeeded("x").await;
            assert_eq!(run.attempt, 1, "nobody took it for lost: {run:#?}");
            is_whole("x", 600).await;
            let seen = peer.seen();
            assert_eq!(seen.started.len(), 1);
            assert!(seen.ups >= 3, "it was cut off: {seen:?}");
            Ok(())
        });
        sim.run().unwrap();
    }
}

#[test]
fn messages_that_are_held_up_are_late_and_nothing_else() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(1, home.path(), SOON);
    let peer = Peer::new(1, "a");
    start(&mut sim, NODE, &peer);
    let path = home.path().to_owned();
    sim.client(DESK, async move {
        train(&path, 200).await;
        for seconds in [1, 4, 2, 4] {
            hold(HEAD, NODE);
            sleep(Duration::from_secs(seconds)).await;
            release(HEAD, NODE);
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(succeeded("x").await.attempt, 1);
        is_whole("x", 200).await;
        assert_eq!(peer.seen().ups, 1, "shorter than keep-alive's patience");
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_slow_link_is_only_slow() {
    let home = tempfile::tempdir().unwrap();
    // Up to 1.2 s a way.
    let mut sim = network(2, home.path(), Duration::from_millis(300));
    let peer = Peer::new(1, "a");
    start(&mut sim, NODE, &peer);
    let path = home.path().to_owned();
    sim.client(DESK, async move {
        let mut client = people();
        client.submit_run(order(&path, "x", 60)).await?;
        let mut watch = client.watch(v1::WatchRequest { id: "x".into() }).await?.into_inner();
        let mut last = None;
        while let Some(snapshot) = watch.message().await? {
            last = snapshot.runs.into_iter().next();
        }
        let last = last.expect("a snapshot");
        assert_eq!((last.state(), last.attempt), (v1::RunState::Succeeded, 1), "{last:#?}");
        assert_eq!(peer.seen().ups, 1);
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn an_agent_that_is_not_heard_is_lost_and_begins_anew() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(3, home.path(), SOON);
    let peer = Peer::new(1, "a");
    start(&mut sim, NODE, &peer);
    let path = home.path().to_owned();
    sim.client(DESK, async move {
        train(&path, 400).await;
        let since = Instant::now();
        partition_oneway(NODE, HEAD);
        wait_for("x", "given up where it was", |r| r.state() == v1::RunState::Queued).await;
        let lost = since.elapsed();
        assert!(lost >= GRACE && lost < GRACE + NOTICED, "after {lost:?}");
        let noticed = peer.seen().downs.first().map(|at| *at - since);
        assert!(noticed.is_some_and(|after| after < NOTICED), "the agent noticed after {noticed:?}");
        let before = peer.seen().step;
        sleep(Duration::from_secs(1)).await;
        assert!(peer.seen().step > before, "nobody could tell its rank to stop");
        repair_oneway(NODE, HEAD);
        let run = succeeded("x").await;
        assert_eq!(run.attempt, 2, "{run:#?}");
        is_whole("x", 400).await;
        assert_eq!(peer.seen().started.len(), 2);
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn an_agent_that_hears_nothing_notices_and_says_it_all_again() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(4, home.path(), SOON);
    let peer = Peer::new(1, "a");
    start(&mut sim, NODE, &peer);
    let path = home.path().to_owned();
    sim.client(DESK, async move {
        train(&path, 500).await;
        let since = Instant::now();
        // Connections can still be opened (so it is in this network), and what is said is heard; nothing comes back.
        partition_oneway(HEAD, NODE);
        sleep(Duration::from_secs(30)).await;
        let noticed: Vec<_> = peer.seen().downs.iter().map(|at| *at - since).collect();
        assert!(noticed[0] < NOTICED && noticed.len() >= 2, "the agent noticed after {noticed:?}");
        repair_oneway(HEAD, NODE);
        let run = succeeded("x").await;
        assert_eq!((run.attempt, peer.seen().started.len()), (1, 1), "it was heard all the time: {run:#?}");
        is_whole("x", 500).await;
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_coordinator_that_dies_is_waited_for() {
    for silently in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let mut sim = network(5, home.path(), SOON);
        let peer = Peer::new(1, "a");
        start(&mut sim, NODE, &peer);
        let (path, power) = (home.path().to_owned(), Power::default());
        let switch = power.clone();
        sim.client(DESK, async move {
            train(&path, 500).await;
            if silently {
                // The machine is gone: nobody is there to reset its connections.
                partition(HEAD, NODE);
            }
            switch.off();
            let before = peer.seen().step;
            sleep(Duration::from_secs(20)).await;
            assert!(peer.seen().step > before + 150, "nothing stalls: {} after {before}", peer.seen().step);
            let noticed = peer.seen().downs.len();
            assert!(noticed > 0, "its link is down");
            repair(HEAD, NODE);
            switch.on();
            let run = succeeded("x").await;
            assert_eq!((run.attempt, peer.seen().started.len()), (1, 1), "{run:#?}");
            is_whole("x", 500).await;
            Ok(())
        });
        power.run(sim);
    }
}

#[test]
fn the_agent_that_joined_last_stays() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(6, home.path(), SOON);
    let (first, second) = (Peer::new(1, "a"), Peer::new(1, "b"));
    start(&mut sim, NODE, &first);
    let (path, twin) = (home.path().to_owned(), second.clone());
    sim.host("twin", move || {
        let twin = twin.clone();
        async move {
            sleep(Duration::from_secs(8)).await;
            twin.serve().await
        }
    });
    sim.client(DESK, async move {
        train(&path, 200).await;
        let run = succeeded("x").await;
        assert_eq!(run.attempt, 2, "{run:#?}");
        is_whole("x", 200).await;
        let why = first.seen().replaced.clone().unwrap_or_default();
        assert!(why.contains("another agent with its id"), "{why}");
        assert_eq!((first.seen().ups, second.seen().ups), (2, 1), "they do not replace each other again and again");
        Ok(())
    });
    sim.run().unwrap();
}

/// Says more than it hears.
async fn deaf(peer: Peer, flood: u64) -> turmoil::Result {
    use morph_proto::v1::{
        SessionRequest, agents_client::AgentsClient, report::Report, session_request::Message as Saying,
    };
    let (say, saying) = tokio::sync::mpsc::channel(64);
    let saying = tokio_stream::wrappers::ReceiverStream::new(saying);
    say.send(SessionRequest { message: Some(Saying::Hello(peer.introduction())) }).await?;
    let mut orders = AgentsClient::new(net::narrowly(URL)).session(saying).await?.into_inner();
    for seq in 1..=flood {
        let report = Some(Report::Logs(v1::Logs::default()));
        let report = Saying::Report(v1::Report { seq, report });
        if say.send(SessionRequest { message: Some(report) }).await.is_err() {
            break;
        }
        if seq % 512 == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    }
    peer.seen().downs.push(Instant::now());
    // Only now it listens.
    while orders.message().await?.is_some() {
        peer.seen().ups += 1;
    }
    peer.seen().replaced = Some("the stream has ended".into());
    std::future::pending().await
}

#[test]
fn an_agent_that_does_not_listen_is_let_go_and_nobody_waits_for_it() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(7, home.path(), SOON);
    let (good, bad) = (Peer::new(1, "a"), Peer::new(2, "deaf"));
    start(&mut sim, NODE, &good);
    let (path, other) = (home.path().to_owned(), bad.clone());
    sim.host("deaf", move || deaf(other.clone(), 20_000));
    sim.client(DESK, async move {
        train(&path, 300).await;
        let mut client = people();
        let mut slowest = Duration::ZERO;
        while bad.seen().replaced.is_none() {
            let since = Instant::now();
            client.list_workers(v1::ListWorkersRequest {}).await?;
            slowest = slowest.max(since.elapsed());
            sleep(Duration::from_millis(100)).await;
        }
        assert!(slowest < Duration::from_secs(1), "people waited {slowest:?}");
        let orders = bad.seen().ups;
        assert!((1000..19_000).contains(&orders), "it was told {orders} things of 20001");
        succeeded("x").await;
        is_whole("x", 300).await;
        assert_eq!(good.seen().ups, 1);
        Ok(())
    });
    sim.run().unwrap();
}
