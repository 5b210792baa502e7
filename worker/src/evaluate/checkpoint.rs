//! Scores a checkpoint by itself, in this process, perhaps on other datasets than the run's.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use morph_data::Samples;
use morph_scores::evaluation::{Leakage, Scored};
use morph_spec::{
    Digest, Experiment,
    experiment::{self, Score},
    load,
};

use crate::{
    evaluate::{Outcome, Scene, Similarity, described, heatmaps, inception, inputs, leakage, score},
    rank::{
        self,
        failure::Failure,
        group::{Group, Place},
        images::{Dataset, Sets, TestSets},
        orders::Orders,
        snapshot,
    },
};

/// What to score, and what of the experiment to do otherwise.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// URL of the checkpoint's manifest.
    pub url: String,
    /// Folders of the datasets to score on; none: what the experiment says.
    pub on: Vec<String>,
    /// Fields of the experiment to change before anything else, `evaluation.a.b=value` each.
    pub set: Vec<String>,
    /// The primary score.
    pub score: Option<Score>,
    /// Folder with what else is known of the images.
    pub truth: Option<String>,
    /// Score test images that had a part in training, or of which nobody can tell.
    pub allow_leakage: bool,
    /// Folder to draw every test image's residual into.
    pub heatmaps: Option<PathBuf>,
    /// Root of the raw files that heat maps are drawn over.
    pub source: Option<PathBuf>,
}

/// Scores it.
///
/// # Errors
/// When something cannot be read, does not fit, or test images had a part in training, or may have had ([`Failure::Refused`]).
pub fn evaluate(request: &Request, cache: &Path, cache_bytes: u64) -> Result<Outcome, Failure> {
    let runtime = rank::runtime()?;
    let url = &request.url;
    let (snapshot, mut experiment) = runtime.block_on(snapshot::read(url))?;
    let options = load::Options { set: request.set.clone(), ..load::Options::default() };
    experiment =
        load::for_scoring(&experiment, !request.on.is_empty(), &options).map_err(|e| Failure::User(e.to_string()))?;
    if let Some(score) = request.score {
        experiment.evaluation.score = score;
    }
    if request.truth.is_some() {
        experiment.evaluation.truth.clone_from(&request.truth);
    }
    if request.allow_leakage {
        experiment.evaluation.leakage = experiment::Leakage::Allow;
    }
    if experiment.evaluation.score.is_masked() && experiment.evaluation.truth.is_none() {
        let name = experiment.evaluation.score.name();
        return Err(Failure::User(format!("the score {name} looks within a mask: say where masks are, with --truth")));
    }
    // What was trained on a GPU can be scored where there is none.
    let wanted = match experiment.trainer.device {
        experiment::Device::Cuda => experiment::Device::Auto,
        as_trained => as_trained,
    };
    let place = Place { device: crate::device::pick(wanted, 0)?, kind: tch::Kind::Float };
    rank::set_up(experiment.trainer.threads, place.device)?;
    let ready = runtime.block_on(ready(request, &mut experiment, snapshot.state.dataset, cache, cache_bytes))?;
    leakage::refuse(&ready.leakage)?;
    inputs::truth_is_there(&experiment)?;
    let net = rank::build(&experiment, place, &runtime)?;
    let lpips = Similarity::load(&experiment, place, &runtime)?;
    let fid = inception(&experiment, place, &runtime)?;
    snapshot::load_model(net.method.as_ref(), &snapshot)?;
    let inputs = super::weights(&[], lpips.as_ref(), fid.as_ref());
    let (group, orders) = (Group::solo(), Orders::default());
    let scene = Scene {
        experiment: &experiment,
        test: &ready.test,
        validation: &ready.validation,
        leakage: Some(&ready.leakage),
        lpips: lpips.as_ref(),
        fid: fid.as_ref().map(|(network, _)| network),
        inputs: &inputs,
        group: &group,
        place,
        orders: &orders,
        runtime: &runtime,
    };
    let model = Scored {
        checkpoint: Some(url.clone()),
        step: snapshot.state.step,
        validation_score: snapshot.state.best.as_ref().filter(|b| b.step == snapshot.state.step).map(|b| b.score),
        ..described(&experiment)
    };
    let mut outcome = score(&scene, net.method.as_ref(), model)?
        .flatten()
        .ok_or_else(|| Failure::Infra("the evaluation was stopped".into()))?;
    if let (Some(folder), Some(scale)) = (&request.heatmaps, outcome.evaluation.residual_scale) {
        let drawn = heatmaps::Request { folder, source: request.source.as_deref(), scale, made_by: url };
        let count = heatmaps::write(&scene, net.method.as_ref(), &drawn)?;
        tracing::info!("{count} heat maps in {}", folder.display());
    }
    if !ready.leakage.unchecked.is_empty() {
        let dataset = &outcome.evaluation.datasets[0].name;
        let note =
            format!("thresholds and scales are of healthy validation images of {dataset}, not of the data trained on");
        outcome.evaluation.notes.push(note);
    }
    Ok(outcome)
}

/// What is scored, and what gives thresholds.
struct Ready {
    validation: Arc<Samples>,
    test: TestSets,
    leakage: Leakage,
}

/// Opens the datasets that `experiment` names, or those of `request` in their place.
async fn ready(
    request: &Request,
    experiment: &mut Experiment,
    trained_on: Digest,
    cache: &Path,
    cache_bytes: u64,
) -> Result<Ready, Failure> {
    let own = Dataset::open(&experiment.dataset.url, Some(trained_on), cache, cache_bytes).await;
    if !request.on.is_empty() {
        on_fits(experiment)?;
        let mut named: Vec<(String, String)> = Vec::new();
        for url in &request.on {
            let name = Dataset::open(url, None, cache, cache_bytes).await?.described().name;
            if named.iter().any(|(other, _)| *other == name) {
                let why = format!("{url}: another of the datasets is called {name:?}, too; score them apart");
                return Err(Failure::User(why));
            }
            named.push((name, url.clone()));
        }
        experiment.evaluation = experiment.evaluation.on(&named);
    }
    let unread = match own {
        Ok(own) => {
            let Sets { train, validation, test } = own.sets(experiment).await?;
            let leakage = leakage::look(experiment, &train, &validation, &test);
            return Ok(Ready { validation, test, leakage });
        }
        Err(e) => e,
    };
    // Without the data that it was trained on the first of the others must say what healthy images score.
    let Some(url) = request.on.first() else {
        return Err(match unread {
            Failure::Infra(why) => {
                Failure::Infra(format!("{why}; if the dataset lies elsewhere now, say where: --set dataset.url=URL"))
            }
            other => other,
        });
    };
    let first = Dataset::open(url, None, cache, cache_bytes).await?;
    first.fits(experiment)?;
    let unchecked = format!("the dataset that was trained on cannot be read: {unread}");
    let allowed = experiment.evaluation.leakage == experiment::Leakage::Allow;
    if !allowed {
        return Err(Failure::Refused(format!(
            "nobody can tell whether test images had a part in training: {unchecked}. Say where the same dataset lies now (--set \
             dataset.url=URL), or score all the same (--allow-leakage), which the evaluation records"
        )));
    }
    tracing::warn!("not looked for test images that had a part in training: {unchecked}");
    Ok(Ready {
        validation: Arc::new(first.subset(&experiment.dataset.validation).await?),
        test: first.test(experiment).await?,
        leakage: Leakage { unchecked, allowed, ..Leakage::default() },
    })
}

/// Whether there is something that datasets named beside the experiment's can be asked.
///
/// # Errors
/// When there is not, or there are answers already.
fn on_fits(experiment: &Experiment) -> Result<(), Failure> {
    if !experiment.evaluation.comparisons.is_empty() {
        let why = "--on takes evaluation.healthy and evaluation.pathology to other datasets; evaluation.comparisons name their own: leave \
                   one of both out";
        return Err(Failure::User(why.to_owned()));
    }
    if experiment.evaluation.pathology.is_empty() {
        let why = "--on takes evaluation.pathology to other datasets, and the experiment has none: name one, as in --set \
                   'evaluation.pathology.covid={split: test, labels: [COVID]}'";
        return Err(Failure::User(why.to_owned()));
    }
    Ok(())
}
