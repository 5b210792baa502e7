//! Where tensors may live on this machine.

use morph_spec::experiment;
use serde::Serialize;
use tch::{Cuda, Device};

use crate::rank::failure::Failure;

/// The device that `wanted` means for the `local_rank`-th rank of this node.
///
/// # Errors
/// When CUDA is asked for and there is none.
pub fn pick(wanted: experiment::Device, local_rank: u32) -> Result<Device, Failure> {
    let cuda = || usize::try_from(gpus()).ok().filter(|n| *n > 0).map(|n| Device::Cuda(local_rank as usize % n));
    match wanted {
        experiment::Device::Cpu => Ok(Device::Cpu),
        experiment::Device::Auto => Ok(cuda().unwrap_or(Device::Cpu)),
        experiment::Device::Cuda => cuda().ok_or_else(|| {
            Failure::User(
                "trainer.device is cuda, but this machine or this build of libtorch has none; use auto or cpu".into(),
            )
        }),
    }
}

/// Number of CUDA devices. Loads libtorch's CUDA half if it is there.
fn gpus() -> i64 {
    if morph_collective::native::load_cuda() && Cuda::is_available() { Cuda::device_count() } else { 0 }
}

/// What `morph-worker devices` says of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// `cpu`, `cuda:0`, …
    pub name: String,
    /// Threads that can compute at a time; 0 for GPUs.
    pub threads: usize,
}

/// All devices that ranks could use.
pub fn list() -> Vec<Found> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let gpus = gpus();
    std::iter::once(Found { name: "cpu".into(), threads })
        .chain((0..gpus).map(|i| Found { name: format!("cuda:{i}"), threads: 0 }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_cpu_and_cuda_is_never_made_up() {
        assert_eq!(list()[0].name, "cpu");
        assert_eq!(pick(experiment::Device::Cpu, 3).unwrap(), Device::Cpu);
        if list().len() == 1 {
            assert_eq!(pick(experiment::Device::Auto, 0).unwrap(), Device::Cpu);
            assert!(matches!(pick(experiment::Device::Cuda, 0), Err(Failure::User(_))));
        }
    }
}
