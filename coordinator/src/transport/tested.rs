//! What runs are tested on: other datasets are pinned at submission, evaluations by hand are counted.

use morph_spec::Digest;
use tonic::Code;

use super::*;

/// An order whose run is also scored on the dataset in `other`; with the digest that this must have, if one is `wanted`.
fn elsewhere(home: &Path, key: &str, wanted: Option<Digest>) -> v1::SubmitRunRequest {
    let mut request = order(home, key, 10);
    let mut experiment: serde_json::Value = serde_json::from_str(&request.experiment_json).unwrap();
    let url = format!("file://{}/other", home.display());
    let part = |label: &str| json!({"split": "test", "labels": [label]});
    experiment["evaluation"] = json!({"comparisons": {"covid": {
        "dataset": url, "healthy": part("Normal"), "pathology": part("COVID"),
    }}});
    if let Some(wanted) = wanted {
        experiment["evaluation"]["digests"] = json!({url: wanted});
    }
    request.experiment_json = experiment.to_string();
    request
}

#[test]
fn what_a_run_is_scored_on_is_pinned_when_it_is_submitted() {
    let home = tempfile::tempdir().unwrap();
    let mut sim = network(3, home.path(), SOON);
    let path = home.path().to_owned();
    sim.client(DESK, async move {
        let other = path.join("other");
        let submit = async |request| people().submit_run(request).await;
        let refused = submit(elsewhere(&path, "a", None)).await.unwrap_err();
        assert!(refused.code() == Code::NotFound && refused.message().contains("/other"), "{refused}");

        let put = |text: &str| {
            std::fs::create_dir_all(&other).unwrap();
            std::fs::write(other.join("manifest.json"), text).unwrap();
            Digest::of(text.as_bytes())
        };
        let pinned = async |name: &str| {
            let experiment: serde_json::Value = serde_json::from_str(&run(name).await.experiment_json).unwrap();
            experiment["evaluation"]["digests"][format!("file://{}", other.display())].clone()
        };
        let first = put(&manifest());
        submit(elsewhere(&path, "b", None)).await?;
        assert_eq!(pinned("b").await, json!(first));

        let second = put(&manifest().replace("tiny", "other"));
        assert_eq!(pinned("b").await, json!(first), "what was submitted stays as it was");
        let refused = submit(elsewhere(&path, "c", Some(first))).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        let names = ["/other", &first.to_string(), &second.to_string()];
        assert!(names.iter().all(|name| refused.message().contains(name)), "{refused}");
        submit(elsewhere(&path, "d", Some(second))).await?;
        assert_eq!(pinned("d").await, json!(second));
        Ok(())
    });
    sim.run().unwrap();
}

#[test]
fn evaluations_by_hand_are_counted_and_kept() {
    let (home, power) = (tempfile::tempdir().unwrap(), Power::default());
    let mut sim = network(4, home.path(), SOON);
    let (path, switch) = (home.path().to_owned(), power.clone());
    sim.client(DESK, async move {
        people().submit_run(order(&path, "x", 10)).await?;
        let digest = Digest::of(manifest().as_bytes()).to_string();
        let url = format!("file://{}/data", path.display());
        let of = |run: &str, digest: &str| v1::RecordEvaluationRequest {
            run: run.into(),
            checkpoint: "s3://runs/x/manifest.json".into(),
            tests: vec![v1::Tested { url: url.clone(), digest: digest.into(), split: "test".into() }],
            key: format!("evaluation of {run}"),
        };
        for _ in 0..2 {
            people().record_evaluation(of("x", &digest)).await?;
        }
        people().record_evaluation(of("", "")).await?;
        for (wrong, code) in [(of("y", ""), Code::NotFound), (of("", "ab"), Code::InvalidArgument)] {
            assert_eq!(people().record_evaluation(wrong).await.unwrap_err().code(), code);
        }
        switch.off();
        sleep(Duration::from_secs(1)).await;
        switch.on();
        let tests = persistently(async || people().test_sets(v1::TestSetsRequest::default()).await).await.tests;
        let [only] = &tests[..] else { panic!("{tests:?}") };
        assert_eq!((only.dataset.as_str(), only.split.as_str(), only.scored, only.rescored), (&*digest, "test", 0, 2));
        Ok(())
    });
    power.run(sim);
}
