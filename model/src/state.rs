//! A method's tensors under the names of the paper's state dict.

use std::collections::BTreeMap;

use morph_checkpoint::Tensors;
use tch::Tensor;

use crate::{Error, Method, from_data, to_data};

fn named(method: &dyn Method) -> BTreeMap<String, Tensor> {
    method.parameters().into_iter().chain(method.buffers()).collect()
}

/// Parameters and buffers under the names of the paper's state dict.
///
/// # Errors
/// When a tensor cannot be read.
pub fn state_dict(method: &dyn Method) -> Result<Tensors, Error> {
    named(method).into_iter().map(|(name, tensor)| Ok((name, to_data(&tensor)?))).collect()
}

/// Puts a state dict into the method.
///
/// # Errors
/// [`Error::StateDict`] lists what is missing, unexpected or of another shape; then nothing was changed.
pub fn load_state_dict(method: &dyn Method, state: &Tensors) -> Result<(), Error> {
    let own = named(method);
    // The grids hold no information: files without them, as the recorded ones, are whole.
    let derived = |name: &str| name.ends_with(".grid");
    let missing: Vec<String> = own.keys().filter(|n| !state.contains_key(*n) && !derived(n)).cloned().collect();
    let unexpected: Vec<String> = state.keys().filter(|n| !own.contains_key(*n)).cloned().collect();
    let mut misshapen = Vec::new();
    let mut loads = Vec::new();
    for (name, to) in &own {
        let Some(data) = state.get(name) else { continue };
        let from = from_data(data, to.device())?;
        if from.size() == to.size() {
            loads.push((to, from));
        } else {
            misshapen.push(format!("{name}: {:?} instead of {:?}", from.size(), to.size()));
        }
    }
    if !(missing.is_empty() && unexpected.is_empty() && misshapen.is_empty()) {
        return Err(Error::StateDict { missing, unexpected, misshapen });
    }
    tch::no_grad(|| {
        for (to, from) in loads {
            to.shallow_clone().f_copy_(&from)?;
        }
        Ok(())
    })
}
