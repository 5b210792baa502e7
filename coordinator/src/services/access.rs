//! Tokens, by those who may.

use std::{sync::Arc, time::Duration};

use morph_proto::v1::{self, access_server};
use tonic::{Request, Response, Status};

use crate::{
    auth::tokens::{Error, Info, Tokens},
    core::{self, Core},
};

/// The service.
#[derive(Debug, Clone)]
pub struct Access {
    /// All tokens.
    pub tokens: Arc<Tokens>,
    /// The loop, which knows the projects.
    pub core: Core,
}

fn status(error: Error) -> Status {
    match error {
        Error::Invalid(why) => Status::invalid_argument(why),
        Error::Exists(_) => Status::already_exists(error.to_string()),
        Error::NotFound(_) => Status::not_found(error.to_string()),
        Error::Random(_) | Error::Recorded { .. } | Error::Store(_) => Status::internal(error.to_string()),
    }
}

fn token(info: Info) -> v1::Token {
    v1::Token {
        id: info.id,
        name: info.name,
        scope: info.scope.word().into(),
        project: info.project.unwrap_or_default(),
        created_at: info.created_at,
        expires_at: info.expires_at.unwrap_or(0),
        revoked_at: info.revoked_at.unwrap_or(0),
    }
}

impl Access {
    /// On a thread that may wait for the disk.
    async fn change<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Tokens) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Status> {
        let tokens = self.tokens.clone();
        let done = tokio::task::spawn_blocking(move || job(&tokens)).await;
        done.map_err(|e| Status::internal(e.to_string()))?.map_err(status)
    }
}

#[tonic::async_trait]
impl access_server::Access for Access {
    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let v1::CreateTokenRequest { name, scope, project, lifetime } = request.into_inner();
        let scope = scope.parse().map_err(Status::invalid_argument)?;
        let project = Some(project).filter(|p| !p.is_empty());
        if let Some(project) = project.clone() {
            let known = self.core.ask(move |v| v.cluster.admits(&project, "project")).await?;
            known.map_err(core::status)?;
        }
        let lifetime = (lifetime > 0).then(|| Duration::from_micros(lifetime));
        let (info, secret) = self.change(move |t| t.create(&name, scope, project, lifetime)).await?;
        tracing::info!(token = %info.id, name = %info.name, scope = %info.scope, "token created");
        Ok(Response::new(v1::CreateTokenResponse { token: Some(token(info)), secret: secret.expose().to_owned() }))
    }

    async fn list_tokens(&self, _: Request<v1::ListTokensRequest>) -> Result<Response<v1::ListTokensResponse>, Status> {
        let tokens = self.tokens.list().into_iter().map(token).collect();
        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let which = request.into_inner().token;
        let info = self.change(move |t| t.revoke(&which)).await?;
        tracing::info!(token = %info.id, name = %info.name, "token revoked");
        Ok(Response::new(v1::RevokeTokenResponse { token: Some(token(info)) }))
    }
}
