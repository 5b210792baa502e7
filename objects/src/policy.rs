//! Which locations named by strangers may be opened.
//!
//! Who submits from afar makes the coordinator read a URL. Without a policy it would fetch for them what only it can reach:
//! a cloud's metadata service (which hands out credentials), services on its loopback, files of its machine.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};
use url::{Host, Url};

use crate::{Error, Objects, error::redact, path_of};

/// What may be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `http(s)` to link-local addresses, where clouds' metadata services are.
    pub link_local: bool,
    /// `http(s)` to this machine.
    pub loopback: bool,
    /// Folders below which files may be read; `None`: anywhere.
    pub files: Option<Vec<PathBuf>>,
}

impl Policy {
    /// Everything: for who could read it all without us.
    pub const TRUSTING: Self = Self { link_local: true, loopback: true, files: None };

    /// Opens `location` (a URL or a path) if that is allowed. A host's name is looked up now and again at each connection,
    /// and redirects are held to the same rules, so that neither a name server nor a web server leads around them.
    ///
    /// # Errors
    /// [`Error::BadUrl`] with what would allow it.
    pub async fn open(&self, location: &str) -> Result<Objects, Error> {
        self.check(location).await?;
        Objects::open_with(location, &crate::Options { policy: self.clone(), ..crate::Options::default() })
    }

    /// Whether `location` may be opened, here or by others for whom it is passed on.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn check(&self, location: &str) -> Result<(), Error> {
        let bad = |why: String| Error::BadUrl { url: redact(location), why };
        if let Some(path) = path_of(location)? {
            return self.file(&path).map_err(bad);
        }
        let url = Url::parse(location).map_err(|e| bad(e.to_string()))?;
        match url.scheme() {
            "http" | "https" => {
                let addresses: Vec<IpAddr> = match url.host() {
                    Some(Host::Ipv4(ip)) => vec![ip.into()],
                    Some(Host::Ipv6(ip)) => vec![ip.into()],
                    Some(Host::Domain(name)) => {
                        let port = url.port_or_known_default().unwrap_or(443);
                        let found = tokio::net::lookup_host((name, port)).await;
                        found.map_err(|e| bad(format!("look up {name}: {e}")))?.map(|a: SocketAddr| a.ip()).collect()
                    }
                    None => return Err(bad("names no host".into())),
                };
                addresses.into_iter().try_for_each(|ip| self.address(ip)).map_err(|e| bad(e.to_string()))
            }
            // Buckets: where they are, the environment says, not the URL.
            _ => Ok(()),
        }
    }

    /// Whether `ip` may be connected to.
    fn address(&self, ip: IpAddr) -> Result<(), Denied> {
        match place(ip) {
            Place::LinkLocal if !self.link_local => Err(Denied(ip, "a link-local or metadata address")),
            Place::Loopback if !self.loopback => Err(Denied(ip, "the coordinator's own machine")),
            _ => Ok(()),
        }
    }

    /// Whether `host` may be connected to if it is an address; names are judged when they are looked up.
    pub(crate) fn literal<S>(&self, host: &Host<S>) -> Result<(), Denied> {
        match host {
            Host::Ipv4(ip) => self.address((*ip).into()),
            Host::Ipv6(ip) => self.address((*ip).into()),
            Host::Domain(_) => Ok(()),
        }
    }

    /// A client for `http(s)` that keeps to this policy whatever name servers and redirects say.
    pub(crate) fn client(&self, options: &crate::Options) -> reqwest::Result<reqwest::Client> {
        let policy = self.clone();
        let redirects = redirect::Policy::custom(move |attempt| {
            match attempt.url().host().map_or(Ok(()), |host| policy.literal(&host)) {
                Err(denied) => attempt.error(denied),
                Ok(()) if attempt.previous().len() > REDIRECTS => attempt.error("too many redirects"),
                Ok(()) => attempt.follow(),
            }
        });
        reqwest::Client::builder()
            .user_agent(concat!("morph/", env!("CARGO_PKG_VERSION")))
            .timeout(options.timeout)
            .connect_timeout(options.connect_timeout)
            .redirect(redirects)
            .dns_resolver(Arc::new(Resolver(self.clone())))
            .build()
    }

    fn file(&self, path: &Path) -> Result<(), String> {
        let Some(roots) = &self.files else { return Ok(()) };
        if !path.is_absolute() || path.components().any(|c| c == Component::ParentDir) {
            return Err("must be an absolute path without '..'".into());
        }
        // A link below an allowed folder must not lead out of it. What is not there yet is judged by its name.
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let path = real(path);
        if roots.iter().any(|root| path.starts_with(real(root))) {
            return Ok(());
        }
        let word = "the coordinator reads files for others only where it is told to";
        Err(format!("{word}: start it with --allow-files DIR, or put the dataset into object storage"))
    }
}

/// Most hops from where a URL points to where the object is.
const REDIRECTS: usize = 10;

/// An address that must not be connected to.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} is {1}, which the coordinator does not fetch from for others; start it with --allow-private-urls if it may"
)]
pub(crate) struct Denied(IpAddr, &'static str);

/// Looks names up and drops what the policy denies.
#[derive(Debug)]
struct Resolver(Policy);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            found.iter().try_for_each(|a| policy.address(a.ip()))?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Loopback,
    LinkLocal,
    Elsewhere,
}

fn place(ip: IpAddr) -> Place {
    // Where AWS's metadata service is under IPv6.
    const METADATA: [Ipv6Addr; 2] = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        // And Google's.
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    ];
    // Alibaba's, Oracle's first, and what Azure's machines are told from.
    const OTHERS: [Ipv4Addr; 3] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
    match ip {
        IpAddr::V4(ip) if ip.is_loopback() || ip.octets()[0] == 0 => Place::Loopback,
        IpAddr::V4(ip) => {
            let local = ip.is_link_local() || ip.is_broadcast() || ip.is_multicast() || OTHERS.contains(&ip);
            if local { Place::LinkLocal } else { Place::Elsewhere }
        }
        IpAddr::V6(ip) if ip.is_loopback() || ip.is_unspecified() => Place::Loopback,
        IpAddr::V6(ip) => {
            let embedded = ip.to_ipv4_mapped().or_else(|| match ip.segments() {
                // NAT64 and 6to4 lead to an IPv4 address as well.
                [0x64, 0xff9b, 0, 0, 0, 0, a, b] => Some(Ipv4Addr::from((u32::from(a) << 16) | u32::from(b))),
                [0x2002, a, b, ..] => Some(Ipv4Addr::from((u32::from(a) << 16) | u32::from(b))),
                _ => None,
            });
            match embedded {
                Some(ip) => place(ip.into()),
                // RFC 8215: a network's own NAT64, which may lead anywhere.
                None if ip.segments()[..3] == [0x64, 0xff9b, 1] => Place::LinkLocal,
                None if ip.is_unicast_link_local() || ip.is_multicast() || METADATA.contains(&ip) => Place::LinkLocal,
                None => Place::Elsewhere,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Policy = Policy { link_local: false, loopback: false, files: Some(Vec::new()) };

    #[tokio::test]
    async fn what_only_the_coordinator_can_reach_is_not_fetched_for_others() {
        for url in [
            "http://169.254.169.254/latest/meta-data/",
            "http://127.0.0.1:7070/x",
            "http://127.1/x",
            "http://2130706433/x",
            "http://0x7f.0.0.1/x",
            "http://0.0.0.0/x",
            "http://localhost/x",
            "http://[::1]/x",
            "http://[fe80::1]/x",
            "http://[::ffff:169.254.169.254]/x",
            "http://[64:ff9b::a9fe:a9fe]/x",
            "http://[2002:a9fe:a9fe::]/x",
            "http://[fd00:ec2::254]/x",
            "http://[fd20:ce::254]/x",
            "http://[64:ff9b:1:a9fe:a9:fe00::]/x",
            "http://100.100.100.200/x",
            "http://168.63.129.16/x",
            "https://user:secret@127.0.0.1/x",
        ] {
            let why = STRICT.check(url).await.unwrap_err().to_string();
            assert!(why.contains("--allow-private-urls") && !why.contains("secret"), "{url}: {why}");
            assert!(Policy::TRUSTING.check(url).await.is_ok());
        }
        for url in ["https://93.184.216.34/x", "http://10.0.0.7/x", "s3://bucket/x", "gs://bucket/x"] {
            assert!(STRICT.check(url).await.is_ok(), "{url}");
        }
    }

    #[tokio::test]
    async fn what_is_judged_is_what_is_opened() {
        for trap in [
            "http://93.184.216.34\\@169.254.169.254/x",
            "http://93.184.216.34?@127.0.0.1/x",
            "http://10.0.0.7#@[::1]/x",
        ] {
            let Ok(objects) = STRICT.open(trap).await else { continue };
            let there = objects.url();
            assert!(there.starts_with("http://93.184.216.34/"), "{trap} leads to {there}");
        }
        let strict = crate::Options { policy: STRICT, ..crate::Options::default() };
        let why = Objects::open_with("http://127.0.0.1:7070/x", &strict).unwrap_err().to_string();
        assert!(why.contains("own machine"), "not even when nobody asked before: {why}");
        let plain = Objects::open("https://user:secret@example.org:8443/a/b/").unwrap();
        assert_eq!(plain.url_of("c"), "https://example.org:8443/a/b/c");
        assert!(Objects::open("https://example.org/a?x=1").unwrap_err().to_string().contains("path"));
        for bucket in ["s3://a?b/c", "s3://a#b/c", "s3://a\\b/c", "s3://user@/c"] {
            assert!(Objects::open(bucket).is_err(), "{bucket}");
        }
    }

    /// Answers every connection with `response`.
    async fn serve(response: String) -> SocketAddr {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                if peer.read(&mut [0; 4096]).await.is_ok_and(|n| n > 0) {
                    peer.write_all(response.as_bytes()).await.ok();
                }
            }
        });
        at
    }

    #[tokio::test]
    async fn a_redirect_does_not_lead_around_the_rules() {
        let laptop = Policy { loopback: true, ..STRICT };
        let good = serve("HTTP/1.1 200 OK\r\ncontent-length: 4\r\netag: 1\r\n\r\nfine".into()).await;
        let found = |to: String| format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n");
        let near = serve(found(format!("http://{good}/y"))).await;
        let text = laptop.open(&format!("http://{near}/d")).await.unwrap().get("x").await.unwrap();
        assert_eq!(&text[..], b"fine");
        let options = || crate::Options { retries: 0, policy: laptop.clone(), ..crate::Options::default() };
        let trap = serve(found("http://169.254.169.254/latest/".into())).await;
        let objects = Objects::open_with(&format!("http://{trap}/d"), &options()).unwrap();
        let why = objects.get("x").await.unwrap_err().to_string();
        assert!(why.contains("169.254.169.254") && why.contains("--allow-private-urls"), "{why}");
    }

    #[tokio::test]
    async fn names_are_judged_again_when_they_are_connected_to() {
        let options = crate::Options { retries: 0, policy: STRICT, ..crate::Options::default() };
        let at = serve("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into()).await;
        let objects = Objects::open_with(&format!("http://localhost:{}/d", at.port()), &options).unwrap();
        let why = objects.get("x").await.unwrap_err().to_string();
        assert!(why.contains("own machine"), "{why}");
    }

    #[tokio::test]
    async fn files_are_read_where_that_is_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let (open, shut) = (dir.path().join("open"), dir.path().join("shut"));
        std::fs::create_dir_all(open.join("data")).unwrap();
        std::fs::create_dir_all(&shut).unwrap();
        std::os::unix::fs::symlink(&shut, open.join("link")).unwrap();
        let policy = Policy { files: Some(vec![open.clone()]), ..STRICT };
        let open = open.display();
        for good in [format!("{open}/data"), format!("file://{open}/data"), format!("file://{open}/not/yet")] {
            assert!(policy.check(&good).await.is_ok(), "{good}");
        }
        for bad in [
            format!("{open}/../shut"),
            format!("file://{open}/../shut"),
            format!("file://{open}/%2e%2e/shut"),
            format!("file://{open}/link"),
            format!("file://{}", shut.display()),
            format!("{open}-next-door"),
            "relative".into(),
            "file:///etc/passwd".into(),
        ] {
            assert!(policy.check(&bad).await.is_err(), "{bad}");
        }
        assert!(Policy::TRUSTING.check("file:///etc/passwd").await.is_ok());
    }
}
