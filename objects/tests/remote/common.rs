//! An S3 server (s3s on files) in this process, over real HTTP, and a front before it that does to requests what networks and
//! overloaded servers do.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::Frame;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, body::Incoming, header};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use morph_objects::{Objects, Options};
use s3s::{Body, auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::time::Sleep;

/// What the front does to one request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    None,
    /// An answer of its own; `{authorization}` and `{token}` in it become what the request said.
    Answer(u16, String),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Only so many bytes are sent, and said to be all.
    Truncate(usize),
    /// This byte of the body is another.
    Flip(usize),
    /// Parts of this size with a pause before each.
    Slow(usize, Duration),
    /// So many bytes, and then nothing for ever.
    Stall(usize),
    /// The answer begins only after so long.
    Late(Duration),
    /// No tag, which a server need not send; cut after so many bytes if any.
    Untagged(Option<usize>),
}

/// A request that was seen.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    /// How many requests there were before with the same method, path and kind (object or listing).
    pub(crate) nth: usize,
    /// Where the asked range begins.
    pub(crate) from: Option<u64>,
}

impl Seen {
    pub(crate) fn is_get(&self) -> bool {
        self.method == Method::GET && self.query.is_empty()
    }

    pub(crate) fn is_list(&self) -> bool {
        self.method == Method::GET && self.query.contains("list-type")
    }
}

type Plan = Box<dyn Fn(&Seen) -> Fault + Send + Sync>;

/// A running server.
pub(crate) struct Server {
    pub(crate) url: String,
    log: Arc<Mutex<Vec<Seen>>>,
    plan: Arc<Mutex<Plan>>,
}

impl Server {
    /// Requests so far that read objects.
    pub(crate) fn gets(&self) -> Vec<Seen> {
        self.log.lock().unwrap().iter().filter(|s| s.is_get()).cloned().collect()
    }

    /// From now on, `plan` says what is done to a request.
    pub(crate) fn plan(&self, plan: impl Fn(&Seen) -> Fault + Send + Sync + 'static) {
        *self.plan.lock().unwrap() = Box::new(plan);
    }
}

pub(crate) async fn serve(root: &Path) -> Server {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single("key", "the-secret"));
    start(builder).await
}

/// Without credentials, whatever a request has for them.
pub(crate) async fn serve_open(root: &Path) -> Server {
    start(S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap())).await
}

async fn start(builder: S3ServiceBuilder) -> Server {
    let service = builder.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let log = Arc::new(Mutex::new(Vec::new()));
    let plan: Arc<Mutex<Plan>> = Arc::new(Mutex::new(Box::new(|_| Fault::None)));
    let server = Server { url, log: Arc::clone(&log), plan: Arc::clone(&plan) };
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (service, log, plan) = (service.clone(), Arc::clone(&log), Arc::clone(&plan));
            let service = tower::service_fn(move |mut request: Request<Incoming>| {
                let seen = note(&request, &mut log.lock().unwrap());
                let fault = (plan.lock().unwrap())(&seen);
                let (headers, mut service) = (request.headers().clone(), service.clone());
                if headers.get("authorization").is_some_and(|v| v.as_bytes().starts_with(b"Bearer")) {
                    // Google's, which s3s does not know.
                    request.headers_mut().remove("authorization");
                }
                async move {
                    if let Fault::Answer(status, body) = fault {
                        return Ok(answer(status, &body, &headers));
                    }
                    if let Fault::Late(pause) = fault {
                        tokio::time::sleep(pause).await;
                        return tower::Service::call(&mut service, request).await;
                    }
                    let response = tower::Service::call(&mut service, request).await?;
                    Ok::<_, s3s::HttpError>(hurt(response, fault).await)
                }
            });
            tokio::spawn(async move {
                let http = Builder::new(TokioExecutor::new());
                // A client that goes away in the middle is its own affair.
                drop(http.serve_connection(TokioIo::new(socket), TowerToHyperService::new(service)).await);
            });
        }
    });
    server
}

fn note(request: &Request<Incoming>, log: &mut Vec<Seen>) -> Seen {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let query = request.uri().query().unwrap_or_default().to_owned();
    let same = |s: &&Seen| (&s.method, &s.path, s.query.is_empty()) == (&method, &path, query.is_empty());
    let nth = log.iter().filter(same).count();
    let range = request.headers().get(header::RANGE).and_then(|range| range.to_str().ok());
    let from = range.and_then(|r| r.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    let seen = Seen { method, path, query, nth, from };
    log.push(seen.clone());
    seen
}

fn answer(status: u16, body: &str, headers: &HeaderMap) -> Response<Body> {
    let said = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let body = body.replace("{authorization}", &said("authorization"));
    let body = body.replace("{token}", &said("x-amz-security-token"));
    Response::builder().status(StatusCode::from_u16(status).unwrap()).body(Body::from(body)).unwrap()
}

async fn hurt(response: Response<Body>, fault: Fault) -> Response<Body> {
    if fault == Fault::None || !response.status().is_success() {
        return response;
    }
    let (mut parts, mut body) = response.into_parts();
    let all = body.store_all_limited(1 << 30).await.unwrap();
    let length = |parts: &mut hyper::http::response::Parts, n: usize| {
        parts.headers.insert(header::CONTENT_LENGTH, n.into());
    };
    length(&mut parts, all.len());
    let mut script = Script::default();
    let cut = |script: &mut Script, n: usize| {
        // hyper sends what it holds only when there is nothing to do at once: without the pause, not even the headers would leave.
        let flush = Step::Wait(Duration::from_millis(30));
        script.steps.extend([Step::Send(all.slice(..n.min(all.len()))), flush, Step::Break]);
    };
    match fault {
        Fault::Cut(n) => cut(&mut script, n),
        Fault::Untagged(n) => {
            parts.headers.remove(header::ETAG);
            match n {
                Some(n) => cut(&mut script, n),
                None => script.steps.push_back(Step::Send(all.clone())),
            }
        }
        Fault::Truncate(n) => {
            let n = n.min(all.len());
            length(&mut parts, n);
            script.steps.push_back(Step::Send(all.slice(..n)));
        }
        Fault::Flip(at) => {
            let mut all = all.to_vec();
            if let Some(last) = all.len().checked_sub(1) {
                all[at.min(last)] ^= 0x10;
            }
            script.steps.push_back(Step::Send(all.into()));
        }
        Fault::Slow(size, pause) => {
            for start in (0..all.len()).step_by(size) {
                script.steps.extend([Step::Wait(pause), Step::Send(all.slice(start..all.len().min(start + size)))]);
            }
        }
        Fault::Stall(n) => {
            script.steps.extend([Step::Send(all.slice(..n.min(all.len()))), Step::Wait(Duration::MAX)]);
        }
        Fault::None | Fault::Answer(..) | Fault::Late(_) => unreachable!(),
    }
    Response::from_parts(parts, Body::http_body(script))
}

enum Step {
    Send(Bytes),
    Wait(Duration),
    Break,
}

/// A body that is sent step by step.
#[derive(Default)]
struct Script {
    steps: VecDeque<Step>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Script {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            match self.steps.pop_front() {
                None => return Poll::Ready(None),
                Some(Step::Send(bytes)) if bytes.is_empty() => {}
                Some(Step::Send(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Step::Break) => return Poll::Ready(Some(Err(io::Error::other("cut on purpose")))),
                Some(Step::Wait(pause)) => {
                    let pause = pause.min(Duration::from_secs(3600));
                    self.wait = Some(Box::pin(tokio::time::sleep(pause)));
                }
            }
        }
    }
}

pub(crate) fn options(endpoint: &str, secret: &str) -> Options {
    let settings = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("AWS_REGION", "us-east-1"),
    ];
    Options {
        retries: 2,
        retry_for: Duration::from_secs(20),
        timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(1),
        settings: settings.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>(),
        ..Options::default()
    }
}

pub(crate) async fn bucket() -> (tempfile::TempDir, Server, Objects) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("xrays")).unwrap();
    let server = serve(dir.path()).await;
    let objects = Objects::open_with("s3://xrays/some folder/x", &options(&server.url, "the-secret")).unwrap();
    (dir, server, objects)
}

/// Bytes that differ everywhere.
pub(crate) fn body(seed: u64, len: usize) -> Bytes {
    let mut rng = morph_spec::Rng::keyed(seed, "body", len as u64);
    let words = std::iter::repeat_with(move || rng.next_u64().to_le_bytes()).flatten();
    words.take(len).collect::<Vec<u8>>().into()
}
