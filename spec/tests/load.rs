//! Files as users write them: right, wrong in every way we could think of, and hostile.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::Path};

use morph_spec::{
    Experiment, Sweep,
    load::{self, Document, Options, Problems},
};
use proptest::prelude::*;
use serde_json::json;

const EXPERIMENT: &str = "kind: experiment\nname: x\ndataset: {url: d}\nmodel: {method: morphaeus}\n";
const SWEEP: &str = "kind: sweep\nname: s\nmethod: grid\nmetric: {name: opacity/auroc, goal: maximize}\n\
    experiment:\n  name: x\n  dataset: {url: d}\n  model: {method: morphaeus}\n";
const DATASET: &str = "kind: dataset\nname: d\nsource: {layout: rsna, root: raw}\noutput: out\n";

fn set(arguments: &[&str]) -> Options {
    let vars = BTreeMap::from([("HERE".to_owned(), "/data".to_owned()), ("N".to_owned(), "12".to_owned())]);
    Options { set: arguments.iter().map(|a| (*a).to_owned()).collect(), vars }
}

fn read(text: &str, arguments: &[&str]) -> Result<Document, Problems> {
    load::text(text, "f.yaml", Path::new("no-such-folder"), &set(arguments))
}

fn experiment(text: &str, arguments: &[&str]) -> Experiment {
    match read(text, arguments) {
        Ok(Document::Experiment(e)) => *e,
        other => panic!("{other:?}"),
    }
}

fn sweep(text: &str, arguments: &[&str]) -> Sweep {
    match read(text, arguments) {
        Ok(Document::Sweep(s)) => *s,
        other => panic!("{other:?}"),
    }
}

/// That `text` is refused, with all of `wanted` in what is printed.
fn refused(text: &str, arguments: &[&str], wanted: &[&str]) -> Problems {
    let problems = match read(text, arguments) {
        Err(problems) => problems,
        Ok(document) => panic!("it was accepted: {document:?}\n{text}"),
    };
    assert!(!problems.0.is_empty());
    let printed = problems.to_string();
    for w in wanted {
        assert!(printed.contains(w), "{w:?} is not in\n{printed}\n--- of\n{text}");
    }
    problems
}

fn more(text: &str) -> String {
    format!("{EXPERIMENT}{text}")
}

#[test]
fn what_is_not_said_has_its_default() {
    let e = experiment(EXPERIMENT, &[]);
    assert_eq!((e.trainer.batch_size, e.model.image_size, e.model.sync), (64, 128, true));
    let emptied = experiment(&more("trainer:\n  # epochs: 3\nevaluation:\n  pathology:\n"), &[]);
    assert_eq!(emptied.trainer, e.trainer);
    assert!(emptied.evaluation.pathology.is_empty());
}

#[test]
fn how_something_is_scored_may_be_said_anew_and_nothing_else() {
    let trained =
        experiment(&more("description: costs $${5}\nevaluation: {healthy: {split: test, labels: [Healthy]}}\n"), &[]);
    let scored = |arguments: &[&str]| load::for_scoring(&trained, false, &set(arguments));
    assert_eq!(scored(&[]).unwrap(), trained);
    let e = scored(&[
        "evaluation.pathology={covid: {split: test, labels: [COVID, Long COVID]}}",
        "evaluation.fid.weights=${HERE}/inception.pth",
        "dataset.url=/moved",
    ])
    .unwrap();
    assert_eq!(e.evaluation.pathology.keys().collect::<Vec<_>>(), ["covid"]);
    assert_eq!(e.evaluation.pathology["covid"].labels, ["COVID", "Long COVID"]);
    assert_eq!((e.evaluation.healthy.labels[0].as_str(), e.dataset.url.as_str()), ("Healthy", "/moved"));
    assert_eq!(e.evaluation.fid.unwrap().weights, "/data/inception.pth");
    assert_eq!(
        (e.trainer, e.model, e.description),
        (trained.trainer.clone(), trained.model.clone(), "costs ${5}".into())
    );
    for (wrong, said) in [
        ("model.sync=false", "only how a network is scored"),
        ("dataset.train.split=test", "only how a network is scored"),
        ("kind=dataset", "expected `experiment`"),
        ("evaluation.specificity=2", "specificity"),
    ] {
        let problems = scored(&[wrong]).unwrap_err().to_string();
        assert!(problems.contains(said), "{wrong}: {problems}");
    }
}

#[test]
fn comparisons_are_of_their_own_datasets() {
    let comparison = "{a: {healthy: {split: val}, pathology: {split: test, labels: [Sick]}}}";
    let trained = experiment(&more(&format!("evaluation: {{comparisons: {comparison}}}\n")), &[]);
    let scored = |elsewhere| load::for_scoring(&trained, elsewhere, &set(&[])).unwrap().evaluation.comparisons.len();
    assert_eq!((scored(false), scored(true)), (1, 0));
}

#[test]
fn passwords_are_not_shown_again() {
    let url = "https://me:hush@host/x@y";
    for also in ["", ", no: 1"] {
        let text = more(&format!("evaluation: {{truth: '{url}'{also}}} # as s3://bucket/a@b\n"));
        let said = refused(&text, &[], &["https://*******@host/x@y", "s3://bucket/a@b"]).to_string();
        assert!(!said.contains("hush"), "{said}");
    }
    let said = load::for_scoring(&experiment(EXPERIMENT, &[]), false, &set(&[&format!("dataset.url={url}")]));
    let said = said.unwrap_err().to_string();
    assert!(said.contains("dataset.url=https://*******@host/x@y") && !said.contains("hush"), "{said}");
}

#[test]
fn anchors_aliases_merge_keys_and_tuples() {
    let e = experiment(
        "x-common: &common {epochs: 3, optimizer: {betas: !!python/tuple [0.5, 0.9]}}\nkind: experiment\nname: &n x\n\
         description: *n\ndataset: {url: d}\nmodel: {method: morphaeus, channels: !!python/tuple [8, 8, 16], refine_levels: 2}\n\
         trainer:\n  <<: *common\n  epochs: 4\n",
        &[],
    );
    assert_eq!((e.trainer.epochs, e.trainer.optimizer.betas), (4, [0.5, 0.9]));
    assert_eq!((e.model.channels, e.description.as_str()), (vec![8, 8, 16], "x"));
}

#[test]
fn words_and_numbers_are_what_people_mean() {
    let e = experiment(&more("trainer: {drop_last: no, optimizer: {lr: 1e-4, eps: 1E-7}}\n"), &[]);
    assert!(!e.trainer.drop_last);
    assert_eq!((e.trainer.optimizer.lr, e.trainer.optimizer.eps), (1e-4, 1e-7));
    let Ok(Document::Dataset(d)) = read(&format!("{DATASET}only_labels: [No, Normal]\n"), &[]) else { panic!() };
    assert_eq!(d.only_labels, ["No", "Normal"], "the label No is not false");
    let Ok(Document::Dataset(d)) = read(&format!("\u{feff}{DATASET}"), &[]) else { panic!() };
    assert_eq!(d.name, "d");
}

#[test]
fn everything_wrong_is_said_at_once_and_where() {
    let text = more(
        "trainer:\n  optimiser: {lr: 1}\n  epochs: many\n  batch_size: 2\n  world_size: 3\n  optimizer: {lr: -1, betas: [0.9]}\n\
         modle: {}\n",
    );
    let problems = refused(
        &text,
        &[],
        &[
            "f.yaml:6:3 (field trainer.optimiser)",
            "did you mean `optimizer`?",
            "f.yaml:7:11",
            "^^^^ expected a whole number",
            "f.yaml:9:15",
            "f.yaml:10:19",
            "expected a list of 2",
            "f.yaml:11:1",
            "did you mean `model`?",
        ],
    );
    assert_eq!(problems.0.len(), 6, "{problems}");
    let lines: Vec<_> = problems.0.iter().map(|p| p.line).collect();
    assert!(lines.is_sorted(), "{lines:?}");
}

#[test]
fn each_mistake_names_the_way_out() {
    let cases: &[(&str, &[&str])] = &[
        ("", &["the file is empty", "`experiment`"]),
        ("- a\n", &["a list of 1"]),
        ("name: x\nparameters: {}\n", &["`kind` is missing", "kind: sweep"]),
        ("kind: experimnt\n", &["f.yaml:1:7", "did you mean `experiment`?"]),
        ("kind: experiment\n", &["lacks `name`", "lacks `dataset`", "lacks `model`"]),
        ("kind: experiment\nname: [\n", &["f.yaml:2:7", "unclosed bracket"]),
        ("kind: experiment\nname: x\nname: y\n", &["f.yaml:3:1", "duplicate"]),
        ("kind: experiment\n---\nkind: sweep\n", &["second YAML document"]),
        ("kind: experiment\n\tname: x\n", &["tab", "indent with spaces"]),
        ("kind: experiment\nname: *nobody\n", &["f.yaml:2:7", "unknown anchor"]),
        ("kind: experiment\nname: .inf\n", &["finite"]),
        ("kind: experiment\nname: {a: ${N}}\n", &["needs quotes"]),
        ("kind: experiment\nname: a: b\n", &["f.yaml:2:8", "in quotes"]),
    ];
    for (text, wanted) in cases {
        refused(text, &[], wanted);
    }
    let more_cases: &[(&str, &[&str])] = &[
        ("trainer: {lr: 1}\n", &["did you mean `trainer.optimizer.lr`?"]),
        ("trainer: {epochs: 3.0}\n", &["write 3"]),
        ("trainer: {epochs: -3}\n", &["expected a whole number"]),
        ("trainer: {optimizer: {lr: '1e-3'}}\n", &["remove the quotes"]),
        ("trainer: {drop_last: maybe}\n", &["true or false"]),
        ("trainer: 7\n", &["expected a mapping"]),
        ("trainer: {device: gpu}\n", &["expected `auto`, `cpu` or `cuda`"]),
        ("trainer: {optimizer: {betas: [0.9, 1]}}\n", &["field trainer.optimizer.betas.1", "below 1"]),
        ("trainer: {loss: {perceptual: {weight: 0.05}}}\n", &["weights", "random"]),
        ("evaluation: {pathology: {opacity: {split: test, labels: Lung Opacity}}}\n", &["write [Lung Opacity]"]),
        ("evaluation: {pathology: {opacity: {labels: [a]}}}\n", &["`opacity` lacks `split`"]),
        ("evaluation: {score: top_5}\n", &["f.yaml:5:21", "top5"]),
        ("evaluation: {comparison: {}}\n", &["f.yaml:5:14", "did you mean `comparisons`?"]),
        (
            "evaluation:\n  comparisons:\n    covid:\n      healthy: {split: test}\n      pathology: {split: tset}\n",
            &["f.yaml:9:26 (field evaluation.comparisons.covid.pathology.split)", "did you mean `test`?"],
        ),
        (
            "evaluation:\n  comparisons:\n    covid: {healthy: {split: test}}\n",
            &["f.yaml:7:", "`covid` lacks `pathology`"],
        ),
        ("description: 2024\n", &["put it in quotes"]),
        ("description: ${NOT_DEFINED_ANYWHERE}\n", &["f.yaml:5:14", "NOT_DEFINED_ANYWHERE", "$${"]),
        ("description: ${oops\n", &["no `}`"]),
    ];
    for (text, wanted) in more_cases {
        refused(&more(text), &[], wanted);
    }
    refused(
        "kind: experiment\nname: x\ndataset: {url: d}\nmodel: {method: morphaeus, image_size: 100}\n",
        &[],
        &["f.yaml:4:40", "multiple of 128"],
    );
    refused(&format!("{DATASET}split: {{val: 0.5, test: 0.5}}\n"), &[], &["f.yaml:5:25", "below 1"]);
    refused(&format!("{DATASET}labels: {{Normal: healthy}}\n"), &[], &["split.healthy.0", "healthy", "is its default"]);
}

#[test]
fn a_mistake_behind_an_alias_is_shown_where_it_is_written() {
    refused(
        "x-c: &c {epochs: many}\nkind: experiment\nname: x\ndataset: {url: d}\nmodel: {method: morphaeus}\ntrainer: {<<: *c}\n",
        &[],
        &["f.yaml:1:18 (field trainer.epochs)", "alias or merge key at 6:"],
    );
}

#[test]
fn variables() {
    let text = "kind: experiment\nname: x\ndescription: 'costs $${N} $5'\ndataset: {url: '${HERE}/d'}\n\
        model: {method: morphaeus}\ntrainer: {epochs: '${N}'}\n";
    let e = experiment(text, &[]);
    assert_eq!((e.dataset.url.as_str(), e.description.as_str(), e.trainer.epochs), ("/data/d", "costs ${N} $5", 12));
    assert_eq!(experiment(&more("description: ${N}\n"), &[]).description, "12", "a text stays one");
}

#[test]
fn overrides_from_the_command_line() {
    let e = experiment(
        &more("trainer: {epochs: 7}\n"),
        &[
            "trainer.epochs=9",
            "trainer.optimizer.lr=1e-4",
            "model.channels=[8, 16, 32]",
            "model.channels.0=4",
            "model.refine_levels=2",
            "name=2024",
            "dataset.url=${HERE}/e",
            "evaluation.pathology.covid={split: test, labels: [COVID]}",
            "description=",
            "model.sync=no",
        ],
    );
    assert_eq!((e.trainer.epochs, e.trainer.optimizer.lr, e.name.as_str()), (9, 1e-4, "2024"));
    assert_eq!((e.model.channels, e.model.sync), (vec![4, 16, 32], false));
    assert_eq!((e.dataset.url.as_str(), e.description.as_str()), ("/data/e", ""));
    assert_eq!(e.evaluation.pathology["covid"].labels, ["COVID"]);

    refused(
        EXPERIMENT,
        &["trainer.optimiser.lr=1"],
        &["--> --set", "trainer.optimiser.lr=1", "did you mean `optimizer`?"],
    );
    refused(EXPERIMENT, &["trainer.epochs=0"], &["--> --set (field trainer.epochs)", "1 or more"]);
    refused(EXPERIMENT, &["trainer.epochs"], &["no `=`"]);
    refused(EXPERIMENT, &["trainer..epochs=1"], &["empty"]);
    refused(EXPERIMENT, &["trainer.epochs=[1"], &["--> --set", "bracket"]);
    refused(EXPERIMENT, &["name.first=1"], &["`first`"]);
    let problems = refused(EXPERIMENT, &["trainer.epochs=x", "nonsense=1"], &["nonsense"]);
    assert_eq!((problems.0.len(), problems.0[0].line, problems.0[0].file.as_str()), (2, None, "--set"));
}

#[test]
fn a_sweep_in_the_words_of_wandb() {
    let nested = format!(
        "{SWEEP}parameters:\n  trainer:\n    parameters:\n      optimizer: {{parameters: {{lr: {{values: [1e-3, 1e-4]}}}}}}\n      \
         seed: {{min: 1, max: 3}}\n  model.norm_mode: {{values: [batch, frozen]}}\n"
    );
    let s = sweep(&nested, &[]);
    let names: Vec<_> = s.parameters.keys().map(String::as_str).collect();
    assert_eq!(names, ["model.norm_mode", "trainer.optimizer.lr", "trainer.seed"]);
    assert_eq!(s.parameters["trainer.optimizer.lr"].values, Some(vec![json!(1e-3), json!(1e-4)]));

    let s = sweep(
        &nested,
        &["trainer.epochs=2", "parameters.trainer.seed.max=9", "parameters.trainer.threads.value=2", "run_cap=5"],
    );
    assert_eq!((s.experiment.first().trainer.epochs, s.run_cap), (2, Some(5)));
    assert_eq!(s.parameters["trainer.threads"].value, Some(json!(2)));
    refused(
        &nested,
        &["trainer.optimizer.lr=1"],
        &["gives this field its values itself", "parameters.trainer.optimizer.lr.value"],
    );
    refused(&nested, &["trainer.optimiser.lr=1"], &["did you mean `optimizer`?"]);
}

#[test]
fn what_is_wrong_with_a_search_space() {
    let cases: &[(&str, &[&str])] = &[
        ("parameters: {}\n", &["nothing to vary"]),
        ("parameters: {lr: {values: [1]}}\n", &["f.yaml:9:14", "did you mean `trainer.optimizer.lr`?"]),
        ("parameters: {trainer.optimiser.lr: {values: [1]}}\n", &["did you mean `trainer.optimizer.lr`?"]),
        ("parameters: {trainer.seed: {}}\n", &["no values"]),
        ("parameters: {trainer.seed: 3}\n", &["expected a mapping", "{value: …}"]),
        ("parameters: {trainer.seed: {value: 1, values: [1]}}\n", &["more than one way"]),
        ("parameters: {trainer.seed: {values: []}}\n", &["there is no value"]),
        ("parameters: {trainer.seed: {values: [1, 1]}}\n", &["twice"]),
        ("parameters: {trainer.seed: {min: 1}}\n", &["`min` without `max`"]),
        ("parameters: {trainer.seed: {min: 3, max: 1}}\n", &["above max"]),
        ("parameters: {trainer.seed: {min: 1, max: 3, distribution: uniform}}\n", &["continuous range"]),
        ("parameters: {trainer.seed: {value: 1, distribution: categorical}}\n", &["does not go with"]),
        ("parameters: {trainer.seed: {values: [1], probabilities: [1]}}\n", &["W&B's `probabilities`"]),
        ("parameters: {trainer.epochs: {values: [1, 2.5, 0]}}\n", &["9:43", "whole number", "9:48", "1 or more"]),
        ("parameters: {model.norm_mode: {values: [batch, frosen]}}\n", &["9:48", "did you mean `frozen`?"]),
        ("parameters: {model.image_size: {values: [128, 100]}}\n", &["9:47", "multiple of 128"]),
        (
            "parameters: {trainer.world_size: {values: [1, 4]}, trainer.batch_size: {values: [2, 8]}}\n",
            &["with trainer.batch_size=2 trainer.world_size=4"],
        ),
        (
            "parameters: {trainer.seed: {min: 1, max: 100}, trainer.epochs: {min: 1, max: 101}}\n",
            &["10100 runs", "run_cap"],
        ),
        ("parameters: {trainer: {parameters: {seed: {value: 1}}}, trainer.seed: {value: 2}}\n", &["there twice"]),
        ("parameters: {trainer.seed: {values: [1]}}\nprogram: train.py\n", &["program", "leave it out"]),
        ("parameters: {trainer.seed: {values: [1]}}\nearly_terminate: {}\n", &["not implemented"]),
        ("parameters: {trainer.seed: {values: [1]}}\nrun_cap: 0\n", &["0 runs"]),
    ];
    for (text, wanted) in cases {
        refused(&format!("{SWEEP}{text}"), &[], wanted);
    }
    let random = SWEEP.replace("grid", "random");
    refused(&format!("{random}parameters: {{trainer.seed: {{values: [1]}}}}\n"), &[], &["run_cap: 20"]);
    let capped = format!("{random}run_cap: 3\n");
    refused(&format!("{capped}parameters: {{trainer.epochs: {{min: 1.0, max: 3}}}}\n"), &[], &["whole number"]);
    refused(
        &format!(
            "{capped}parameters: {{trainer.optimizer.lr: {{min: 0, max: 1, distribution: log_uniform_values}}}}\n"
        ),
        &[],
        &["no logarithm"],
    );
    let lr = "parameters: {trainer.optimizer.lr: {min: -9, max: -3, distribution: log_uniform}}\n";
    sweep(&format!("{capped}{lr}"), &[]);

    let one = "parameters: {trainer.seed: {values: [1]}}\n";
    refused(&format!("{}{one}", SWEEP.replace(", goal: maximize", "")), &[], &["lacks `goal`", "maximize"]);
    refused(
        &format!("{}{one}", SWEEP.replace("opacity/auroc", "opacity/aurok")),
        &[],
        &["did you mean `opacity/auroc`?"],
    );
    refused(&format!("{}{one}", SWEEP.replace("grid", "bayes")), &[], &["W&B's `bayes` is not implemented"]);
}

#[test]
fn parameters_that_agree_only_together_are_accepted() {
    sweep(
        &format!(
            "{SWEEP}parameters: {{trainer.world_size: {{value: 128}}, trainer.batch_size: {{values: [128, 256]}}}}\n"
        ),
        &[],
    );
}

#[test]
fn the_experiment_of_a_sweep_may_lie_in_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let text = "kind: sweep\nname: s\nmethod: grid\nmetric: {name: val/score, goal: minimize}\nexperiment: e.yaml\n\
        parameters: {trainer.seed: {values: [1, 2]}}\n";
    write("s.yaml", text);
    let read = |arguments: &[&str]| load::file(&folder.path().join("s.yaml"), &set(arguments));

    let printed = read(&[]).unwrap_err().to_string();
    assert!(printed.contains("s.yaml:5:13") && printed.contains("e.yaml"), "{printed}");
    write("e.yaml", EXPERIMENT);
    let Document::Sweep(s) = read(&["trainer.epochs=3"]).unwrap() else { panic!() };
    let experiment = s.experiment.first();
    assert_eq!((experiment.name.as_str(), experiment.trainer.epochs), ("x", 3));
    write("e.yaml", &more("trainer:\n  epoch: 3\n"));
    let printed = read(&[]).unwrap_err().to_string();
    assert!(printed.contains("e.yaml:6:3") && printed.contains("did you mean `epochs`?"), "{printed}");
    write("e.yaml", DATASET);
    assert!(read(&[]).unwrap_err().to_string().contains("expected `experiment`"));
    write("e.yaml", text);
    assert!(read(&[]).is_err());
}

#[test]
fn a_sweep_may_have_several_experiments() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let inline = "{name: c, dataset: {url: d}, model: {method: b-vae}, trainer: {epochs: 9}}";
    let sweep = |list: &str, parameters: &str| {
        format!(
            "kind: sweep\nname: s\nmethod: grid\nmetric: {{name: val/score, goal: minimize}}\nexperiment: {list}\n{parameters}"
        )
    };
    let read = |text: &str, arguments: &[&str]| {
        write("s.yaml", text);
        load::file(&folder.path().join("s.yaml"), &set(arguments))
    };
    write("a.yaml", EXPERIMENT);
    write("b.yaml", &EXPERIMENT.replace("name: x", "name: y").replace("morphaeus", "vae, channels: [8, 8]"));
    let three = format!("[a.yaml, b.yaml, {inline}]");

    let whole = sweep(&three, "");
    let document = read(&whole, &["trainer.seed=7", "experiment.1.trainer.epochs=2"]).unwrap();
    let Document::Sweep(s) = &document else { panic!() };
    let seen: Vec<_> = s.experiment.iter().map(|e| (e.name.as_str(), e.trainer.seed, e.trainer.epochs)).collect();
    assert_eq!(seen, [("x", 7, 500), ("y", 7, 2), ("c", 7, 9)]);
    let again = load::text(&document.to_yaml(), "written", Path::new(""), &Options::default());
    assert_eq!(again.unwrap_or_else(|p| panic!("{p}")), document);

    let says = |list: &str, parameters: &str, arguments: &[&str], wanted: &[&str]| {
        let printed = read(&sweep(list, parameters), arguments).unwrap_err().to_string();
        for w in wanted {
            assert!(printed.contains(w), "{w:?} is not in\n{printed}");
        }
    };
    says("[]", "", &[], &["s.yaml:5:1", "cannot be a list of 0", "at least one"]);
    says("7", "", &[], &["s.yaml:5:13", "an experiment, or a list of at least one"]);
    says("[a.yaml, none.yaml, nor.yaml]", "", &[], &["s.yaml:5:22", "none.yaml", "s.yaml:5:33", "nor.yaml"]);
    says("[a.yaml, a.yaml]", "", &[], &["a.yaml:2:7", "another experiment of this sweep", "experiment.1.name"]);
    says("[a.yaml, {name: q}]", "", &[], &["s.yaml:5:22", "`experiment.1` lacks `dataset`"]);
    says("[a.yaml, 3]", "", &[], &["s.yaml:5:22", "expected a mapping"]);
    write("bad.yaml", &more("trainer: {epochs: 0, batchsize: 3}\n").replace("name: x", "name: z"));
    says("[a.yaml, bad.yaml]", "", &[], &["bad.yaml:5:19", "bad.yaml:5:22", "did you mean `batch_size`?"]);
    let both = "parameters: {model.latent: {values: [8, 16]}}\n";
    says("[b.yaml, a.yaml]", both, &[], &["s.yaml:6:38", "with experiment=x", "model.latent"]);
    says(&three, "parameters: {trainer.epochs: {values: [1, 0]}}\n", &[], &["s.yaml:6:43", "1 or more"]);
    let seeds = "parameters: {trainer.seed: {values: [1, 2]}}\n";
    says(&three, seeds, &["trainer.seed=3"], &["gives this field its values itself"]);
    says(&three, "", &["trainer.epochs.x=3"], &["no field `x`"]);
    says("[a.yaml]", "", &[], &["nothing to vary"]);
    says(&three, "parameters: {trainer.seed: {min: 1, max: 9999}}\n", &[], &["29997 runs"]);
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let says = |path: &Path, wanted: &str| {
        let printed = load::file(path, &Options::default()).unwrap_err().to_string();
        assert!(printed.contains(wanted) && printed.contains(path.to_str().unwrap()), "{printed}");
    };
    says(&folder.path().join("no-such.yaml"), "No such file");
    says(folder.path(), "is a folder");
    let file = folder.path().join("f.yaml");
    fs::write(&file, b"kind: \xff\n").unwrap();
    says(&file, "byte 6");
    fs::write(&file, vec![b' '; 2 << 20]).unwrap();
    says(&file, "no configuration");
    says(Path::new("/dev/zero"), "no configuration");
}

#[test]
fn aliases_of_aliases_do_not_fill_the_memory() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..12 {
        let aliases = vec![format!("*a{}", i - 1); 9].join(", ");
        text.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    refused(&text, &[], &["error"]);
    let repeated = format!("a: &x {}\nb: [{}]\n", "y".repeat(100_000), "*x,".repeat(1000));
    refused(&repeated, &[], &["a configuration is smaller"]);
    refused(&format!("kind: {}", "[".repeat(10_000)), &[], &["error"]);
    refused(&"a:\n ".repeat(5_000), &[], &["error"]);
    refused(&(0..500).map(|i| format!("k{i}: 1\n")).collect::<String>().replace("k0", "kind"), &[], &["error"]);
}

/// A valid experiment that differs from the default in many places.
fn any_experiment() -> impl Strategy<Value = Experiment> {
    let texts = (r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}", ".*", r"\PC{1,20}x", proptest::collection::vec(".*", 0..3));
    let numbers = (1e-12..1e3f64, 0.0..1.0f64, any::<u64>(), 1u32..500, 1u32..=32, 0u32..30);
    let flags = (any::<bool>(), any::<bool>(), 3u32..8, prop::option::of(r"[ -~]{1,20}x"));
    (texts, numbers, flags).prop_map(
        |((name, description, url, labels), (lr, beta, seed, epochs, ranks, start), (a, b, levels, weights))| {
            let mut e = experiment(EXPERIMENT, &[]);
            (e.name, e.description, e.dataset.url) = (name, description, url);
            e.dataset.validation.labels = labels;
            e.trainer.optimizer.lr = lr;
            e.trainer.optimizer.betas = [beta, 0.5];
            (e.trainer.seed, e.trainer.epochs, e.trainer.world_size) = (seed, epochs, ranks);
            (e.trainer.drop_last, e.model.sync) = (a, b);
            e.model.channels.truncate(levels as usize);
            e.model.refine_levels = levels - 2;
            e.trainer.loss.morph.start_epoch = start;
            e.trainer.loss.perceptual.weight = if weights.is_some() { lr } else { 0.0 };
            e.trainer.loss.perceptual.weights = weights;
            e
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in r"(\PC|[\n\t :{}\[\]&*!$<'-]){0,120}") {
        if let Err(problems) = read(&text, &[]) {
            prop_assert!(!problems.to_string().is_empty());
        }
    }

    #[test]
    fn no_damage_makes_it_panic(at in 0usize..400, junk in r"(\PC|[\n\t:{}\[\]&*!$]){0,4}", cut in 0usize..12, which in 0usize..4, over in r"[a-z.=\[\]{}:0-9$]{0,12}") {
        let sound = [
            more("trainer: {epochs: 3, optimizer: {betas: [0.5, 0.9]}}\nevaluation: {pathology: {o: {split: test}}}\n"),
            format!("{SWEEP}parameters: {{trainer: {{parameters: {{seed: {{min: 1, max: 3}}}}}}, trainer.epochs: {{values: [1, 2]}}}}\n"),
            format!("{DATASET}split: {{val: 0.1, healthy: [a]}}\nlabels: {{x: a}}\n"),
            format!("{}parameters: {{}}\n", SWEEP.replace("experiment:\n  name", "experiment:\n- {name: y, dataset: {url: d}, model: {method: vae}}\n- name")),
        ];
        let mut chars: Vec<char> = sound[which].chars().collect();
        let at = at.min(chars.len());
        let end = (at + cut).min(chars.len());
        chars.splice(at..end, junk.chars());
        let text: String = chars.into_iter().collect();
        for arguments in [&[][..], &[over.as_str()][..]] {
            if let Err(problems) = read(&text, arguments) {
                prop_assert!(!problems.to_string().is_empty());
            }
        }
    }

    #[test]
    fn what_is_written_is_what_is_read(e in any_experiment()) {
        let document = Document::Experiment(Box::new(e));
        let text = document.to_yaml();
        match read(&text, &[]) {
            Ok(again) => prop_assert_eq!(again, document),
            Err(problems) => prop_assert!(false, "{problems}\n{text}"),
        }
    }

    #[test]
    fn with_no_parameter_is_the_same(e in any_experiment()) {
        prop_assert_eq!(e.with(&BTreeMap::new()), Ok(e));
    }
}
