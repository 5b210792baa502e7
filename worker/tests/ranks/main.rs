//! Two ranks as two processes: each test starts this same test binary once per rank.
#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stdout, reason = "ranks tell the test what they found")]

mod batches;
mod depth;
mod evaluation;
mod foreign;
mod methods;
mod one_method;
mod resume;

use std::{
    env,
    process::{Command, Stdio},
    time::Duration,
};

use morph_collective::TcpStore;
use morph_worker::rank::group::Group;
use tch::Device;

const PATIENCE: Duration = Duration::from_secs(60);

/// In a rank's process: its group.
fn group() -> Option<Group> {
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    let (rank, port) = (number("T_RANK")?, number("T_PORT")?);
    let store = TcpStore::connect("127.0.0.1", port as u16, 2, PATIENCE).unwrap();
    Some(Group::over(store, rank, 2, PATIENCE, "127.0.0.1", Device::Cpu).unwrap())
}

/// Runs `test` in two processes with these variables; what both printed between `<` and `>`.
fn both(test: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let store = TcpStore::serve("127.0.0.1", 2, PATIENCE).unwrap();
    let rank = |rank: u32| {
        Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .envs([("T_RANK", rank.to_string()), ("T_PORT", store.port().to_string())])
            .envs(variables.iter().copied())
            .env("TORCH_CPP_LOG_LEVEL", "FATAL")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..2).map(rank).collect();
    let said = children.into_iter().map(|child| {
        let out = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{}: {text}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
        text.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(said, _)| said.to_owned()).unwrap()
    });
    said.collect()
}
