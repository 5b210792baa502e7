//! Operations: the same numbers as recorded. In f64 the bound is what storing them as f32 and the reference's own f32 cost.

use morph_checkpoint::{Tensors, weights};
use morph_spec::experiment as spec;
use tch::{Kind, Tensor};

use super::{Golden, apart, facts, off, one_thread};
use crate::{
    Adam,
    inception::{Inception, Variant},
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

/// InceptionV3 with the weights that the fixture was recorded with (tests/golden/inception.py), and the fixture's facts.
fn drawn_inception(classes: u64) -> (Tensors, serde_json::Value) {
    let facts: serde_json::Value = serde_json::from_str(include_str!("../../tests/golden/inception.json")).unwrap();
    let seed = facts["seed"].as_u64().unwrap();
    let drawn = |name: &String, of: &serde_json::Value| {
        let shape = of[2].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        case::one(name, seed, (of[0].as_f64().unwrap() as f32, of[1].as_f64().unwrap() as f32), shape)
    };
    let mut weights: Tensors =
        facts["tensors"].as_object().unwrap().iter().map(|(name, of)| (name.clone(), drawn(name, of))).collect();
    weights.insert("fc.weight".into(), case::one("fc.weight", seed, (0.0, 0.01), vec![classes, 2048]));
    (weights, facts)
}

#[test]
fn inception_sees_what_pytorch_fid_sees() {
    one_thread();
    let bytes = include_bytes!("../../tests/golden/inception.safetensors");
    let golden = Golden(weights::read(bytes, "inception").unwrap());
    for (variant, classes) in [(Variant::PytorchFid, 1008), (Variant::Torchvision, 1000)] {
        let (weights, facts) = drawn_inception(classes);
        let inception = Inception::new(&weights, tch::Device::Cpu).unwrap();
        assert_eq!(inception.variant(), variant);
        let want = golden.get(variant.name(), Kind::Double);
        let mut seen = Vec::new();
        for (i, (name, of)) in facts["images"].as_object().unwrap().iter().enumerate() {
            let number = |k: usize| of[k].as_f64().unwrap() as f32;
            let side = |k: usize| of[2][k].as_u64().unwrap();
            let image =
                case::one(name, facts["seed"].as_u64().unwrap(), (number(0), number(1)), vec![1, 1, side(0), side(1)]);
            let features = inception.features(&crate::from_data(&image, tch::Device::Cpu).unwrap()).unwrap();
            let off = off(&features.get(0), &want.get(i as i64));
            assert!(off < 1e-5, "{} {name} is off by {off:e}", variant.name());
            seen.push(features);
        }
        // Several at once are each what they are alone.
        let twice = crate::from_data(&case::one("x", 1, (0.5, 0.5), vec![1, 1, 40, 40]), tch::Device::Cpu).unwrap();
        let pair = inception.features(&Tensor::cat(&[&twice, &(&twice * 0.5)], 0)).unwrap();
        assert!(off(&pair.get(0), &inception.features(&twice).unwrap().get(0)) < 1e-5);
        assert_eq!(Tensor::cat(&seen, 0).size(), [5, Inception::FEATURES as i64]);
    }
}

#[test]
fn weights_that_are_not_inceptions_are_refused_by_name() {
    let (whole, _) = drawn_inception(1008);
    let refused = |change: &dyn Fn(&mut Tensors)| {
        let mut weights = whole.clone();
        change(&mut weights);
        Inception::new(&weights, tch::Device::Cpu).unwrap_err().to_string()
    };
    let said = refused(&|w| drop(w.remove("fc.weight")));
    assert!(said.contains("no fc.weight"), "{said}");
    let said = refused(&|w| w.get_mut("fc.weight").unwrap().shape = vec![10, 2048]);
    assert!(said.contains("fc.weight is [10, 2048]") && said.contains("[1008, 2048]"), "{said}");
    let said = refused(&|w| drop(w.remove("Mixed_7c.branch_pool.bn.running_var")));
    assert!(said.contains("no Mixed_7c.branch_pool.bn.running_var"), "{said}");
    let said = refused(&|w| w.get_mut("Mixed_6b.branch7x7_2.conv.weight").unwrap().shape.swap(2, 3));
    assert!(
        said.contains("Mixed_6b.branch7x7_2.conv.weight is [128, 128, 7, 1]") && said.contains("[128, 128, 1, 7]"),
        "{said}"
    );
    let said =
        refused(&|w| w.get_mut("Conv2d_1a_3x3.bn.weight").unwrap().bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert!(said.contains("Conv2d_1a_3x3.bn.weight has a value that is not finite"), "{said}");
}
