//! What is exported is read by Python's own torch (`torch.load(weights_only=True)`, `load_state_dict`, `torch.optim.Adam`,
//! `torch.jit.load`) and by onnxruntime, of every method at the paper's size. MORPH_PYTHON names a Python that has both; scripts/test
//! makes one. Without it nothing is read, and that is said.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use morph_checkpoint::{
    Dtype, TensorData, Tensors,
    pt::{self, Item},
    weights,
};
use morph_model::{Method as Network, Optimizers, build, graph, paper, script, state_dict};
use morph_spec::experiment::{Method, Sampling};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::{experiment, recorded};

const EPOCH: u32 = 11;
const LR: f64 = 2.5e-4;

/// How far onnxruntime may be from libtorch, relative to the largest value. Its f32 convolutions add in another order
/// (docs/weights.md).
fn onnx_tolerance(method: Method) -> f64 {
    if method == Method::Dae { 2e-4 } else { 2e-5 }
}

/// A Python that reads.
struct Reader {
    child: Child,
    said: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Reader {
    fn start(python: &std::ffi::OsStr) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/read.py");
        let mut command = Command::new(python);
        let mut child =
            command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("MORPH_PYTHON starts");
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    fn answer(&mut self) -> Value {
        let line = self.said.next().expect("Python ended early; what it said is above").unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn read(&mut self, folder: &Path) -> Value {
        writeln!(self.child.stdin.as_mut().unwrap(), "{}", folder.display()).unwrap();
        self.answer()
    }
}

/// Optimizers in which every parameter has taken as many steps as its number.
fn stepped(net: &dyn Network, amsgrad: bool) -> Optimizers {
    let options = morph_spec::experiment::Optimizer { amsgrad, ..Default::default() };
    let mut optimizers = Optimizers::new(net, &options);
    let moments: &[&str] =
        if amsgrad { &["exp_avg", "exp_avg_sq", "max_exp_avg_sq"] } else { &["exp_avg", "exp_avg_sq"] };
    for (group, (_, adam)) in net.groups().iter().zip(optimizers.iter_mut()) {
        let (mut tensors, mut steps) = (Tensors::new(), BTreeMap::new());
        for (i, (name, tensor)) in group.parameters.iter().enumerate() {
            steps.insert(name.clone(), i as u64 + 1);
            for moment in moments {
                let shape = tensor.size().iter().map(|d| *d as u64).collect();
                let bytes = 0.5f32.to_le_bytes().repeat(tensor.numel());
                tensors.insert(format!("{name}/{moment}"), TensorData { dtype: Dtype::F32, shape, bytes });
            }
        }
        adam.load_state(&tensors, &steps).unwrap();
    }
    optimizers
}

fn floats(t: &Tensor) -> Vec<u8> {
    let values = Vec::<f32>::try_from(t.flatten(0, -1)).unwrap();
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Writes every kind of file of `method` into `folder`.
fn write(method: Method, folder: &Path) {
    let mut e = experiment(method);
    // A file draws no numbers: as `export` has it.
    e.model.sampling = Sampling::Training;
    let net = build(&e.model, &e.trainer, None, Device::Cpu, Kind::Float).unwrap();
    let side = i64::from(e.model.image_size);
    let put = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    let state = state_dict(net.as_ref()).unwrap();
    put("state.safetensors", &weights::to_safetensors(&state).unwrap());
    // As `morphctl export --format pt` writes it.
    put("state.pt", &pt::write(&Item::State(state.iter().map(|(name, t)| (name.clone(), t)).collect())).unwrap());

    let amsgrad = e.trainer.optimizer.amsgrad;
    let optimizers = stepped(net.as_ref(), amsgrad);
    put("paper.pt", &paper::write(net.as_ref(), &optimizers, &e.trainer.optimizer, LR, EPOCH).unwrap());
    let groups = net.groups();
    let of = groups.iter().map(|g| (g.published, g.parameters.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>()));
    let facts = json!({
        "recorded": recorded()[method.name()], "side": side, "epoch": EPOCH, "lr": LR, "amsgrad": amsgrad,
        "optimizers": of.collect::<BTreeMap<_, _>>(),
    });
    put("facts.json", facts.to_string().as_bytes());

    let x = (Tensor::arange(2 * side * side, (Kind::Double, Device::Cpu)) * 0.01).sin() * 0.5 + 0.5;
    let x = x.to_kind(Kind::Float).view([2, 1, side, side]);
    put("x.f32", &floats(&x));
    script::write(net.as_ref(), side, &folder.join("net.ts")).unwrap();
    put("net.onnx", &graph::write(net.as_ref(), side, &BTreeMap::new()).unwrap().0);
    let planes = tch::no_grad(|| net.reconstruct(&x, &mut script::Means)).and_then(script::planes).unwrap().1;
    put("planes.f32", &floats(&planes));
}

#[test]
fn python_reads_what_is_exported() {
    let Some(python) = std::env::var_os("MORPH_PYTHON") else {
        eprintln!("left out: MORPH_PYTHON names no Python with torch and onnxruntime (scripts/test makes one)");
        return;
    };
    tch::set_num_threads(1);
    let mut reader = Reader::start(&python);
    eprintln!("{}", reader.answer());
    let mut wrong = Vec::new();
    for method in Method::PAPER {
        let folder = tempfile::tempdir().unwrap();
        write(method, folder.path());
        let said = reader.read(folder.path());
        eprintln!("{}: {said}", method.name());
        let within = |what: &str, bound: f64| said[what].as_f64().is_some_and(|far| far <= bound);
        if !within("torchscript", 1e-5) || !within("onnx", onnx_tolerance(method)) {
            wrong.push(format!(
                "{}: {}",
                method.name(),
                said["error"].as_str().map_or(said.to_string(), ToOwned::to_owned)
            ));
        }
    }
    drop(reader.child.stdin.take());
    assert!(reader.child.wait().unwrap().success());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
