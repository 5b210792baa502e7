//! "Hosts" on one machine: network namespaces joined by a switch, whose cables can be pulled.

use std::{
    fs,
    path::Path,
    process::{Command, id},
};

use anyhow::{Context, Result, ensure};

/// The network that the hosts share; each is `10.77.0.N`.
const NET: &str = "10.77.0";

/// Network namespaces; gone when this is dropped.
#[derive(Debug)]
pub struct Hosts {
    prefix: String,
    count: u8,
}

fn ip(args: &[&str]) -> Result<()> {
    let out = Command::new("ip").args(args).output().context("run ip (package iproute2)")?;
    ensure!(out.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    Ok(())
}

impl Hosts {
    /// `count` of them, joined.
    ///
    /// # Errors
    /// Why there can be none here: who is not root may not make any.
    pub fn new(count: u8) -> Result<Self> {
        sweep();
        let hosts = Self { prefix: format!("morph-e2e-{}-", id()), count };
        let switch = hosts.name(0);
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "sw", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "sw", "up"])?;
        for n in 1..=count {
            let (host, port) = (hosts.name(n), format!("p{n}"));
            ip(&["netns", "add", &host])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            ip(&["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "sw", "up"])?;
            ip(&["-n", &host, "addr", "add", &format!("{}/24", Self::address(n)), "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
        }
        Ok(hosts)
    }

    fn name(&self, n: u8) -> String {
        format!("{}{n}", self.prefix)
    }

    /// The address of host `n`, from 1.
    pub fn address(n: u8) -> String {
        format!("{NET}.{n}")
    }

    /// A command that runs `program` on host `n`.
    pub fn command(&self, n: u8, program: &Path) -> Command {
        // It becomes the program: its process id is the program's.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(n)]).arg(program);
        command
    }

    /// Pulls the cable of host `n`, or puts it back.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cable(&self, n: u8, plugged: bool) -> Result<()> {
        ip(&["-n", &self.name(0), "link", "set", &format!("p{n}"), if plugged { "up" } else { "down" }])
    }

    /// Delays and loses what goes to and from host `n`; false: this kernel cannot (no `sch_netem`).
    ///
    /// # Errors
    /// When `tc` is not there.
    pub fn bad_line(&self, n: u8, delay_ms: u32, loss_percent: u32) -> Result<bool> {
        let (delay, loss) = (format!("{delay_ms}ms"), format!("{loss_percent}%"));
        let (switch, host, port) = (self.name(0), self.name(n), format!("p{n}"));
        let mut done = true;
        for (name, device) in [(&switch, port.as_str()), (&host, "eth0")] {
            let args = ["-n", name, "qdisc", "replace", "dev", device, "root", "netem", "delay", &delay, "loss", &loss];
            done &= Command::new("tc").args(args).output().context("run tc (package iproute2)")?.status.success();
        }
        Ok(done)
    }

    /// Ends [`Self::bad_line`].
    ///
    /// # Errors
    /// When `tc` is not there.
    pub fn good_line(&self, n: u8) -> Result<()> {
        for (name, device) in [(self.name(0), format!("p{n}")), (self.name(n), "eth0".into())] {
            Command::new("tc").args(["-n", &name, "qdisc", "del", "dev", &device, "root"]).output()?;
        }
        Ok(())
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // What was never made is gone already.
        (0..=self.count).for_each(|n| drop(ip(&["netns", "del", &self.name(n)])));
    }
}

/// Takes away what tests left that were killed.
fn sweep() {
    let Ok(all) = fs::read_dir("/run/netns") else { return };
    for name in all.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let owner = name.strip_prefix("morph-e2e-").and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            drop(ip(&["netns", "del", &name]));
        }
    }
}
