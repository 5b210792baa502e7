//! Runs, a page at a time: there may be a hundred thousand, and while one question is answered nothing else is decided.

use morph_control::{Refusal, find_sweep, quoted};
use morph_proto::v1;

use crate::{auth::Principal, view::View};

/// Runs of a page, at most.
const MOST: usize = 1000;
/// Runs that are looked at for one page, at most: of those that are wanted there may be few.
const LOOKED_AT: usize = 20_000;

/// The page of runs that `request` asks for.
pub(super) fn runs(
    view: &View<'_>,
    who: &Principal,
    request: &v1::ListRunsRequest,
) -> Result<v1::ListRunsResponse, Refusal> {
    let cluster = view.cluster;
    let all = if request.sweep.is_empty() {
        cluster.order.as_slice()
    } else {
        let id = find_sweep(cluster, &request.sweep, who.project.as_deref())?;
        cluster.sweeps.get(&id).map(|s| s.runs.as_slice()).unwrap_or_default()
    };
    let first = match request.page_token.as_str() {
        "" => 0,
        token => {
            token.parse().map_err(|_| Refusal::Invalid(format!("page_token: {} is none of ours", quoted(token))))?
        }
    };
    let most = match request.page_size as usize {
        0 => MOST,
        some => some.min(MOST),
    };
    let wanted = |run: &&morph_control::Run| {
        who.may_touch(&run.experiment.scheduling.project) && !(request.open && run.is_over())
    };
    let (mut runs, mut next) = (Vec::new(), first);
    for id in all.iter().skip(first).take(LOOKED_AT) {
        if runs.len() == most {
            break;
        }
        next += 1;
        runs.extend(cluster.runs.get(id).filter(wanted).map(|run| view.run(run, false)));
    }
    let next_page_token = if next < all.len() { next.to_string() } else { String::new() };
    Ok(v1::ListRunsResponse { runs, next_page_token })
}
