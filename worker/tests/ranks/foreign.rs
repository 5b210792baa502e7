//! Runs that begin with weights from elsewhere: every method, from every kind of file.

use std::path::Path;

use morph_checkpoint::{
    pt::{self, Item},
    weights,
};
use morph_model::{Optimizers, paper, state_dict};
use morph_spec::{Digest, experiment::Method};
use morph_worker::{
    export,
    rank::{
        self,
        foreign::begin,
        group::{Group, Place},
        orders::Orders,
        trainer::End,
    },
};
use tch::{Device, Kind};

use crate::{
    methods::of,
    resume::{Rank, write_dataset},
};

const PLACE: Place = Place { device: Device::Cpu, kind: Kind::Float };

#[test]
fn every_method_begins_with_given_weights_or_says_what_does_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = rank::runtime().unwrap();
    for method in Method::ALL {
        let mut experiment = of(*method, folder.path());
        experiment.trainer.seed = 1;
        let given = rank::build(&experiment, PLACE, &runtime).unwrap();
        let state = state_dict(given.method.as_ref()).unwrap();
        let item = |t: &morph_checkpoint::Tensors| {
            pt::write(&Item::State(t.iter().map(|(n, t)| (n.clone(), t)).collect::<Vec<_>>())).unwrap()
        };
        let files = [
            ("flat.pt", item(&state)),
            ("data-parallel.pt", item(&state.iter().map(|(n, t)| (format!("module.{n}"), t.clone())).collect())),
            ("w.safetensors", weights::to_safetensors(&state).unwrap()),
            ("best_model.pt", {
                let options = &experiment.trainer.optimizer;
                paper::write(given.method.as_ref(), &Optimizers::new(given.method.as_ref(), options), options, 1e-4, 6)
                    .unwrap()
            }),
        ];
        for (name, bytes) in files {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let mut begun = of(*method, folder.path());
            begun.model.weights = Some(path.display().to_string());
            begun.trainer.resume = name == "best_model.pt";
            let mut net = rank::build(&begun, PLACE, &runtime).unwrap();
            // Who draws none of its weights has the same ones with every seed.
            let drawn = Method::PAPER.contains(method);
            assert!(!drawn || state_dict(net.method.as_ref()).unwrap() != state, "another seed");
            let at = begin(&mut net, &begun, &runtime).unwrap();
            assert_eq!(state_dict(net.method.as_ref()).unwrap(), state, "{} from {name}", method.name());
            let epoch = if begun.trainer.resume { 7 } else { 0 };
            assert_eq!((at.epoch, at.schedule.epochs), (epoch, epoch), "{name}");
            let file = net.files(&begun).pop().unwrap();
            assert_eq!((file.field.as_str(), file.url), ("model.weights", path.display().to_string()));
            assert_eq!(file.blake3, Digest::of(&std::fs::read(&path).unwrap()).to_string(), "it is on record");
        }
        let mut broken = state.clone();
        let (lost, tensor) = broken.pop_first().unwrap();
        broken.insert("surplus".into(), tensor);
        let path = folder.path().join("broken.pt");
        std::fs::write(&path, item(&broken)).unwrap();
        let mut begun = of(*method, folder.path());
        begun.model.weights = Some(format!("file://{}", path.display()));
        let mut net = rank::build(&begun, PLACE, &runtime).unwrap();
        let said = begin(&mut net, &begun, &runtime).unwrap_err();
        assert_eq!(said.exit(), morph_worker::wire::Exit::User, "trying again is no use");
        let said = said.to_string();
        for wanted in ["broken.pt", method.name(), &format!("missing [{lost:?}]"), "unexpected [\"surplus\"]"] {
            assert!(said.contains(wanted), "{wanted}: {said}");
        }
        begun.trainer.resume = true;
        begun.model.weights = Some(folder.path().join("flat.pt").display().to_string());
        let said = begin(&mut net, &begun, &runtime).unwrap_err().to_string();
        assert!(said.contains("trainer.resume: false"), "{said}");
    }
    let mut missing = of(Method::AeS, folder.path());
    missing.model.weights = Some(folder.path().join("no.pt").display().to_string());
    let mut net = rank::build(&missing, PLACE, &runtime).unwrap();
    assert!(begin(&mut net, &missing, &runtime).unwrap_err().to_string().contains("no.pt"));
}

/// Trains, exports, and begins again from the files: scored as they are; and resumed, which goes on as the run itself would.
#[test]
fn what_is_exported_is_scored_and_resumed() {
    let folder = tempfile::tempdir().unwrap();
    rank::runtime().unwrap().block_on(write_dataset(folder.path()));
    let mut rank = Rank::new(Group::solo(), folder.path());
    rank.experiment = of(Method::Baseline, folder.path());
    rank.experiment.trainer.world_size = 1;
    rank.experiment.trainer.schedule = Default::default();
    rank.experiment.trainer.epochs = 2;
    let (_, net, at) = rank.train(1, None, &Orders::default());
    assert_eq!((at.epoch, at.step), (2, 10));
    let trained = state_dict(net.method.as_ref()).unwrap();
    let manifest = rank.output.at("step-00000010-a1").url_of(morph_checkpoint::MANIFEST);
    let paper = folder.path().join("latest_model.pt");
    export::checkpoint(&manifest, export::Format::Paper, &paper, false).unwrap();
    let again = export::checkpoint(&manifest, export::Format::Paper, &paper, false).unwrap_err().to_string();
    assert!(again.contains("--force"), "{again}");
    let script = folder.path().join("baseline.ts");
    let said = export::checkpoint(&manifest, export::Format::TorchScript, &script, false).unwrap();
    assert!(said.notes[0].contains("[B, 1, 32, 32]: reconstruction"), "{said:?}");
    assert!(script.metadata().unwrap().len() > 1000);
    assert!(!Path::new(&morph_checkpoint::file::beside(&script)).exists());

    for (i, location) in [manifest.clone(), paper.display().to_string()].into_iter().enumerate() {
        let mut scored = Rank::new(Group::solo(), folder.path());
        scored.experiment = rank.experiment.clone();
        scored.experiment.model.weights = Some(location.clone());
        scored.experiment.trainer.epochs = 0;
        scored.output = rank.output.at(&format!("scored-{i}"));
        let (end, net, at) = scored.train(1, None, &Orders::default());
        assert_eq!((end, at.step), (End::Finished, 0));
        assert_eq!(state_dict(net.method.as_ref()).unwrap(), trained, "{location}");
        let saved = folder.path().join(format!("checkpoints/scored-{i}/step-00000000-a1/manifest.json"));
        assert!(saved.is_file(), "it can be exported");
        // An attempt that goes on from there does not read the file, and knows still which one it was.
        let (_, again, _) = scored.train(2, Some("step-00000000-a1"), &Orders::default());
        let files = again.files(&scored.experiment);
        assert_eq!(files, net.files(&scored.experiment));
        assert_eq!(files.last().map(|file| file.url.as_str()), Some(location.as_str()));
    }

    rank.experiment.trainer.epochs = 3;
    let (_, undisturbed, _) = rank.train(2, Some("step-00000010-a1"), &Orders::default());
    let wanted = state_dict(undisturbed.method.as_ref()).unwrap();
    for (i, location) in [manifest, paper.display().to_string()].into_iter().enumerate() {
        let mut resumed = Rank::new(Group::solo(), folder.path());
        resumed.experiment = rank.experiment.clone();
        resumed.experiment.model.weights = Some(location.clone());
        resumed.experiment.trainer.resume = true;
        resumed.output = rank.output.at(&format!("resumed-{i}"));
        let (_, net, at) = resumed.train(1, None, &Orders::default());
        assert_eq!((at.epoch, at.step), (3, 15));
        assert_eq!(state_dict(net.method.as_ref()).unwrap(), wanted, "{location}: to the bit");
    }
}
