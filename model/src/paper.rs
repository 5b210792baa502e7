//! Checkpoints of the published code: `{model_weights, optimizer_weights, epoch}`, with one `optimizer_…` for each optimizer of a
//! method that has several, whose states are `torch.optim.Adam`'s: moments by the number of their parameter.

use std::collections::BTreeMap;

use morph_checkpoint::{
    Dtype, TensorData, Tensors,
    pt::{self, Item},
    weights::Document,
};
use morph_spec::experiment as spec;

use crate::{Error, Method, Optimizers, to_data};

const MOMENTS: [&str; 3] = ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"];

fn misfit(why: impl Into<String>) -> Error {
    Error::Optimizer(why.into())
}

/// The number at `path`, or the only one of the tensor there: torch's step counts have been both.
fn number(document: &Document, path: &str) -> Option<f64> {
    if let Some(n) = document.numbers.get(path) {
        return Some(*n);
    }
    let tensor = document.tensors.get(path).filter(|t| t.bytes.len() == t.dtype.bytes())?;
    match tensor.dtype {
        Dtype::F32 => tensor.bytes.first_chunk().map(|b| f64::from(f32::from_le_bytes(*b))),
        Dtype::F64 => tensor.bytes.first_chunk().map(|b| f64::from_le_bytes(*b)),
        Dtype::I64 => tensor.bytes.first_chunk().map(|b| i64::from_le_bytes(*b) as f64),
        _ => None,
    }
}

/// A whole number that is not negative.
fn count(document: &Document, path: &str) -> Option<u64> {
    number(document, path).filter(|n| *n >= 0.0 && *n < 2f64.powi(53) && n.fract() == 0.0).map(|n| n as u64)
}

/// The epoch that the file was saved in, from 0.
pub fn epoch(document: &Document) -> Option<u32> {
    count(document, "epoch").and_then(|n| u32::try_from(n).ok())
}

/// Puts the states that `document` holds into the method's optimizers.
///
/// # Errors
/// [`Error::Optimizer`] when there is none, or it is of other parameters; [`Error::StateDict`] when shapes differ. Optimizers
/// before the one that does not fit have been changed by then.
pub fn load_optimizers(document: &Document, method: &dyn Method, optimizers: &mut Optimizers) -> Result<(), Error> {
    for (group, (_, adam)) in method.groups().iter().zip(optimizers.iter_mut()) {
        let key = group.published;
        let of = |path: &str| format!("{key}.{path}");
        let listed = |i: usize| document.numbers.contains_key(&of(&format!("param_groups.0.params.{i}")));
        let parameters = (0..).take_while(|i| listed(*i)).count();
        if parameters == 0 {
            let has = document.numbers.keys().chain(document.tensors.keys());
            let mut has: Vec<&str> = has.filter_map(|k| k.split('.').next()).filter(|k| *k != key).collect();
            has.sort_unstable();
            has.dedup();
            return Err(misfit(format!(
                "the file has no {key} ({}) beside {}; begin with its weights alone (trainer.resume: false)",
                group.name,
                if has.is_empty() { "nothing".to_owned() } else { has.join(", ") }
            )));
        }
        let second = of("param_groups.1.params.0");
        if parameters != group.parameters.len() || document.numbers.contains_key(&second) {
            let own = group.parameters.len();
            return Err(misfit(format!("{key} is of {parameters} parameters or several groups, {own} are wanted")));
        }
        let (mut tensors, mut steps) = (Tensors::new(), BTreeMap::new());
        for (i, (name, _)) in group.parameters.iter().enumerate() {
            let at = |what: &str| of(&format!("state.{i}.{what}"));
            // A parameter that never had a gradient has no state.
            if !document.tensors.contains_key(&at(MOMENTS[0])) {
                continue;
            }
            let step = count(document, &at("step"));
            steps.insert(name.clone(), step.ok_or_else(|| misfit(format!("{} is no number of steps", at("step"))))?);
            for moment in MOMENTS {
                if let Some(tensor) = document.tensors.get(&at(moment)) {
                    tensors.insert(format!("{name}/{moment}"), tensor.clone());
                }
            }
        }
        adam.load_state(&tensors, &steps)?;
    }
    Ok(())
}

/// The method and its optimizers as a file of the published code. `options` are the optimizers', `lr` their learning rate now, `epoch`
/// the last that is done, from 0.
///
/// # Errors
/// When a tensor cannot be read, or the file not be made.
pub fn write(
    method: &dyn Method,
    optimizers: &Optimizers,
    options: &spec::Optimizer,
    lr: f64,
    epoch: u32,
) -> Result<Vec<u8>, Error> {
    let named = method.parameters().into_iter().chain(method.buffers());
    let weights: Vec<(String, TensorData)> =
        named.map(|(name, tensor)| Ok((name, to_data(&tensor)?))).collect::<Result<_, Error>>()?;
    let states: Vec<State> = method
        .groups()
        .into_iter()
        .zip(optimizers.iter())
        .map(|(group, (_, adam))| {
            let (tensors, steps) = adam.state()?;
            let scalar =
                |n: u64| TensorData { dtype: Dtype::F32, shape: vec![], bytes: (n as f32).to_le_bytes().into() };
            Ok(State {
                key: group.published,
                names: group.parameters.into_iter().map(|(name, _)| name).collect(),
                tensors,
                steps: steps.into_iter().map(|(name, n)| (name, scalar(n))).collect(),
            })
        })
        .collect::<Result<_, Error>>()?;
    let state_dict = Item::State(weights.iter().map(|(name, t)| (name.clone(), t)).collect());
    let mut items = vec![("model_weights".into(), state_dict)];
    items.extend(states.iter().map(|state| (state.key.into(), state.item(options, lr))));
    items.push(("epoch".into(), Item::Int(i64::from(epoch))));
    pt::write(&Item::Dict(items)).map_err(|e| Error::Optimizer(e.to_string()))
}

/// One optimizer's state, to be written.
struct State {
    key: &'static str,
    names: Vec<String>,
    tensors: Tensors,
    steps: BTreeMap<String, TensorData>,
}

impl State {
    /// As `torch.optim.Adam.state_dict()` gives it.
    fn item(&self, o: &spec::Optimizer, lr: f64) -> Item<'_> {
        let moments = |(i, name): (usize, &String)| {
            let step = self.steps.get(name)?;
            let mut items = vec![("step".into(), Item::Tensor(step))];
            items.extend(MOMENTS.into_iter().filter_map(|moment| {
                let tensor = self.tensors.get(&format!("{name}/{moment}"))?;
                Some((moment.into(), Item::Tensor(tensor)))
            }));
            Some((Item::Int(i as i64), Item::Dict(items)))
        };
        let group = [
            ("lr", Item::Float(lr)),
            ("betas", Item::Tuple(o.betas.map(Item::Float).into())),
            ("eps", Item::Float(o.eps)),
            ("weight_decay", Item::Float(o.weight_decay)),
            ("amsgrad", Item::Bool(o.amsgrad)),
            ("maximize", Item::Bool(false)),
            ("foreach", Item::None),
            ("capturable", Item::Bool(false)),
            ("differentiable", Item::Bool(false)),
            ("fused", Item::None),
            ("decoupled_weight_decay", Item::Bool(false)),
            ("params", Item::List((0..self.names.len() as i64).map(Item::Int).collect())),
        ];
        let group = group.into_iter().map(|(key, value)| (key.into(), value)).collect();
        Item::Dict(vec![
            ("state".into(), Item::Dict(self.names.iter().enumerate().filter_map(moments).collect())),
            ("param_groups".into(), Item::List(vec![Item::Dict(group)])),
        ])
    }
}
