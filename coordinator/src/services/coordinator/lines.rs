//! What ranks wrote, line by line.

use morph_proto::v1;
use morph_spec::RunId;
use tokio::sync::mpsc;
use tonic::Status;

use super::Coordinator;
use crate::{store::Lines, view::View};

/// Lines sent at a time.
const LINES: usize = 1000;

impl Coordinator {
    /// Sends the lines of `run` that are `wanted`; with `follow` those to come too, until it is over.
    pub(super) async fn tell_lines(
        &self,
        run: RunId,
        mut wanted: Lines,
        follow: bool,
        to: &mpsc::Sender<Result<v1::LogsResponse, Status>>,
    ) -> Result<(), Status> {
        let mut changes = self.core.changes();
        loop {
            changes.mark_unchanged();
            // Asked before the lines are read, so that none that came before the end is missed.
            let ended = move |v: &View<'_>| v.read_only || v.cluster.runs.get(&run).is_none_or(|r| r.is_over());
            let over = self.core.ask(ended).await?;
            let (lines, upto) = self.read(move |s| s.lines(run, wanted)).await?;
            wanted = Lines { after: upto, tail: 0, ..wanted };
            let chunks = lines.len().div_ceil(LINES);
            for (n, some) in lines.chunks(LINES).enumerate() {
                let upto = if n + 1 == chunks { upto } else { 0 };
                let lines = some.iter().map(line).collect();
                if to.send(Ok(v1::LogsResponse { lines, upto })).await.is_err() {
                    return Ok(());
                }
            }
            if over || !follow {
                return Ok(());
            }
            if !self.changed(&mut changes, to).await? {
                return Ok(());
            }
        }
    }
}

fn line(line: &crate::store::Line) -> v1::LogLine {
    v1::LogLine {
        run: line.fence.run.to_string(),
        attempt: line.fence.attempt,
        rank: line.rank,
        seq: line.seq,
        at: line.at,
        stream: line.stream.clone(),
        text: line.text.clone(),
    }
}
