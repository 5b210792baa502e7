//! What this machine is and has, without loading libtorch's CUDA half: an agent needs no GPU memory.

use std::{collections::BTreeMap, fs, path::Path};

/// Number of GPUs that a process may use, as NVIDIA's driver and the environment say.
pub fn gpus() -> u32 {
    let present = fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |gpus| gpus.count() as u32);
    morph_spec::gpus::visible(present, std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref())
}

/// Labels that every node has, and then `given` ones, which win.
pub fn labels(given: Vec<(String, String)>) -> BTreeMap<String, String> {
    let known = [("device", if gpus() > 0 { "cuda" } else { "cpu" }), ("os", std::env::consts::OS)];
    let known = known.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    known.chain(given).collect()
}

/// Bytes of main memory of this machine, or of the container that this runs in; 0 when nobody says.
pub fn memory() -> u64 {
    let limit = |path: &str| fs::read_to_string(Path::new(path)).ok()?.trim().parse::<u64>().ok();
    let cgroup = limit("/sys/fs/cgroup/memory.max").or_else(|| limit("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    match (cgroup, machine) {
        // Without a limit the old hierarchy says some huge number.
        (Some(limit), Some(machine)) => limit.min(machine),
        (limit, machine) => limit.or(machine).unwrap_or(0),
    }
}

/// `MemTotal` of /proc/meminfo, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_itself() {
        let labels = labels(vec![("zone".into(), "a".into()), ("os".into(), "mine".into())]);
        assert!(labels["device"] == "cpu" || labels["device"] == "cuda");
        assert_eq!((labels["zone"].as_str(), labels["os"].as_str()), ("a", "mine"));
        assert!(memory() > 1 << 20, "{}", memory());
        assert_eq!(total("MemTotal:       32768 kB\nMemFree: 1 kB\n"), Some(32 << 20));
        assert_eq!(total("MemFree: 1 kB"), None);
    }
}
