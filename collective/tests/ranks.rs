//! Several ranks as processes over loopback: each test starts this same test binary once per rank.
#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stdout, reason = "ranks tell the test what they found")]

use std::{
    env,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use morph_collective::{Ddp, DdpOptions, Error, ProcessGroup, TcpStore, abi_sizes, backward, native};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tch::{Device, Kind, Tensor};

const PATIENCE: Duration = Duration::from_secs(20);

struct Me {
    rank: u32,
    world: u32,
    store: TcpStore,
}

impl Me {
    fn group(&self, name: &str) -> ProcessGroup {
        self.group_within(name, PATIENCE).unwrap()
    }
    fn group_within(&self, name: &str, limit: Duration) -> Result<ProcessGroup, Error> {
        ProcessGroup::gloo(&self.store, name, self.rank, self.world, limit, None)
    }
}

/// In a rank's process: who it is.
fn me() -> Option<Me> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    let (rank, world, port) = (number("T_RANK")?, number("T_WORLD")?, number("T_PORT")?);
    tch::set_num_threads(1);
    let store = TcpStore::connect("127.0.0.1", port as u16, world, PATIENCE).unwrap();
    Some(Me { rank, world, store })
}

struct Ranks {
    children: Vec<Child>,
    _store: TcpStore,
}

/// Starts `started` of `world` ranks of `test`.
fn start(test: &str, world: u32, started: u32) -> Ranks {
    start_with(test, world, started, |_| {})
}

fn start_with(test: &str, world: u32, started: u32, change: impl Fn(&mut Command)) -> Ranks {
    let store = TcpStore::serve("127.0.0.1", world, PATIENCE).unwrap();
    let rank = |rank: u32| {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args([test, "--exact", "--nocapture"])
            .env("T_RANK", rank.to_string())
            .env("T_WORLD", world.to_string())
            .env("T_PORT", store.port().to_string())
            .env("TORCH_CPP_LOG_LEVEL", "FATAL")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        change(&mut command);
        command.spawn().unwrap()
    };
    let children = (0..started).map(rank).collect();
    Ranks { children, _store: store }
}

impl Ranks {
    /// What each rank printed between `<` and `>`; all must succeed.
    fn finish(self) -> Vec<String> {
        let said = |child: Child| {
            let out = child.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success(), "{}: {text}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
            text.split_once('<')
                .and_then(|(_, rest)| rest.split_once('>'))
                .map(|(said, _)| said.to_owned())
                .unwrap_or_default()
        };
        self.children.into_iter().map(said).collect()
    }
    fn signal(&self, rank: usize, signal: Signal) {
        kill(Pid::from_raw(self.children[rank].id() as i32), signal).unwrap();
    }
}

fn say(text: impl std::fmt::Display) {
    println!("<{text}>");
}

fn hash(tensors: &[Tensor]) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for t in tensors {
        for v in Vec::<f64>::try_from(t.detach().to_kind(Kind::Double).flatten(0, -1)).unwrap() {
            h = (h ^ v.to_bits()).wrapping_mul(0x0100_0000_01b3);
        }
    }
    h
}

#[test]
fn the_shim_was_compiled_for_this_libtorch() {
    assert_eq!(abi_sizes(), [0x1e8, 0x3d8, 0xd8, 0x138]);
}

#[test]
fn sums_and_broadcasts() {
    let Some(me) = me() else {
        for world in [2, 3] {
            start("sums_and_broadcasts", world, world).finish();
        }
        return;
    };
    let group = me.group("g");
    let world = f64::from(me.world);
    for kind in [Kind::Float, Kind::Double] {
        let a = Tensor::full([3, 2], f64::from(me.rank) + 1.0, (kind, Device::Cpu));
        let b = Tensor::full([5], f64::from(me.rank) * 10.0, (kind, Device::Cpu));
        group.all_reduce_sum(&[a.shallow_clone(), b.shallow_clone()]).unwrap();
        assert_eq!(a.double_value(&[2, 1]), world * (world + 1.0) / 2.0);
        assert_eq!(b.double_value(&[4]), 10.0 * world * (world - 1.0) / 2.0);
    }
    let c = Tensor::full([4], f64::from(me.rank), (Kind::Float, Device::Cpu));
    group.broadcast(&[c.shallow_clone()], 1).unwrap();
    assert_eq!(c.double_value(&[3]), 1.0);
    let torn = Tensor::zeros([4, 4], (Kind::Float, Device::Cpu)).transpose(0, 1).slice(0, 0, 4, 2);
    assert!(matches!(group.all_reduce_sum(&[torn]), Err(Error::Fatal { .. })));
    group.barrier().unwrap();
}

/// A small convolutional net whose batch norm takes its statistics through `sync`.
struct Net {
    params: Vec<Tensor>,
}

impl Net {
    fn new() -> Self {
        tch::manual_seed(7);
        let make = |shape: &[i64], scale: f64| {
            (Tensor::randn(shape, (Kind::Double, Device::Cpu)) * scale).set_requires_grad(true)
        };
        Self { params: vec![make(&[4, 1, 3, 3], 0.4), make(&[4], 0.1), make(&[4], 0.1), make(&[2, 4], 0.5)] }
    }

    fn loss(&self, x: &Tensor, y: &Tensor, sync: Option<&ProcessGroup>) -> Tensor {
        let sum = |t: &Tensor| sync.map_or_else(|| t.shallow_clone(), |g| g.all_reduce_sum_autograd(t).unwrap());
        let n = x.size()[0] as f64 * 64.0 * sync.map_or(1.0, |g| f64::from(g.world()));
        let h = x.conv2d(&self.params[0], None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1);
        let dims: &[i64] = &[0, 2, 3];
        let mean = sum(&h.sum_dim_intlist(dims, true, Kind::Double)) / n;
        let centred = &h - &mean;
        let var = sum(&centred.square().sum_dim_intlist(dims, true, Kind::Double)) / n;
        let shape = [1, 4, 1, 1];
        let h = centred / (var + 1e-5).sqrt() * (self.params[1].view(shape) + 1.0) + self.params[2].view(shape);
        let pooled = h.relu().mean_dim([2i64, 3].as_slice(), false, Kind::Double);
        (pooled.matmul(&self.params[3].transpose(0, 1)) - y).square().mean(Kind::Double)
    }

    fn step(&self) {
        tch::no_grad(|| {
            for p in &self.params {
                let mut p = p.shallow_clone();
                let mut g = p.grad();
                p -= &g * 0.05;
                drop(g.zero_());
            }
        });
    }

    fn distance(&self, other: &Self) -> f64 {
        let apart = |(a, b): (&Tensor, &Tensor)| (a - b).abs().max().double_value(&[]);
        self.params.iter().zip(&other.params).map(apart).fold(0.0, f64::max)
    }
}

fn batch(step: i64) -> (Tensor, Tensor) {
    tch::manual_seed(1000 + step);
    (Tensor::randn([12, 1, 8, 8], (Kind::Double, Device::Cpu)), Tensor::randn([12, 2], (Kind::Double, Device::Cpu)))
}

#[test]
fn two_ranks_train_like_one_process_with_the_full_batch() {
    let Some(me) = me() else {
        let said = start("two_ranks_train_like_one_process_with_the_full_batch", 2, 2).finish();
        assert_eq!(said[0], said[1], "the ranks are the same to the bit");
        assert!(!said[0].is_empty());
        return;
    };
    let (ddp_group, sync_group) = (me.group("ddp"), me.group("sync"));
    let (mine, alone) = (Net::new(), Net::new());
    let ddp = Ddp::new(
        &ddp_group,
        &mine.params,
        DdpOptions { first_bucket_bytes: 64, bucket_bytes: 128, find_unused: false },
    )
    .unwrap();
    let share = 12 / i64::from(me.world);
    for step in 0..40 {
        let (x, y) = batch(step);
        let part = |t: &Tensor| t.narrow(0, i64::from(me.rank) * share, share);
        ddp.before_forward().unwrap();
        let loss = mine.loss(&part(&x), &part(&y), Some(&sync_group));
        ddp.backward(&loss).unwrap();
        mine.step();
        alone.loss(&x, &y, None).backward();
        alone.step();
    }
    let apart = mine.distance(&alone);
    assert!(apart < 1e-12, "apart by {apart:e} after 40 steps");
    assert!(mine.distance(&Net::new()) > 0.05, "it did train");
    say(hash(&mine.params));
}

#[test]
fn the_differentiable_sum_has_the_right_gradient() {
    let Some(me) = me() else {
        start("the_differentiable_sum_has_the_right_gradient", 2, 2).finish();
        return;
    };
    let group = me.group("g");
    let x = Tensor::full([3], f64::from(me.rank) + 2.0, (Kind::Double, Device::Cpu)).set_requires_grad(true);
    let s = group.all_reduce_sum_autograd(&x).unwrap();
    assert_eq!(s.double_value(&[0]), 5.0);
    // Each rank's loss is (rank + 1) · Σ s², so dL/dx over both losses is (1 + 2) · 2 s.
    backward(&(s.square().sum(Kind::Double) * (f64::from(me.rank) + 1.0))).unwrap();
    assert_eq!(x.grad().double_value(&[1]), 30.0);
}

#[test]
fn a_parameter_nobody_uses_keeps_its_undefined_gradient() {
    let Some(me) = me() else {
        start("a_parameter_nobody_uses_keeps_its_undefined_gradient", 2, 2).finish();
        return;
    };
    let group = me.group("g");
    let leaf = || Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let (used, unused) = (leaf(), leaf());
    let params = [used.shallow_clone(), unused.shallow_clone()];
    let ddp = Ddp::new(&group, &params, DdpOptions { find_unused: true, ..DdpOptions::default() }).unwrap();
    for _ in 0..3 {
        ddp.before_forward().unwrap();
        let loss = used.square().sum(Kind::Float);
        ddp.backward(&loss).unwrap();
        assert!(used.grad().defined() && !unused.grad().defined());
    }
    // Later it is used after all.
    ddp.before_forward().unwrap();
    let loss = (&used * &unused * f64::from(me.rank + 1)).sum(Kind::Float);
    ddp.backward(&loss).unwrap();
    assert_eq!(unused.grad().double_value(&[0]), 1.5, "the mean of 1 and 2");
}

#[test]
fn another_life_gives_the_same_bits() {
    let Some(me) = me() else {
        let once = start("another_life_gives_the_same_bits", 3, 3).finish();
        let twice = start("another_life_gives_the_same_bits", 3, 3).finish();
        assert_eq!(once, twice);
        assert!(once.iter().all(|h| *h == once[0] && !h.is_empty()));
        return;
    };
    let group = me.group("g");
    tch::manual_seed(i64::from(me.rank));
    let t = Tensor::randn([100_003], (Kind::Float, Device::Cpu));
    group.all_reduce_sum(&[t.shallow_clone()]).unwrap();
    say(hash(&[t]));
}

/// Sums until it fails, and says how.
fn sum_until_it_fails(group: &ProcessGroup) {
    let t = Tensor::ones([1 << 20], (Kind::Float, Device::Cpu));
    let last = loop {
        let from = Instant::now();
        if let Err(e) = group.all_reduce_sum(&[t.shallow_clone()]) {
            break (e, from.elapsed());
        }
    };
    match last.0 {
        Error::PeerLost { .. } => say("lost"),
        Error::TimedOut { .. } => say("late"),
        other => say(other),
    }
}

fn survivor_says(mut ranks: Ranks) -> String {
    drop(ranks.children.pop().map(|mut child| {
        drop(child.kill());
        child.wait()
    }));
    ranks.finish().remove(0)
}

#[test]
fn a_killed_peer_is_an_error() {
    let Some(me) = me() else {
        let ranks = start("a_killed_peer_is_an_error", 2, 2);
        std::thread::sleep(Duration::from_secs(2));
        ranks.signal(1, Signal::SIGKILL);
        assert_eq!(survivor_says(ranks), "lost");
        return;
    };
    sum_until_it_fails(&me.group("g"));
}

#[test]
fn a_peer_killed_in_backward_is_an_error() {
    let Some(me) = me() else {
        let ranks = start("a_peer_killed_in_backward_is_an_error", 2, 2);
        std::thread::sleep(Duration::from_secs(2));
        ranks.signal(1, Signal::SIGKILL);
        assert_eq!(survivor_says(ranks), "lost");
        return;
    };
    let group = me.group("g");
    let net = Net::new();
    let ddp = Ddp::new(&group, &net.params, DdpOptions::default()).unwrap();
    let (x, y) = batch(0);
    let error = loop {
        let step = || {
            ddp.before_forward()?;
            let loss = net.loss(&x, &y, None);
            ddp.backward(&loss)
        };
        if let Err(e) = step() {
            break e;
        }
    };
    match error {
        Error::PeerLost { .. } => say("lost"),
        other => say(other),
    }
}

#[test]
fn a_hanging_peer_is_an_error_at_the_time_limit() {
    let Some(me) = me() else {
        let mut ranks = start("a_hanging_peer_is_an_error_at_the_time_limit", 2, 2);
        std::thread::sleep(Duration::from_secs(2));
        ranks.signal(1, Signal::SIGSTOP);
        while ranks.children[0].try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(survivor_says(ranks), "late");
        return;
    };
    sum_until_it_fails(&me.group_within("g", Duration::from_secs(3)).unwrap());
}

#[test]
fn a_peer_that_never_comes_is_an_error() {
    let Some(me) = me() else {
        assert_eq!(start("a_peer_that_never_comes_is_an_error", 2, 1).finish(), ["late"]);
        return;
    };
    match me.group_within("g", Duration::from_secs(2)) {
        Err(Error::TimedOut { .. }) => say("late"),
        Err(other) => say(other),
        Ok(_) => say("it joined a group of its own"),
    }
}

#[test]
fn the_generator_goes_on_from_a_saved_state() {
    let draw = || Vec::<f32>::try_from(Tensor::randn([5], (Kind::Float, Device::Cpu))).unwrap();
    tch::manual_seed(3);
    draw();
    let state = native::rng_state().unwrap();
    assert_eq!(state.len(), 5056);
    let next = draw();
    draw();
    native::set_rng_state(&state).unwrap();
    assert_eq!(draw(), next);
    assert!(native::set_rng_state(&[1, 2, 3]).is_err());
}

#[test]
fn a_parameter_without_gradient_is_an_error_before_anybody_steps() {
    let Some(me) = me() else {
        start("a_parameter_without_gradient_is_an_error_before_anybody_steps", 2, 2).finish();
        return;
    };
    let group = me.group("g");
    let leaf = || Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let (used, unused) = (leaf(), leaf());
    let params = [used.shallow_clone(), unused.shallow_clone()];
    let ddp = Ddp::new(&group, &params, DdpOptions { find_unused: false, ..DdpOptions::default() }).unwrap();
    ddp.before_forward().unwrap();
    let loss = used.square().sum(Kind::Float) * f64::from(me.rank + 1);
    // The bucket never became full, so it was never sent: going on would train on each rank's own gradients.
    let error = ddp.backward(&loss).unwrap_err();
    assert!(matches!(&error, Error::Fatal { why, .. } if why.contains("Expected to have finished")), "{error}");
    assert_eq!(used.grad().double_value(&[0]), 2.0 * f64::from(me.rank + 1), "it is this rank's own");
    assert!(ddp.before_forward().is_err(), "nor does the next step begin");
}

#[test]
fn gradients_of_micro_batches_add_up_before_they_are_sent() {
    let Some(me) = me() else {
        start("gradients_of_micro_batches_add_up_before_they_are_sent", 2, 2).finish();
        return;
    };
    let group = me.group("g");
    let w = Tensor::ones([3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    let ddp = Ddp::new(&group, &[w.shallow_clone()], DdpOptions::default()).unwrap();
    for step in 1..=2 {
        ddp.before_forward().unwrap();
        backward(&(w.sum(Kind::Float) * 10.0)).unwrap();
        ddp.backward(&(w.sum(Kind::Float) * f64::from(me.rank))).unwrap();
        assert_eq!(
            w.grad().double_value(&[2]),
            f64::from(step) * 10.5,
            "10 of the first, the mean of 0 and 1 of the last"
        );
    }
}

#[test]
fn a_cuda_half_that_cannot_be_loaded_is_an_error_and_none_is_not() {
    if env::var_os("T_RANK").is_some() {
        return match native::load_cuda() {
            Ok(found) => say(found),
            Err(Error::Fatal { why, .. }) => say(why),
            Err(other) => panic!("{other}"),
        };
    }
    let folder = tempfile::tempdir().unwrap();
    let load = || {
        let ranks = start_with("a_cuda_half_that_cannot_be_loaded_is_an_error_and_none_is_not", 1, 1, |command| {
            command.env("LD_LIBRARY_PATH", folder.path());
        });
        ranks.finish().remove(0)
    };
    // Machines that have a GPU's libtorch find it.
    assert!(["false", "true"].contains(&load().as_str()));
    std::fs::write(folder.path().join("libtorch_cuda.so"), "not a library").unwrap();
    let said = load();
    assert!(said.contains("libtorch_cuda.so"), "it names the file: {said}");
    assert!(!["false", "true"].contains(&said.as_str()));
}
