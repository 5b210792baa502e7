//! Who may do what. Every request passes [`layer`], which asks [`table`] what its method needs and [`tokens`] or the
//! connection's certificate who sends it; services read the [`Principal`] that it leaves behind.
//!
//! Contract:
//! 1. A method that the table does not know needs `admin`; a test walks the descriptors so that none is forgotten.
//! 2. A secret is shown once, when it is made. Only its hash is kept.
//! 3. A revoked or expired token ends the streams that were opened with it.

pub mod certificate;
mod guard;
pub mod layer;
mod rate;
pub mod secret;
pub mod table;
pub mod tokens;

use std::{fmt, str::FromStr};

use tonic::{Request, Status};

/// What a token lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Look.
    Read,
    /// Look, submit, and change the state of runs and sweeps.
    Submit,
    /// All that people can do, tokens and workers included.
    Admin,
    /// Serve as an agent, and nothing else.
    Agent,
}

impl Scope {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Admin => "admin",
            Self::Agent => "agent",
        }
    }

    /// Whether a holder of this may do what needs `need`.
    pub fn allows(self, need: Self) -> bool {
        match (self, need) {
            (Self::Agent, need) => need == Self::Agent,
            (_, Self::Agent) => false,
            (own, need) => own as u8 >= need as u8,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = [Self::Read, Self::Submit, Self::Admin, Self::Agent];
        let found = known.into_iter().find(|s| s.word() == text);
        found.ok_or_else(|| format!("scope {text:?}: there are read, submit, admin and agent"))
    }
}

/// Who sends a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Of the token or certificate.
    pub name: String,
    /// What it may do.
    pub scope: Scope,
    /// The only project that it may touch.
    pub project: Option<String>,
}

impl Principal {
    /// Whose `request` this is.
    ///
    /// # Errors
    /// When it did not pass the layer, which would be a mistake in how the server is built.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let found = request.extensions().get::<Self>().cloned();
        found.ok_or_else(|| Status::internal("the request was not authorised; this is a bug of morph"))
    }

    /// Whether this principal may touch what belongs to `project`.
    pub fn may_touch(&self, project: &str) -> bool {
        self.project.as_deref().is_none_or(|own| own == project)
    }

    /// As [`Self::may_touch`], with the words for those who may not.
    ///
    /// # Errors
    /// When it may not.
    pub fn check(&self, project: &str) -> Result<(), Status> {
        if self.may_touch(project) {
            return Ok(());
        }
        let own = self.project.as_deref().unwrap_or_default();
        Err(Status::permission_denied(format!(
            "the token {} is for project {own}, and this belongs to project {project}: use a token of that project",
            self.name
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_people_are_a_ladder_and_agents_stand_beside_it() {
        use Scope::{Admin, Agent, Read, Submit};
        for (own, allowed) in
            [(Read, &[Read][..]), (Submit, &[Read, Submit]), (Admin, &[Read, Submit, Admin]), (Agent, &[Agent])]
        {
            for need in [Read, Submit, Admin, Agent] {
                assert_eq!(own.allows(need), allowed.contains(&need), "{own} {need}");
            }
            assert_eq!(own.word().parse::<Scope>(), Ok(own));
        }
    }

    #[test]
    fn a_project_is_a_fence() {
        let ci = Principal { name: "ci".into(), scope: Scope::Submit, project: Some("thorax".into()) };
        assert!(ci.check("thorax").is_ok());
        assert!(ci.check("brain").unwrap_err().message().contains("project brain"));
        assert!(Principal { project: None, ..ci }.check("brain").is_ok());
    }
}
