//! Where tensors may live on this machine.

use std::ffi::OsStr;

use morph_collective::{native, nccl};
use morph_spec::{Digest, experiment};
use serde::Serialize;
use tch::{Cuda, Device};

use crate::rank::failure::Failure;

/// The device that `wanted` means for a rank in this node's slot `slot`.
///
/// # Errors
/// When CUDA is asked for and there is none.
pub fn pick(wanted: experiment::Device, slot: u32) -> Result<Device, Failure> {
    let cuda = |n: usize| Device::Cuda(slot as usize % n);
    match wanted {
        experiment::Device::Cpu => Ok(Device::Cpu),
        experiment::Device::Auto => Ok(gpus_or_warn().map_or(Device::Cpu, cuda)),
        experiment::Device::Cuda => match gpus() {
            Ok(Some(n)) => Ok(cuda(n)),
            Ok(None) => Err(Failure::User(
                "trainer.device is cuda, but this machine has no GPU that libtorch can use, or libtorch's CUDA half is not \
                 installed; use auto or cpu"
                    .into(),
            )),
            Err(e) => Err(Failure::User(format!("trainer.device is cuda: {e}"))),
        },
    }
}

/// Number of CUDA devices, if any. libtorch's CUDA half comes first: what asks before it is loaded is told "none" for ever.
fn gpus() -> Result<Option<usize>, morph_collective::Error> {
    let loaded = native::load_cuda()? && Cuda::is_available();
    Ok(if loaded { usize::try_from(Cuda::device_count()).ok().filter(|n| *n > 0) } else { None })
}

/// [`gpus`]; one that cannot be used is as good as none, but not in silence.
fn gpus_or_warn() -> Option<usize> {
    gpus().unwrap_or_else(|e| {
        tracing::warn!("GPUs are left out: {e}");
        None
    })
}

/// What may carry tensors that lie on GPUs, of an agent's environment.
const COLLECTIVES: &str = "MORPH_COLLECTIVES";

/// Whether ranks on this node may use NCCL, by MORPH_COLLECTIVES.
///
/// # Errors
/// When it says what nobody knows.
pub fn may_use_nccl() -> Result<bool, Failure> {
    allows(std::env::var_os(COLLECTIVES).as_deref())
}

fn allows(said: Option<&OsStr>) -> Result<bool, Failure> {
    match said.map(|text| text.to_str()) {
        None | Some(Some("" | "auto")) => Ok(true),
        Some(Some("gloo")) => Ok(false),
        Some(_) => Err(Failure::User(format!(
            "{COLLECTIVES} is {:?}: it can be auto (NCCL where each rank has a GPU of its own, else Gloo) or gloo",
            said.unwrap_or_default()
        ))),
    }
}

/// The GPU behind `device` for NCCL: its number in this process, and a number that no other GPU has. None where NCCL cannot or
/// shall not be used; gradients then go through main memory.
///
/// # Errors
/// See [`may_use_nccl`].
pub fn for_nccl(device: Device) -> Result<Option<(u32, f64)>, Failure> {
    let allowed = may_use_nccl()?;
    let Device::Cuda(index) = device else { return Ok(None) };
    let Some(index) = u32::try_from(index).ok().filter(|_| allowed) else { return Ok(None) };
    let uuid = nccl::load().and_then(|()| nccl::uuid(index));
    Ok(match uuid {
        Ok(uuid) => Some((index, number(uuid))),
        Err(e) => {
            tracing::warn!("gradients go over Gloo and not NCCL: {e}");
            None
        }
    })
}

/// A GPU's UUID as a number that ranks can send each other in a sum: 52 bits of its hash, which an f64 counts exactly, and never 0.
fn number(uuid: [u8; 16]) -> f64 {
    let hash = Digest::of(&uuid).to_string();
    u64::from_str_radix(&hash[..13], 16).expect("invariant: a digest is written in hexadecimal").max(1) as f64
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
    let gpus = gpus_or_warn().unwrap_or_default();
    std::iter::once(Found { name: "cpu".into(), threads })
        .chain((0..gpus).map(|i| Found { name: format!("cuda:{i}"), threads: 0 }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_carry_gradients_is_said_in_words_that_are_known() {
        for (said, allowed) in [(None, true), (Some(""), true), (Some("auto"), true), (Some("gloo"), false)] {
            assert_eq!(allows(said.map(OsStr::new)).unwrap(), allowed, "{said:?}");
        }
        for unknown in ["Gloo", "nccl", "mpi"] {
            let e = allows(Some(OsStr::new(unknown))).unwrap_err();
            assert!(matches!(&e, Failure::User(text) if text.contains(unknown) && text.contains("or gloo")), "{e}");
        }
    }

    #[test]
    fn gpus_are_told_apart_exactly() {
        let number = |low: u8, high: u8| {
            let mut uuid = [7; 16];
            (uuid[1], uuid[15]) = (low, high);
            number(uuid)
        };
        assert_eq!(number(1, 2), number(1, 2));
        assert!(number(1, 2) != number(3, 2) && number(1, 2) != number(1, 3));
        assert!(number(1, 2).fract() == 0.0 && (1.0..2f64.powi(52)).contains(&number(1, 2)));
    }

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
