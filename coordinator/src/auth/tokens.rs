//! The tokens there are: a table of the coordinator's database, held in memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio_util::sync::CancellationToken;

use super::{
    Principal, Scope,
    secret::{self, Hash, Secret},
};
use crate::store::{self, Keyring};

/// What is known of a token; not its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Public.
    pub id: String,
    /// Unique among those that are not revoked.
    pub name: String,
    /// What it allows.
    pub scope: Scope,
    /// The only project that it is for.
    pub project: Option<String>,
    /// Microseconds since the Unix epoch, as all times here.
    pub created_at: u64,
    /// `None`: never.
    pub expires_at: Option<u64>,
    /// `None`: it holds.
    pub revoked_at: Option<u64>,
}

/// Why a token cannot be made or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Asked for what makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The name is taken.
    #[error("there is a token {0} already: revoke it first, or choose another name")]
    Exists(String),
    /// There is none.
    #[error("there is no token {0}: see morphctl token list")]
    NotFound(String),
    /// The kernel gave no randomness.
    #[error("make a token: {0}")]
    Random(getrandom::Error),
    /// What is recorded makes no sense.
    #[error("the token {name} in the database: {why}")]
    Recorded {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The database failed, or there is none.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// One token as the layer sees it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) principal: Principal,
    info: Info,
    hash: Hash,
    /// Cancelled when it is revoked.
    revoked: CancellationToken,
    /// Made for this life of the coordinator only.
    passing: bool,
}

impl Entry {
    /// Completes when the token is revoked or expires.
    pub(super) fn end(&self) -> super::guard::End {
        let (revoked, expires) = (self.revoked.clone(), self.info.expires_at);
        Box::pin(async move {
            let Some(at) = expires else { return revoked.cancelled().await };
            let left = Duration::from_micros(at.saturating_sub(now()));
            tokio::select! {
                () = revoked.cancelled() => {}
                () = tokio::time::sleep(left) => {}
            }
        })
    }
}

/// All tokens.
#[derive(Debug)]
pub struct Tokens {
    entries: RwLock<HashMap<String, Arc<Entry>>>,
    /// `None`: nothing is recorded.
    keyring: Option<Mutex<Box<dyn Keyring>>>,
}

/// Microseconds since the Unix epoch, now.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

impl Tokens {
    /// Those that `keyring` holds. It waits for the database.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn open(mut keyring: Box<dyn Keyring>) -> Result<Self, Error> {
        let entries: Vec<Entry> = keyring.all()?.into_iter().map(Entry::parse).collect::<Result<_, _>>()?;
        let entries = entries.into_iter().map(|e| (e.info.id.clone(), Arc::new(e))).collect();
        Ok(Self { entries: RwLock::new(entries), keyring: Some(Mutex::new(keyring)) })
    }

    /// None, and nothing is recorded.
    pub fn none() -> Self {
        Self { entries: RwLock::default(), keyring: None }
    }

    /// A token that ends with this process and is not listed.
    ///
    /// # Errors
    /// When the kernel has no randomness to give.
    pub fn passing(&self, name: &str, scope: Scope) -> Result<Secret, Error> {
        let (id, text, hash) = secret::fresh().map_err(Error::Random)?;
        let name = name.to_owned();
        let info = Info { id, name, scope, project: None, created_at: now(), expires_at: None, revoked_at: None };
        self.insert(Entry { passing: true, ..Entry::new(info, hash) });
        Ok(text)
    }

    /// Makes a token that holds for `lifetime`; durable when this returns.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn create(
        &self,
        name: &str,
        scope: Scope,
        project: Option<String>,
        lifetime: Option<Duration>,
    ) -> Result<(Info, Secret), Error> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        if name.is_empty() || name.len() > 63 || !name.chars().all(fits) {
            let why = format!("token name {name:?}: 1 to 63 letters, digits, '-', '_', '.' and '@'");
            return Err(Error::Invalid(why));
        }
        if project.is_some() && !matches!(scope, Scope::Read | Scope::Submit) {
            let why =
                format!("a token of scope {scope} is for all projects: leave --project out, or say --scope submit");
            return Err(Error::Invalid(why));
        }
        let at = now();
        let expires_at = lifetime.map(|l| at.saturating_add(l.as_micros().try_into().unwrap_or(u64::MAX)));
        let (id, text, hash) = secret::fresh().map_err(Error::Random)?;
        let info = Info { id, name: name.to_owned(), scope, project, created_at: at, expires_at, revoked_at: None };
        {
            // Held until it is in memory too, so that a name is taken once.
            let mut keyring = self.keyring()?;
            if self.list().iter().any(|i| i.name == name && i.revoked_at.is_none()) {
                return Err(Error::Exists(name.to_owned()));
            }
            keyring.add(&store::Token {
                id: info.id.clone(),
                name: info.name.clone(),
                hash: hash.0.to_vec(),
                scope: info.scope.word().to_owned(),
                project: info.project.clone(),
                created_at: info.created_at,
                expires_at: info.expires_at,
                revoked_at: None,
            })?;
            self.insert(Entry::new(info.clone(), hash));
        }
        Ok((info, text))
    }

    /// All that were made, oldest first.
    pub fn list(&self) -> Vec<Info> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Info> = entries.values().filter(|e| !e.passing).map(|e| e.info.clone()).collect();
        all.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }

    /// Ends the token `which` (id or name) and all that was opened with it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn revoke(&self, which: &str) -> Result<Info, Error> {
        let mut keyring = self.keyring()?;
        let all = self.list();
        let by_name = || all.iter().rev().filter(|i| i.name == which).min_by_key(|i| i.revoked_at.is_some());
        let found = all.iter().find(|i| i.id == which).or_else(by_name);
        let mut info = found.cloned().ok_or_else(|| Error::NotFound(which.to_owned()))?;
        if info.revoked_at.is_some() {
            return Ok(info);
        }
        let at = now();
        keyring.revoke(&info.id, at)?;
        info.revoked_at = Some(at);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = entries.get(&info.id).cloned() {
            entries.insert(info.id.clone(), Arc::new(Entry::new(info.clone(), old.hash)));
            old.revoked.cancel();
        }
        Ok(info)
    }

    /// Whose token `text` is.
    ///
    /// # Errors
    /// Says in words for people why it is of no use. Who does not know the secret learns nothing about it.
    pub(super) fn check(&self, text: &str) -> Result<Arc<Entry>, String> {
        let unknown = || {
            "this coordinator does not know the token: it is mistyped or another coordinator's; \
             who administers it makes one with morphctl token create"
        };
        let (id, secret) = secret::parse(text).ok_or_else(unknown)?;
        let entry = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let entry = entry.filter(|e| e.hash.matches(&secret)).ok_or_else(unknown)?;
        let Info { name, expires_at, revoked_at, .. } = &entry.info;
        if revoked_at.is_some() {
            return Err(format!("the token {name} has been revoked: ask for a new one (morphctl token create)"));
        }
        if expires_at.is_some_and(|at| at <= now()) {
            return Err(format!("the token {name} has expired: ask for a new one (morphctl token create)"));
        }
        Ok(entry)
    }

    fn insert(&self, entry: Entry) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.insert(entry.info.id.clone(), Arc::new(entry));
    }

    fn keyring(&self) -> Result<MutexGuard<'_, Box<dyn Keyring>>, Error> {
        let none = || Error::Invalid("this coordinator only answers questions; it cannot change tokens".into());
        Ok(self.keyring.as_ref().ok_or_else(none)?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Entry {
    fn new(info: Info, hash: Hash) -> Self {
        let principal = Principal { name: info.name.clone(), scope: info.scope, project: info.project.clone() };
        Self { principal, info, hash, revoked: CancellationToken::new(), passing: false }
    }

    fn parse(token: store::Token) -> Result<Self, Error> {
        let store::Token { id, name, hash, scope, project, created_at, expires_at, revoked_at } = token;
        let wrong = |why: String| Error::Recorded { name: name.clone(), why };
        let scope = scope.parse().map_err(wrong)?;
        let hash = hash.try_into().map_err(|_| wrong("its hash has another length".into()))?;
        let info = Info { id, name, scope, project, created_at, expires_at, revoked_at };
        Ok(Self::new(info, Hash(hash)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_a_restart_as_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let tokens = Tokens::open(store::keyring(&path).unwrap()).unwrap();
        let (ci, secret) = tokens.create("ci", Scope::Submit, Some("thorax".into()), None).unwrap();
        assert_eq!(tokens.check(secret.expose()).unwrap().principal.project.as_deref(), Some("thorax"));
        assert!(matches!(tokens.create("ci", Scope::Read, None, None), Err(Error::Exists(_))));
        let (_, gone) = tokens.create("gone", Scope::Admin, None, None).unwrap();
        tokens.revoke("gone").unwrap();
        let passing = tokens.passing("owner", Scope::Admin).unwrap();
        assert!(tokens.check(passing.expose()).is_ok());
        drop(tokens);

        let tokens = Tokens::open(store::keyring(&path).unwrap()).unwrap();
        assert!(tokens.check(passing.expose()).is_err(), "what was made for one life ends with it");
        assert_eq!(tokens.check(secret.expose()).unwrap().info, ci);
        assert!(tokens.check(gone.expose()).unwrap_err().contains("revoked"));
        assert_eq!(tokens.list().len(), 2);
        let (_, bytes) = secret::parse(secret.expose()).unwrap();
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let content = std::fs::read(file.unwrap().path()).unwrap();
            let text = hex::encode(bytes);
            assert!(!content.windows(64).any(|w| w == text.as_bytes()) && !content.windows(32).any(|w| w == bytes));
        }
    }

    #[tokio::test]
    async fn the_end_of_a_token_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(store::keyring(&dir.path().join("state.db")).unwrap()).unwrap();
        let (info, secret) = tokens.create("a", Scope::Read, None, None).unwrap();
        let entry = tokens.check(secret.expose()).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(20), entry.end()).await.is_err());
        tokens.revoke(&info.id).unwrap();
        entry.end().await;
        assert!(tokens.revoke("a").is_ok(), "twice is once");
        let (_, secret) = tokens.create("a", Scope::Read, None, Some(Duration::from_secs(2))).unwrap();
        tokens.check(secret.expose()).unwrap().end().await;
        assert!(tokens.check(secret.expose()).unwrap_err().contains("expired"));
    }

    #[test]
    fn nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(store::keyring(&dir.path().join("state.db")).unwrap()).unwrap();
        for name in ["", "a b", "a\nb", "a/b", &"x".repeat(64)] {
            assert!(matches!(tokens.create(name, Scope::Read, None, None), Err(Error::Invalid(_))), "{name:?}");
        }
        assert!(matches!(tokens.create("a", Scope::Admin, Some("p".into()), None), Err(Error::Invalid(_))));
        assert!(matches!(tokens.revoke("a"), Err(Error::NotFound(_))));
        let (_, secret) = tokens.create("a", Scope::Read, None, None).unwrap();
        let (_, other) = tokens.create("b", Scope::Read, None, None).unwrap();
        let mixed = format!("{}{}", &secret.expose()[..23], &other.expose()[23..]);
        assert!(tokens.check(&mixed).unwrap_err().contains("does not know"), "another token's secret is no key");
    }
}
