//! One recorded case: its configuration, weights and inputs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use morph_checkpoint::{Dtype, TensorData, Tensors, weights};
use morph_spec::experiment as spec;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use crate::{Error, Morphaeus, from_data, load_state_dict, vgg::Vgg};

/// First epoch in which the reference adds the deformation terms (`epoch > 10`).
const START_EPOCH: u32 = 11;

pub(super) struct Case {
    pub(super) name: String,
    pub(super) meta: Value,
    pub(super) weights: Tensors,
    dir: PathBuf,
    inputs: Tensor,
    vgg: Option<Tensors>,
}

fn golden(why: impl Into<String>) -> Error {
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
    pub(super) fn read(dir: &Path) -> Result<Self, Error> {
        let file = dir.join("meta.json");
        let text =
            fs::read(&file).map_err(|e| golden(format!("read {}: {e}; is this a recorded case?", file.display())))?;
        let meta: Value = serde_json::from_slice(&text).map_err(|e| golden(format!("{}: {e}", file.display())))?;
        let name = meta["name"].as_str().unwrap_or_default().to_owned();
        let class = meta["model"]["class_name"].as_str().unwrap_or_default();
        if class != "MorphAEus" {
            return Err(golden(format!("{name}: the method {class:?} is not implemented; MorphAEus is")));
        }
        let beside = dir.parent().unwrap_or(Path::new("."));
        let inputs_file = beside.join("inputs.safetensors");
        let inputs = read(&inputs_file)?
            .and_then(|mut t| t.remove("batches_u8"))
            .ok_or_else(|| golden(format!("{} is missing or holds no batches_u8", inputs_file.display())))?;
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
        Ok((self.inputs.select(0, i).to_kind(Kind::Float) / 255.0).to_kind(kind))
    }

    pub(super) fn epoch(&self) -> u32 {
        self.meta["epoch"].as_u64().unwrap_or(0) as u32
    }

    pub(super) fn optimizer(&self) -> spec::Optimizer {
        let lr = self.meta["trainer"]["params"]["optimizer_params"]["lr"].as_f64().unwrap_or(5e-4);
        spec::Optimizer { lr, ..spec::Optimizer::default() }
    }

    fn dims(&self, name: &str) -> Result<Vec<u32>, Error> {
        let shape =
            self.meta["tensors"][name].as_array().ok_or_else(|| golden(format!("meta.json lists no {name}")))?;
        Ok(shape.iter().filter_map(Value::as_u64).map(|d| d as u32).collect())
    }

    /// Widths come from the tensors' shapes: a case may be narrower than its configuration says.
    fn spec(&self) -> Result<(spec::Model, spec::Loss), Error> {
        let names = |prefix: &str| {
            let listed = self.meta["tensors"].as_object();
            listed
                .into_iter()
                .flat_map(|t| t.keys())
                .filter(|n| n.starts_with(prefix) && n.ends_with(".weight"))
                .count()
        };
        let levels = names("encoder.conv__encode_");
        let channels = (0..levels)
            .map(|i| Ok(self.dims(&format!("encoder.conv__encode_{i}.weight"))?[0]))
            .collect::<Result<Vec<_>, Error>>()?;
        let params = &self.meta["model"]["params"];
        let activation = match params["act"].as_str() {
            Some("swish") | None => spec::Activation::Swish,
            Some("relu") => spec::Activation::Relu,
            Some(other) => return Err(golden(format!("activation {other:?} is not implemented"))),
        };
        let model = spec::Model {
            method: spec::Method::Morphaeus,
            image_size: self.dims("deformer.transformer.grid")?[2],
            channels,
            kernel_size: self.dims("encoder.conv__encode_0.weight")?[2],
            refine_levels: names("deformer.deformerNN.ref__refine_") as u32,
            refine_channels: self.dims("deformer.deformerNN.ref__refine_0.weight")?[1],
            integration_steps: 7,
            activation,
            norm_mode: spec::NormMode::Batch,
            sync: false,
        };
        let trainer = &self.meta["trainer"]["params"];
        let reconstruction = match trainer["loss"]["class_name"].as_str() {
            Some("L1") => spec::Reconstruction::L1,
            _ => spec::Reconstruction::L2,
        };
        let loss = spec::Loss {
            reconstruction,
            perceptual: spec::Perceptual { weight: trainer["alfa"].as_f64().unwrap_or(0.0), weights: None },
            morph: spec::MorphLoss {
                weight: trainer["delta"].as_f64().unwrap_or(1.0),
                start_epoch: START_EPOCH,
                ncc: spec::Ncc::Reference,
                beta: trainer["beta"].as_f64().unwrap_or(3.0),
                beta_epochs: trainer["max_iter"].as_u64().unwrap_or(200) as u32,
                ..spec::MorphLoss::default()
            },
        };
        Ok((model, loss))
    }

    pub(super) fn model(&self, kind: Kind) -> Result<Morphaeus, Error> {
        let (model, loss) = self.spec()?;
        let vgg = match &self.vgg {
            Some(weights) if loss.perceptual.weight != 0.0 => Some(Vgg::new(weights, Device::Cpu, kind)?),
            Some(_) => None,
            None => return Err(golden("vgg19_features21.safetensors is missing beside the case")),
        };
        let network = Morphaeus::new(&model, loss, vgg, Device::Cpu, kind, 0);
        load_state_dict(&network, &self.weights)?;
        Ok(network)
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
        let elements: u64 = shape.iter().product();
        let Some(range) = spec.get(name) else {
            if name.ends_with("num_batches_tracked") {
                tensors.insert(name.clone(), TensorData { dtype: Dtype::I64, shape, bytes: vec![0; 8] });
            }
            continue;
        };
        let (Some(a), Some(b)) = (range[0].as_f64(), range[1].as_f64()) else {
            return Err(golden(format!("prng_weights: {name} has no range")));
        };
        let (a, b) = (a as f32, b as f32);
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, c| (h ^ u64::from(c)).wrapping_mul(0x0100_0000_01b3));
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
        tensors.insert(name.clone(), TensorData { dtype: Dtype::F32, shape, bytes });
    }
    Ok(tensors)
}
