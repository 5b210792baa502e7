//! What every process that an agent starts does first.

use nix::{
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
    },
    unistd::{Pid, getppid},
};

/// Makes the kernel kill this process when the agent dies.
///
/// # Errors
/// When the kernel refuses, or the agent is gone.
pub fn bind_to(agent: u32) -> Result<(), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| format!("ask for a signal at the agent's death: {e}"))?;
    // It may have died before the request.
    if i32::try_from(agent).is_ok_and(|pid| getppid() == Pid::from_raw(pid)) {
        Ok(())
    } else {
        Err(format!("this process's agent ({agent}) is gone; it is started by an agent only"))
    }
}

/// Most files that it may have open: shards, sockets to its peers, and room to spare.
const FILES: u64 = 65_536;

/// What the kernel lets this process do. No core dump: it would hold patients' images and object storage's keys.
///
/// # Errors
/// When the kernel refuses.
pub fn limit() -> Result<(), String> {
    let fail = |e| format!("limit this process's resources: {e}");
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(fail)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(fail)?;
    let files = hard.min(FILES);
    setrlimit(Resource::RLIMIT_NOFILE, files, files).map_err(fail)
}

/// Lets everything else on this machine go first: ranks must not wait for it.
///
/// # Errors
/// When the kernel refuses.
pub fn step_back() -> Result<(), String> {
    rustix::process::nice(NICENESS).map(drop).map_err(|e| format!("lower this process's priority: {e}"))
}

/// As `nice` has by default.
const NICENESS: i32 = 10;
