//! What leaves the house and comes back: the paper's files and TorchScript, for every method.

use std::collections::BTreeMap;

use morph_checkpoint::{Dtype, TensorData, Tensors, weights};
use morph_spec::experiment as spec;
use tch::{Device, Kind};

use crate::{Method, Optimizers, build, load_state_dict, paper, script, state_dict};

pub(super) const SIDE: i64 = 32;

pub(super) fn small(method: spec::Method, seed: u64) -> Box<dyn Method> {
    let own = match method {
        spec::Method::Morphaeus => serde_json::json!({"channels": [4, 8, 8, 8], "refine_channels": 8}),
        spec::Method::AeD | spec::Method::AeS => {
            serde_json::json!({"channels": [4, 8], "levels": 3, "upsampling": "transposed", "activation": "leaky_relu"})
        }
        spec::Method::Aae => serde_json::json!({"channels": [4], "latent": 8}),
        spec::Method::BetaVae => serde_json::json!({"latent": 4}),
        _ => serde_json::json!({"channels": [4, 8, 8], "latent": 8}),
    };
    let mut model = serde_json::json!({"method": method, "image_size": SIDE});
    model.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    let model: spec::Model = serde_json::from_value(model).unwrap();
    let trainer = spec::Trainer { seed, ..spec::Trainer::default() };
    build(&model, &trainer, None, Device::Cpu, Kind::Float).unwrap()
}

/// Optimizers that have taken steps, but for the last parameter of each, which never had a gradient.
fn stepped(method: &dyn Method, options: &spec::Optimizer) -> Optimizers {
    let mut optimizers = Optimizers::new(method, options);
    for (group, (_, adam)) in method.groups().iter().zip(optimizers.iter_mut()) {
        let (mut tensors, mut steps) = (Tensors::new(), BTreeMap::new());
        let moments: &[&str] =
            if options.amsgrad { &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"] } else { &["exp_avg", "exp_avg_sq"] };
        for (i, (name, tensor)) in group.parameters.iter().rev().skip(1).enumerate() {
            steps.insert(name.clone(), i as u64 + 1);
            for (m, moment) in moments.iter().enumerate() {
                let shape = tensor.size().iter().map(|d| *d as u64).collect();
                let bytes = ((i * 3 + m) as f32).to_le_bytes().repeat(tensor.numel());
                tensors.insert(format!("{name}/{moment}"), TensorData { dtype: Dtype::F32, shape, bytes });
            }
        }
        adam.load_state(&tensors, &steps).unwrap();
    }
    optimizers
}

#[test]
fn every_method_goes_through_the_papers_file_and_comes_back() {
    super::one_thread();
    for method in spec::Method::PAPER {
        let options = spec::Optimizer { amsgrad: method == spec::Method::Dae, ..spec::Optimizer::default() };
        let from = small(method, 1);
        let optimizers = stepped(from.as_ref(), &options);
        let file = paper::write(from.as_ref(), &optimizers, &options, 1e-5, 11).unwrap();
        assert_eq!(file, paper::write(from.as_ref(), &optimizers, &options, 1e-5, 11).unwrap());
        let document = weights::read_document(&file, "best_model.pt").unwrap();
        let to = small(method, 2);
        let mut fresh = Optimizers::new(to.as_ref(), &options);
        load_state_dict(to.as_ref(), &weights::state_dict(&document.tensors)).unwrap();
        assert_eq!(state_dict(to.as_ref()).unwrap(), state_dict(from.as_ref()).unwrap(), "{}", method.name());
        paper::load_optimizers(&document, to.as_ref(), &mut fresh).unwrap();
        for ((name, a), (_, b)) in optimizers.iter().zip(fresh.iter()) {
            assert_eq!(a.state().unwrap(), b.state().unwrap(), "{} {name}", method.name());
            assert!(!a.state().unwrap().1.is_empty());
        }
        assert_eq!(paper::epoch(&document), Some(11));
        let key = from.groups()[0].published;
        assert_eq!(document.numbers[&format!("{key}.param_groups.0.lr")], 1e-5);
    }
}

#[test]
fn another_methods_file_is_refused_with_all_that_does_not_fit() {
    super::one_thread();
    for method in spec::Method::PAPER {
        let net = small(method, 1);
        let mut state = state_dict(net.as_ref()).unwrap();
        let (first, tensor) = state.pop_first().unwrap();
        state.insert(format!("{first}_"), tensor);
        let last = state.keys().rfind(|n| !n.ends_with(".grid")).unwrap().clone();
        state.insert(last.clone(), TensorData { dtype: Dtype::F32, shape: vec![3], bytes: vec![0; 12] });
        let said = load_state_dict(net.as_ref(), &state).unwrap_err().to_string();
        for wanted in [format!("missing [{first:?}]"), format!("unexpected [\"{first}_\"]"), format!("{last}: [3]")] {
            assert!(said.contains(&wanted), "{}: {wanted}: {said}", method.name());
        }
    }
}

#[test]
fn optimizers_of_other_parameters_are_refused() {
    super::one_thread();
    let options = spec::Optimizer::default();
    let document = |method| {
        let net = small(method, 1);
        let file = paper::write(net.as_ref(), &stepped(net.as_ref(), &options), &options, 1e-4, 0).unwrap();
        weights::read_document(&file, "x").unwrap()
    };
    let load = |method, document: &weights::Document| {
        let net = small(method, 1);
        let mut optimizers = Optimizers::new(net.as_ref(), &options);
        paper::load_optimizers(document, net.as_ref(), &mut optimizers).map_err(|e| e.to_string())
    };
    let said = load(spec::Method::SiVae, &document(spec::Method::Vae)).unwrap_err();
    assert!(said.contains("no optimizer_e_weights (encoder) beside epoch, model_weights, optimizer_weights"), "{said}");
    let said = load(spec::Method::Baseline, &document(spec::Method::Vae)).unwrap_err();
    assert!(said.contains("parameters"), "{said}");
    let mut odd = document(spec::Method::Vae);
    let step = odd.tensors.get_mut("optimizer_weights.state.0.step").unwrap();
    step.bytes = 0.5f32.to_le_bytes().into();
    assert!(load(spec::Method::Vae, &odd).unwrap_err().contains("state.0.step is no number of steps"));
    // Older versions of torch have the steps as numbers.
    odd.tensors.remove("optimizer_weights.state.0.step");
    odd.numbers.insert("optimizer_weights.state.0.step".into(), 7.0);
    load(spec::Method::Vae, &odd).unwrap();
    odd.tensors.get_mut("optimizer_weights.state.0.exp_avg").unwrap().shape = vec![0];
    odd.tensors.get_mut("optimizer_weights.state.0.exp_avg").unwrap().bytes.clear();
    assert!(load(spec::Method::Vae, &odd).unwrap_err().contains("exp_avg: [0] instead of"));
}

/// The file that the paper's own trainer wrote: the deformer began two steps after the rest.
#[test]
fn the_papers_own_file_is_resumed() {
    super::one_thread();
    let Some(path) = super::path("checkpoint/latest_model.pt") else { return };
    let document = weights::read_document(&std::fs::read(path).unwrap(), "latest_model.pt").unwrap();
    let state = weights::state_dict(&document.tensors);
    let channels: Vec<u64> = (0..7).map(|i| state[&format!("encoder.conv__encode_{i}.weight")].shape[0]).collect();
    let refine = state["deformer.flow.weight"].shape[1];
    let model: spec::Model = serde_json::from_value(serde_json::json!({
        "method": "morphaeus", "channels": channels, "refine_channels": refine,
    }))
    .unwrap();
    let net = build(&model, &spec::Trainer::default(), None, Device::Cpu, Kind::Float).unwrap();
    load_state_dict(net.as_ref(), &state).unwrap();
    assert_eq!(state_dict(net.as_ref()).unwrap(), state);
    let mut optimizers = Optimizers::new(net.as_ref(), &spec::Optimizer::default());
    paper::load_optimizers(&document, net.as_ref(), &mut optimizers).unwrap();
    let (_, steps) = optimizers.iter().next().unwrap().1.state().unwrap();
    assert_eq!((steps["encoder.conv__encode_0.weight"], steps["deformer.flow.weight"]), (4, 2));
    assert_eq!(paper::epoch(&document), Some(11));
}

#[test]
fn every_method_becomes_torchscript_that_computes_the_same() {
    super::one_thread();
    let folder = std::env::temp_dir().join(format!("morph-script-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for method in spec::Method::PAPER {
        let path = folder.join(format!("{}.pt", method.name()));
        let names = script::write(small(method, 1).as_ref(), SIDE, &path).unwrap();
        let deforms = method == spec::Method::Morphaeus;
        let wanted: &[&str] = if deforms {
            &["reconstruction", "prior", "deformation_rows", "deformation_columns", "reversed"]
        } else {
            &["reconstruction"]
        };
        assert_eq!(names, wanted, "{}", method.name());
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn what_draws_cannot_become_a_file() {
    super::one_thread();
    let model: spec::Model = serde_json::from_value(serde_json::json!({
        "method": "b-vae", "image_size": SIDE, "latent": 4, "sampling": "always",
    }))
    .unwrap();
    let net = build(&model, &spec::Trainer::default(), None, Device::Cpu, Kind::Float).unwrap();
    let path = std::env::temp_dir().join(format!("morph-draws-{}.pt", std::process::id()));
    let said = script::write(net.as_ref(), SIDE, &path).unwrap_err().to_string();
    assert!(said.contains("model.sampling") && !path.exists(), "{said}");
}
