//! Tokens. Only who holds the lease may change them.

use std::time::Duration;

use postgres::{Row, types::ToSql};

use super::{
    super::{Error, Keyring, Token},
    Server, Session, signed,
};

/// The table of tokens, through a connection of its own.
#[derive(Debug)]
pub(super) struct Keys {
    server: Server,
    session: Option<Session>,
    epoch: i64,
}

impl Keys {
    pub(super) fn new(server: Server, epoch: i64) -> Self {
        Self { server, session: None, epoch }
    }

    /// Runs `job` on a connection that lives.
    fn with<T>(
        &mut self,
        action: &'static str,
        job: impl FnOnce(&mut postgres::Client) -> Result<T, postgres::Error>,
    ) -> Result<T, Error> {
        let fail = self.server.fail(action);
        let session = match self.session.take_if(|session| session.works()) {
            Some(session) => session,
            None => self.server.connect(Duration::from_secs(10)).map_err(&fail)?,
        };
        job(self.session.insert(session).client()).map_err(&fail)
    }

    /// Changes one row, if the lease is still ours.
    fn change(&mut self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<(), Error> {
        match self.with("write", |client| client.execute(sql, values))? {
            0 => Err(Error::Lost { server: self.server.name().to_owned(), holder: "another coordinator".into() }),
            _ => Ok(()),
        }
    }
}

impl Keyring for Keys {
    fn all(&mut self) -> Result<Vec<Token>, Error> {
        let sql = "SELECT id, name, hash, scope, project, created_at, expires_at, revoked_at FROM tokens ORDER BY created_at, id";
        let rows = self.with("read", |client| client.query(sql, &[]))?;
        let time = |n: i64| n.max(0) as u64;
        let token = |r: &Row| Token {
            id: r.get(0),
            name: r.get(1),
            hash: r.get(2),
            scope: r.get(3),
            project: r.get(4),
            created_at: time(r.get(5)),
            expires_at: r.get::<_, Option<i64>>(6).map(time),
            revoked_at: r.get::<_, Option<i64>>(7).map(time),
        };
        Ok(rows.iter().map(token).collect())
    }

    fn add(&mut self, t: &Token) -> Result<(), Error> {
        let sql = "INSERT INTO tokens (id, name, hash, scope, project, created_at, expires_at)
                   SELECT $1, $2, $3, $4, $5, $6, $7 FROM lease WHERE epoch = $8 FOR SHARE";
        let (created, expires, epoch) = (signed(t.created_at), t.expires_at.map(signed), self.epoch);
        self.change(sql, &[&t.id, &t.name, &t.hash, &t.scope, &t.project, &created, &expires, &epoch])
    }

    fn revoke(&mut self, id: &str, at: u64) -> Result<(), Error> {
        let sql =
            "UPDATE tokens SET revoked_at = $2 WHERE id = $1 AND EXISTS (SELECT FROM lease WHERE epoch = $3 FOR SHARE)";
        let epoch = self.epoch;
        self.change(sql, &[&id, &signed(at), &epoch])
    }
}
