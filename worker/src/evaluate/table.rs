//! From measured images to the table of cases.

use morph_data::Samples;
use morph_scores::{
    Error,
    cases::{Case, Cases, Role},
    columns,
};

use crate::evaluate::measure::{COLUMNS, Row};

/// A measured set.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it stands for.
    pub role: Role,
    /// Name of its dataset.
    pub dataset: &'a str,
    /// Whether patients of the dataset are persons.
    pub persons_known: bool,
    /// Its samples.
    pub samples: &'a Samples,
    /// Their numbers.
    pub rows: &'a [Row],
}

/// The table of all sets, with the columns that any case has.
///
/// # Errors
/// When a set has two images of one id, or a number is not finite.
pub fn cases(sets: &[Measured<'_>]) -> Result<Cases, Error> {
    let used: Vec<usize> =
        (0..COLUMNS).filter(|at| sets.iter().any(|s| s.rows.iter().any(|row| row[*at].is_some()))).collect();
    let mut cases = Cases::new(used.iter().map(|at| columns::ALL[*at].name))?;
    for set in sets {
        for (i, row) in set.rows.iter().enumerate() {
            let meta = set.samples.meta(i);
            cases.push(Case {
                dataset: set.dataset.to_owned(),
                set: set.name.to_owned(),
                role: set.role,
                id: meta.id,
                patient: set.persons_known.then_some(meta.patient),
                label: meta.label,
                view: meta.view,
                sex: meta.sex,
                age: meta.age,
                source: Some(meta.source).filter(|s| !s.is_empty()),
                scores: used.iter().map(|at| row[*at]).collect(),
            })?;
        }
    }
    Ok(cases)
}
