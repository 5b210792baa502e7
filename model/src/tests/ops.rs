//! Operations: the same numbers as recorded. In f64 the bound is what storing them as f32 and the reference's own f32 cost.

use morph_checkpoint::{Tensors, weights};
use morph_spec::experiment as spec;
use tch::{Kind, Tensor};

use super::{Golden, apart, facts, off, one_thread};
use crate::{
    Adam,
    losses::{self, Ncc},
    lpips::Lpips,
    methods::morphaeus::{identity, integrate, warp},
    parity::case,
    vgg::Vgg,
};

#[test]
fn integration_and_warping_with_their_gradients() {
    one_thread();
    let (Some(golden), Some(facts)) = (Golden::open("ops/deform.safetensors"), facts()) else { return };
    let place = tch::Device::Cpu;
    for (i, fact) in facts["deform"].as_array().unwrap().iter().enumerate() {
        let noise = |name: &str| fact[name].as_f64().unwrap();
        let run = |kind: Kind| {
            let get = |name: &str| golden.get(&format!("{i}.{name}"), kind);
            let (velocity, src) = (get("vel").set_requires_grad(true), get("src").set_requires_grad(true));
            let [.., height, width] = src.size()[..] else { panic!("an image") };
            let grid = identity(height, width, kind, place);
            let flow = integrate(&velocity, &grid, 7).unwrap();
            let warped = warp(&src, &flow, &grid).unwrap();
            let back = warp(&src, &integrate(&-&velocity, &grid, 7).unwrap(), &grid).unwrap();
            (&warped * get("w")).sum(kind).backward();
            (flow, warped, back, [("grad_vel", velocity.grad()), ("grad_src", src.grad())])
        };
        let want = |name: &str| golden.get(&format!("{i}.{name}"), Kind::Double);
        let (flow, warped, back, _) = run(Kind::Double);
        assert!(apart(&flow, &want("flow")) <= noise("flow_f32_vs_f64") * 1.01 + 1e-7, "flow {i}");
        assert!(apart(&warped, &want("warped")) <= noise("warped_f32_vs_f64") * 1.01 + 1e-7, "warped {i}");
        assert!(apart(&back, &want("warped_neg")) <= noise("warped_f32_vs_f64") * 10.0 + 1e-6, "warped back {i}");
        // Bilinear sampling has a kink at every pixel: on which side a small flow lands is rounding, so in f32 like recorded.
        for (name, gradient) in run(Kind::Float).3 {
            let off = off(&gradient, &want(name));
            assert!(off < 1e-4, "{name} {i} is off by {off:e}");
        }
    }
}

#[test]
fn ncc_stable_is_the_reference_in_f64() {
    one_thread();
    let (Some(golden), Some(facts)) = (Golden::open("ops/ncc.safetensors"), facts()) else { return };
    for (i, fact) in facts["ncc"].as_array().unwrap().iter().enumerate() {
        let recorded = |name: &str| fact[name].as_f64().unwrap();
        let ncc = |variant, kind| {
            let image = golden.get(&format!("{i}.I"), kind);
            let prediction = golden.get(&format!("{i}.P"), kind).set_requires_grad(true);
            let loss = Ncc { window: 9, variant }.loss(&image, &prediction).unwrap();
            loss.backward();
            (loss.double_value(&[]), prediction.grad())
        };
        let exact = golden.get(&format!("{i}.gP_f64"), Kind::Double);
        let of = |variant, kind| {
            let (loss, gradient) = ncc(variant, kind);
            ((loss - recorded("loss_f64")).abs(), off(&gradient, &exact))
        };
        let (loss, gradient) = of(spec::Ncc::Reference, Kind::Double);
        assert!(loss < 1e-9 && gradient < 1e-6, "reference in f64, {i}: {loss:e}, gradient {gradient:e}");
        let (loss, gradient) = of(spec::Ncc::Stable, Kind::Float);
        assert!(loss < 1e-6 && gradient < 1e-5, "stable in f32, {i}: {loss:e}, gradient {gradient:e}");
        // The very loss that the reference computes in f32, to its own noise.
        let (loss, _) = ncc(spec::Ncc::Reference, Kind::Float);
        let noise = (recorded("loss") - recorded("loss_f64")).abs();
        assert!((loss - recorded("loss")).abs() <= 10.0 * noise + 1e-5 * loss, "reference in f32, {i}: {loss}");
    }
    // Flat predictions are where f32 sums fail: the reference's own gradient is off by 240 % there.
    assert!(facts["ncc"][2]["grad_rel_err"].as_f64().unwrap() > 1.0);
}

#[test]
fn regularisers_with_their_gradients() {
    one_thread();
    let (Some(golden), Some(facts)) = (Golden::open("ops/dispreg.safetensors"), facts()) else { return };
    for fact in facts["reg"].as_array().unwrap() {
        let (case, name, want) = (fact[0].as_u64().unwrap(), fact[1].as_str().unwrap(), fact[2].as_f64().unwrap());
        let kind: spec::Regulariser = serde_json::from_value(fact[1].clone()).unwrap();
        let field = golden.get(&format!("{case}.disp"), Kind::Double).set_requires_grad(true);
        let loss = losses::regulariser(kind, &field).unwrap();
        loss.backward();
        let got = loss.double_value(&[]);
        assert!((got - want).abs() <= 1e-5 * want, "{name} {case}: {got} instead of {want}");
        let gradient = golden.get(&format!("{case}.{name}.grad"), Kind::Double);
        let off = off(&field.grad().narrow(0, 0, gradient.size()[0]), &gradient);
        assert!(off < 1e-5, "{name} {case}: the gradient is off by {off:e}");
    }
    let small = Tensor::zeros([1, 2, 4, 9], (Kind::Float, tch::Device::Cpu));
    assert!(losses::regulariser(spec::Regulariser::Bending, &small).unwrap_err().to_string().contains("4x9"));
}

#[test]
fn the_perceptual_loss_with_its_gradient() {
    one_thread();
    let (Some(golden), Some(weights), Some(facts)) =
        (Golden::open("ops/perceptual.safetensors"), Golden::open("vgg19_features21.safetensors"), facts())
    else {
        return;
    };
    let vgg = Vgg::new(&weights.0, tch::Device::Cpu, Kind::Float).unwrap();
    let x = golden.get("x", Kind::Float).set_requires_grad(true);
    let loss = vgg.loss(&x, &golden.get("t", Kind::Float)).unwrap();
    loss.backward();
    let (got, want) = (loss.double_value(&[]), facts["perceptual"]["loss"].as_f64().unwrap());
    assert!((got - want).abs() <= 1e-5 * want, "{got} instead of {want}");
    let off = off(&x.grad(), &golden.get("grad_x", Kind::Float));
    assert!(off < 1e-4, "the gradient is off by {off:e}");
}

#[test]
fn adam_takes_torchs_steps() {
    let golden = Golden(weights::read(include_bytes!("../../tests/golden/adam.safetensors"), "adam").unwrap());
    let plain = || spec::Optimizer { lr: 5e-4, ..spec::Optimizer::default() };
    for (name, options) in [
        ("adam", plain()),
        ("adam_b05", spec::Optimizer { betas: [0.5, 0.999], ..plain() }),
        ("adam_amsgrad_wd", spec::Optimizer { lr: 1e-4, weight_decay: 1e-5, amsgrad: true, ..plain() }),
    ] {
        let get = |what: &str| golden.get(&format!("{name}.{what}"), Kind::Float);
        let param = get("p0").set_requires_grad(true);
        let mut adam = Adam::new(&[("p".to_owned(), param.shallow_clone())], &options);
        let (gradients, trajectory) = (get("grads"), get("traj"));
        for step in 0..20 {
            adam.zero_grad();
            // The gradient of p · g is g.
            (&param * gradients.select(0, step)).sum(Kind::Float).backward();
            adam.step().unwrap();
            let apart = apart(&param, &trajectory.select(0, step));
            assert!(apart < 5e-7, "{name} is apart by {apart:e} after step {}", step + 1);
        }
        let (tensors, steps) = adam.state().unwrap();
        assert_eq!(steps["p"], 20);
        let moments = if options.amsgrad { 3 } else { 2 };
        assert_eq!(tensors.len(), moments);
        for (key, data) in &tensors {
            let moment = key.strip_prefix("p/").unwrap();
            let off = off(&crate::from_data(data, tch::Device::Cpu).unwrap(), &get(moment));
            assert!(off < 1e-5, "{name}: {moment} is off by {off:e}");
        }
    }
}

/// Why the deformation terms must not count before the prior knows dark from bright (docs/methods.md).
#[test]
fn ncc_does_not_see_the_sign() {
    tch::manual_seed(3);
    let x = Tensor::rand([2, 1, 16, 16], (Kind::Double, tch::Device::Cpu));
    for variant in [spec::Ncc::Stable, spec::Ncc::Reference] {
        let loss = |y: &Tensor| Ncc { window: 9, variant }.loss(&x, y).unwrap().double_value(&[]);
        assert!(
            (loss(&-&x) - loss(&x)).abs() < 1e-12 && loss(&x) < 1e-3,
            "an inverted image fits as well: {}",
            loss(&-&x)
        );
    }
}

#[test]
fn beta_grows_as_in_the_paper() {
    let Some(facts) = facts() else { return };
    for (epoch, want) in facts["beta_schedule"].as_object().unwrap() {
        let (got, want) = (losses::beta(3.0, 200, epoch.parse().unwrap()), want.as_f64().unwrap());
        assert!((got - want).abs() < 1e-12, "epoch {epoch}: {got} instead of {want}");
    }
}

#[test]
fn lpips_of_recorded_pairs() {
    one_thread();
    let (Some(golden), Some(facts)) = (Golden::open("ops/lpips.safetensors"), facts()) else { return };
    let recorded = &facts["lpips"];
    let seed = recorded["seed"].as_u64().unwrap();
    let number = |v: &serde_json::Value| v.as_f64().unwrap() as f32;
    let mut weights: Tensors = recorded["spec"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, of)| {
            let shape = of[2].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
            (name.clone(), case::one(name, seed, (number(&of[0]), number(&of[1])), shape))
        })
        .collect();
    let lpips = Lpips::new(&weights, tch::Device::Cpu).unwrap();
    let pair = |i: usize, what: &str| golden.get(&format!("{i}.{what}"), Kind::Float).unsqueeze(0).unsqueeze(0);
    let values: Vec<f64> = recorded["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    for (i, want) in values.iter().enumerate() {
        let got = lpips.distance(&pair(i, "x"), &pair(i, "rec")).unwrap().double_value(&[0]);
        assert!((got - want).abs() <= 1e-6 + 1e-5 * want, "pair {i}: {got}, recorded {want}");
    }
    // Several at once are each what they are alone; torchvision's names do as well as the package's.
    let batch = |what: &str| Tensor::cat(&[0, 1, 2, 3].map(|i| pair(i, what)), 0);
    for (slice, index) in [(1, 0), (2, 3), (3, 6), (4, 8), (5, 10)] {
        for what in ["weight", "bias"] {
            let tensor = weights.remove(&format!("net.slice{slice}.{index}.{what}")).unwrap();
            weights.insert(format!("features.{index}.{what}"), tensor);
        }
    }
    let got = Lpips::new(&weights, tch::Device::Cpu).unwrap().distance(&batch("x"), &batch("rec")).unwrap();
    assert!(apart(&got, &Tensor::from_slice(&values)) < 1e-5);
    let small = Tensor::zeros([1, 1, 30, 64], (Kind::Float, tch::Device::Cpu));
    assert!(lpips.distance(&small, &small).unwrap_err().to_string().contains("too small"));
    weights.remove("lin3.model.1.weight");
    let why = Lpips::new(&weights, tch::Device::Cpu).unwrap_err().to_string();
    assert!(why.contains("no lin3.model.1.weight"), "{why}");
}
