//! Each operation against the vectors recorded from the paper's own code, and what holds of the whole network.

mod export;
mod network;
mod onnx;
mod ops;
mod state;

use std::path::PathBuf;

use morph_checkpoint::{Tensors, weights};
use tch::{Device, Kind, Tensor};

use crate::from_data;

/// Recorded tensors by name.
pub(crate) struct Golden(Tensors);

impl Golden {
    /// The file `name` below the recorded vectors; `None` where they are not at hand.
    pub(crate) fn open(name: &str) -> Option<Self> {
        Some(Self(weights::read(&std::fs::read(path(name)?).unwrap(), name).unwrap()))
    }

    pub(crate) fn get(&self, name: &str, kind: Kind) -> Tensor {
        from_data(&self.0[name], Device::Cpu).unwrap().to_kind(kind)
    }
}

/// Where `name` lies below the recorded vectors; `None` where they are not at hand.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("MORPH_GOLDEN").map(PathBuf::from);
    let root = root.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden")));
    let path = root.join(name);
    if !path.exists() {
        eprintln!("skipped: the recorded vectors are not here ({name}); set MORPH_GOLDEN");
        return None;
    }
    Some(path)
}

/// The numbers of `ops.json`.
pub(crate) fn facts() -> Option<serde_json::Value> {
    Some(serde_json::from_slice(&std::fs::read(path("ops/ops.json")?).unwrap()).unwrap())
}

/// Largest distance of two elements.
pub(crate) fn apart(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a.detach().to_kind(Kind::Double) - b.detach().to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// The norm of the difference, relative to the norm of `want`.
fn off(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.size(), want.size());
    let (got, want) = (got.detach().to_kind(Kind::Double), want.detach().to_kind(Kind::Double));
    (got - &want).norm().double_value(&[]) / want.norm().double_value(&[])
}

pub(crate) fn one_thread() {
    // Tests run side by side: one thread each, or they wait for each other.
    tch::set_num_threads(1);
}
