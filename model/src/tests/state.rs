//! State that comes from files: what fits is restored to the bit, what does not is said in full.

use morph_checkpoint::{Dtype, TensorData, Tensors, weights};
use morph_spec::experiment as spec;
use tch::{Device, Kind, Tensor};

use crate::{Adam, Error, Method, build, load_state_dict, state_dict, vgg};

fn network(seed: u64) -> Box<dyn Method> {
    let model: spec::Model = serde_json::from_value(serde_json::json!({
        "method": "morphaeus", "image_size": 16, "channels": [2, 3, 4], "refine_levels": 2, "refine_channels": 3,
    }))
    .unwrap();
    build(&model, &spec::Trainer { seed, ..spec::Trainer::default() }, None, Device::Cpu, Kind::Float).unwrap()
}

#[test]
fn a_state_dict_is_restored_to_the_bit() {
    let (from, to) = (network(1), network(2));
    let state = state_dict(from.as_ref()).unwrap();
    assert_ne!(state_dict(to.as_ref()).unwrap(), state, "another seed, another network");
    load_state_dict(to.as_ref(), &state).unwrap();
    assert_eq!(state_dict(to.as_ref()).unwrap(), state);
}

#[test]
fn what_does_not_fit_is_listed_in_full_and_nothing_is_changed() {
    let network = network(1);
    let before = state_dict(network.as_ref()).unwrap();
    let mut state = state_dict(self::network(2).as_ref()).unwrap();
    let moved = state.remove("encoder.conv__encode_0.weight").unwrap();
    state.remove("decoder.conv__batch_1.running_var").unwrap();
    state.insert("encoder.convolution_0.weight".into(), moved);
    let narrow = TensorData { dtype: Dtype::F32, shape: vec![1], bytes: vec![0; 4] };
    state.insert("deformer.flow.bias".into(), narrow);
    let Err(Error::StateDict { missing, unexpected, misshapen }) = load_state_dict(network.as_ref(), &state) else {
        panic!("it was loaded")
    };
    assert_eq!(missing, ["decoder.conv__batch_1.running_var", "encoder.conv__encode_0.weight"]);
    assert_eq!(unexpected, ["encoder.convolution_0.weight"]);
    assert_eq!(misshapen, ["deformer.flow.bias: [1] instead of [2]"]);
    assert_eq!(state_dict(network.as_ref()).unwrap(), before);
}

#[test]
fn adam_goes_on_from_its_state_to_the_bit() {
    let options = spec::Optimizer { amsgrad: true, ..spec::Optimizer::default() };
    let start = || {
        let p = Tensor::from_slice(&[0.5f32, -2.0, 3.0]).set_requires_grad(true);
        let idle = Tensor::from_slice(&[1.0f32]).set_requires_grad(true);
        [("p".to_owned(), p), ("idle".to_owned(), idle)]
    };
    let step = |params: &[(String, Tensor)], adam: &mut Adam| {
        adam.zero_grad();
        params[0].1.square().sum(Kind::Float).backward();
        adam.step().unwrap();
    };
    let params = start();
    let mut adam = Adam::new(&params, &options);
    step(&params, &mut adam);
    step(&params, &mut adam);
    let (tensors, steps) = adam.state().unwrap();
    assert_eq!(steps.keys().collect::<Vec<_>>(), ["p"], "what has no gradient takes no step");

    let resumed = start();
    let mut other = Adam::new(&resumed, &options);
    tch::no_grad(|| resumed[0].1.shallow_clone().copy_(&params[0].1));
    other.load_state(&tensors, &steps).unwrap();
    step(&params, &mut adam);
    step(&resumed, &mut other);
    assert_eq!(Vec::<f32>::try_from(&params[0].1).unwrap(), Vec::<f32>::try_from(&resumed[0].1).unwrap());
    assert_eq!(adam.state().unwrap(), other.state().unwrap());
    assert_eq!(Vec::<f32>::try_from(&resumed[1].1).unwrap(), [1.0]);
}

#[test]
fn adams_state_of_other_parameters_is_refused() {
    let params = [("p".to_owned(), Tensor::from_slice(&[0.5f32, 1.0]).set_requires_grad(true))];
    let mut adam = Adam::new(&params, &spec::Optimizer::default());
    params[0].1.sum(Kind::Float).backward();
    adam.step().unwrap();
    let (tensors, steps) = adam.state().unwrap();
    let mut fresh = Adam::new(&params, &spec::Optimizer::default());

    let mut less = tensors.clone();
    less.remove("p/exp_avg_sq").unwrap();
    let said = fresh.load_state(&less, &steps).unwrap_err().to_string();
    assert!(said.contains("missing [\"p/exp_avg_sq\"]"), "{said}");

    let mut more = steps.clone();
    more.insert("q".into(), 1);
    let said = fresh.load_state(&tensors, &more).unwrap_err().to_string();
    assert!(said.contains("unexpected [\"q\"]"), "{said}");

    let mut other = tensors.clone();
    other.insert("p/exp_avg".into(), TensorData { dtype: Dtype::F32, shape: vec![3], bytes: vec![0; 12] });
    let said = fresh.load_state(&other, &steps).unwrap_err().to_string();
    assert!(said.contains("p/exp_avg: [3] instead of [2]"), "{said}");
    fresh.load_state(&tensors, &steps).unwrap();
}

#[test]
fn wrong_vgg_weights_are_said() {
    let of = |weights: Option<&str>, tensors: Option<&Tensors>| {
        let options = spec::Perceptual { weight: 0.05, weights: weights.map(str::to_owned) };
        vgg::of_spec(&options, tensors, Device::Cpu, Kind::Float, 1).map(|v| v.is_some()).map_err(|e| e.to_string())
    };
    assert!(of(None, None).unwrap_err().contains("trainer.loss.perceptual.weights"));
    assert_eq!(of(Some("random"), None), Ok(true));
    // A state dict, but another network's.
    let resnet = Tensors::from([(
        "conv1.weight".to_owned(),
        TensorData { dtype: Dtype::F32, shape: vec![1], bytes: vec![0; 4] },
    )]);
    let said = of(Some("resnet18.pth"), Some(&resnet)).unwrap_err();
    assert!(said.contains("features.0.weight") && said.contains("vgg19"), "{said}");
    // VGG-11's first layer is the same, its second has another shape.
    let zeros = |shape: [u64; 4]| TensorData {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        bytes: vec![0; shape.iter().product::<u64>() as usize * 4],
    };
    let bias = TensorData { dtype: Dtype::F32, shape: vec![64], bytes: vec![0; 256] };
    let vgg11 = Tensors::from([
        ("features.0.weight".to_owned(), zeros([64, 3, 3, 3])),
        ("features.0.bias".to_owned(), bias),
        ("features.2.weight".to_owned(), zeros([128, 64, 3, 3])),
    ]);
    let said = of(Some("vgg11.pth"), Some(&vgg11)).unwrap_err();
    assert!(said.contains("features.2.weight is [128, 64, 3, 3], vgg19's is [64, 64, 3, 3]"), "{said}");
    // Off: nothing is asked for.
    let off = spec::Perceptual { weight: 0.0, weights: None };
    assert!(vgg::of_spec(&off, None, Device::Cpu, Kind::Float, 1).unwrap().is_none());
    // No state dict at all.
    assert!(weights::read(b"<html>not found</html>", "vgg19.pth").unwrap_err().to_string().contains("vgg19.pth"));
}
