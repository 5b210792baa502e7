//! What people ask, when the network loses the question or the answer.

use tonic::{Code, Request};
use turmoil::{partition, partition_oneway, repair};

use super::*;

/// Waits until nothing keeps a request from being let in, at most `limit`; how long that took.
async fn room(limit: Duration) -> Duration {
    let since = Instant::now();
    loop {
        match people().list_runs(v1::ListRunsRequest::default()).await {
            Ok(_) => return since.elapsed(),
            Err(status) => assert_eq!(status.code(), Code::ResourceExhausted, "{status}"),
        }
        assert!(since.elapsed() < limit, "what nobody listens to is still open after {limit:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_request_whose_answer_is_lost_is_carried_out_once() {
    for seed in 0..3 {
        let home = tempfile::tempdir().unwrap();
        let mut sim = network(seed, home.path(), SOON);
        let path = home.path().to_owned();
        sim.client(DESK, async move {
            let mut client = people();
            client.list_runs(v1::ListRunsRequest::default()).await?;
            partition_oneway(HEAD, DESK);
            let mut request = Request::new(order(&path, "x", 10));
            request.set_timeout(Duration::from_secs(3));
            let lost = client.submit_run(request).await.unwrap_err();
            assert!([Code::Cancelled, Code::DeadlineExceeded].contains(&lost.code()), "{lost}");
            repair(HEAD, DESK);
            let again = people().submit_run(order(&path, "x", 10)).await?.into_inner();
            assert!(again.existed, "the first one had come, and is known by its key");
            let runs = people().list_runs(v1::ListRunsRequest::default()).await?.into_inner().runs;
            assert_eq!(runs.len(), 1);
            Ok(())
        });
        sim.run().unwrap();
    }
}

#[test]
fn runs_come_in_pages() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(1, home.path(), SOON);
    let path = home.path().to_owned();
    sim.client(DESK, async move {
        let names: Vec<String> = (0..5).map(|n| format!("r{n}")).collect();
        for name in &names {
            people().submit_run(order(&path, name, 10)).await?;
        }
        people().cancel(v1::CancelRequest { id: "r1".into() }).await?;
        let page = async |open: bool, page_size: u32, page_token: String| {
            let request = v1::ListRunsRequest { open, page_size, page_token, ..Default::default() };
            people().list_runs(request).await.map(tonic::Response::into_inner)
        };
        for (open, size) in [(false, 0), (false, 2), (false, 5), (true, 1), (true, 4)] {
            let (mut token, mut seen) = (String::new(), Vec::new());
            loop {
                let next = page(open, size, token).await?;
                assert!(size == 0 || next.runs.len() <= size as usize);
                seen.extend(next.runs.into_iter().map(|r| r.name));
                if next.next_page_token.is_empty() {
                    break;
                }
                token = next.next_page_token;
            }
            let wanted: Vec<_> = names.iter().filter(|name| !open || *name != "r1").cloned().collect();
            assert_eq!(seen, wanted, "{open} {size}");
        }
        assert_eq!(page(false, 2, "x".into()).await.unwrap_err().code(), Code::InvalidArgument);
        assert!(page(false, 2, "9".into()).await?.runs.is_empty());
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn events_come_in_pages_however_many_are_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(1, home.path(), SOON);
    let path = home.path().to_owned();
    sim.client(DESK, async move {
        for name in ["a", "b", "c"] {
            let mut large = order(&path, name, 10);
            let mut experiment: serde_json::Value = serde_json::from_str(&large.experiment_json).unwrap();
            experiment["description"] = "x".repeat(3 << 20).into();
            large.experiment_json = experiment.to_string();
            people().submit_run(large).await?;
        }
        let (mut after, mut submitted, mut pages) = (0, 0, 0);
        loop {
            let mut people = people().max_decoding_message_size(16 << 20);
            let events = people.events(v1::EventsRequest { after, ..Default::default() }).await?.into_inner().events;
            let Some(last) = events.last() else { break };
            after = last.seq;
            submitted += events.iter().filter(|e| e.kind == "run_submitted").count();
            assert!(events.iter().map(|e| e.json.len()).sum::<usize>() < 8 << 20);
            pages += 1;
        }
        assert_eq!((submitted, pages), (3, 2));
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn lists_and_watches_of_sweeps_carry_no_documents() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(1, home.path(), SOON);
    let path = home.path().to_owned();
    sim.client(DESK, async move {
        let order = sweep(&path, "s", "trainer.seed", &[1.into(), 2.into()]);
        let made = people().submit_sweep(order).await?.into_inner().sweep.unwrap();
        assert!(made.sweep_json.contains("trainer.seed"));
        let listed = people().list_sweeps(v1::ListSweepsRequest {}).await?.into_inner().sweeps;
        assert_eq!((listed.len(), listed[0].total, listed[0].sweep_json.as_str()), (1, 2, ""));
        let mut watched = people().watch(v1::WatchRequest { id: "s".into() }).await?.into_inner();
        assert_eq!(watched.message().await?.unwrap().sweep.unwrap().sweep_json, "");
        let whole = people().get_sweep(v1::GetSweepRequest { sweep: "s".into() }).await?.into_inner().sweep.unwrap();
        assert_eq!(whole.sweep_json, made.sweep_json);
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_sweep_is_as_large_as_the_experiments_of_its_runs() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(1, home.path(), SOON);
    let path = home.path().to_owned();
    sim.client(DESK, async move {
        // All values in all runs would be 400 MB; each run has one.
        let values: Vec<_> = (0..400).map(|n| format!("{n:02500}").into()).collect();
        let made = people().submit_sweep(sweep(&path, "long", "description", &values)).await?.into_inner();
        assert_eq!(made.sweep.unwrap().total, 400);
        let seeds: Vec<_> = (0..100).map(serde_json::Value::from).collect();
        let mut large = sweep(&path, "large", "trainer.seed", &seeds);
        let mut document: serde_json::Value = serde_json::from_str(&large.sweep_json).unwrap();
        document["experiment"]["description"] = "x".repeat(3 << 20).into();
        large.sweep_json = document.to_string();
        let refused = people().submit_sweep(large).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains("256 MiB"), "{refused}");
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn what_is_said_again_of_a_long_request_is_short() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(1, home.path(), SOON);
    let path = home.path().to_owned();
    sim.client(DESK, async move {
        let long = "x".repeat(100_000);
        let refused = people().get_run(v1::GetRunRequest { run: long.clone() }).await.unwrap_err();
        assert!(refused.code() == Code::NotFound && refused.message().len() < 500, "{refused}");
        let mut unknown = order(&path, "x", 10);
        unknown.experiment_json = json!({ long: 1 }).to_string();
        let refused = people().submit_run(unknown).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().len() < 10_000, "{refused}");
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_request_that_never_came_is_made_again() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(1, home.path(), SOON);
    let path = home.path().to_owned();
    sim.client(DESK, async move {
        let mut client = people();
        client.list_runs(v1::ListRunsRequest::default()).await?;
        partition_oneway(DESK, HEAD);
        let mut request = Request::new(order(&path, "x", 10));
        request.set_timeout(Duration::from_secs(3));
        client.submit_run(request).await.unwrap_err();
        repair(HEAD, DESK);
        assert!(!people().submit_run(order(&path, "x", 10)).await?.into_inner().existed);
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn a_deadline_holds_whatever_the_network_does() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(2, home.path(), SOON);
    sim.client(DESK, async move {
        let mut client = people();
        client.list_runs(v1::ListRunsRequest::default()).await?;
        turmoil::hold(HEAD, DESK);
        let since = Instant::now();
        let mut request = Request::new(v1::ListRunsRequest::default());
        request.set_timeout(Duration::from_secs(2));
        let late = client.list_runs(request).await.unwrap_err();
        assert!([Code::Cancelled, Code::DeadlineExceeded].contains(&late.code()), "{late}");
        let took = since.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(2100), "{took:?}");
        turmoil::release(HEAD, DESK);
        client.list_runs(v1::ListRunsRequest::default()).await?;
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn what_nobody_listens_to_any_more_ends() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(3, home.path(), SOON);
    let path = home.path().to_owned();
    sim.client(DESK, async move {
        let mut client = people();
        client.submit_run(order(&path, "x", 10)).await?;
        let mut open = Vec::new();
        for _ in 0..OPEN {
            let mut watch = client.watch(v1::WatchRequest { id: "x".into() }).await?.into_inner();
            watch.message().await?;
            open.push(watch);
        }
        let full = people().list_runs(v1::ListRunsRequest::default()).await.unwrap_err();
        assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
        // Given up in order: the server is told.
        open.pop();
        let told = room(Duration::from_secs(2)).await;
        assert!(told < Duration::from_secs(1), "{told:?}");
        // Gone without a word: it finds out.
        let mut last = client.watch(v1::WatchRequest { id: "x".into() }).await?.into_inner();
        last.message().await?;
        partition(HEAD, DESK);
        drop((open, last, client));
        sleep(Duration::from_secs(1)).await;
        repair(HEAD, DESK);
        room(Duration::from_secs(11)).await;
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn who_does_not_read_holds_up_nobody() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(4, home.path(), SOON);
    let peer = peer::Peer::new(1, "a");
    let path = home.path().to_owned();
    sim.host("node", move || peer.clone().serve());
    sim.client(DESK, async move {
        let mut client = people();
        client.submit_run(order(&path, "x", 200)).await?;
        let request = v1::FollowEventsRequest { id: "x".into(), ..v1::FollowEventsRequest::default() };
        let mut events = people().follow_events(request).await?.into_inner();
        let mut watch = people().watch(v1::WatchRequest { id: "x".into() }).await?.into_inner();
        succeeded("x").await;
        is_whole("x", 200).await;
        // Both have waited to be read, and have all that they had to say.
        let mut kinds = Vec::new();
        while let Some(some) = events.message().await? {
            kinds.extend(some.events.into_iter().map(|e| e.kind));
        }
        assert_eq!(kinds.first().map(String::as_str), Some("run_submitted"));
        assert_eq!(kinds.last().map(String::as_str), Some("attempt_ended"), "{kinds:?}");
        let mut last = None;
        while let Some(snapshot) = watch.message().await? {
            last = snapshot.runs.into_iter().next();
        }
        assert_eq!(last.map(|r| r.state()), Some(v1::RunState::Succeeded));
        Ok(())
    });
    sim.run().unwrap();
}
