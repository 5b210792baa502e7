//! `trainer`: epochs, loss, optimizer, schedule, data.

use super::{
    super::tree::{At, Value},
    Import, Lines, Section,
    model::Model,
};
use crate::experiment::Method;

/// What the run is for.
#[derive(Clone, Copy)]
pub(super) struct Goal<'a> {
    /// Weights are scored as they are.
    pub(super) scored: bool,
    /// `trainer.device`.
    pub(super) device: &'a str,
    /// Training goes on from a file.
    pub(super) resumes: bool,
}

/// The seed that is written into the code.
const SEED: u32 = 2109;
/// Epochs after which the AAE's learning rate is a quarter.
const QUARTER: u32 = 90;

/// The trainer that goes with a method, by the end of its module's name.
fn trainer_of(method: Method) -> &'static str {
    match method {
        Method::Morphaeus => "MorphTrainer",
        Method::Aae => "AAETrainer",
        Method::SiVae => "SIVAETrainer",
        _ => "Trainer",
    }
}

impl Import {
    pub(super) fn trainer(&mut self, mut trainer: Section, model: &Model, goal: Goal<'_>) -> Option<Lines> {
        let method = model.method;
        let wanted = trainer_of(method);
        match self.text_at(&mut trainer, "module_name") {
            Some((at, module)) if module.rsplit('.').next() != Some(wanted) => {
                let message = format!("{} is not trained by {module} here", method.name());
                self.problem(at, "trainer.module_name", message, &format!("its trainer is {wanted}"));
            }
            Some(_) => {}
            None => {
                let at = trainer.here();
                self.problem(at, "trainer.module_name", "`module_name` is missing: it says who trains", "");
            }
        }
        self.only(&mut trainer, "class_name", "PTrainer", "every trainer's class is");
        let mut params = self.section(&mut trainer, "params");
        self.side(&mut params, "input_size");
        if let Some((at, path)) = self.text_at(&mut params, "checkpoint_path") {
            self.note(
                at,
                "trainer.params.checkpoint_path",
                format!("{path}: checkpoints go where the coordinator keeps its objects"),
            );
        }
        let epochs = self.int(&mut params, "nr_epochs", 500);
        let batch = self.data(&mut trainer);

        let mut lines = Lines::default();
        match goal.scored {
            true => lines.comment("epochs: 0", "nothing is trained: the weights are scored"),
            false => lines.put(format!("epochs: {epochs}")),
        }
        if goal.resumes {
            lines.comment("resume: true", "the code goes on with the file's optimizer and epoch");
        }
        lines.put(format!("batch_size: {batch}"));
        lines.put(format!("device: {}", goal.device));
        lines.comment(format!("seed: {SEED}"), "written into the code");
        lines.put("drop_last: true");
        let scheduler = self.text_at(&mut params, "lr_scheduler");
        let cosine = scheduler.as_ref().is_some_and(|(_, s)| s == "cosine");
        self.optimizer(&mut params, method, cosine, &mut lines);
        self.schedule(scheduler, method, epochs, &mut lines);
        self.loss(&mut params, method, &mut lines);
        let patience = self.int_at(&mut params, "patience");
        if method == Method::Aae {
            lines.comment("early_stopping: {patience: 0}", "the code never stops early; 25 mends it");
            if let Some((at, n)) = patience {
                self.note(at, "trainer.params.patience", format!("{n}: the code never asks for it in this method"));
            }
        } else if method == Method::Morphaeus {
            let patience = patience.map_or(25, |(_, n)| n);
            let why = "the code judges epochs before the deformation counts, too; true mends it";
            lines.comment(format!("early_stopping: {{patience: {patience}, anew: false}}"), why);
        } else {
            lines.put(format!("early_stopping: {{patience: {}}}", patience.map_or(25, |(_, n)| n)));
        }
        self.leftovers(params);
        self.leftovers(trainer);
        Some(lines)
    }

    fn optimizer(&mut self, params: &mut Section, method: Method, cosine: bool, lines: &mut Lines) {
        let mut options = self.section(params, "optimizer_params");
        let lr = self.number(&mut options, "lr", 1e-3);
        // Some trainers, and the cosine schedule, make optimizers of their own and take the rate alone.
        let own = cosine || matches!(method, Method::Aae | Method::SiVae);
        let mut more = Vec::new();
        if own {
            for key in options.keys() {
                let at = options.at(&key);
                self.note(at, &options.path_of(&key), "the code makes its own optimizer here and does not look at it");
            }
        } else {
            if let Some((at, node)) = options.take("betas") {
                let numbers: Vec<f64> = match &node.value {
                    Value::List(items) => items
                        .iter()
                        .filter_map(|i| if let Value::Number(n) = &i.value { n.as_f64() } else { None })
                        .collect(),
                    _ => Vec::new(),
                };
                match numbers[..] {
                    [first, second] => more.push(format!("betas: [{first}, {second}]")),
                    _ => self.problem(at, "trainer.params.optimizer_params.betas", "two numbers are wanted", ""),
                }
            }
            for key in ["eps", "weight_decay"] {
                if options.get(key).is_some() {
                    more.push(format!("{key}: {:e}", self.number(&mut options, key, 0.0)));
                }
            }
            if self.flag(&mut options, "amsgrad", false).1 {
                more.push("amsgrad: true".to_owned());
            }
            self.leftovers(options);
        }
        if method == Method::Aae {
            more.push("betas: [0.5, 0.999]".to_owned());
        }
        if cosine {
            more.extend(["weight_decay: 1e-5".to_owned(), "amsgrad: true".to_owned()]);
        }
        let all = [vec![format!("lr: {lr:e}")], more].concat().join(", ");
        match cosine {
            true => lines.comment(format!("optimizer: {{{all}}}"), "the code's own for `cosine`"),
            false => lines.put(format!("optimizer: {{{all}}}")),
        }
    }

    fn schedule(&mut self, named: Option<(At, String)>, method: Method, epochs: u32, lines: &mut Lines) {
        const FIELD: &str = "trainer.params.lr_scheduler";
        if let (Method::Aae | Method::SiVae, Some((at, name))) = (method, &named) {
            self.note(*at, FIELD, format!("{name}: the code makes it and does not ask it in this method"));
        }
        let milestones: Vec<String> = (1..=epochs / QUARTER).map(|i| (i * QUARTER - 1).to_string()).collect();
        match (method, named) {
            (Method::Aae, _) if milestones.is_empty() => {}
            (Method::Aae, _) => lines.comment(
                format!("schedule: {{name: multi-step, factor: 0.25, milestones: [{}]}}", milestones.join(", ")),
                "a quarter after every 90 epochs",
            ),
            (Method::SiVae, _) => lines.comment(
                "schedule: {name: multi-step, factor: 0.1, milestones: [350], argument: score}",
                "the loss for the epoch: it never falls; `epoch` mends it",
            ),
            (_, None) => {}
            (_, Some((_, name))) if name == "none" => {}
            (_, Some((at, name))) => match name.as_str() {
                "plateau" => lines.put("schedule: {name: plateau, factor: 0.1, patience: 10}"),
                "cosine" => lines.comment(
                    "schedule: {name: cosine, epochs: 100, argument: score}",
                    "the loss for the epoch: all but constant; `epoch` mends it",
                ),
                "exponential" => lines.put("schedule: {name: exponential, factor: 0.97}"),
                _ => self.problem(
                    at,
                    FIELD,
                    format!("`{name}` is no schedule of the code"),
                    "plateau, cosine, exponential or none",
                ),
            },
        }
    }

    fn loss(&mut self, params: &mut Section, method: Method, lines: &mut Lines) {
        let mut loss = self.section(params, "loss");
        let here = loss.here();
        loss.drop(&["module_name"]);
        let class = self.text_at(&mut loss, "class_name");
        let mut options = self.section(&mut loss, "params");
        let (at, class) = class.unwrap_or((here, String::new()));
        let mut own: Vec<String> = Vec::new();
        let mut comment = "";
        let reconstruction = match class.as_str() {
            "L1" => Some("l1"),
            "L2" => Some("l2"),
            _ => None,
        };
        let plain = method.fields().contains(&"reconstruction");
        match (method, class.as_str(), reconstruction) {
            (Method::Vae, "VAELoss", _) => {
                self.only(&mut options, "sum_samplewise", "true", "losses are summed over each image");
                own.push(format!(
                    "vae: {{rec_log_std: {}, posterior: twice}}",
                    self.number(&mut options, "rec_log_std", 0.0)
                ));
                comment = "exponentiated twice; `exponential` mends it";
            }
            (Method::BetaVae, "VAEHigLoss", _) => {
                let (beta, gamma) = (self.number(&mut options, "beta", 4.0), self.number(&mut options, "gamma", 10.0));
                let max = self.number(&mut options, "max_capacity", 25.0);
                let form = self.text_at(&mut options, "loss_type");
                let form = match form.as_ref().map(|(_, f)| f.as_str()) {
                    None | Some("B") => "b",
                    Some("H") => "h",
                    Some(other) => {
                        let message = format!("`{other}` is no form of the loss");
                        self.problem(
                            form.as_ref().map_or(at, |f| f.0),
                            "trainer.params.loss.params.loss_type",
                            message,
                            "B or H",
                        );
                        "b"
                    }
                };
                own.push(format!(
                    "capacity: {{form: {form}, beta: {beta}, gamma: {gamma}, max: {max}, iterations: 100000, divergence_weight: \
                     0.008, count_validation: true}}"
                ));
                comment = "counts validation's batches, too; false mends it";
            }
            (Method::Aae | Method::SiVae, _, _) => {
                if !class.is_empty() {
                    self.note(
                        at,
                        "trainer.params.loss.class_name",
                        format!("{class}: the method has losses of its own"),
                    );
                }
            }
            (_, _, Some(word)) if plain => own.push(format!("reconstruction: {word}")),
            _ => {
                let known = match method {
                    Method::Vae => "VAELoss",
                    Method::BetaVae => "VAEHigLoss",
                    _ => "L1 or L2",
                };
                let message = format!("the loss {class:?} is not trained with {} here", method.name());
                self.problem(at, "trainer.params.loss.class_name", message, &format!("what is: {known}"));
            }
        }
        self.leftovers(options);
        self.leftovers(loss);
        let (alfa_at, alfa) = (params.at("alfa"), self.number(params, "alfa", 0.0));
        if method.fields().contains(&"perceptual") {
            match alfa > 0.0 {
                true => own.push(format!("perceptual: {{weight: {alfa}, weights: \"${{VGG19_WEIGHTS}}\"}}")),
                false => own.push("perceptual: {weight: 0}".to_owned()),
            }
        } else if alfa > 0.0 {
            self.note(alfa_at, "trainer.params.alfa", format!("{alfa}: the code does not use it in this method"));
        }
        if method == Method::Morphaeus {
            let (beta, delta) = (self.number(params, "beta", 3.0), self.number(params, "delta", 1.0));
            let epochs = self.int(params, "max_iter", 500);
            own.push(format!(
                "morph: {{weight: {delta}, start_epoch: 11, ncc: reference, beta: {beta}, beta_epochs: {epochs}}}"
            ));
            comment = "NCC with the code's cancellation; `stable` mends it";
        }
        if method == Method::SiVae {
            own.push("intro: {beta_kl: 1, beta_rec: 1, beta_neg: 256, gamma_r: 1e-8}".to_owned());
            comment = "written into the code";
        }
        if !own.is_empty() {
            lines.put("loss:");
        }
        for line in own {
            let commented = ["vae:", "capacity:", "morph:", "intro:"].iter().any(|k| line.starts_with(k));
            match commented {
                true => lines.comment(format!("  {line}"), comment),
                false => lines.put(format!("  {line}")),
            }
        }
        self.noise(params, method, lines);
    }

    fn noise(&mut self, params: &mut Section, method: Method, lines: &mut Lines) {
        let given = params.get("transformer").is_some();
        let mut transformer = self.section(params, "transformer");
        let here = transformer.here();
        transformer.drop(&["module_name"]);
        let class = self.text_at(&mut transformer, "class_name");
        let mut options = self.section(&mut transformer, "params");
        match class {
            Some((_, class)) if class == "GaussianNoise" && method == Method::Dae => {
                let std = self.number(&mut options, "noise_std", 0.2);
                let resolution = self.int(&mut options, "noise_res", 16);
                lines.put(format!("noise: {{std: {std}, resolution: {resolution}}}"));
            }
            Some((at, class)) => {
                let message = format!("{class} is no transform of {} here", method.name());
                self.problem(at, "trainer.params.transformer.class_name", message, "GaussianNoise goes with the U-Net");
            }
            None if method == Method::Dae => {
                let message = "a denoising U-Net without noise to remove";
                self.problem(here, "trainer.params.transformer", message, "class_name: GaussianNoise");
            }
            None if given => self.note(here, "trainer.params.transformer", "no class: no transform"),
            None => {}
        }
        self.leftovers(options);
        self.leftovers(transformer);
    }

    /// The training data: what it says of size and batch; the size of a batch.
    fn data(&mut self, trainer: &mut Section) -> u32 {
        let mut loader = self.section(trainer, "data_loader");
        self.class(&mut loader, "DefaultDataLoader");
        let mut params = self.section(&mut loader, "params");
        let mut args = self.section(&mut params, "args");
        self.side(&mut args, "target_size");
        let batch = self.int(&mut args, "batch_size", 8);
        let mut module = self.section(&mut args, "dataset_module");
        self.class(&mut module, "DefaultDataset");
        self.files(&mut args, "put these images into a dataset (morphctl data prepare) and name it in dataset.url");
        for rest in [module, args, params, loader] {
            self.leftovers(rest);
        }
        batch
    }

    /// A class that reads images; another than `usual` is told.
    pub(super) fn class(&mut self, section: &mut Section, usual: &str) {
        section.drop(&["module_name"]);
        let path = section.path_of("class_name");
        if let Some((at, class)) = self.text_at(section, "class_name").filter(|(_, c)| c != usual) {
            self.note(
                at,
                &path,
                format!("{class}: images are read from a prepared dataset; see that they are made alike"),
            );
        }
    }

    /// `data_dir`: lists of files, which are told.
    pub(super) fn files(&mut self, args: &mut Section, text: &str) {
        let (at, path) = (args.at("data_dir"), args.path_of("data_dir"));
        let Some((_, node)) = args.take("data_dir") else { return };
        let mut files = Vec::new();
        let mut node = node;
        node.each(&mut |n| {
            if let Value::Text(text) = &n.value {
                files.push(text.clone());
            }
        });
        let listed = files.iter().map(|f| f.rsplit('/').next().unwrap_or(f)).collect::<Vec<_>>().join(", ");
        self.note(at, &path, format!("{listed}: {text}"));
    }
}
