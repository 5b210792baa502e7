//! One recorded case: its configuration, weights and inputs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use morph_checkpoint::{Dtype, TensorData, Tensors, weights};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::class::{self, Class};
use crate::{Error, Method, Recorded, build, from_data, load_state_dict, state_dict};

pub(super) struct Case {
    pub(super) name: String,
    pub(super) meta: Value,
    pub(super) weights: Tensors,
    dir: PathBuf,
    device: Device,
    inputs: Tensor,
    vgg: Option<Tensors>,
}

pub(super) fn golden(why: impl Into<String>) -> Error {
    Error::Golden(why.into())
}

fn read(path: &Path) -> Result<Option<Tensors>, Error> {
    match fs::read(path) {
        Ok(bytes) => weights::read(&bytes, &path.display().to_string()).map(Some).map_err(|e| golden(e.to_string())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(golden(format!("read {}: {e}", path.display()))),
    }
}

impl Case {
    pub(super) fn read(dir: &Path, device: Device) -> Result<Self, Error> {
        let file = dir.join("meta.json");
        let text =
            fs::read(&file).map_err(|e| golden(format!("read {}: {e}; is this a recorded case?", file.display())))?;
        let meta: Value = serde_json::from_slice(&text).map_err(|e| golden(format!("{}: {e}", file.display())))?;
        let name = meta["name"].as_str().unwrap_or_default().to_owned();
        let beside = dir.parent().unwrap_or(Path::new("."));
        let inputs_file = beside.join("inputs.safetensors");
        let inputs = read(&inputs_file)?
            .and_then(|mut t| t.remove("batches_u8"))
            .ok_or_else(|| golden(format!("{} is missing or holds no batches_u8", inputs_file.display())))?;
        // Whether it can be replayed at all is said before anything is computed.
        class::read(&meta, "asrun", 128)?;
        let weights = if let Some(weights) = read(&dir.join("weights.safetensors"))? {
            weights
        } else if meta["prng_weights"].is_object() {
            drawn(&meta)?
        } else {
            // `…_warmup` goes on from the weights of the case it is named after.
            let other = name.rsplit_once('_').map(|(base, _)| beside.join(base).join("weights.safetensors"));
            other
                .map(|path| read(&path))
                .transpose()?
                .flatten()
                .ok_or_else(|| golden(format!("{name} has no weights, nor does the case it is named after")))?
        };
        Ok(Self {
            name,
            meta,
            weights,
            dir: dir.to_owned(),
            device,
            inputs: from_data(&inputs, Device::Cpu)?,
            vgg: read(&beside.join("vgg19_features21.safetensors"))?,
        })
    }

    pub(super) fn tensors(&self, file: &str) -> Result<Option<Tensors>, Error> {
        read(&self.dir.join(file))
    }

    /// Batch `i` as the network sees it: `[B, 1, H, W]` in 0..1.
    pub(super) fn batch(&self, i: i64, kind: Kind) -> Result<Tensor, Error> {
        if i >= self.inputs.size()[0] {
            return Err(golden(format!("there is no batch {i}")));
        }
        // Divided in f32 first, as the reference did, also for f64 replays.
        Ok((self.inputs.select(0, i).to_kind(Kind::Float) / 255.0).to_kind(kind).to_device(self.device))
    }

    pub(super) fn epoch(&self) -> u32 {
        self.meta["epoch"].as_u64().unwrap_or(0) as u32
    }

    /// How the case reads here, as run or with BatchNorm in training mode.
    pub(super) fn class(&self, variant: &str) -> Result<Class, Error> {
        let size = self.inputs.size();
        class::read(&self.meta, variant, size.last().copied().unwrap_or(0) as u32)
    }

    pub(super) fn method(&self, variant: &str, kind: Kind) -> Result<Box<dyn Method>, Error> {
        let Class { model, trainer, .. } = self.class(variant)?;
        if trainer.loss.perceptual.weight != 0.0 && self.vgg.is_none() {
            return Err(golden("vgg19_features21.safetensors is missing beside the case"));
        }
        let method = build(&model, &trainer, self.vgg.as_ref(), self.device, kind)?;
        let mut weights = self.weights.clone();
        for (name, data) in state_dict(method.as_ref())? {
            // Drawn weights leave counts as the network is built with them.
            if name.ends_with("num_batches_tracked") {
                weights.entry(name).or_insert(data);
            }
        }
        load_state_dict(method.as_ref(), &weights)?;
        Ok(method)
    }

    /// The random numbers that were recorded under `prefix`, in their order.
    pub(super) fn draws(&self, recorded: &Tensors, prefix: &str) -> Result<Recorded, Error> {
        let mut found = Vec::new();
        for (name, data) in recorded {
            let Some(rest) = name.strip_prefix(prefix).and_then(|n| n.strip_prefix("noise.")) else { continue };
            let number = rest.split('.').next().and_then(|n| n.parse::<u32>().ok());
            let number = number.ok_or_else(|| golden(format!("{}: {name} has no number", self.name)))?;
            found.push((number, from_data(data, Device::Cpu)?));
        }
        found.sort_by_key(|(number, _)| *number);
        Ok(Recorded::new(found.into_iter().map(|(_, t)| t)))
    }
}

/// Weights by the README's rule: splitmix64 over the name, value = a + b · (2u − 1) in f32.
fn drawn(meta: &Value) -> Result<Tensors, Error> {
    let prng = &meta["prng_weights"];
    let seed = prng["seed"].as_u64().unwrap_or(1);
    let spec = prng["spec"].as_object().ok_or_else(|| golden("prng_weights has no spec"))?;
    let mut tensors = Tensors::new();
    for (name, shape) in meta["tensors"].as_object().into_iter().flatten() {
        let shape: Vec<u64> = shape.as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        let Some(range) = spec.get(name) else {
            continue;
        };
        let (Some(a), Some(b)) = (range[0].as_f64(), range[1].as_f64()) else {
            return Err(golden(format!("prng_weights: {name} has no range")));
        };
        tensors.insert(name.clone(), one(name, seed, (a as f32, b as f32), shape));
    }
    Ok(tensors)
}

/// The tensor `name` by that rule.
pub(crate) fn one(name: &str, seed: u64, (a, b): (f32, f32), shape: Vec<u64>) -> TensorData {
    let elements: u64 = shape.iter().product();
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, c| (h ^ u64::from(c)).wrapping_mul(0x0100_0000_01b3));
    let mut state = hash ^ seed;
    let mut bytes = Vec::with_capacity(elements as usize * 4);
    for _ in 0..elements {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let u = (z >> 40) as f32 * (1.0 / 16_777_216.0);
        bytes.extend((a + b * (2.0 * u - 1.0)).to_le_bytes());
    }
    TensorData { dtype: Dtype::F32, shape, bytes }
}
