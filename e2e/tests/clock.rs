//! The clocks of the coordinator's and the agent's machine are set while they run, by an hour forward and by two back: nobody is
//! taken for lost or hung, nothing happens early, nothing waits until a clock has caught up.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use morph_e2e::{
    Home,
    cluster::{Cluster, Process, ranks_of, signal, with_ranks},
    lab::{LIMIT, Lab},
    wait_for,
};

/// The library that tells programs another time than the kernel's.
fn faketime() -> Option<PathBuf> {
    let machines = fs::read_dir("/usr/lib").ok()?.filter_map(|e| Some(e.ok()?.path()));
    machines.map(|m| m.join("faketime/libfaketime.so.1")).find(|l| l.is_file())
}

/// Sets the clocks of all that runs: `offset` is how far they are ahead of the true time.
fn set(home: &Home, offset: &str) -> Result<()> {
    // Never seen half written.
    fs::rename(home.write("clock.tmp", offset)?, home.path().join("clock"))?;
    Ok(())
}

/// Waits until `process` has noticed that its clock was set `how`.
fn noticed(lab: &Lab, process: &Process, how: &str) -> Result<()> {
    let said = format!("clock was set {how}");
    wait_for(&format!("a clock {how}"), LIMIT, || {
        // Whoever is asked looks at the clock.
        lab.run("x")?;
        Ok(process.printed().contains(&said))
    })
}

#[test]
fn a_clock_that_is_set_changes_nothing() -> Result<()> {
    let Some(library) = faketime() else {
        eprintln!("left out: libfaketime is not installed (Debian, Ubuntu: apt-get install faketime)");
        return Ok(());
    };
    let lab = Lab::with(32, |home| {
        set(home, "+0")?;
        let cluster = Cluster::new(home.path())?;
        Ok(cluster
            .seeing("LD_PRELOAD", library)
            .seeing("FAKETIME_TIMESTAMP_FILE", home.path().join("clock"))
            .seeing("FAKETIME_NO_CACHE", "1")
            // A monotonic clock is one that nobody can set.
            .seeing("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .seeing("DONT_FAKE_MONOTONIC", "1"))
    })?;
    let mut coordinator = lab.cluster.coordinator()?;
    let agent = lab.cluster.agent("agent", 2)?;
    // Half an hour would be over at once: that of the run, and that after which a silent rank is taken for hung.
    lab.train("x", &["--set", "scheduling.time_limit=30m", "--set", "trainer.stall_timeout_s=1800"])?;
    lab.train("waiting", &["--set", "trainer.epochs=1"])?;
    lab.wait("x", "running", 5)?;

    // The coordinator is back and waits for its agents when its clock is set: they have their grace all the same.
    coordinator.kill9()?;
    let stopped = with_ranks(&agent)?;
    signal(&stopped, "-STOP")?;
    coordinator = lab.cluster.coordinator()?;
    // It listens before it looks at the clock for the first time; who answers has looked.
    lab.run("x")?;
    set(&lab.home, "+3600")?;
    noticed(&lab, &coordinator, "forward")?;
    signal(&stopped, "-CONT")?;
    noticed(&lab, &agent, "forward")?;
    let step = lab.run("x")?["step"].as_u64().unwrap_or(0);
    lab.wait("x", "running", step + 5)?;
    let run = lab.run("x")?;
    ensure!(run["attempt"] == 1, "nobody is lost or late: {run:#}\n{}\n{}", coordinator.printed(), agent.printed());

    set(&lab.home, "-3600")?;
    noticed(&lab, &coordinator, "back")?;
    noticed(&lab, &agent, "back")?;
    // What is due in half a second must not wait for two hours.
    let ranks = ranks_of(agent.pid())?;
    signal(&ranks[..1], "-9")?;
    wait_for("the second attempt", Duration::from_secs(20), || Ok(lab.run("x")?["attempt"] == 2))?;
    let step = lab.run("x")?["step"].as_u64().unwrap_or(0);
    lab.wait("x", "running", step + 3)?;

    // A coordinator whose clock is behind what it remembers.
    coordinator.kill9()?;
    let coordinator = lab.cluster.coordinator()?;
    let x = lab.wait("x", "succeeded", 1)?;
    ensure!(x["attempt"] == 2, "{x:#}\n{}", coordinator.printed());
    lab.whole(&x)?;
    lab.wait("waiting", "succeeded", 1)?;
    let db = lab.database()?;
    let backwards = "SELECT count(*) FROM events a JOIN events b ON b.seq = a.seq + 1 WHERE b.at < a.at";
    ensure!(db.query_row(backwards, [], |r| r.get::<_, u64>(0))? == 0, "history goes forward");
    let lines = "SELECT count(*) FROM logs a JOIN logs b ON b.run = a.run AND b.attempt = a.attempt AND b.rank = a.rank
                 AND b.seq = a.seq + 1 WHERE b.at < a.at";
    ensure!(db.query_row(lines, [], |r| r.get::<_, u64>(0))? == 0, "what ranks said is in order");

    // The same job, which nobody disturbed.
    lab.train("y", &[])?;
    let y = lab.wait("y", "succeeded", 1)?;
    ensure!(y["attempt"] == 1, "{y:#}");
    lab.same(&x, &y)
}
