//! From a location to the store that serves it, with retries and time limits said outright.

use std::{collections::BTreeMap, env, fmt, path, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    client::{HttpClient, HttpConnector},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    http::HttpBuilder,
    local::LocalFileSystem,
    path::Path,
};
use url::Url;

use crate::{Access, Error, Objects, download::Patience, error::redact, policy::Policy, profile};

/// Time limits and retries of remote stores.
#[derive(Clone)]
pub struct Options {
    /// Tries after the first; the back-off between them is jittered and doubles.
    pub retries: usize,
    /// No new try after this long.
    pub retry_for: Duration,
    /// Time limit of one request.
    pub timeout: Duration,
    /// Time limit of connecting.
    pub connect_timeout: Duration,
    /// Settings that stand before the environment's, by the same names: `AWS_ENDPOINT_URL`, `MORPH_HEDGE_MS`, ….
    pub settings: BTreeMap<String, String>,
    /// Where `http(s)` may lead to. [`Policy::open`] asks it of all locations.
    pub policy: Policy,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retries: 8,
            retry_for: Duration::from_secs(120),
            timeout: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(5),
            settings: BTreeMap::new(),
            policy: Policy::TRUSTING,
        }
    }
}

impl fmt::Debug for Options {
    /// Of the settings only their names: keys are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("retries", &self.retries)
            .field("retry_for", &self.retry_for)
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("settings", &self.settings.keys())
            .field("policy", &self.policy)
            .finish()
    }
}

/// What the names of settings end with that are secret.
const SECRET: [&str; 6] = ["KEY", "TOKEN", "SECRET", "PASSWORD", "SIGNATURE", "ACCESS_KEY_ID"];

impl Options {
    fn access(&self) -> Result<Arc<Access>, String> {
        let ours = |name: &str| ["AWS_", "AZURE_", "GOOGLE_"].iter().any(|p| name.to_ascii_uppercase().starts_with(p));
        let secret = |name: &str| SECRET.iter().any(|end| name.to_ascii_uppercase().ends_with(end));
        let environment = env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            if ours(&name) { Some((name, value.into_string().ok()?)) } else { None }
        });
        let all = environment.chain(self.settings.clone()).filter(|(name, _)| secret(name)).map(|(_, value)| value);
        // Shorter than any key, and a word like "key" would take every key out of the text.
        let secrets = all.filter(|value| value.len() >= 6).collect();
        let patience = Patience { tries: self.retries, time: self.retry_for, hedge: self.hedge()? };
        Ok(Arc::new(Access { patience, secrets }))
    }

    /// After how long without an answer a read is asked for once more, beside the first; `None`: never.
    fn hedge(&self) -> Result<Option<Duration>, String> {
        let Some(text) = self.setting("MORPH_HEDGE_MS") else { return Ok(None) };
        let ms = text
            .trim()
            .parse()
            .map_err(|_| format!("MORPH_HEDGE_MS {text:?}: expected a number of milliseconds; 0: never"))?;
        Ok(Some(Duration::from_millis(ms)).filter(|late| !late.is_zero()))
    }

    fn retry(&self) -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(15),
                base: 2.0,
            },
            max_retries: self.retries,
            retry_timeout: self.retry_for,
        }
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.settings.get(name).cloned().or_else(|| env::var(name).ok())
    }

    fn client(&self) -> ClientOptions {
        ClientOptions::new().with_timeout(self.timeout).with_connect_timeout(self.connect_timeout)
    }

    /// For `endpoint`, if it is not the provider's own: who names one by `http://` wants no TLS.
    fn client_for(&self, endpoint: Option<&str>) -> ClientOptions {
        self.client().with_allow_http(endpoint.is_some_and(|e| e.starts_with("http://")))
    }
}

/// The path on this machine that `location` is; `None`: it is a URL of another kind. [`Policy`] judges by it what others open by it: two
/// readings of one URL would let one judge what the other does not open.
///
/// # Errors
/// [`Error::BadUrl`] when it is a `file:` URL without an absolute path.
pub fn path_of(location: &str) -> Result<Option<path::PathBuf>, Error> {
    let bad = |why: String| Error::BadUrl { url: redact(location), why };
    if !location.contains("://") {
        return Ok(Some(location.into()));
    }
    let url = Url::parse(location).map_err(|e| bad(e.to_string()))?;
    if url.scheme() != "file" {
        return Ok(None);
    }
    url.to_file_path().map(Some).map_err(|()| bad("expected file:///absolute/path".to_owned()))
}

pub(crate) fn open(location: &str, options: &Options) -> Result<Objects, Error> {
    let bad = |why: String| Error::BadUrl { url: redact(location), why };
    if location.trim().is_empty() {
        return Err(bad("the location is empty: expected a path or a URL such as s3://bucket/prefix".to_owned()));
    }
    if let Some(path) = path_of(location)? {
        return local(&path, location);
    }
    let (scheme, rest) = location.split_once("://").unwrap_or((location, ""));
    if matches!(scheme, "http" | "https") {
        return web(location, options);
    }
    let (bucket, folder) = rest.split_once('/').unwrap_or((rest, ""));
    let bucket = bucket.rsplit('@').next().unwrap_or_default();
    // It becomes part of a URL, and must not decide more of it than that.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '$');
    if bucket.is_empty() || !bucket.chars().all(plain) {
        return Err(bad(format!("expected {scheme}://bucket/prefix")));
    }
    let setting = |e: object_store::Error| bad(e.to_string());
    let with_profile;
    let options = if matches!(scheme, "s3" | "s3a") {
        let mut settings = profile::settings(|name| options.setting(name)).map_err(&bad)?;
        settings.extend(options.settings.clone());
        with_profile = Options { settings, ..options.clone() };
        &with_profile
    } else {
        options
    };
    let store: Arc<dyn ObjectStore> = match scheme {
        "s3" | "s3a" => Arc::new(s3(bucket, options).map_err(&bad)?.build().map_err(setting)?),
        "gs" => Arc::new(gcs(bucket, options).build().map_err(setting)?),
        "az" | "azure" => Arc::new(azure(bucket, options).build().map_err(setting)?),
        other => {
            return Err(bad(format!("unknown scheme {other:?}: expected file, s3, gs, az, http or https")));
        }
    };
    let folder = Path::from_url_path(folder).map_err(|e| bad(e.to_string()))?;
    Ok(Objects {
        store,
        root: format!("{scheme}://{bucket}").into(),
        folder,
        read_only: false,
        access: options.access().map_err(bad)?,
    })
}

/// `http(s)://host:port/folder`, taken apart by the parser by which [`Policy`] judges it: where two disagree on what the host is
/// (`http://a\@b`), one would judge what the other does not open.
fn web(location: &str, options: &Options) -> Result<Objects, Error> {
    let bad = |why: String| Error::BadUrl { url: redact(location), why };
    let url = Url::parse(location).map_err(|e| bad(e.to_string()))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(bad("a folder's URL ends with its path: there is no place for `?…` or `#…`".to_owned()));
    }
    let host = url.host().ok_or_else(|| bad("names no host".to_owned()))?;
    options.policy.literal(&host).map_err(|e| bad(e.to_string()))?;
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let root = format!("{}://{host}{port}", url.scheme());
    let client = options.client().with_allow_http(url.scheme() == "http");
    let connector = Connector(options.policy.client(options).map_err(|e| bad(e.to_string()))?);
    let builder = HttpBuilder::new().with_url(&root).with_http_connector(connector);
    let built = builder.with_retry(options.retry()).with_client_options(client).build();
    let store = Arc::new(built.map_err(|e| bad(e.to_string()))?);
    let folder = Path::from_url_path(url.path()).map_err(|e| bad(e.to_string()))?;
    let access = options.access().map_err(bad)?;
    Ok(Objects { store, root: root.into(), folder, read_only: true, access })
}

/// Hands out one client.
#[derive(Debug)]
struct Connector(reqwest::Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}

/// S3 as the AWS tools see it: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`,
/// `AWS_ENDPOINT_URL` (or `AWS_ENDPOINT`), `AWS_ALLOW_HTTP`, `AWS_SKIP_SIGNATURE`, `AWS_CA_BUNDLE`, and profiles (see [`profile`]). A
/// custom endpoint is addressed by path.
fn s3(bucket: &str, options: &Options) -> Result<AmazonS3Builder, String> {
    let endpoint = options.setting("AWS_ENDPOINT_URL").or_else(|| options.setting("AWS_ENDPOINT"));
    let mut client = options.client_for(endpoint.as_deref());
    if let Some(file) = options.setting("AWS_CA_BUNDLE") {
        let fail = |why: String| format!("AWS_CA_BUNDLE {file}: {why}");
        let pem = std::fs::read(&file).map_err(|e| fail(e.to_string()))?;
        let authorities = Certificate::from_pem_bundle(&pem).map_err(|e| fail(e.to_string()))?;
        if authorities.is_empty() {
            return Err(fail("there is no certificate in it".to_owned()));
        }
        client = authorities.into_iter().fold(client, ClientOptions::with_root_certificate);
    }
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(options.retry());
    for (name, value) in &options.settings {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    if options.setting("AWS_REGION").is_none() && options.setting("AWS_DEFAULT_REGION").is_none() {
        builder = builder.with_region("us-east-1");
    }
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
    }
    Ok(builder.with_client_options(client))
}

/// Google's storage: `GOOGLE_SERVICE_ACCOUNT` (a file) or `GOOGLE_SERVICE_ACCOUNT_KEY`, `GOOGLE_SKIP_SIGNATURE`, else the machine's own
/// account. `GOOGLE_BASE_URL` is another endpoint; `STORAGE_EMULATOR_HOST` is, as for Google's own tools, one that wants no credentials.
fn gcs(bucket: &str, options: &Options) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(options.retry());
    for (name, value) in &options.settings {
        if let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let emulator = options.setting("STORAGE_EMULATOR_HOST").map(|host| match host.contains("://") {
        true => host,
        false => format!("http://{host}"),
    });
    if emulator.is_some() {
        // Not `with_skip_signature`: writes would still ask the machine for a token.
        let nobody = r#"{"private_key": "", "private_key_id": "", "client_email": "", "disable_oauth": true}"#;
        builder = builder.with_service_account_key(nobody);
    }
    let endpoint = emulator.or_else(|| options.setting("GOOGLE_BASE_URL"));
    let client = options.client_for(endpoint.as_deref());
    if let Some(endpoint) = endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    builder.with_client_options(client)
}

/// Azure's blobs: `AZURE_STORAGE_ACCOUNT_NAME` with `AZURE_STORAGE_ACCOUNT_KEY`, `AZURE_STORAGE_SAS_TOKEN` or an identity (`AZURE_CLIENT_ID`,
/// …). `AZURE_STORAGE_ENDPOINT` is another endpoint, of which the account's name may be the path.
fn azure(container: &str, options: &Options) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(container).with_retry(options.retry());
    for (name, value) in &options.settings {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AzureConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    let endpoint = options.setting("AZURE_STORAGE_ENDPOINT");
    builder.with_client_options(options.client_for(endpoint.as_deref()))
}

fn local(path: &path::Path, location: &str) -> Result<Objects, Error> {
    let bad = |why: String| Error::BadUrl { url: location.to_owned(), why };
    let absolute = path::absolute(path).map_err(|e| bad(e.to_string()))?;
    // `..` must be gone before the path becomes a prefix: object paths have no such thing.
    let mut clean = path::PathBuf::new();
    for part in absolute.components() {
        match part {
            path::Component::ParentDir => drop(clean.pop()),
            path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    let folder = Path::from_absolute_path(&clean).map_err(|e| bad(e.to_string()))?;
    let store = LocalFileSystem::new().with_automatic_cleanup(false);
    let access = Options::default().access().map_err(bad)?;
    Ok(Objects { store: Arc::new(store), root: "file://".into(), folder, read_only: false, access })
}
