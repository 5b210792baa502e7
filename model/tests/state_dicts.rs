//! Every method's state dict against the reference's: names, element types, shapes, and the order of parameters, by which
//! `torch.optim.Adam` numbers its state.
//!
//! `golden/state_dicts.json` was recorded from the paper's own classes (torch 2.11), built as its configs/cxr/*.yaml say.
#![allow(clippy::unwrap_used)]

mod python;

use std::{collections::BTreeMap, path::Path};

use morph_model::{build, state_dict};
use morph_spec::{
    experiment::{Experiment, Method},
    load::{self, Document, Options},
};
use tch::{Device, Kind};

fn recorded() -> BTreeMap<String, Vec<String>> {
    serde_json::from_str(include_str!("golden/state_dicts.json")).unwrap()
}

/// The shipped experiment that builds the very network of the paper's.
fn experiment(method: Method) -> Experiment {
    let path = format!("{}/../configs/cxr/{}-published.yaml", env!("CARGO_MANIFEST_DIR"), method.name());
    let vars = [("MORPH_HOME", "/"), ("VGG19_WEIGHTS", "/vgg19.pth")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let options = Options { vars: vars.into(), ..Options::default() };
    let Document::Experiment(mut e) = load::file(Path::new(&path), &options).unwrap() else { panic!("{path}") };
    e.trainer.loss.perceptual.weight = 0.0;
    *e
}

#[test]
fn names_types_shapes_and_order_are_the_references() {
    tch::set_num_threads(1);
    let recorded = recorded();
    for method in Method::PAPER {
        let e = experiment(method);
        let net = build(&e.model, &e.trainer, None, Device::Cpu, Kind::Float).unwrap();
        let line = |name: &str, data: &morph_checkpoint::TensorData| {
            let shape: Vec<String> = data.shape.iter().map(ToString::to_string).collect();
            format!("{name} {} [{}]", data.dtype, shape.join(","))
        };
        let mut ours: Vec<String> = state_dict(net.as_ref()).unwrap().iter().map(|(n, d)| line(n, d)).collect();
        let wanted = &recorded[method.name()];
        let mut theirs: Vec<String> = wanted.iter().map(|l| l.rsplit_once(' ').unwrap().0.to_owned()).collect();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{}", method.name());

        let parameters = wanted.iter().filter_map(|l| l.strip_suffix(" parameter")?.split(' ').next());
        let parameters: Vec<&str> = parameters.collect();
        let own: Vec<String> = net.parameters().into_iter().map(|(name, _)| name).collect();
        assert_eq!(own, parameters, "{}", method.name());
        for group in net.groups() {
            let names: Vec<&str> = group.parameters.iter().map(|(name, _)| name.as_str()).collect();
            let in_order: Vec<&str> = parameters.iter().copied().filter(|n| names.contains(n)).collect();
            assert_eq!(names, in_order, "{}: optimizer {}", method.name(), group.name);
        }
    }
}
