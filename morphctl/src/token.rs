//! `token`: who may do what.

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::Subcommand;
use morph_proto::v1;
use serde_json::{Value, json};

use crate::{
    cli::{Format, Global},
    connect::Connection,
    fail::{REFUSED, coded, status},
    print::{self, Listing},
    text,
};

/// Verbs for tokens.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Makes a token. It is shown once, or written to a file; the coordinator keeps only a hash of it.
    #[command(after_help = "Examples:
  morphctl token create --name ci --scope submit --project thorax --expires 30d
  morphctl token create --name node-7 --scope agent --out node-7.token

Scopes: read: look; submit: also submit and cancel; admin: all; agent: serve as an agent of a coordinator without TLS.")]
    Create {
        /// What it is for; unique among tokens in force.
        #[arg(long)]
        name: String,
        /// What it allows.
        #[arg(long, value_parser = ["read", "submit", "admin", "agent"])]
        scope: String,
        /// The only project that it may see and change.
        #[arg(long)]
        project: Option<String>,
        /// How long it holds, like 12h or 30d [default: until it is revoked].
        #[arg(long, value_name = "TIME", value_parser = lifetime)]
        expires: Option<u64>,
        /// Write it into this new file (mode 0600) instead of showing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Lists the tokens, not their secrets.
    #[command(after_help = "Example:
  morphctl token list")]
    List,
    /// Ends a token at once, with all that it holds open.
    #[command(after_help = "Example:
  morphctl token revoke ci")]
    Revoke {
        /// Name or id.
        token: String,
    },
}

/// A time like `30d` in microseconds.
fn lifetime(text: &str) -> Result<u64, String> {
    let bad = || "expected a time like 90m, 12h or 30d".to_owned();
    let span: jiff::Span = text.parse().map_err(|_| bad())?;
    let day = jiff::SpanRelativeTo::days_are_24_hours();
    let micros = span.to_duration(day).map_err(|_| bad())?.as_micros();
    u64::try_from(micros).ok().filter(|m| *m > 0).ok_or_else(bad)
}

/// Does what `command` says.
///
/// # Errors
/// When nobody answers, or the answer is no.
pub async fn run(global: &Global, command: Token) -> Result<()> {
    let connection = Connection::administer(global).await?;
    let done = ask(global, &connection, command).await;
    connection.close().await;
    done
}

async fn ask(global: &Global, connection: &Connection, command: Token) -> Result<()> {
    let mut access = connection.access();
    match command {
        Token::Create { name, scope, project, expires, out } => {
            if let Some(path) = out.as_deref().filter(|p| p.exists()) {
                return Err(taken(path));
            }
            let project = project.unwrap_or_default();
            let request = v1::CreateTokenRequest { name, scope, project, lifetime: expires.unwrap_or(0) };
            let made = access.create_token(request).await.map_err(|s| status(&s))?.into_inner();
            show(global, &made.token.unwrap_or_default(), &made.secret, out.as_deref())
        }
        Token::List => {
            let found = access.list_tokens(v1::ListTokensRequest {}).await.map_err(|s| status(&s))?.into_inner().tokens;
            print::list(global, listing(&found))
        }
        Token::Revoke { token } => {
            let request = v1::RevokeTokenRequest { token };
            let ended =
                access.revoke_token(request).await.map_err(|s| status(&s))?.into_inner().token.unwrap_or_default();
            match global.output {
                Format::Json | Format::Yaml => print::value(global, &json(&ended)),
                Format::Table | Format::Name => print::line(&format!("token/{} revoked", ended.name)),
            }
        }
    }
}

fn taken(path: &Path) -> anyhow::Error {
    coded(REFUSED, format!("--out {}: there is such a file, and it is not overwritten", path.display()))
}

/// The only time that a secret is shown.
fn show(global: &Global, token: &v1::Token, secret: &str, out: Option<&Path>) -> Result<()> {
    if let Some(path) = out {
        let file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(path);
        let mut file = file.map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => taken(path),
            _ => anyhow::Error::new(e).context(format!("create {}; revoke the token {}", path.display(), token.name)),
        })?;
        writeln!(file, "{secret}").with_context(|| format!("write {}", path.display()))?;
    }
    match global.output {
        Format::Json | Format::Yaml => {
            let mut value = json(token);
            if out.is_none() {
                value["token"] = secret.into();
            }
            print::value(global, &value)
        }
        Format::Table | Format::Name if out.is_some() => print::line(&format!("token/{} created", token.name)),
        Format::Table | Format::Name => {
            print::line(secret)?;
            if !global.quiet {
                say!(
                    "this is the only time that the token {} is shown; hand it over as MORPH_TOKEN or in a file",
                    token.name
                );
            }
            Ok(())
        }
    }
}

fn state(token: &v1::Token) -> &'static str {
    match token {
        t if t.revoked_at > 0 => "revoked",
        t if t.expires_at > 0 && t.expires_at <= text::now() => "expired",
        _ => "in force",
    }
}

fn json(token: &v1::Token) -> Value {
    let at = |micros: u64| if micros == 0 { Value::Null } else { text::instant(micros).into() };
    json!({
        "id": token.id,
        "name": token.name,
        "scope": token.scope,
        "project": if token.project.is_empty() { Value::Null } else { token.project.clone().into() },
        "created_at": at(token.created_at),
        "expires_at": at(token.expires_at),
        "revoked_at": at(token.revoked_at),
        "state": state(token),
    })
}

fn listing(tokens: &[v1::Token]) -> Listing {
    let or = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let row = |t: &v1::Token| {
        let expires = if t.expires_at == 0 { "never".into() } else { text::instant(t.expires_at) };
        let made = text::instant(t.created_at);
        vec![t.name.clone(), t.id.clone(), t.scope.clone(), or(t.project.clone()), state(t).into(), made, expires]
    };
    Listing {
        kind: "token",
        columns: vec!["NAME", "ID", "SCOPE", "PROJECT", "STATE", "CREATED", "EXPIRES"],
        rows: tokens.iter().map(row).collect(),
        json: tokens.iter().map(json).collect(),
        names: tokens.iter().map(|t| t.name.clone()).collect(),
    }
}
