//! The ranks of an attempt as one group: how they find each other, and the sums they need.

use std::time::Duration;

use morph_collective::{ProcessGroup, TcpStore};
use morph_model::Statistics;
use tch::{Device, Kind, Tensor};

use crate::{
    device,
    rank::{events::Events, failure::Failure, orders::Orders},
    wire::Event,
};

/// How long ranks wait for each other at the start: some may still fetch the dataset.
const JOIN: Duration = Duration::from_secs(1800);

/// A rank's place in its group. With one rank there is no process group at all.
#[derive(Debug)]
pub struct Group {
    rank: u32,
    world: u32,
    links: Option<Links>,
}

#[derive(Debug)]
struct Links {
    /// For the reducer alone: nothing may come between its buckets.
    ddp: ProcessGroup,
    /// For everything else: statistics, terms of the loss, scores.
    sync: ProcessGroup,
    _store: TcpStore,
}

impl Group {
    /// The only rank.
    pub fn solo() -> Self {
        Self { rank: 0, world: 1, links: None }
    }

    /// Joins as the agent orders: rank 0 serves the store and says where, the others are told.
    ///
    /// # Errors
    /// When not all ranks come.
    pub fn join(
        rank: u32,
        world: u32,
        host: &str,
        timeout: Duration,
        device: Device,
        orders: &Orders,
        events: &Events,
    ) -> Result<Self, Failure> {
        if world <= 1 {
            return Ok(Self::solo());
        }
        let store = if rank == 0 {
            let store = TcpStore::serve(host, world, JOIN)?;
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            events.say(&Event::StoreReady { address: format!("{host}:{}", store.port()) });
            store
        } else {
            let (address, port) = split(&orders.rendezvous())?;
            TcpStore::connect(&address, port, world, JOIN)?
        };
        Self::over(store, rank, world, timeout, host, device)
    }

    /// Joins over `store`; `timeout` is the limit of every collective afterwards, not of the joining. Tensors on GPUs go over
    /// NCCL where every rank has a GPU of its own, else all goes over Gloo.
    ///
    /// # Errors
    /// When not all ranks come.
    pub fn over(
        store: TcpStore,
        rank: u32,
        world: u32,
        timeout: Duration,
        host: &str,
        device: Device,
    ) -> Result<Self, Failure> {
        // A group's time limit holds for its joining, too, and ranks may come late: so all meet in a patient one first.
        let meeting = ProcessGroup::gloo(&store, "join", rank, world, JOIN, Some(host))?;
        let gpu = device::for_nccl(device)?;
        let by_rank = gather(&meeting, gpu.map_or(0.0, |(_, gpu)| gpu))?;
        let gpu = gpu.filter(|_| each_has_its_own(&by_rank));
        let group = |name: &str| match gpu {
            Some((index, _)) => ProcessGroup::nccl(&store, name, rank, world, timeout, Some(host), index),
            None => ProcessGroup::gloo(&store, name, rank, world, timeout, Some(host)),
        };
        let (ddp, sync) = (group("ddp")?, group("sync")?);
        meeting.barrier()?;
        if rank == 0 && device.is_cuda() {
            tracing::info!("gradients go over {}", if gpu.is_some() { "NCCL" } else { "Gloo" });
        }
        Ok(Self { rank, world, links: Some(Links { ddp, sync, _store: store }) })
    }

    /// This rank.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Number of ranks.
    pub fn world(&self) -> u32 {
        self.world
    }

    /// The group for the reducer; `None` when there is one rank.
    pub fn reducer(&self) -> Option<&ProcessGroup> {
        self.links.as_ref().map(|l| &l.ddp)
    }

    /// Replaces `values` by their sums over all ranks.
    ///
    /// # Errors
    /// When a peer is gone.
    pub fn sum(&self, values: &mut [f64]) -> Result<(), Failure> {
        let Some(links) = self.links.as_ref().filter(|_| !values.is_empty()) else { return Ok(()) };
        let sums = Tensor::from_slice(values);
        links.sync.all_reduce_sum(std::slice::from_ref(&sums))?;
        sums.copy_data(values, values.len());
        Ok(())
    }

    /// Whether any rank says yes.
    ///
    /// # Errors
    /// When a peer is gone.
    pub fn any(&self, mine: bool) -> Result<bool, Failure> {
        let mut votes = [f64::from(u8::from(mine))];
        self.sum(&mut votes)?;
        Ok(votes[0] > 0.0)
    }

    /// Waits until `done` on every rank. It returns within a second or so, whether done or not: ranks that are done take part
    /// in short sums meanwhile, since a collective has a time limit that a slow object store may not keep.
    ///
    /// # Errors
    /// What `done` says, or when a peer is gone.
    pub fn wait_for(&self, mut done: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
        loop {
            let busy = !done()?;
            if !self.any(busy)? {
                return Ok(());
            }
        }
    }

    /// Gives every rank rank 0's values of `tensors`.
    ///
    /// # Errors
    /// When a peer is gone.
    pub fn broadcast(&self, tensors: &[Tensor]) -> Result<(), Failure> {
        match &self.links {
            Some(links) if !tensors.is_empty() => Ok(links.sync.broadcast(tensors, 0)?),
            _ => Ok(()),
        }
    }
}

impl Statistics for Group {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn world(&self) -> u32 {
        self.world
    }

    fn all_reduce_sum(&self, t: &Tensor) -> Result<Tensor, morph_model::Error> {
        match &self.links {
            None => Ok(t.shallow_clone()),
            Some(links) => {
                links.sync.all_reduce_sum_autograd(t).map_err(|e| morph_model::Error::Collective(Box::new(e)))
            }
        }
    }
}

/// `mine` of every rank.
fn gather(group: &ProcessGroup, mine: f64) -> Result<Vec<f64>, Failure> {
    let mut values = vec![0.0; group.world() as usize];
    values[group.rank() as usize] = mine;
    let sums = Tensor::from_slice(&values);
    group.all_reduce_sum(std::slice::from_ref(&sums))?;
    sums.copy_data(&mut values, group.world() as usize);
    Ok(values)
}

/// Whether all ranks have a GPU (0: none) that no other has.
fn each_has_its_own(gpus: &[f64]) -> bool {
    gpus.iter().enumerate().all(|(rank, gpu)| *gpu != 0.0 && !gpus[..rank].contains(gpu))
}

fn split(address: &str) -> Result<(String, u16), Failure> {
    let bad = || Failure::Infra(format!("{address:?} is no address of a rendezvous store; expected host:port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().map_err(|_| bad())?;
    Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

/// Where tensors live, of which element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The device.
    pub device: Device,
    /// `Float`; tests compare in `Double`.
    pub kind: Kind,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_split_at_the_last_colon() {
        assert_eq!(split("node-1:80").unwrap(), ("node-1".to_owned(), 80));
        assert_eq!(split("[::1]:80").unwrap(), ("::1".to_owned(), 80));
        assert!(matches!(split("nowhere"), Err(Failure::Infra(_))));
    }

    #[test]
    fn nccl_wants_a_gpu_for_each_rank() {
        assert!(each_has_its_own(&[7.0]) && each_has_its_own(&[7.0, 8.0, 9.0]));
        assert!(!each_has_its_own(&[7.0, 0.0]), "a rank without");
        assert!(!each_has_its_own(&[7.0, 8.0, 7.0]), "two on one");
    }

    #[test]
    fn one_rank_needs_no_group() {
        let group = Group::solo();
        let mut values = [1.5, 2.5];
        group.sum(&mut values).unwrap();
        assert_eq!(values, [1.5, 2.5]);
        assert!(!group.any(false).unwrap() && group.any(true).unwrap());
    }
}
