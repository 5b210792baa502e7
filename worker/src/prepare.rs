//! The process that makes shards of one dataset for its agent: orders on stdin, events on stdout, one JSON object a line, as ranks
//! have them. It lists the source once and makes one shard after the other; it may be killed at any time, for a shard is whole in
//! object storage, or not there.

use std::{
    env,
    io::{BufRead, BufReader, Write, stdin, stdout},
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use morph_collective::native;
use morph_data::{
    Progress,
    prepare::{Options, Work},
};
use morph_objects::Objects;
use morph_proto::v1;
use morph_spec::Dataset;
use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;

use crate::child;

/// How often it is said how far a shard is.
const PACE: Duration = Duration::from_millis(300);

/// Agent → this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// The first order, once: what is prepared.
    Begin(Begin),
    /// Make this shard, after those that were ordered before.
    Make {
        /// Its name.
        shard: String,
    },
}

/// What is prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The key that this process must arrive at.
    pub key: String,
    /// The dataset as JSON.
    pub dataset: String,
    /// Where relative paths in it start.
    pub folder: String,
    /// Images decoded at a time; 0: one per core.
    pub jobs: u32,
    /// Bytes that it may take, about.
    pub memory: u64,
}

impl From<&v1::MakeShard> for Begin {
    fn from(make: &v1::MakeShard) -> Self {
        let v1::MakeShard { key, dataset_json, folder, shard: _, jobs, memory } = make.clone();
        Self { key, dataset: dataset_json, folder, jobs, memory }
    }
}

/// This process → agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// So many images of the shard are done.
    Working {
        /// The shard.
        shard: String,
        /// How many.
        images: u64,
    },
    /// Something that people should know.
    Note {
        /// One line.
        line: String,
    },
    /// The shard is in object storage.
    Made {
        /// The shard.
        shard: String,
    },
    /// The shard was not made.
    Failed {
        /// The shard.
        shard: String,
        /// Why.
        why: String,
    },
    /// The last event: this dataset cannot be prepared here.
    Refused {
        /// Why.
        why: String,
    },
}

/// Makes shards until the agent closes its end.
pub fn main(agent: u32) -> ! {
    if let Err(why) = child::bind_to(agent).and_then(|()| child::limit()).and_then(|()| child::step_back()) {
        refuse(why);
    }
    let orders = orders(BufReader::new(stdin()));
    let Ok(Order::Begin(begin)) = orders.recv() else { native::exit(1) };
    match serve(&begin, &orders) {
        Ok(()) => native::exit(0),
        Err(why) => refuse(why),
    }
}

/// Orders as they come. The end of input means that the agent is gone, or wants this process gone: it exits, whatever it is at.
fn orders(input: impl BufRead + Send + 'static) -> mpsc::Receiver<Order> {
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        for line in input.lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                // The receiver lives as long as the process.
                Ok(order) => drop(sender.send(order)),
                Err(e) => tracing::warn!("an order that cannot be read was left out: {e}"),
            }
        }
        native::exit(1);
    });
    orders
}

fn refuse(why: String) -> ! {
    say(&Event::Refused { why });
    native::exit(1)
}

fn say(event: &Event) {
    let mut line = serde_json::to_vec(event).expect("invariant: events are plain data");
    line.push(b'\n');
    let mut out = stdout().lock();
    // Whoever does not listen has gone, and the kernel ends this process.
    drop(out.write_all(&line).and_then(|()| out.flush()));
}

fn serve(begin: &Begin, orders: &mpsc::Receiver<Order>) -> Result<(), String> {
    let spec: Dataset = serde_json::from_str(&begin.dataset).map_err(|e| format!("read the dataset's YAML: {e}"))?;
    if spec.is_relative() {
        env::set_current_dir(&begin.folder).map_err(|e| {
            format!("{}: {e}; relative paths of the YAML start there, and this agent does not see it", begin.folder)
        })?;
    }
    let work = Work::list(&spec).map_err(|e| format!("list the source: {e}"))?;
    if work.key().to_string() != begin.key {
        return Err(format!(
            "{} is not what was planned: this agent sees other files, or changed ones, or is another build of morph",
            spec.source.root
        ));
    }
    if let Some(name) = work.stray() {
        return Err(format!(
            "{name:?} leads out of source.root, and agents read nothing there: prepare it without --workers"
        ));
    }
    let out = Objects::open(&spec.output).map_err(|e| e.to_string())?;
    let options = Options { jobs: begin.jobs as usize, memory: begin.memory, ..Options::default() };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| format!("start: {e}"))?;
    while let Ok(order) = orders.recv() {
        let Order::Make { shard } = order else { continue };
        let ear = Ear::new(&shard);
        say(&match runtime.block_on(work.make(&out, &shard, &options, &ear)) {
            Ok(()) => Event::Made { shard },
            Err(e) => Event::Failed { shard, why: e.to_string() },
        });
    }
    Ok(())
}

/// Hears how far a shard is, and tells the agent now and then.
struct Ear<'a> {
    shard: &'a str,
    state: Mutex<(u64, Instant)>,
}

impl<'a> Ear<'a> {
    fn new(shard: &'a str) -> Self {
        Self { shard, state: Mutex::new((0, Instant::now())) }
    }
}

impl Progress for Ear<'_> {
    fn stage(&self, _: &str, _: u64) {}

    fn advance(&self, n: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += n;
        if state.1.elapsed() >= PACE {
            state.1 = Instant::now();
            say(&Event::Working { shard: self.shard.to_owned(), images: state.0 });
        }
    }

    fn warn(&self, line: &str) {
        say(&Event::Note { line: line.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_the_line() {
        let make = v1::MakeShard { key: "k".into(), folder: "a\nb".into(), memory: 7, ..v1::MakeShard::default() };
        let order = Order::Begin(Begin::from(&make));
        let line = serde_json::to_string(&order).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Order>(&line).unwrap(), order);
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let (_sender, orders) = mpsc::channel();
        let dataset = |root: &str| {
            format!(
                r#"{{"kind": "dataset", "name": "x", "source": {{"layout": "folders", "root": "{root}"}}, "output": "/out"}}"#
            )
        };
        let begin = |root: &str, folder: &str| Begin {
            key: "k".into(),
            dataset: dataset(root),
            folder: folder.into(),
            jobs: 1,
            memory: 1 << 28,
        };
        let why = serve(&begin("/no/such/root", "/"), &orders).unwrap_err();
        assert!(why.contains("/no/such/root"), "{why}");
        let why = serve(&begin("raw", "/no/such/folder"), &orders).unwrap_err();
        assert!(why.contains("/no/such/folder") && why.contains("relative"), "{why}");
        let dir = tempfile::tempdir().unwrap();
        for label in ["Normal", "Sick"] {
            std::fs::create_dir(dir.path().join(label)).unwrap();
            for i in 0..40 {
                std::fs::write(dir.path().join(label).join(format!("{i}.png")), "").unwrap();
            }
        }
        let why = serve(&begin(dir.path().to_str().unwrap(), "/"), &orders).unwrap_err();
        assert!(why.contains("is not what was planned"), "{why}");
    }

    #[test]
    fn an_image_that_a_table_names_outside_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("raw");
        std::fs::create_dir(&root).unwrap();
        let serve_with = |outside: &str| {
            let inside = (0..80).map(|i| format!("{i}.png,{}\n", if i < 40 { "Normal" } else { "Sick" }));
            let rows: Vec<String> = inside.chain([outside.to_owned()]).collect();
            for row in &rows {
                if let Some((name, _)) = row.split_once(',') {
                    std::fs::write(root.join(name), "").unwrap();
                }
            }
            std::fs::write(root.join("t.csv"), format!("filename,label\n{}", rows.concat())).unwrap();
            let dataset = serde_json::json!({
                "kind": "dataset", "name": "x", "output": dir.path().join("out"),
                "source": {"layout": "csv", "root": root, "tables": [{"file": "t.csv"}]},
            });
            let spec: Dataset = serde_json::from_value(dataset.clone()).unwrap();
            let key = Work::list(&spec).unwrap().key().to_string();
            let begin = Begin { key, dataset: dataset.to_string(), folder: "/".into(), jobs: 1, memory: 1 << 28 };
            // Nobody orders anything: it ends at once.
            let (sender, orders) = mpsc::channel();
            drop(sender);
            serve(&begin, &orders)
        };
        assert_eq!(serve_with(""), Ok(()));
        assert_eq!(serve_with("./sub.png,Normal\n"), Ok(()));
        let refused = serve_with("../secret.png,Normal\n").unwrap_err();
        assert!(refused.contains("../secret.png") && refused.contains("--workers"), "{refused}");
    }
}
