//! The gate in front of all services.

use std::{
    collections::HashMap,
    future::{Future, pending, ready},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use http::header::AUTHORIZATION;
use tonic::{
    Status,
    body::Body,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};
use tower::{Layer, Service};

use super::{
    Principal, Scope, certificate,
    guard::{End, Guarded},
    rate::{Bucket, Rate},
    table::{Need, need},
    tokens::Tokens,
};

/// More principals than this are forgotten when they rest.
const MANY: usize = 10_000;

/// How callers prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// They do not.
    None,
    /// All by tokens.
    Tokens,
    /// People by tokens, agents by certificates.
    Tls,
}

/// What one principal may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests a second, in the long run; twice as many at once after a rest.
    pub requests: u32,
    /// Requests open at a time, watches and followed logs among them. Agents' sessions do not count.
    pub open: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: 1000, open: 256 }
    }
}

#[derive(Debug)]
struct Use {
    bucket: Bucket,
    seats: Arc<()>,
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    tokens: Arc<Tokens>,
    proof: Proof,
    limits: Limits,
    uses: Mutex<HashMap<String, Use>>,
}

/// A request that may pass.
struct Admitted {
    principal: Option<Principal>,
    ends: [End; 2],
    seat: Arc<()>,
}

impl Gate {
    /// A gate that asks for `proof`.
    pub fn new(tokens: Arc<Tokens>, proof: Proof, limits: Limits) -> Self {
        Self { tokens, proof, limits, uses: Mutex::default() }
    }

    fn admit<B>(&self, request: &http::Request<B>) -> Result<Admitted, Status> {
        let forever = || -> [End; 2] { [Box::pin(pending()), Box::pin(pending())] };
        let Need::Scope(needed) = need(request.uri().path()) else {
            return Ok(Admitted { principal: None, ends: forever(), seat: Arc::default() });
        };
        let (principal, key, ends) = match self.proof {
            Proof::None => {
                let scope = if needed == Scope::Agent { Scope::Agent } else { Scope::Admin };
                (Principal { name: "anyone".into(), scope, project: None }, String::new(), forever())
            }
            Proof::Tls if needed == Scope::Agent => {
                let (agent, left) = agent(request)?;
                let key = format!("agent/{}", agent.name);
                // What is open is no better than the certificate: an agent reads a new one when it connects again.
                let end = || -> End { Box::pin(tokio::time::sleep(left)) };
                (agent, key, [end(), end()])
            }
            Proof::Tokens | Proof::Tls => {
                let entry = self.tokens.check(bearer(request)?).map_err(Status::unauthenticated)?;
                (entry.principal.clone(), entry.principal.name.clone(), [entry.end(), entry.end()])
            }
        };
        allowed(&principal, needed)?;
        let seat = self.charge(key, needed, Instant::now())?;
        Ok(Admitted { principal: Some(principal), ends, seat })
    }

    /// Counts the request against its principal's limits.
    fn charge(&self, key: String, needed: Scope, now: Instant) -> Result<Arc<()>, Status> {
        let rate = Rate { per_second: self.limits.requests.into(), burst: f64::from(self.limits.requests) * 2.0 };
        let mut uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        if uses.len() >= MANY {
            uses.retain(|_, u| !u.bucket.is_full(rate, now) || Arc::strong_count(&u.seats) > 1);
        }
        let own = uses.entry(key).or_insert_with(|| Use { bucket: Bucket::new(rate, now), seats: Arc::default() });
        own.bucket.take(rate, now).map_err(|wait| {
            let ms = wait.as_millis().max(1);
            Status::resource_exhausted(format!(
                "too many requests, the limit is {}/s: try again in {ms} ms",
                rate.per_second
            ))
        })?;
        if needed == Scope::Agent {
            return Ok(Arc::default());
        }
        if Arc::strong_count(&own.seats) > self.limits.open {
            let why =
                format!("more than {} requests are open at a time: end some, or share one watch", self.limits.open);
            return Err(Status::resource_exhausted(why));
        }
        Ok(own.seats.clone())
    }
}

fn bearer<B>(request: &http::Request<B>) -> Result<&str, Status> {
    let missing = || {
        Status::unauthenticated(
            "this coordinator asks for a token: set MORPH_TOKEN or MORPH_TOKEN_FILE; who administers it makes one \
             with morphctl token create",
        )
    };
    let header = request.headers().get(AUTHORIZATION).ok_or_else(missing)?;
    let text = header.to_str().map_err(|_| missing())?;
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(missing()),
    }
}

/// The agent that the connection's certificate names, and for how long it does.
fn agent<B>(request: &http::Request<B>) -> Result<(Principal, Duration), Status> {
    let how = "agents need a certificate of kind agent: morphctl certs issue --kind agent, then morph-worker agent --cert FILE --key FILE";
    let certificates =
        request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>().and_then(TlsConnectInfo::peer_certs);
    let leaf = certificates.as_ref().and_then(|c| c.first());
    let leaf = leaf.ok_or_else(|| Status::unauthenticated(format!("no certificate was presented: {how}")))?;
    match certificate::identity(leaf) {
        Some((kind, name)) if kind == "agent" => {
            let left = certificate::ends(leaf).and_then(|end| end.duration_since(SystemTime::now()).ok());
            Ok((Principal { name, scope: Scope::Agent, project: None }, left.unwrap_or_default()))
        }
        Some((kind, name)) => {
            Err(Status::permission_denied(format!("the certificate {name} is of kind {kind}: {how}")))
        }
        None => Err(Status::permission_denied(format!("the certificate is not one of morph's: {how}"))),
    }
}

fn allowed(principal: &Principal, needed: Scope) -> Result<(), Status> {
    let Principal { name, scope, .. } = principal;
    if scope.allows(needed) {
        return Ok(());
    }
    let why = match (scope, needed) {
        (_, Scope::Agent) => format!(
            "the token {name} has scope {scope}: agents need one of scope agent (morphctl token create --scope agent)"
        ),
        (Scope::Agent, _) => format!("the token {name} is an agent's: people need one of scope read, submit or admin"),
        _ => format!(
            "the token {name} has scope {scope}, and this needs {needed}: ask who administers the coordinator for one"
        ),
    };
    Err(Status::permission_denied(why))
}

/// Puts a [`Gate`] before services.
#[derive(Debug, Clone)]
pub struct Gates(pub Arc<Gate>);

impl<S> Layer<S> for Gates {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.0.clone() }
    }
}

/// A service behind a [`Gate`].
#[derive(Debug, Clone)]
pub struct Gated<S> {
    inner: S,
    gate: Arc<Gate>,
}

impl<S> Service<http::Request<Body>> for Gated<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Admitted { principal, ends: [asked, answered], seat } = match self.gate.admit(&request) {
            Ok(admitted) => admitted,
            Err(status) => {
                tracing::debug!(path = request.uri().path(), "refused: {}", status.message());
                return Box::pin(ready(Ok(status.into_http())));
            }
        };
        let mut request = request.map(|body| Guarded::request(body, asked));
        // Nobody behind the gate has use for it.
        request.headers_mut().remove(AUTHORIZATION);
        if let Some(principal) = principal {
            request.extensions_mut().insert(principal);
        }
        let response = self.inner.call(request);
        Box::pin(async move { Ok(response.await?.map(|body| Guarded::response(body, answered, seat))) })
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn gate(proof: Proof, limits: Limits) -> (tempfile::TempDir, Gate) {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(crate::store::keyring(&dir.path().join("state.db")).unwrap()).unwrap();
        (dir, Gate::new(Arc::new(tokens), proof, limits))
    }

    fn ask(gate: &Gate, method: &str, authorization: Option<&str>) -> Result<Admitted, Status> {
        let mut request = http::Request::builder().uri(format!("http://x/{method}"));
        if let Some(text) = authorization {
            request = request.header(AUTHORIZATION, text);
        }
        gate.admit(&request.body(()).unwrap())
    }

    fn code(result: Result<Admitted, Status>) -> Code {
        result.err().map_or(Code::Ok, |s| s.code())
    }

    #[test]
    fn each_scope_opens_its_doors_and_no_other() {
        let (_dir, gate) = gate(Proof::Tokens, Limits::default());
        let doors = [
            "morph.v1.Coordinator/ListRuns",
            "morph.v1.Coordinator/SubmitRun",
            "morph.v1.Access/CreateToken",
            "morph.v1.Agents/Session",
            "morph.v1.Coordinator/FromTheFuture",
        ];
        for (scope, open) in [
            (Scope::Read, [true, false, false, false, false]),
            (Scope::Submit, [true, true, false, false, false]),
            (Scope::Admin, [true, true, true, false, true]),
            (Scope::Agent, [false, false, false, true, false]),
        ] {
            let (_, secret) = gate.tokens.create(scope.word(), scope, None, None).unwrap();
            let header = format!("Bearer {}", secret.expose());
            for (door, open) in doors.iter().zip(open) {
                let expected = if open { Code::Ok } else { Code::PermissionDenied };
                assert_eq!(code(ask(&gate, door, Some(&header))), expected, "{scope} {door}");
            }
        }
        for header in [None, Some(""), Some("Bearer"), Some("Bearer morph_x"), Some("Basic YTpi")] {
            assert_eq!(code(ask(&gate, doors[0], header)), Code::Unauthenticated, "{header:?}");
        }
        assert_eq!(code(ask(&gate, "grpc.health.v1.Health/Check", None)), Code::Ok);
    }

    #[test]
    fn with_tls_no_token_makes_an_agent() {
        let (_dir, gate) = gate(Proof::Tls, Limits::default());
        let (_, secret) = gate.tokens.create("node", Scope::Agent, None, None).unwrap();
        let header = format!("Bearer {}", secret.expose());
        let refused = ask(&gate, "morph.v1.Agents/Session", Some(&header)).err().unwrap();
        assert!(refused.code() == Code::Unauthenticated && refused.message().contains("certs issue"), "{refused}");
    }

    #[test]
    fn one_principal_cannot_take_everything() {
        let (_dir, gate) = gate(Proof::Tokens, Limits { requests: 5, open: 3 });
        let header = |name| {
            let (_, secret) = gate.tokens.create(name, Scope::Read, None, None).unwrap();
            format!("Bearer {}", secret.expose())
        };
        let (greedy, other) = (header("greedy"), header("other"));
        let mut held = Vec::new();
        for _ in 0..3 {
            let admitted = ask(&gate, "morph.v1.Coordinator/Watch", Some(&greedy)).unwrap();
            held.push(admitted.seat);
        }
        let refused = ask(&gate, "morph.v1.Coordinator/Watch", Some(&greedy)).err().unwrap();
        assert!(refused.code() == Code::ResourceExhausted && refused.message().contains("open"), "{refused}");
        held.clear();
        let codes: Vec<_> = (0..20).map(|_| code(ask(&gate, "morph.v1.Coordinator/ListRuns", Some(&greedy)))).collect();
        assert!(codes.contains(&Code::Ok) && codes.last() == Some(&Code::ResourceExhausted), "{codes:?}");
        assert_eq!(code(ask(&gate, "morph.v1.Coordinator/ListRuns", Some(&other))), Code::Ok);
    }
}
