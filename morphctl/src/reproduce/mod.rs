//! `reproduce`: trains a run again from its record, and says whether it became the same.

mod differ;

use anyhow::{Context, Result};
use morph_proto::v1::{self, RunState};
use morph_scores::evaluation::{Evaluation, Input};
use morph_spec::{Digest, Experiment};
use serde_json::{Value, json};

use crate::{
    cli::{Format, Global},
    connect::{self, Client, Connection, Purpose},
    fail::{CANCELLED, DIFFERS, FAILED, OK, REFUSED, coded, status},
    print,
    submit::{Errand, Job},
};
use differ::{Difference, Metrics};

/// A run that has succeeded, as it is recorded.
pub struct Original {
    /// The run.
    pub run: v1::Run,
    /// What is trained again: its experiment, on as many ranks as it had.
    pub experiment: Experiment,
    /// What a reader of the verdict must know.
    notes: Vec<String>,
}

/// Where to train.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Here.
    pub local: bool,
    /// Here: how many ranks at a time.
    pub slots: Option<u32>,
}

/// Trains the run that `id` means again; the exit code.
///
/// # Errors
/// When there is no such run, there is nothing to compare with, or its dataset is another one now.
pub async fn reproduce(global: &Global, id: &str, place: Place) -> Result<u8> {
    let mut connection = Connection::open(global, Purpose::Ask).await?;
    let found = connect::run(&mut connection.client, id).await;
    connection.close().await;
    let original = Original::new(found?)?;
    original.check_checkpoint().await?;
    if !global.quiet {
        original.notes.iter().for_each(|note| say!("note: {note}"));
    }
    let job = Job::Again(Box::new(original));
    Errand { verb: "reproduction", job, local: place.local, slots: place.slots, detach: false }.run(global).await
}

impl Original {
    fn new(run: v1::Run) -> Result<Self> {
        if run.state() != RunState::Succeeded {
            let why = format!("run {} has not succeeded: there is no end to reproduce", run.name);
            return Err(coded(REFUSED, why));
        }
        let mut experiment: Experiment =
            serde_json::from_str(&run.experiment_json).context("read the experiment of the run's record")?;
        let mut notes = Vec::new();
        let widths: Vec<usize> = run.attempts.iter().map(|a| a.ranks.len()).collect();
        if widths.windows(2).any(|pair| pair[0] != pair[1]) {
            let list = widths.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            notes.push(format!(
                "its attempts had {list} ranks: sums round differently with each number, so bits cannot be expected"
            ));
        } else if let Some(width) = widths.first().and_then(|w| u32::try_from(*w).ok()) {
            // It may have been started with fewer than it asked for.
            experiment.trainer.world_size = width;
        }
        experiment.scheduling.min_world_size = 0;
        // What it waited for once is over, and may be known by that name no longer.
        experiment.scheduling.after.clear();
        Ok(Self { run, experiment, notes })
    }

    /// Reads the final checkpoint to the last byte: without it there would be nothing to compare with.
    async fn check_checkpoint(&self) -> Result<()> {
        let name = &self.run.name;
        let last = last(&self.run).ok_or_else(|| coded(REFUSED, format!("run {name} has no checkpoint")))?;
        let digest = last.digest.parse::<Digest>().context("read the digest of the checkpoint")?;
        let loaded = morph_checkpoint::load(&last.url, Some(digest)).await;
        loaded.map(drop).map_err(|e| {
            coded(REFUSED, format!("the final checkpoint of run {name} is not what was recorded, so nothing can be compared with it: {e}"))
        })
    }

    /// The `n`-th request to train it again.
    ///
    /// # Errors
    /// When an experiment is no JSON, which cannot be.
    pub fn request(&self, key: &str, n: u32) -> Result<v1::SubmitRunRequest> {
        let number = if n == 1 { String::new() } else { format!("-{n}") };
        Ok(v1::SubmitRunRequest {
            key: format!("{key}-{n}"),
            experiment_json: serde_json::to_string(&self.experiment)?,
            name: format!("{}-again{number}", self.run.name),
            dataset: self.run.dataset.clone(),
        })
    }

    /// Compares with what it became now; the exit code.
    ///
    /// # Errors
    /// When somebody does not answer.
    pub async fn conclude(&self, global: &Global, client: &mut Client, end: &v1::WatchResponse) -> Result<u8> {
        let id = end.runs.first().map(|r| r.id.clone()).unwrap_or_default();
        let again = connect::run(client, &id).await?;
        match again.state() {
            RunState::Succeeded => {}
            RunState::Cancelled => {
                say!("run {} was cancelled: nothing to compare", again.name);
                return Ok(CANCELLED);
            }
            _ => {
                say!("run {} failed: {}", again.name, again.error);
                return Ok(FAILED);
            }
        }
        let verdict = self.verdict(client, &again).await?;
        match global.output {
            Format::Json | Format::Yaml => print::value(global, &verdict.json())?,
            Format::Name => print::line(&format!("run/{}", again.name))?,
            Format::Table => print::line(&verdict.text())?,
        }
        Ok(if verdict.is_equal() { OK } else { DIFFERS })
    }

    async fn verdict(&self, client: &mut Client, again: &v1::Run) -> Result<Verdict> {
        let (then, now) = (metrics(client, &self.run).await?, metrics(client, again).await?);
        let mut notes = self.notes.clone();
        let version = |run: &v1::Run| run.attempts.last().map(|a| a.version.clone()).unwrap_or_default();
        let versions = [version(&self.run), version(again)];
        if versions[0] != versions[1] {
            notes.push(format!("trained by morph {}, again by {}", shown(&versions[0]), shown(&versions[1])));
        }
        notes.extend(uncommitted(&versions));
        notes.extend(other_files(&self.run, again));
        Ok(Verdict {
            names: [self.run.name.clone(), again.name.clone()],
            metrics: differ::first(&then, &now),
            compared: then.len(),
            scores: differ::first(&scores(&self.run), &scores(again)),
            scores_compared: self.run.summary.len(),
            weights: [weights(&self.run).await?, weights(again).await?],
            versions,
            notes,
        })
    }
}

/// That some code cannot be told from other code.
fn uncommitted(versions: &[String; 2]) -> Option<String> {
    let version = versions.iter().find(|v| v.ends_with(".dirty"))?;
    Some(format!("morph {version} was built of sources that no commit holds: the same version may be other code"))
}

/// What the runs were made of beside their dataset, where it is not the same any more: whatever differs may be owed to that.
fn other_files(then: &v1::Run, now: &v1::Run) -> Vec<String> {
    let inputs = |run: &v1::Run| {
        let read = Evaluation::from_json("the evaluation", run.summary_json.as_bytes());
        read.map(|evaluation| evaluation.inputs).unwrap_or_default()
    };
    let changed = Input::changed(&inputs(then), &inputs(now)).into_iter();
    changed.map(|how| format!("{how}: these are other files, and what differs may be owed to them")).collect()
}

fn shown(version: &str) -> &str {
    if version.is_empty() { "(unknown)" } else { version }
}

/// The checkpoint with which training ended.
fn last(run: &v1::Run) -> Option<&v1::Checkpoint> {
    run.checkpoints.iter().max_by_key(|c| c.step)
}

/// What was recorded of training, but for how long things took.
async fn metrics(client: &mut Client, run: &v1::Run) -> Result<Metrics> {
    let request = v1::MetricsRequest { run: run.id.clone(), names: Vec::new() };
    let points = client.metrics(request).await.map_err(|s| status(&s))?.into_inner().points;
    let lasting = points.into_iter().filter(|p| !p.name.starts_with("perf/"));
    Ok(lasting.map(|p| ((p.step, p.name), p.value)).collect())
}

fn scores(run: &v1::Run) -> Metrics {
    run.summary.iter().map(|(name, value)| ((0, name.clone()), *value)).collect()
}

/// The final weights, and everything else that training would go on from, by their BLAKE3.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Weights {
    step: u64,
    digest: String,
}

async fn weights(run: &v1::Run) -> Result<Weights> {
    let last = last(run).ok_or_else(|| coded(REFUSED, format!("run {} has no checkpoint", run.name)))?;
    let manifest = morph_checkpoint::inspect(&last.url).await?;
    let digests: Vec<String> = manifest.files.iter().map(|f| f.blake3.to_string()).collect();
    Ok(Weights { step: last.step, digest: digests.join("+") })
}

/// What came of it.
struct Verdict {
    names: [String; 2],
    metrics: Option<Difference>,
    compared: usize,
    scores: Option<Difference>,
    scores_compared: usize,
    weights: [Weights; 2],
    versions: [String; 2],
    notes: Vec<String>,
}

impl Verdict {
    fn is_equal(&self) -> bool {
        self.metrics.is_none() && self.scores.is_none() && self.weights[0] == self.weights[1]
    }

    fn text(&self) -> String {
        let [then, now] = &self.names;
        let [old, new] = &self.weights;
        let mut out = Vec::new();
        if self.is_equal() {
            out.push(format!(
                "equal: {now} ended with the weights of {then} (step {}, BLAKE3 {}), and all {} recorded metrics and {} scores \
                 are the same to the bit",
                new.step,
                &new.digest[..new.digest.len().min(16)],
                self.compared,
                self.scores_compared
            ));
        } else {
            out.push(format!("{now} is not equal to {then}"));
        }
        if let Some(d) = &self.metrics {
            out.push(format!("  the first difference is at step {}: {}", d.step, d.text()));
            out.push(format!("  {} of {} recorded metrics differ", d.differing, d.compared));
        } else if !self.is_equal() {
            out.push(format!("  all {} recorded metrics are the same", self.compared));
        }
        if let Some(d) = &self.scores {
            out.push(format!("  {} of {} scores differ, the first is {}", d.differing, d.compared, d.text()));
        }
        if old != new {
            let short = |w: &Weights| format!("{} at step {}", &w.digest[..w.digest.len().min(16)], w.step);
            out.push(format!("  the final weights differ: {} then, {} now", short(old), short(new)));
        }
        out.extend(self.notes.iter().map(|note| format!("note: {note}")));
        out.join("\n")
    }

    fn json(&self) -> Value {
        let weights = |w: &Weights| json!({ "step": w.step, "blake3": w.digest });
        json!({
            "run": self.names[0],
            "again": self.names[1],
            "equal": self.is_equal(),
            "metrics": { "compared": self.compared, "first_difference": self.metrics.as_ref().map(Difference::json) },
            "scores": { "compared": self.scores_compared, "first_difference": self.scores.as_ref().map(Difference::json) },
            "weights": { "equal": self.weights[0] == self.weights[1], "then": weights(&self.weights[0]), "now": weights(&self.weights[1]) },
            "versions": { "then": self.versions[0], "now": self.versions[1] },
            "notes": self.notes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{other_files, uncommitted, v1};

    #[test]
    fn code_that_no_commit_holds_is_remarked_on() {
        let of = |then: &str, now: &str| uncommitted(&[then.to_owned(), now.to_owned()]);
        assert_eq!(of("0.1.0+0123456789ab", "0.1.0"), None);
        let said = of("0.1.0+0123456789ab", "0.1.0+0123456789ab.dirty").unwrap();
        assert!(said.contains("0.1.0+0123456789ab.dirty was built"), "{said}");
    }

    #[test]
    fn other_files_under_the_same_name_are_remarked_on() {
        let mut scored = crate::compare::tests::scored("a-1", "vae", 1, 0.05, 1);
        let mut run = |inputs: &[(&str, &str)]| {
            let of = |(field, blake3): &(&str, &str)| morph_scores::evaluation::Input {
                field: (*field).to_owned(),
                url: format!("file:///{field}"),
                files: 3,
                blake3: (*blake3).to_owned(),
            };
            scored.evaluation.inputs = inputs.iter().map(of).collect();
            v1::Run { summary_json: scored.evaluation.to_json(), ..v1::Run::default() }
        };
        let (truth, fid) = ("evaluation.truth", "evaluation.fid.weights");
        let then = run(&[(truth, "aa"), (fid, "bb")]);
        assert!(other_files(&then, &then).is_empty());
        let said = other_files(&then, &run(&[(truth, "cc"), (fid, "bb")]));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("evaluation.truth (file:///evaluation.truth) was 3 file(s), BLAKE3 aa"),
            "{said:?}"
        );
        assert!(said[0].contains("is 3 file(s), BLAKE3 cc: these are other files"), "{said:?}");
        // A run of a build that did not record them says nothing, and neither does this.
        assert!(other_files(&run(&[]), &then).is_empty());
    }
}
