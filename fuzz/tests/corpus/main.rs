//! Every target on every input that is known, and on mutations of them that are the same each time. What new inputs there are
//! `cargo fuzz` finds; this sees that what was mended stays so.
//!
//! An input that takes more memory than it may fails its test by name. One that ends the process (a stack that overflows, memory
//! that the kernel does not give) lies in `target/tmp/fuzz-<target>` afterwards.
#![allow(clippy::unwrap_used)]

mod mutate;
mod seeds;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use morph_fuzz::TARGETS;
use morph_spec::Rng;
use nix::sys::resource::{Resource, setrlimit};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// What an input of at most 64 KiB may take.
const MOST: usize = 256 << 20;
/// What the whole process may: beyond it the kernel gives nothing.
const LIMIT: u64 = 8 << 30;

/// Asks for another number of mutations of each input set than CI's; and for others, by their seed.
const ROUNDS: &str = "MORPH_FUZZ_ROUNDS";
const SEED: &str = "MORPH_FUZZ_SEED";
/// 1: seeds that are missing, or that morph's writers would write otherwise by now, are written.
const WRITE: &str = "MORPH_FUZZ_WRITE";

fn asked(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")))
}

/// One target at a time: memory is counted for the process.
static TURN: Mutex<()> = Mutex::new(());

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target)
}

/// Names and contents, by name.
fn known(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder(target)).unwrap_or_else(|e| panic!("seeds/{target}: {e}"));
    let mut known: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    known.extend(seeds::long(target));
    if target == "weights" {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../checkpoint/tests/golden");
        known.extend(["zip.pt", "legacy.pt"].map(|name| (name.to_owned(), fs::read(golden.join(name)).unwrap())));
    }
    known.sort();
    known
}

struct Replay {
    run: fn(&[u8]),
    /// Where the input at work lies, should the process not outlive it.
    path: PathBuf,
    file: File,
}

impl Replay {
    fn feed(&self, name: &str, input: &[u8]) {
        self.file.set_len(input.len() as u64).unwrap();
        self.file.write_all_at(input, 0).unwrap();
        let before = MEMORY.current_usage();
        MEMORY.reset_peak_usage();
        let done = catch_unwind(AssertUnwindSafe(|| (self.run)(input)));
        let taken = MEMORY.peak_usage().saturating_sub(before);
        let path = self.path.display();
        if let Err(panic) = done {
            eprintln!("on {name}, which lies in {path}");
            resume_unwind(panic);
        }
        assert!(taken <= MOST, "{name} ({} bytes, it lies in {path}) takes {taken} bytes", input.len());
    }
}

/// Feeds `target` with what is known, and with `rounds` mutations.
fn replay(target: &str, rounds: u64) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    setrlimit(Resource::RLIMIT_AS, LIMIT, LIMIT).unwrap();
    let run = TARGETS.iter().find(|t| t.name == target).unwrap().run;
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
    let file = File::create(&path).unwrap();
    let replay = Replay { run, path, file };
    // Not captured: it is to be seen when the process ends before the test does.
    drop(writeln!(std::io::stderr(), "the input at work lies in {}", replay.path.display()));
    let known = known(target);
    assert!(!known.is_empty(), "there are no seeds: {WRITE}=1 cargo test -p morph-fuzz seeds_are");
    for (name, input) in &known {
        replay.feed(name, input);
    }
    let seed = asked(SEED).unwrap_or(1);
    for round in 0..asked(ROUNDS).unwrap_or(rounds) {
        let mut rng = Rng::keyed(seed, target, round);
        let [one, other] = [0, 1].map(|_| &known[rng.below(known.len() as u64) as usize]);
        let input = mutate::mutated(&one.1, &other.1, &mut rng);
        replay.feed(&format!("mutation {round} of {}", one.0), &input);
    }
    fs::remove_file(&replay.path).unwrap();
}

macro_rules! replays {
    ($($target:ident: $rounds:literal),* $(,)?) => {
        $(#[test] fn $target() { replay(stringify!($target), $rounds); })*

        #[test]
        fn every_target_is_replayed_and_has_its_program() {
            let replayed = BTreeSet::from([$(stringify!($target)),*]);
            assert_eq!(TARGETS.iter().map(|t| t.name).collect::<BTreeSet<_>>(), replayed);
            let programs = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets")).unwrap();
            let programs: BTreeSet<String> = programs
                .map(|p| p.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                .collect();
            assert!(programs.iter().map(String::as_str).eq(replayed), "{programs:?}");
        }
    };
}

replays! {
    cases: 500,
    certificate: 500,
    checkpoint_manifest: 500,
    dataset_manifest: 500,
    dicom: 500,
    dicom_pixels: 500,
    evaluation: 500,
    event: 500,
    gate: 500,
    jpeg: 500,
    location: 500,
    messages: 500,
    nifti: 500,
    npy: 500,
    padchest: 500,
    pickle: 500,
    png: 500,
    session: 500,
    shard: 500,
    submit: 500,
    tables: 500,
    telemetry: 500,
    weights: 500,
    workbook: 500,
    yaml: 500,
}

#[test]
fn seeds_are_what_morph_writes() {
    for (target, name, bytes) in seeds::all() {
        let path = folder(target).join(&name);
        // A certificate is another one each time.
        let is_same = fs::read(&path).is_ok_and(|there| there == bytes || target == "certificate");
        if !is_same && asked(WRITE) == Some(1) {
            fs::create_dir_all(folder(target)).unwrap();
            fs::write(&path, &bytes).unwrap();
            continue;
        }
        assert!(
            is_same,
            "seeds/{target}/{name} is not what morph writes now: {WRITE}=1 cargo test -p morph-fuzz seeds_are"
        );
    }
}
