//! YAML in the published code's shape becomes the experiment that `configs/cxr/*-published.yaml` have, or an error with its line.
//! The samples are written for these tests.

use std::path::Path;

use morph_spec::{
    Experiment,
    experiment::{Device, Method},
    load::{self, Document, Options, import},
};

fn vars() -> Options {
    let vars = [("MORPH_HOME", "/home-of-morph"), ("VGG19_WEIGHTS", "/vgg19.pth")];
    Options { vars: vars.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), ..Options::default() }
}

fn experiment(yaml: &str) -> Experiment {
    match load::text(yaml, "made", Path::new(""), &vars()).unwrap_or_else(|p| panic!("{p}\n{yaml}")) {
        Document::Experiment(e) => *e,
        other => panic!("a {}", other.kind()),
    }
}

fn published(method: Method) -> Experiment {
    let path = format!("{}/../configs/cxr/{}-published.yaml", env!("CARGO_MANIFEST_DIR"), method.name());
    match load::file(Path::new(&path), &vars()).unwrap_or_else(|p| panic!("{p}")) {
        Document::Experiment(e) => *e,
        other => panic!("a {}", other.kind()),
    }
}

/// A file: the class with its parameters, the trainer with its.
fn file(model: &str, trainer: &str, params: &str, batch: u32) -> String {
    format!(
        "name: Mine\ntarget_size: &size !!python/tuple [128, 128]\ndbatch_size: &one 1\ncheckpoint_path: &out ./weights/x/\n\
         experiment: {{name: 23_x, task: train, weights: }}\ndevice: gpu\n\
         configurator: {{module_name: core.Configurator, class_name: DLConfigurator, params: }}\n\
         model:\n{model}trainer:\n  module_name: projects.x.{trainer}\n  class_name: PTrainer\n  params:\n    input_size: *size\n    \
         checkpoint_path: *out\n{params}  data_loader:\n    module_name: core.DataLoader\n    class_name: DefaultDataLoader\n    \
         params:\n      args:\n        data_dir: {{train: [./splits/train.csv], val: [./splits/val.csv]}}\n        target_size: \
         *size\n        batch_size: {batch}\n        num_workers: 2\ndownstream_tasks:\n  pneumonia:\n    module_name: \
         x.DownstreamEvaluator\n    class_name: PDownstreamEvaluator\n    checkpoint_path: *out\n    compute_fid: False\n    \
         data_loader:\n      module_name: core.DataLoader\n      class_name: DefaultDataLoader\n      params:\n        args:\n          \
         dataset_module: {{module_name: data.cxr_loader, class_name: CXRDataset}}\n          target_size: *size\n          \
         batch_size: *one\n      datasets:\n        Normal_RSNA: {{data_dir: {{test: [./splits/healthy.csv]}}}}\n        \
         Pneumonia: {{data_dir: {{test: [./splits/sick.csv]}}}}\n"
    )
}

fn conv(class: &str, more: &str, channels: &str, levels: usize, kernel: u32, act: &str, mode: &str) -> String {
    let strides = vec!["2"; levels].join(", ");
    format!(
        "  module_name: zoo\n  class_name: {class}\n  params:\n    in_channels: 1\n    channels: [{channels}]\n    strides: [{strides}]\n    \
         out_ch: 1\n    kernel_size: {kernel}\n    norm: batch\n    act: {act}\n    deconv_mode: {mode}\n{more}"
    )
}

fn loss(class: &str, params: &str) -> String {
    format!("    loss: {{module_name: optim, class_name: {class}, params: {params}}}\n")
}

/// A sample for each method, with the paper's values.
fn sample(method: Method) -> String {
    let seven = "16, 32, 64, 128, 256, 256, 256";
    let more = |epochs: u32, lr: &str, rest: String| {
        format!("    nr_epochs: {epochs}\n    optimizer_params: {{lr: {lr}}}\n{rest}")
    };
    match method {
        Method::Morphaeus => file(
            &conv(
                "MorphAEus",
                "    inshape: *size\n    bidir: True\n    nr_ref_channels: 3\n",
                seven,
                7,
                3,
                "swish",
                "stride",
            ),
            "MorphTrainer",
            &more(
                500,
                "5.0e-4",
                loss("L2", "") + "    alfa: 0.05\n    beta: 3\n    delta: 1\n    max_iter: 200\n    patience: 25\n",
            ),
            64,
        ),
        Method::Baseline => file(
            &conv("ConvAutoEncoder", "", seven, 7, 3, "swish", "stride"),
            "Trainer",
            &more(500, "5.0e-4", loss("L2", "") + "    alfa: 0.00\n"),
            64,
        ),
        Method::AeS => file(
            &conv("ConvAutoEncoder", "", "32, 64, 128", 4, 5, "leakyrelu", "trans"),
            "Trainer",
            &more(1000, "5.0e-4", loss("L1", "")),
            64,
        ),
        Method::AeD => file(
            &conv("DenseConvAutoEncoderBaur", "", "32, 64, 128", 4, 5, "leakyrelu", "trans"),
            "Trainer",
            &more(1000, "5.0e-4", loss("L1", "")),
            64,
        ),
        Method::Vae => file(
            "  module_name: zoo\n  class_name: VAE\n  params: {input_size: !!python/tuple [1, 128, 128], h_size: [16, 32, 64, 256, 256], z_dim: 256}\n",
            "Trainer",
            &more(500, "5.0e-4", loss("VAELoss", "{rec_log_std: 0}") + "    lr_scheduler: 'plateau'\n"),
            128,
        ),
        Method::BetaVae => file(
            "  module_name: zoo\n  class_name: BetaVAE_H\n  additional_layer: True\n  params: {nc: 1, z_dim: 32}\n",
            "Trainer",
            &more(1000, "5.0e-4", loss("VAEHigLoss", "{beta: 4, gamma: 2, max_capacity: 50, loss_type: 'B'}")),
            64,
        ),
        Method::Dae => file(
            "  module_name: zoo\n  class_name: UNet\n  params: {in_channels: 1, n_classes: 1, norm: group, up_mode: upconv, depth: 4, wf: 6, padding: True}\n",
            "Trainer",
            &more(
                1000,
                "1.0e-4",
                loss("L1", "")
                    + "    lr_scheduler: 'cosine'\n    transformer: {module_name: t, class_name: GaussianNoise, params: {noise_std: 0.2, noise_res: 16}}\n",
            ),
            16,
        ),
        Method::Aae => file(
            "  module_name: zoo\n  class_name: AAE\n  params: {d: 64, extra_layers: 2, z_dim: 256}\n",
            "AAETrainer",
            &more(500, "5.0e-4", loss("L2", "")),
            128,
        ),
        Method::SiVae => file(
            "  module_name: zoo\n  class_name: SoftIntroVAE\n  params: {cdim: 1, zdim: 128, channels: [64, 128, 256, 512, 512], image_size: 128, conditional: False}\n",
            "SIVAETrainer",
            &more(1000, "5.0e-5", loss("L2", "")),
            32,
        ),
        #[allow(unreachable_patterns, reason = "as long as all methods are the paper's")]
        other => panic!("{} is not in the published code", other.name()),
    }
}

#[test]
fn every_method_becomes_the_experiment_that_is_published() {
    for method in Method::PAPER {
        let imported = import::text(&sample(method), "mine.yaml").unwrap_or_else(|p| panic!("{}: {p}", method.name()));
        let mut e = experiment(&imported.yaml);
        assert_eq!((e.name.as_str(), e.description.as_str()), ("Mine", "23_x, Mine: as the published code trains it."));
        let mut wanted = published(method);
        (e.name, e.description) = (wanted.name.clone(), wanted.description.clone());
        let opacity = wanted.evaluation.pathology.remove("opacity").expect("a pathology");
        wanted.evaluation.pathology.insert("pneumonia".into(), opacity);
        assert_eq!(e, wanted, "{}\n{}", method.name(), imported.yaml);
    }
}

#[test]
fn what_has_no_counterpart_is_named_with_its_line() {
    let (first, second) = sample(Method::BetaVae)
        .split_once("downstream_tasks")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .expect("tasks");
    let sample = first + "downstream_tasks" + &second.replacen("DefaultDataLoader", "CelebA", 1);
    let imported = import::text(&sample, "mine.yaml").unwrap_or_else(|p| panic!("{p}"));
    let notes: Vec<String> = imported.notes.iter().map(ToString::to_string).collect();
    for wanted in [
        "line 11: model.additional_layer: has no counterpart (`true`)",
        "trainer.params.checkpoint_path: ./weights/x/: checkpoints go where",
        "trainer.data_loader.params.args.data_dir: train.csv, val.csv: put these images into a dataset",
        "trainer.data_loader.params.args.num_workers: has no counterpart (`2`)",
        "downstream_tasks.pneumonia.compute_fid: ",
        "downstream_tasks.pneumonia.data_loader.class_name: CelebA: images are read from a prepared dataset",
        "Normal_RSNA.data_dir: healthy.csv: the healthy set",
        "Pneumonia.data_dir: sick.csv: its images' label in the dataset must be \"Lung Opacity\"",
    ] {
        assert!(notes.iter().any(|n| n.contains(wanted)), "{wanted}\n{notes:#?}");
    }
    let lines: Vec<usize> = imported.notes.iter().map(|n| n.line).collect();
    assert!(lines.is_sorted() && lines.iter().all(|l| *l > 0), "{notes:#?}");
    for note in &notes {
        assert!(imported.yaml.contains(&format!("#   {note}\n")), "{note} stands at the top");
    }
}

#[test]
fn weights_are_resumed_or_scored() {
    let given = |task: &str| {
        let text = sample(Method::AeS)
            .replace("task: train, weights: ", &format!("task: {task}, weights: './weights/AE-S/best_model.pt'"))
            .replace("device: gpu", "device: cpu");
        experiment(&import::text(&text, "x").unwrap_or_else(|p| panic!("{p}")).yaml)
    };
    let train = given("train");
    assert_eq!(train.model.weights.as_deref(), Some("./weights/AE-S/best_model.pt"));
    assert_eq!((train.trainer.resume, train.trainer.epochs, train.trainer.device), (true, 1000, Device::Cpu));
    let test = given("test");
    assert_eq!((test.trainer.resume, test.trainer.epochs), (false, 0));
}

#[test]
fn options_of_the_optimizer_are_taken_where_the_code_takes_them() {
    let options = "{lr: 1.0e-3, betas: !!python/tuple [0.8, 0.9], eps: 1.0e-7, weight_decay: 1.0e-4, amsgrad: True}";
    let with = |method| {
        let text = sample(method).replace("{lr: 5.0e-4}", options);
        import::text(&text, "x").unwrap_or_else(|p| panic!("{p}"))
    };
    let o = experiment(&with(Method::AeS).yaml).trainer.optimizer;
    assert_eq!((o.lr, o.betas, o.eps, o.weight_decay, o.amsgrad), (1e-3, [0.8, 0.9], 1e-7, 1e-4, true));
    let aae = with(Method::Aae);
    let o = experiment(&aae.yaml).trainer.optimizer;
    assert_eq!((o.lr, o.betas, o.amsgrad), (1e-3, [0.5, 0.999], false));
    assert_eq!(aae.notes.iter().filter(|n| n.text.contains("its own optimizer")).count(), 4, "{:?}", aae.notes);
}

#[test]
fn what_cannot_be_trained_is_an_error_with_its_line() {
    let wrong = |method, from: &str, to: &str| {
        let text = sample(method);
        assert!(text.contains(from), "{from}");
        import::text(&text.replacen(from, to, 1), "mine.yaml").expect_err(to).to_string()
    };
    for (method, from, to, wanted) in [
        (Method::AeS, "ConvAutoEncoder", "ConvAutoEncodr", &["mine.yaml:10:", "did you mean `ConvAutoEncoder`?"][..]),
        (Method::AeS, "ConvAutoEncoder", "Diffusion", &["the class zoo.Diffusion is not known here", "MorphAEus"]),
        (Method::AeS, "strides: [2, ", "strides: [1, ", &["a stride of 1", "every level halves"]),
        (Method::AeS, "strides: [2, ", "strides: [2, 2, ", &["5 strides for 3 channels"]),
        (Method::AeS, "deconv_mode: trans", "deconv_mode: upsample", &["`upsample` is not trained here"]),
        (Method::AeS, "in_channels: 1", "in_channels: 3", &["`3` is not trained here", "images are grey: 1"]),
        (Method::AeS, "channels: [32", "channels: [many", &["whole number"]),
        (Method::AeS, "[128, 128]", "[128, 64]", &["no square image"]),
        (
            Method::AeS,
            "projects.x.Trainer",
            "projects.x.MorphTrainer",
            &["ae-s is not trained by", "its trainer is Trainer"],
        ),
        (Method::AeS, "class_name: L1", "class_name: VAELoss", &["the loss \"VAELoss\" is not trained with ae-s"]),
        (Method::Vae, "'plateau'", "'onecycle'", &["`onecycle` is no schedule"]),
        (Method::Vae, "[1, 128, 128]", "[1, 64, 64]", &["128 pixels here, 64 in model.params.input_size"]),
        (
            Method::BetaVae,
            "z_dim: 32",
            "additional_layer: False",
            &["128 pixels here, 64 in model.params.additional_layer"],
        ),
        (Method::Dae, "class_name: GaussianNoise", "class_name: Blur", &["Blur is no transform of dae"]),
        (Method::AeS, "task: train", "task: test", &["nothing to score"]),
        (Method::AeS, "nr_epochs: 1000", "nr_epochs: 0", &["trainer.epochs", "the experiment made of mine.yaml"]),
        (Method::AeS, "name: Mine", "name: [", &["mine.yaml"]),
    ] {
        let said = wrong(method, from, to);
        for text in wanted {
            assert!(said.contains(text), "{to}: it should say {text:?}:\n{said}");
        }
    }
    let own = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/cxr/vae.yaml")).expect("a file");
    assert!(import::text(&own, "vae.yaml").expect_err("ours").to_string().contains("morph's own YAML already"));
    assert!(import::text("- 1\n", "x").expect_err("a list").to_string().contains("not a mapping"));
    assert!(import::file(Path::new("/no/such.yaml")).expect_err("nothing").to_string().contains("cannot read"));
}

#[test]
fn names_and_texts_of_any_kind_stay_texts() {
    let text = sample(Method::AeS)
        .replace("name: Mine", "name: 'ä \"quoted\" ${HOME} #1: x'")
        .replace("Pneumonia:", "'Träger, \"alt\"':");
    let e = experiment(&import::text(&text, "we\nird.yaml").unwrap_or_else(|p| panic!("{p}")).yaml);
    assert_eq!(e.description, "23_x, ä \"quoted\" ${HOME} #1: x: as the published code trains it.");
    assert!(e.evaluation.pathology.values().any(|s| s.labels == ["Träger, \"alt\""]), "{:?}", e.evaluation);
}
