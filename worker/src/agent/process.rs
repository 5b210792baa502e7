//! Child processes, ranks above all: each is started in a process group of its own, with a clean environment, and listened to until
//! it ends.

use std::{
    collections::HashMap, env, ffi::OsString, fmt, hash::Hash, os::unix::process::ExitStatusExt, path::Path,
    process::Stdio, time::Duration,
};

use morph_collective::nccl;
use morph_control::agent::{Key, Status};
use morph_spec::Experiment;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
};

use crate::wire::{Event, Order};

/// Bytes of a line that are kept: what a rank says of a whole evaluation has thousands, and a report must stay below what a
/// coordinator takes.
const LONGEST: usize = 4 << 20;
/// Longest log line that is kept whole, in bytes.
const LINE: usize = 8 << 10;
/// How long pipes are read after the process has ended: something it started may hold them open.
const LINGER: Duration = Duration::from_secs(2);

/// What happens to a child: by default a rank.
#[derive(Debug)]
pub enum Heard<K = Key, E = Event> {
    /// It said something.
    Event(K, E),
    /// It wrote a line on this stream.
    Line(K, &'static str, String),
    /// It has ended, and everything that it said before has been passed on.
    Exited(K, Status),
    /// It could not be started.
    Failed(K, String),
}

/// What every rank of this agent is told.
#[derive(Debug, Clone)]
pub struct Site<'a> {
    /// The address at which other nodes' ranks reach this node's.
    pub host: &'a str,
    /// The node's cache.
    pub cache: &'a Path,
    /// Its limit in bytes.
    pub cache_bytes: u64,
    /// How its logs look.
    pub log_format: morph_telemetry::Format,
}

/// Running children: by default ranks, and their orders.
#[derive(Debug)]
pub struct Processes<K: Name = Key, O = Order> {
    running: HashMap<K, Running<O>>,
}

/// What a child is known by.
pub trait Name: Copy + Eq + Hash + fmt::Display + Send + Sync + 'static {}

impl<K: Copy + Eq + Hash + fmt::Display + Send + Sync + 'static> Name for K {}

#[derive(Debug)]
struct Running<O> {
    group: Pid,
    orders: mpsc::UnboundedSender<O>,
    /// Bytes of main memory that it may take; 0: as much as there is.
    memory: u64,
}

/// A child that takes more main memory than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeds<K> {
    /// Which.
    pub key: K,
    /// Bytes that it takes.
    pub takes: u64,
    /// Bytes that it may take.
    pub may: u64,
}

impl<K: Name, O> Default for Processes<K, O> {
    fn default() -> Self {
        Self { running: HashMap::new() }
    }
}

impl<K: Name, O: Serialize + Send + 'static> Processes<K, O> {
    /// Starts `command` with a first order, and listens to it in the background.
    pub fn start<E: DeserializeOwned + Send + 'static>(
        &mut self,
        key: K,
        command: Result<Command, String>,
        first: O,
        heard: &mpsc::Sender<Heard<K, E>>,
    ) {
        match command.and_then(spawn) {
            Ok(child) => {
                let (orders, queue) = mpsc::unbounded_channel();
                // The channel was made here: nobody can have closed it yet.
                drop(orders.send(first));
                let pid = child
                    .id()
                    .and_then(|id| i32::try_from(id).ok())
                    .expect("invariant: a child just started has a pid");
                self.running.insert(key, Running { group: Pid::from_raw(pid), orders, memory: 0 });
                tokio::spawn(listen(key, child, queue, heard.clone()));
            }
            Err(why) => {
                let heard = heard.clone();
                tokio::spawn(async move { heard.send(Heard::Failed(key, why)).await });
            }
        }
    }

    /// Passes an order on; a child that has ended does not hear it.
    pub fn tell(&self, key: &K, order: O) {
        if let Some(child) = self.running.get(key) {
            drop(child.orders.send(order));
        }
    }
}

impl<K: Name, O> Processes<K, O> {
    /// kill -9.
    pub fn kill(&self, key: &K) {
        if let Some(child) = self.running.get(key)
            && let Err(e) = killpg(child.group, Signal::SIGKILL)
        {
            // It may have ended by itself, which is as good.
            tracing::debug!(%key, "kill: {e}");
        }
    }

    /// From now on `key` may take so many bytes of main memory.
    pub fn limit(&mut self, key: &K, memory: u64) {
        if let Some(child) = self.running.get_mut(key) {
            child.memory = memory;
        }
    }

    /// Those that take more main memory than they may. Files that they have mapped, as datasets in the cache, do not count: the
    /// kernel takes these pages back when it needs them.
    pub fn exceeding(&self) -> Vec<Exceeds<K>> {
        let limited = self.running.iter().filter(|(_, child)| child.memory > 0);
        let found = limited.filter_map(|(key, child)| {
            let takes = own_memory(child.group)?;
            (takes > child.memory).then_some(Exceeds { key: *key, takes, may: child.memory })
        });
        found.collect()
    }

    /// Forgets a child that has ended.
    pub fn forget(&mut self, key: &K) {
        self.running.remove(key);
    }
}

impl<K: Name, O> Drop for Processes<K, O> {
    fn drop(&mut self) {
        self.running.keys().for_each(|key| self.kill(key));
    }
}

/// Bytes of main memory that are the process's own; `None`: it has ended.
fn own_memory(process: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let kib = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some((kib("RssAnon:")? + kib("RssShmem:")?) * 1024)
}

fn spawn(mut command: Command) -> Result<Child, String> {
    let program = command.as_std().get_program().to_owned();
    command.spawn().map_err(|e| format!("start {}: {e}", Path::new(&program).display()))
}

/// This very program, with another verb, as a child that this process speaks to. It computes in so many threads.
///
/// # Errors
/// When this program cannot be found.
pub fn command(verb: &str, threads: u32, log_format: morph_telemetry::Format) -> Result<Command, String> {
    let program = env::current_exe().map_err(|e| format!("find the worker's own program: {e}"))?;
    let mut command = Command::new(program);
    command
        .arg(verb)
        .args(["--agent", &std::process::id().to_string(), "--log-format", log_format.word()])
        .env_clear()
        .envs(environment(env::vars_os(), threads))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    Ok(command)
}

/// The process of a rank of `experiment`; `None`: of one that cannot be read, and it will say so.
///
/// # Errors
/// As [`command`].
pub fn rank(experiment: Option<&Experiment>, site: &Site<'_>) -> Result<Command, String> {
    let threads = experiment.map_or(1, |experiment| experiment.trainer.threads.max(1));
    let mut command = command("rank", threads, site.log_format)?;
    command.args(["--host", site.host, "--cache-bytes", &site.cache_bytes.to_string()]).arg("--cache").arg(site.cache);
    Ok(command)
}

/// What a child sees of the agent's environment: how to reach object storage and devices, and nothing that would let two
/// nodes compute differently. The number of threads is the job's.
fn environment(vars: impl Iterator<Item = (OsString, OsString)>, threads: u32) -> Vec<(OsString, OsString)> {
    const NAMES: [&str; 11] = [
        "PATH",
        "HOME",
        "LANG",
        "TMPDIR",
        "TZ",
        "USER",
        "LD_LIBRARY_PATH",
        "RUST_LOG",
        "RUST_BACKTRACE",
        "NO_COLOR",
        "STORAGE_EMULATOR_HOST",
    ];
    const PREFIXES: [&str; 15] = [
        "MORPH_",
        "OTEL_",
        "AWS_",
        "GOOGLE_",
        "AZURE_",
        "SSL_CERT_",
        "HTTP_",
        "HTTPS_",
        "NO_PROXY",
        "http_",
        "https_",
        "no_proxy",
        "CUDA_VISIBLE",
        "NVIDIA_",
        "NCCL_",
    ];
    // What proves to the coordinator who the agent is: ranks do not speak to it.
    const SECRETS: [&str; 2] = ["MORPH_TOKEN", "MORPH_KEY"];
    const THREADS: [&str; 5] =
        ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"];
    vars.filter(|(name, _)| {
        name.to_str().is_some_and(|n| {
            let wanted = NAMES.contains(&n) || PREFIXES.iter().any(|p| n.starts_with(p));
            wanted && !SECRETS.iter().any(|s| n.starts_with(s))
        })
    })
    .chain(THREADS.iter().map(|name| (OsString::from(name), OsString::from(threads.to_string()))))
    .chain([(OsString::from(nccl::BLOCKING_WAIT), OsString::from("1"))])
    .collect()
}

async fn listen<K: Name, O: Serialize + Send + 'static, E: DeserializeOwned + Send + 'static>(
    key: K,
    mut child: Child,
    mut queue: mpsc::UnboundedReceiver<O>,
    heard: mpsc::Sender<Heard<K, E>>,
) {
    let mut stdin = child.stdin.take().expect("invariant: stdin is piped");
    let stdout = child.stdout.take().expect("invariant: stdout is piped");
    let stderr = child.stderr.take().expect("invariant: stderr is piped");
    let out = tokio::spawn(read(key, "stdout", stdout, heard.clone()));
    let err = tokio::spawn(read(key, "stderr", stderr, heard.clone()));
    let orders = tokio::spawn(async move {
        // Ends when the agent forgets the child or the child closes its end; then stdin closes, and the child exits.
        while let Some(order) = queue.recv().await {
            let mut line = serde_json::to_vec(&order).expect("invariant: orders are plain data");
            line.push(b'\n');
            if stdin.write_all(&line).await.is_err() {
                break;
            }
        }
    });
    let status = child.wait().await;
    orders.abort();
    finish(out).await;
    finish(err).await;
    let status = status.map_or_else(|_| Status::default(), |s| Status { code: s.code(), signal: s.signal() });
    drop(heard.send(Heard::Exited(key, status)).await);
}

async fn finish(mut reader: JoinHandle<()>) {
    if tokio::time::timeout(LINGER, &mut reader).await.is_err() {
        reader.abort();
    }
}

/// The next line without its end, of which no more than [`LONGEST`] bytes are kept; `None`: there is none.
async fn next_line<'a>(reader: &mut (impl AsyncBufRead + Unpin), line: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    line.clear();
    let mut is_empty = true;
    loop {
        let (used, is_whole) = match reader.fill_buf().await {
            Ok(some) if !some.is_empty() => {
                let end = some.iter().position(|b| *b == b'\n');
                let new = &some[..end.unwrap_or(some.len())];
                line.extend_from_slice(&new[..new.len().min(LONGEST - line.len())]);
                (end.map_or(some.len(), |at| at + 1), end.is_some())
            }
            _ if is_empty => return None,
            _ => (0, true),
        };
        reader.consume(used);
        is_empty = false;
        if is_whole {
            let kept = line.iter().rposition(|b| *b != b'\r').map_or(0, |last| last + 1);
            return Some(&line[..kept]);
        }
    }
}

async fn read<K: Name, E: DeserializeOwned>(
    key: K,
    stream: &'static str,
    pipe: impl AsyncRead + Unpin,
    heard: mpsc::Sender<Heard<K, E>>,
) {
    let mut reader = BufReader::with_capacity(64 << 10, pipe);
    let mut line = Vec::new();
    while let Some(line) = next_line(&mut reader, &mut line).await {
        let said = if stream == "stdout" { serde_json::from_slice(line).ok() } else { None };
        let message = match said {
            Some(event) => Heard::Event(key, event),
            // A library that prints to stdout is heard too.
            None => Heard::Line(key, stream, text(line)),
        };
        if heard.send(message).await.is_err() {
            return;
        }
    }
}

fn text(line: &[u8]) -> String {
    let cut = &line[..line.len().min(LINE)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if line.len() > LINE {
        text.push_str(" […]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_see_credentials_but_not_the_agents_thread_settings() {
        let vars = [
            ("AWS_ENDPOINT", "e"),
            ("STORAGE_EMULATOR_HOST", "h"),
            ("SSL_CERT_FILE", "c"),
            ("OMP_NUM_THREADS", "7"),
            ("PYTHONPATH", "x"),
            ("PATH", "p"),
            ("MORPH_TOKEN", "t"),
            ("MORPH_TOKEN_FILE", "f"),
            ("MORPH_KEY", "k"),
        ]
        .map(|(k, v)| (OsString::from(k), OsString::from(v)));
        let seen: HashMap<OsString, OsString> = environment(vars.into_iter(), 2).into_iter().collect();
        assert_eq!(seen[&OsString::from("OMP_NUM_THREADS")], "2");
        for (name, value) in [("AWS_ENDPOINT", "e"), ("STORAGE_EMULATOR_HOST", "h"), ("SSL_CERT_FILE", "c")] {
            assert_eq!(seen[&OsString::from(name)], value, "{name}: how to reach object storage");
        }
        assert!(!seen.keys().any(|name| name.to_string_lossy().starts_with("MORPH_")), "{seen:?}");
        assert!(seen.contains_key(&OsString::from("PATH")) && !seen.contains_key(&OsString::from("PYTHONPATH")));
    }

    #[tokio::test]
    async fn a_child_that_takes_more_memory_than_it_may_is_found() {
        let (sender, _heard) = mpsc::channel::<Heard<u8, ()>>(16);
        let mut children = Processes::<u8, ()>::default();
        for (key, mib) in [(1, 1), (2, 64)] {
            let mut command = Command::new("sh");
            let script = format!("x=$(head -c {} /dev/zero | tr '\\0' x); read -r _; read -r _", mib << 20);
            command.args(["-c", &script]).process_group(0);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            children.start(key, Ok(command), (), &sender);
            children.limit(&key, 32 << 20);
        }
        let mut found = Vec::new();
        for _ in 0..200 {
            found = children.exceeding();
            if !found.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(found.iter().map(|e| (e.key, e.may)).collect::<Vec<_>>(), [(2, 32 << 20)]);
        assert!(found[0].takes > 32 << 20);
    }

    #[tokio::test]
    async fn lines_events_and_noise_are_told_apart() {
        let run = "01J00000000000000000000000".parse().unwrap();
        let key = Key { fence: morph_spec::Fence { run, attempt: 1 }, rank: 0 };
        let (sender, mut heard) = mpsc::channel::<Heard>(16);
        let bytes: &[u8] = b"{\"event\":\"ready\",\"step\":1,\"total_steps\":2,\"cached\":[]}\nnoise\n\xff\n";
        read(key, "stdout", bytes, sender).await;
        assert!(matches!(heard.recv().await, Some(Heard::Event(_, Event::Ready { step: 1, total_steps: 2, .. }))));
        assert!(matches!(heard.recv().await, Some(Heard::Line(_, "stdout", line)) if line == "noise"));
        assert!(matches!(heard.recv().await, Some(Heard::Line(..))));
        assert!(heard.recv().await.is_none());
    }

    #[tokio::test]
    async fn a_line_without_an_end_takes_no_more_memory_than_it_may() {
        let endless = [&b"x".repeat(LONGEST + 70_000)[..], b"\r\n\nlast"].concat();
        let mut reader = BufReader::with_capacity(4096, &endless[..]);
        let mut line = Vec::new();
        assert_eq!(next_line(&mut reader, &mut line).await.map(<[u8]>::len), Some(LONGEST));
        assert!(line.capacity() <= 2 * LONGEST);
        assert_eq!(next_line(&mut reader, &mut line).await, Some(&b""[..]));
        assert_eq!(next_line(&mut reader, &mut line).await, Some(&b"last"[..]));
        assert_eq!(next_line(&mut reader, &mut line).await, None);
    }
}
