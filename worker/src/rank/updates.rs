//! Updates over the ranks: gradients are means over them, summed by one reducer an optimizer.

use std::collections::BTreeMap;

use morph_collective::{Ddp, DdpOptions, ProcessGroup, backward};
use morph_model::{Error, Method, Optimizers, Updates};
use tch::Tensor;

use crate::rank::{failure::Failure, group::Group};

/// The reducers of a method's optimizers. Parameters may belong to several: a reducer takes no notice of a backward that it was
/// not prepared for.
#[derive(Debug, Default)]
pub struct Reducers {
    partial: bool,
    by_name: BTreeMap<&'static str, Ddp>,
}

impl Reducers {
    /// Makes them fit the epoch: where some parameters get no gradient, the graph must be searched for them.
    ///
    /// # Errors
    /// When ranks disagree about the parameters.
    pub fn arm(&mut self, group: &Group, method: &dyn Method, epoch: u32) -> Result<(), Failure> {
        let Some(reducer) = group.reducer() else { return Ok(()) };
        let find_unused = method.partial(epoch);
        if !self.by_name.is_empty() && self.partial == find_unused {
            return Ok(());
        }
        // The old reducers' hooks must be gone before the new ones' come.
        self.by_name.clear();
        self.partial = find_unused;
        for group in method.groups() {
            let parameters: Vec<Tensor> = group.parameters.into_iter().map(|(_, t)| t).collect();
            self.by_name.insert(group.name, of(reducer, &parameters, find_unused)?);
        }
        Ok(())
    }
}

fn of(group: &ProcessGroup, parameters: &[Tensor], find_unused: bool) -> Result<Ddp, Failure> {
    Ok(Ddp::new(group, parameters, DdpOptions { find_unused, ..DdpOptions::default() })?)
}

/// The updates of one step.
#[derive(Debug)]
pub struct Shared<'a> {
    /// What steps.
    pub optimizers: &'a mut Optimizers,
    /// What sums.
    pub reducers: &'a Reducers,
    /// This rank's part of the batch, times the number of ranks: the reducer takes the mean over ranks, and weighed like this it
    /// is the mean over the global batch's images.
    pub weight: f64,
}

impl Updates for Shared<'_> {
    fn update(&mut self, name: &str, loss: &mut dyn FnMut() -> Result<Tensor, Error>) -> Result<(), Error> {
        let collective = |e: morph_collective::Error| Error::Collective(Box::new(e));
        let (ddp, weight) = (self.reducers.by_name.get(name), self.weight);
        self.optimizers.update(
            name,
            &mut || {
                if let Some(ddp) = ddp {
                    ddp.before_forward().map_err(collective)?;
                }
                loss()
            },
            &mut |loss| {
                let loss = loss * weight;
                match ddp {
                    Some(ddp) => ddp.backward(&loss),
                    None => backward(&loss),
                }
                .map_err(collective)
            },
        )
    }
}
