//! Tensors on a GPU: over NCCL as the only rank of a group, and over Gloo as two ranks that share the GPU, which NCCL refuses.
//! Left out, with a line that says so, where there is no GPU or no libtorch for it.
#![allow(clippy::unwrap_used)]

use std::{
    env,
    process::{Child, Command, Stdio},
    time::Duration,
};

use morph_collective::{Ddp, DdpOptions, ProcessGroup, TcpStore, backward, native, nccl};
use tch::{Cuda, Device, Kind, Tensor};

const PATIENCE: Duration = Duration::from_secs(60);
const GPU: Device = Device::Cuda(0);

/// Runs `test` of this binary as `world` ranks, in processes of their own; all must succeed.
fn ranks(test: &str, world: u32) {
    if !native::load_cuda().unwrap() || !Cuda::is_available() {
        eprintln!("skipped: there is no GPU that libtorch can use");
        return;
    }
    let store = TcpStore::serve("127.0.0.1", world, PATIENCE).unwrap();
    let rank = |rank: u32| -> Child {
        Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .envs([("T_RANK", rank.to_string()), ("T_PORT", store.port().to_string())])
            .env(nccl::BLOCKING_WAIT, "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<Child> = (0..world).map(rank).collect();
    for child in children {
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{}: {}\n{text}", out.status, String::from_utf8_lossy(&out.stdout));
    }
}

/// In a rank's process: its number and the store.
fn me(world: u32) -> Option<(u32, TcpStore)> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    let (rank, port) = (number("T_RANK")?, number("T_PORT")?);
    assert!(native::load_cuda().unwrap() && Cuda::is_available());
    Some((rank, TcpStore::connect("127.0.0.1", port as u16, world, PATIENCE).unwrap()))
}

/// A layer whose parameters and inputs, one row a rank, are the same on each rank.
struct Layer {
    weight: Tensor,
    bias: Tensor,
    x: Tensor,
}

impl Layer {
    fn new(world: u32) -> Self {
        let filled = |shape: &[i64], by: f64| {
            let n = shape.iter().product::<i64>();
            (Tensor::arange(n, (Kind::Double, GPU)) * by).sin().reshape(shape)
        };
        let leaf = |t: Tensor| t.detach().set_requires_grad(true);
        Self {
            weight: leaf(filled(&[64, 32], 0.7)),
            bias: leaf(filled(&[64], 0.3)),
            x: filled(&[i64::from(world), 32], 1.3),
        }
    }

    fn loss(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias)).tanh().square().mean(Kind::Double)
    }

    fn gradients(&self) -> [Tensor; 2] {
        [self.weight.grad().copy(), self.bias.grad().copy()]
    }
}

/// Sums, broadcasts, sums with a gradient, and a reducer's mean of gradients, on a GPU.
fn exchange(group: &ProcessGroup) {
    let (rank, world) = (group.rank(), group.world());
    let mine = f64::from(rank) + 1.0;
    let all: f64 = (1..=world).map(f64::from).sum();
    for kind in [Kind::Float, Kind::Double] {
        let t = Tensor::full([1000], mine, (kind, GPU));
        group.all_reduce_sum(std::slice::from_ref(&t)).unwrap();
        assert_eq!(t.double_value(&[999]), all);
    }
    let t = Tensor::full([5], mine, (Kind::Float, GPU));
    group.broadcast(std::slice::from_ref(&t), world - 1).unwrap();
    assert_eq!(t.double_value(&[4]), f64::from(world));
    // Numbers of the processor go on over Gloo.
    let t = Tensor::full([5], mine, (Kind::Double, Device::Cpu));
    group.all_reduce_sum(std::slice::from_ref(&t)).unwrap();
    assert_eq!(t.double_value(&[0]), all);
    let t = Tensor::full([3], mine, (Kind::Double, GPU)).set_requires_grad(true);
    let sum = group.all_reduce_sum_autograd(&t).unwrap();
    backward(&(&sum * &sum).sum(Kind::Double)).unwrap();
    assert_eq!(t.grad().double_value(&[1]), f64::from(world) * 2.0 * all);
    group.barrier().unwrap();
}

/// Each rank takes its row; the reducer's gradients must be those of all rows in one process.
fn reduce(group: &ProcessGroup) {
    let layer = Layer::new(group.world());
    backward(&layer.loss(&layer.x)).unwrap();
    let whole = layer.gradients();
    let layer = Layer::new(group.world());
    let parameters = [layer.weight.shallow_clone(), layer.bias.shallow_clone()];
    let ddp = Ddp::new(group, &parameters, DdpOptions::default()).unwrap();
    for _ in 0..3 {
        parameters.iter().for_each(|p| drop(p.grad().defined().then(|| p.grad().zero_())));
        ddp.before_forward().unwrap();
        ddp.backward(&layer.loss(&layer.x.narrow(0, i64::from(group.rank()), 1))).unwrap();
        for (found, want) in layer.gradients().iter().zip(&whole) {
            let apart = (found - want).abs().max().double_value(&[]);
            assert!(apart < 1e-15, "off by {apart}");
        }
    }
}

#[test]
fn one_rank_over_nccl() {
    let Some((rank, store)) = me(1) else { return ranks("one_rank_over_nccl", 1) };
    nccl::load().unwrap();
    assert_ne!(nccl::uuid(0).unwrap(), [0; 16]);
    assert!(nccl::uuid(99).is_err());
    let group = ProcessGroup::nccl(&store, "g", rank, 1, PATIENCE, None, 0).unwrap();
    exchange(&group);
    // A second one beside it, as training has.
    let other = ProcessGroup::nccl(&store, "h", rank, 1, PATIENCE, None, 0).unwrap();
    reduce(&other);
    exchange(&group);
}

#[test]
fn two_ranks_on_one_gpu_over_gloo() {
    let Some((rank, store)) = me(2) else { return ranks("two_ranks_on_one_gpu_over_gloo", 2) };
    let group = ProcessGroup::gloo(&store, "g", rank, 2, PATIENCE, None).unwrap();
    exchange(&group);
    reduce(&group);
}

#[test]
fn nccl_says_what_it_lacks() {
    if env::var_os(nccl::BLOCKING_WAIT).is_none() {
        let error = nccl::load().unwrap_err().to_string();
        assert!(error.contains("TORCH_NCCL_BLOCKING_WAIT is not 1"), "{error}");
    }
    let store = TcpStore::serve("127.0.0.1", 1, PATIENCE).unwrap();
    let error = ProcessGroup::nccl(&store, "g", 0, 1, PATIENCE, None, 0).unwrap_err().to_string();
    assert!(error.contains("NCCL was not loaded"), "{error}");
}
