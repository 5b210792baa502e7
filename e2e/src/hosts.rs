//! "Hosts" on one machine: network namespaces joined by a switch, whose cables can be pulled, and made bad.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, id},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{cluster::Process, expect, wait_for};

/// The network that the hosts share; each is `10.77.0.N`.
const NET: &str = "10.77.0";

/// Network namespaces; gone when this is dropped.
#[derive(Debug)]
pub struct Hosts {
    prefix: String,
    count: u8,
    lines: BTreeMap<u8, Line>,
    logs: TempDir,
}

/// Who makes a line bad.
#[derive(Debug)]
enum Line {
    /// The kernel's `sch_netem`, at both ends.
    Kernel,
    /// `line.py`, between the cable and the switch.
    Program(Process),
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
        let (prefix, lines) = (format!("morph-e2e-{}-", id()), BTreeMap::new());
        let hosts = Self { prefix, count, lines, logs: tempfile::tempdir()? };
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

    /// Delays and loses what goes to and from host `n`: by the kernel, or where that cannot (no `sch_netem`), by a program.
    ///
    /// # Errors
    /// When neither works.
    pub fn bad_line(&mut self, n: u8, delay_ms: u32, loss_percent: u32) -> Result<()> {
        let (delay, loss) = (format!("{delay_ms}ms"), format!("{loss_percent}%"));
        let mut kernel = true;
        for (name, device) in self.ends(n) {
            let args =
                ["-n", &name, "qdisc", "replace", "dev", &device, "root", "netem", "delay", &delay, "loss", &loss];
            kernel &= Command::new("tc").args(args).output().context("run tc (package iproute2)")?.status.success();
        }
        let line = if kernel { Line::Kernel } else { Line::Program(self.program(n, delay_ms, loss_percent)?) };
        self.lines.insert(n, line);
        Ok(())
    }

    /// The two interfaces of host `n`'s cable, and where they are.
    fn ends(&self, n: u8) -> [(String, String); 2] {
        [(self.name(0), format!("p{n}")), (self.name(n), "eth0".to_owned())]
    }

    /// Puts `line.py` between the cable of host `n` and the switch.
    fn program(&self, n: u8, delay_ms: u32, loss_percent: u32) -> Result<Process> {
        let (switch, port, near, far) = (self.name(0), format!("p{n}"), format!("w{n}"), format!("x{n}"));
        ip(&["-n", &switch, "link", "add", &near, "type", "veth", "peer", "name", &far])?;
        ip(&["-n", &switch, "link", "set", &near, "up"])?;
        ip(&["-n", &switch, "link", "set", &far, "master", "sw", "up"])?;
        let line = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/line.py");
        let mut process = Process::start(
            self.command(0, Path::new("python3"))
                .arg(line)
                .args([&port, &near, "--seed", "7"])
                .args(["--delay", &format!("{}", f64::from(delay_ms) / 1000.0)])
                .args(["--loss", &format!("{}", f64::from(loss_percent) / 100.0)])
                .args(["--plain", &format!("{}:eth0", self.name(n)), "--plain", &format!("{switch}:{far}")]),
            &self.logs.path().join(&port),
        )?;
        wait_for("the bad line", Duration::from_secs(10), || {
            ensure!(process.alive()?, "line.py ended: {}", process.printed());
            Ok(!process.printed().is_empty())
        })?;
        ip(&["-n", &switch, "link", "set", &port, "nomaster"])?;
        Ok(process)
    }

    /// How long a packet takes from host `n` to host `to` and back.
    ///
    /// # Errors
    /// When none comes back.
    pub fn round_trip(&self, n: u8, to: u8) -> Result<Duration> {
        // Nobody listens there, and who asks is told so.
        let ask = "import socket, sys, time\ns = socket.socket()\ns.settimeout(20)\nt = time.monotonic()\n\
                   assert s.connect_ex((sys.argv[1], 9)) == 111\nprint(time.monotonic() - t)";
        let said = expect(self.command(n, Path::new("python3")).args(["-c", ask, &Self::address(to)]), 0)?;
        Ok(Duration::from_secs_f64(said.trim().parse()?))
    }

    /// Ends [`Self::bad_line`]; how many packets it has lost.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn good_line(&mut self, n: u8) -> Result<u64> {
        let mut lost = 0;
        match self.lines.remove(&n).context("a bad line")? {
            Line::Kernel => {
                for (name, device) in self.ends(n) {
                    let said =
                        expect(Command::new("tc").args(["-n", &name, "-s", "qdisc", "show", "dev", &device]), 0)?;
                    let dropped = said.split("dropped ").nth(1).and_then(|rest| rest.split(',').next()?.parse().ok());
                    lost += dropped.unwrap_or(0);
                    expect(Command::new("tc").args(["-n", &name, "qdisc", "del", "dev", &device, "root"]), 0)?;
                }
            }
            Line::Program(process) => {
                let (switch, port) = (self.name(0), format!("p{n}"));
                ip(&["-n", &switch, "link", "set", &port, "master", "sw"])?;
                let printed = process.printed();
                let last: Value = serde_json::from_str(printed.lines().last().unwrap_or_default())?;
                lost += last["lost"].as_u64().unwrap_or(0);
                drop(process);
                ip(&["-n", &switch, "link", "del", &format!("w{n}")])?;
            }
        }
        Ok(lost)
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
