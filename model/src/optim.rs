//! Adam, as `torch.optim.Adam` computes it.

use std::collections::BTreeMap;

use morph_checkpoint::Tensors;
use morph_spec::experiment as spec;
use tch::Tensor;

use crate::{Error, Method, from_data, to_data};

#[derive(Debug)]
struct Slot {
    name: String,
    param: Tensor,
    state: Option<Moments>,
}

#[derive(Debug)]
struct Moments {
    step: u64,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    max_exp_avg_sq: Option<Tensor>,
}

/// Adam over named parameters. A parameter whose gradient is undefined is left alone and its step count stands still.
#[derive(Debug)]
pub struct Adam {
    options: spec::Optimizer,
    slots: Vec<Slot>,
}

impl Adam {
    /// An optimizer that has taken no step.
    pub fn new(params: &[(String, Tensor)], options: &spec::Optimizer) -> Self {
        let slot =
            |(name, param): &(String, Tensor)| Slot { name: name.clone(), param: param.shallow_clone(), state: None };
        Self { options: options.clone(), slots: params.iter().map(slot).collect() }
    }

    /// Changes the learning rate from the next step on.
    pub fn set_lr(&mut self, lr: f64) {
        self.options.lr = lr;
    }

    /// Sets all gradients that there are to zero. One that is undefined stays so: such a parameter takes no part in a step
    /// until something first depends on it.
    pub fn zero_grad(&self) {
        for slot in &self.slots {
            let mut grad = slot.param.grad();
            if grad.defined() {
                let _ = grad.zero_();
            }
        }
    }

    /// One step.
    ///
    /// # Errors
    /// libtorch's.
    pub fn step(&mut self) -> Result<(), Error> {
        let o = &self.options;
        tch::no_grad(|| {
            for slot in &mut self.slots {
                let grad = slot.param.grad();
                if !grad.defined() {
                    continue;
                }
                let grad = if o.weight_decay == 0.0 { grad } else { grad + &slot.param * o.weight_decay };
                let m = slot.state.get_or_insert_with(|| Moments {
                    step: 0,
                    exp_avg: slot.param.zeros_like(),
                    exp_avg_sq: slot.param.zeros_like(),
                    max_exp_avg_sq: o.amsgrad.then(|| slot.param.zeros_like()),
                });
                m.step += 1;
                let step = m.step as i32;
                let [beta1, beta2] = o.betas;
                let _ = m.exp_avg.f_lerp_(&grad, 1.0 - beta1)?;
                let _ = m.exp_avg_sq.f_mul_scalar_(beta2)?;
                m.exp_avg_sq += &grad * &grad * (1.0 - beta2);
                let second = match &mut m.max_exp_avg_sq {
                    Some(max) => {
                        *max = max.f_maximum(&m.exp_avg_sq)?;
                        &*max
                    }
                    None => &m.exp_avg_sq,
                };
                let correction = (1.0 - beta2.powi(step)).sqrt();
                let denominator = second.sqrt() / correction + o.eps;
                let size = o.lr / (1.0 - beta1.powi(step));
                slot.param -= &m.exp_avg / denominator * size;
            }
            Ok(())
        })
    }

    /// Moments as `<parameter>/exp_avg`, `<parameter>/exp_avg_sq`, `<parameter>/max_exp_avg_sq`, and steps by parameter.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn state(&self) -> Result<(Tensors, BTreeMap<String, u64>), Error> {
        let (mut tensors, mut steps) = (Tensors::new(), BTreeMap::new());
        for slot in &self.slots {
            let Some(m) = &slot.state else { continue };
            steps.insert(slot.name.clone(), m.step);
            tensors.insert(format!("{}/exp_avg", slot.name), to_data(&m.exp_avg)?);
            tensors.insert(format!("{}/exp_avg_sq", slot.name), to_data(&m.exp_avg_sq)?);
            if let Some(max) = &m.max_exp_avg_sq {
                tensors.insert(format!("{}/max_exp_avg_sq", slot.name), to_data(max)?);
            }
        }
        Ok((tensors, steps))
    }

    /// Goes on from what [`Self::state`] gave.
    ///
    /// # Errors
    /// [`Error::StateDict`] names parameters or moments that are missing, unknown or of another shape.
    pub fn load_state(&mut self, tensors: &Tensors, steps: &BTreeMap<String, u64>) -> Result<(), Error> {
        let known = |name: &String| self.slots.iter().any(|s| s.name == *name);
        let unexpected: Vec<String> = steps.keys().filter(|n| !known(n)).cloned().collect();
        if !unexpected.is_empty() {
            return Err(Error::StateDict { missing: Vec::new(), unexpected, misshapen: Vec::new() });
        }
        let amsgrad = self.options.amsgrad;
        for slot in &mut self.slots {
            let Some(step) = steps.get(&slot.name) else {
                slot.state = None;
                continue;
            };
            let get = |moment: &str| -> Result<Tensor, Error> {
                let key = format!("{}/{moment}", slot.name);
                let data = tensors.get(&key).ok_or_else(|| Error::StateDict {
                    missing: vec![key.clone()],
                    unexpected: Vec::new(),
                    misshapen: Vec::new(),
                })?;
                let tensor = from_data(data, slot.param.device())?;
                if tensor.size() != slot.param.size() {
                    let misshapen = vec![format!("{key}: {:?} instead of {:?}", tensor.size(), slot.param.size())];
                    return Err(Error::StateDict { missing: Vec::new(), unexpected: Vec::new(), misshapen });
                }
                Ok(tensor)
            };
            slot.state = Some(Moments {
                step: *step,
                exp_avg: get("exp_avg")?,
                exp_avg_sq: get("exp_avg_sq")?,
                max_exp_avg_sq: if amsgrad { Some(get("max_exp_avg_sq")?) } else { None },
            });
        }
        Ok(())
    }
}

/// A method's optimizers, by name.
#[derive(Debug)]
pub struct Optimizers {
    all: Vec<(String, Tensor)>,
    groups: Vec<(&'static str, Adam)>,
}

impl Optimizers {
    /// Optimizers that have taken no step: one for each of the method's groups.
    pub fn new(method: &dyn Method, options: &spec::Optimizer) -> Self {
        let groups = method.groups().into_iter().map(|g| (g.name, Adam::new(&g.parameters, options))).collect();
        Self { all: method.parameters(), groups }
    }

    /// Name and optimizer.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Adam)> {
        self.groups.iter().map(|(name, adam)| (*name, adam))
    }

    /// Name and optimizer, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Adam)> {
        self.groups.iter_mut().map(|(name, adam)| (*name, adam))
    }

    /// Changes the learning rate of all from the next step on.
    pub fn set_lr(&mut self, lr: f64) {
        self.groups.iter_mut().for_each(|(_, adam)| adam.set_lr(lr));
    }

    /// One step of the optimizer `name` on what `loss` computes; `backward` leaves the gradients. While they run, the other
    /// optimizers' parameters are constants.
    ///
    /// # Errors
    /// Theirs, and libtorch's.
    pub fn update(
        &mut self,
        name: &str,
        loss: &mut dyn FnMut() -> Result<Tensor, Error>,
        backward: &mut dyn FnMut(&Tensor) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let adam = self.groups.iter_mut().find(|(n, _)| *n == name).map(|(_, adam)| adam);
        let adam = adam.ok_or_else(|| Error::Torch(format!("there is no optimizer {name:?}")))?;
        let others: Vec<&Tensor> =
            self.all.iter().filter(|(n, _)| !adam.slots.iter().any(|s| s.name == *n)).map(|(_, t)| t).collect();
        let constant = |constant: bool| others.iter().for_each(|t| drop(t.set_requires_grad(!constant)));
        adam.zero_grad();
        constant(true);
        let done = loss().and_then(|loss| backward(&loss));
        constant(false);
        done?;
        adam.step()
    }
}
