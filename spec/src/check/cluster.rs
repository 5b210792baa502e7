//! Checks of a cluster.

use super::{Checks, FieldProblem};
use crate::{cluster::Cluster, scheduling::HIGHEST_PRIORITY};

impl Cluster {
    /// Looks at bounds, and at fields that must agree with each other.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn validate(&self) -> Result<(), Vec<FieldProblem>> {
        let mut c = Checks::default();
        c.name(&self.name, "name");
        for (name, project) in &self.projects {
            let field = format!("projects.{name}");
            c.name(name, &field);
            c.at_least(1, project.weight.into(), &format!("{field}.weight"));
            if let Some(slots) = project.slots {
                c.not_negative(slots, &format!("{field}.slots"));
            }
            c.that(
                (-HIGHEST_PRIORITY..=HIGHEST_PRIORITY).contains(&project.max_priority),
                &format!("{field}.max_priority"),
                format!("{} is out of bounds", project.max_priority),
                &format!("from -{HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}"),
            );
        }
        let policy = &self.policy;
        c.at_least(1, policy.backoff.0.as_secs(), "policy.backoff");
        c.that(
            policy.backoff_max >= policy.backoff,
            "policy.backoff_max",
            format!("{} is less than policy.backoff, which is {}", policy.backoff_max, policy.backoff),
            "",
        );
        c.done()
    }
}
