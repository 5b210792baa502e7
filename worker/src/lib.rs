//! The agent of a node and the ranks that train: everything that runs where the GPUs are.
//!
//! Contract:
//! 1. An agent starts ranks as child processes and survives their death; no rank outlives its agent.
//! 2. A rank speaks to its agent only ([`wire`]), and computes the same bits whether it was interrupted or not.
//! 3. Every end is sorted by who is to blame (`morph.v1.Exit`), so that the coordinator knows whether to try again.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
pub mod child;
pub mod device;
pub mod evaluate;
pub mod export;
pub mod node;
pub mod prepare;
pub mod rank;
pub mod wire;

use std::time::{SystemTime, UNIX_EPOCH};

use morph_spec::Timestamp;

/// The code that this is: the package's version, and of a build in a git checkout `+` and the commit, with `.dirty` after it where
/// sources had been changed since.
pub const VERSION: &str = env!("MORPH_VERSION");

/// The time of day: the only clock that reports see.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use super::VERSION;

    #[test]
    fn the_version_names_the_commit() {
        let rest = VERSION.strip_prefix(env!("CARGO_PKG_VERSION")).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let head = Command::new("git").current_dir(&root).args(["rev-parse", "HEAD"]).output();
        let head = head.ok().filter(|out| out.status.success() && root.join(".git").exists());
        let Some(head) = head else {
            assert_eq!(rest, "", "there is no checkout");
            return;
        };
        let commit = rest.strip_prefix('+').unwrap();
        let commit = commit.strip_suffix(".dirty").unwrap_or(commit);
        assert!(commit.len() >= 12 && String::from_utf8(head.stdout).unwrap().starts_with(commit), "{VERSION}");
    }

    #[test]
    fn every_room_that_the_worker_is_made_of_is_looked_at() {
        let rooms = include_str!("../Cargo.toml").lines().filter_map(|line| line.strip_prefix("morph-"));
        let rooms: Vec<&str> = rooms.filter_map(|line| line.strip_suffix(".workspace = true")).collect();
        assert!(rooms.len() >= 10, "{rooms:?}");
        for room in rooms {
            assert!(include_str!("../build.rs").contains(&format!("\"{room}\",")), "{room} is not in build.rs");
        }
    }
}
