//! The table of cases: every scored image, who and what it is, and its numbers. It is what a run leaves of its evaluation for
//! other statistics than ours, and all that [`evaluate`](crate::evaluation::evaluate) looks at.
//!
//! As CSV: `dataset,set,role,id,patient,label,view,sex,age,source`, then a column for each number ([`crate::columns`] has the
//! known ones). An empty cell is a number that the case does not have (where a finding is, of a healthy image). Numbers are
//! written so that reading them gives the same bits.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::Error;

/// What a case stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Healthy, and used to choose thresholds: never part of a comparison.
    Validation,
    /// The negative class of a comparison.
    Healthy,
    /// The positive class of a comparison.
    Pathology,
}

impl Role {
    /// As tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::Healthy => "healthy",
            Self::Pathology => "pathology",
        }
    }
}

/// One scored image.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Name of the dataset that it is of.
    pub dataset: String,
    /// Name of the set that it is in: the cases of a comparison are two sets. Case ids are unique in a set.
    pub set: String,
    /// What the set stands for.
    pub role: Role,
    /// The image's name in its dataset.
    pub id: String,
    /// The person, where persons are known.
    pub patient: Option<String>,
    /// The label, as the dataset calls it.
    pub label: String,
    /// How it was taken: `AP`, `PA`, …
    pub view: Option<String>,
    /// `M` or `F`.
    pub sex: Option<String>,
    /// Years.
    pub age: Option<u32>,
    /// The file that it was made of, relative to the source's root.
    pub source: Option<String>,
    /// Its numbers, in the order of [`Cases::names`]; finite. `None` where it has no such number.
    pub scores: Vec<Option<f64>>,
}

/// The columns that are not numbers.
const HEAD: [&str; 10] = ["dataset", "set", "role", "id", "patient", "label", "view", "sex", "age", "source"];

/// All cases of an evaluation. Every case has as many scores as there are names, all finite; ids are unique within a set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cases {
    names: Vec<String>,
    cases: Vec<Case>,
    seen: BTreeSet<(String, String, String)>,
}

/// A table that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}{}{}: {why}", part(", column ", .column), part(", case ", .case))]
pub struct TableError {
    /// The file, as the caller named it.
    pub file: String,
    /// From 1; the head is line 1.
    pub line: u64,
    /// The column; empty when it is the whole line.
    pub column: String,
    /// The case's id; empty when it is not known.
    pub case: String,
    /// What is wrong.
    pub why: String,
}

fn part(before: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{before}{text}") }
}

/// Each person of some cases as a number. Patients of two datasets are two persons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persons<'a>(BTreeMap<(&'a str, &'a str), u64>);

impl<'a> Persons<'a> {
    /// The persons of `cases`, in the order in which they come.
    pub fn of(cases: impl IntoIterator<Item = &'a Case>) -> Self {
        let mut all = BTreeMap::new();
        for case in cases {
            let next = all.len() as u64;
            if let Some(patient) = &case.patient {
                all.entry((case.dataset.as_str(), patient.as_str())).or_insert(next);
            }
        }
        Self(all)
    }

    /// Of `case`, if its person is known.
    pub fn number(&self, case: &Case) -> Option<u64> {
        case.patient.as_deref().and_then(|p| self.0.get(&(case.dataset.as_str(), p)).copied())
    }

    /// Of each case, where all have one.
    pub fn numbers<'c>(&self, cases: impl IntoIterator<Item = &'c Case>) -> Option<Vec<u64>> {
        cases.into_iter().map(|c| self.number(c)).collect()
    }
}

impl Cases {
    /// An empty table with these numbers.
    ///
    /// # Errors
    /// When two columns have one name, or one has no name.
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, Error> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        for (i, name) in names.iter().enumerate() {
            if name.is_empty() || HEAD.contains(&name.as_str()) || names[..i].contains(name) {
                let why = format!("the column {name:?} is there twice, or has no name");
                return Err(Error::Shape { what: "table of cases", why });
            }
        }
        Ok(Self { names, ..Self::default() })
    }

    /// Appends a case.
    ///
    /// # Errors
    /// When a number is not finite, there are too many or too few, or the set has a case of this id.
    pub fn push(&mut self, case: Case) -> Result<(), Error> {
        const WHAT: &str = "table of cases";
        let shape = |why: String| Err(Error::Shape { what: WHAT, why });
        if case.scores.len() != self.names.len() {
            return shape(format!(
                "case {} has {} numbers for {} columns",
                case.id,
                case.scores.len(),
                self.names.len()
            ));
        }
        let bad = self.names.iter().zip(&case.scores).find(|(_, v)| v.is_some_and(|v| !v.is_finite()));
        if let Some((name, Some(value))) = bad {
            return Err(Error::NotFiniteColumn {
                column: name.clone(),
                case: case.id.clone(),
                set: case.set.clone(),
                value: *value,
            });
        }
        if !self.seen.insert((case.dataset.clone(), case.set.clone(), case.id.clone())) {
            return shape(format!("set {:?} has two cases {:?} of dataset {:?}", case.set, case.id, case.dataset));
        }
        self.cases.push(case);
        Ok(())
    }

    /// Names of the numbers.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The cases, in the order in which they were added.
    pub fn cases(&self) -> &[Case] {
        &self.cases
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.cases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.cases.is_empty()
    }

    /// The position of the column `name` in each case's scores.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    /// The cases of a set, in order.
    pub fn set<'a>(&'a self, set: &'a str) -> impl Iterator<Item = &'a Case> + Clone + 'a {
        self.cases.iter().filter(move |c| c.set == set)
    }

    /// The names of all sets with their role, in the order in which they appear.
    pub fn sets(&self) -> Vec<(&str, Role)> {
        let mut sets: Vec<(&str, Role)> = Vec::new();
        for case in &self.cases {
            if !sets.iter().any(|(name, _)| *name == case.set) {
                sets.push((&case.set, case.role));
            }
        }
        sets
    }

    /// The number `name` of every case of `set`.
    ///
    /// # Errors
    /// When there is no such column or set, or a case has no such number: it is named.
    pub fn values(&self, set: &str, name: &str) -> Result<Vec<f64>, Error> {
        let what = "scores of a set";
        let missing = |why: String| Error::Shape { what, why };
        let at = self
            .column(name)
            .ok_or_else(|| missing(format!("there is no column {name:?}; there are {}", self.names.join(", "))))?;
        let values = self
            .set(set)
            .map(|c| c.scores[at].ok_or_else(|| missing(format!("case {} of set {set:?} has no {name}", c.id))))
            .collect::<Result<Vec<f64>, Error>>()?;
        if values.is_empty() { Err(missing(format!("there are no cases in set {set:?}"))) } else { Ok(values) }
    }

    /// Adds the column `name`, or replaces it; `of` gives each case's number.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn with_column(&self, name: &str, of: impl Fn(&Case) -> Option<f64>) -> Result<Self, Error> {
        let mut names = self.names.clone();
        let at = self.column(name).unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        let mut out = Self::new(names)?;
        for case in &self.cases {
            let mut scores = case.scores.clone();
            scores.resize(out.names.len(), None);
            scores[at] = of(case);
            out.push(Case { scores, ..case.clone() })?;
        }
        Ok(out)
    }

    /// The table as CSV.
    pub fn to_csv(&self) -> String {
        let mut out = csv::WriterBuilder::new().from_writer(Vec::new());
        let written = "invariant: writing to memory, rows as long as the head";
        out.write_record(HEAD.iter().copied().chain(self.names.iter().map(String::as_str))).expect(written);
        let text = |v: &Option<String>| v.clone().unwrap_or_default();
        for c in &self.cases {
            let age = c.age.map(|a| a.to_string()).unwrap_or_default();
            let head = [
                c.dataset.clone(),
                c.set.clone(),
                c.role.name().to_owned(),
                c.id.clone(),
                text(&c.patient),
                c.label.clone(),
                text(&c.view),
                text(&c.sex),
                age,
                text(&c.source),
            ];
            let numbers = c.scores.iter().map(|v| v.map(|v| v.to_string()).unwrap_or_default());
            out.write_record(head.into_iter().chain(numbers)).expect(written);
        }
        String::from_utf8(out.into_inner().expect(written)).expect("invariant: all cells are text")
    }

    /// Reads what [`to_csv`](Self::to_csv) wrote, or a table of the user's: columns in any order; `dataset`, `set`, `role`, `id`
    /// and `label` must be there, and every further column is a number. `file` is for errors.
    ///
    /// # Errors
    /// The first thing that is wrong, with line, column and case.
    pub fn from_csv(file: &str, text: &[u8]) -> Result<Self, TableError> {
        let wrong = |line: u64, column: &str, case: &str, why: String| TableError {
            file: file.to_owned(),
            line,
            column: column.to_owned(),
            case: case.to_owned(),
            why,
        };
        let mut reader = csv::ReaderBuilder::new().from_reader(text);
        let head = reader.headers().map_err(|e| wrong(1, "", "", unreadable(&e)))?.clone();
        let place = |name: &str| head.iter().position(|h| h == name);
        for name in ["dataset", "set", "role", "id", "label"] {
            if place(name).is_none() {
                let why =
                    format!("there is no column {name:?}; it takes dataset, set, role, id, label, and the scores");
                return Err(wrong(1, name, "", why));
            }
        }
        let numbers: Vec<usize> = (0..head.len()).filter(|i| !HEAD.contains(&&head[*i])).collect();
        let mut cases =
            Self::new(numbers.iter().map(|i| head[*i].to_owned())).map_err(|e| wrong(1, "", "", e.to_string()))?;
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(|e| {
            let line = e.position().map_or(1, csv::Position::line);
            wrong(line, "", "", unreadable(&e))
        })? {
            let line = record.position().map_or(1, csv::Position::line);
            let cell = |name: &str| place(name).map_or("", |i| record[i].trim());
            let maybe = |name: &str| Some(cell(name)).filter(|v| !v.is_empty()).map(ToOwned::to_owned);
            let id = cell("id").to_owned();
            for name in ["dataset", "set", "id"] {
                if cell(name).is_empty() {
                    return Err(wrong(line, name, &id, "it is empty".to_owned()));
                }
            }
            let role =
                [Role::Validation, Role::Healthy, Role::Pathology].into_iter().find(|r| r.name() == cell("role"));
            let role = role.ok_or_else(|| {
                let why = format!("{:?} is no role; it is validation, healthy or pathology", cell("role"));
                wrong(line, "role", &id, why)
            })?;
            let age = maybe("age")
                .map(|v| v.parse().map_err(|_| wrong(line, "age", &id, format!("{v:?} is no age in years"))))
                .transpose()?;
            let score = |at: &usize| match record[*at].trim() {
                "" => Ok(None),
                text => match text.parse::<f64>() {
                    Ok(value) if value.is_finite() => Ok(Some(value)),
                    _ => Err(wrong(line, &head[*at], &id, format!("{text:?} is not a finite number"))),
                },
            };
            let scores = numbers.iter().map(score).collect::<Result<Vec<_>, _>>()?;
            let case = Case {
                dataset: cell("dataset").to_owned(),
                set: cell("set").to_owned(),
                role,
                patient: maybe("patient"),
                label: cell("label").to_owned(),
                view: maybe("view"),
                sex: maybe("sex"),
                age,
                source: maybe("source"),
                scores,
                id: id.clone(),
            };
            cases.push(case).map_err(|e| wrong(line, "", &id, e.to_string()))?;
        }
        Ok(cases)
    }
}

fn unreadable(e: &csv::Error) -> String {
    match e.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("it has {len} cells, the head has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8".to_owned(),
        _ => format!("it is no CSV: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(set: &str, role: Role, id: &str, l1: f64, pointing: Option<f64>) -> Case {
        Case {
            dataset: "rsna".into(),
            set: set.into(),
            role,
            id: id.into(),
            patient: Some("p, 1".into()),
            label: "Lung \"Opacity\"".into(),
            view: Some("AP".into()),
            sex: None,
            age: Some(61),
            source: None,
            scores: vec![Some(l1), pointing],
        }
    }

    fn table() -> Cases {
        let mut cases = Cases::new(["l1", "pointing"]).unwrap();
        cases.push(case("healthy", Role::Healthy, "a", 0.1 + 0.2, None)).unwrap();
        cases.push(case("opacity", Role::Pathology, "b", f64::MIN_POSITIVE, Some(1.0))).unwrap();
        cases
    }

    #[test]
    fn a_table_survives_its_file_to_the_bit() {
        let cases = table();
        assert_eq!(Cases::from_csv("cases.csv", cases.to_csv().as_bytes()).unwrap(), cases);
        assert_eq!(cases.sets(), [("healthy", Role::Healthy), ("opacity", Role::Pathology)]);
        assert_eq!(cases.values("healthy", "l1"), Ok(vec![0.1 + 0.2]));
        let said = cases.values("healthy", "pointing").unwrap_err().to_string();
        assert!(said.contains("case a of set \"healthy\" has no pointing"), "{said}");
        assert!(cases.values("healthy", "l2").unwrap_err().to_string().contains("l1, pointing"));
        assert!(cases.values("sick", "l1").unwrap_err().to_string().contains("no cases in set"));
    }

    #[test]
    fn a_column_is_added_or_replaced() {
        let more = table().with_column("p_value", |c| c.scores[1]).unwrap();
        assert_eq!(more.names(), ["l1", "pointing", "p_value"]);
        assert_eq!(more.cases()[1].scores[2], Some(1.0));
        let other = more.with_column("p_value", |_| Some(0.5)).unwrap();
        assert_eq!((other.names().len(), other.cases()[0].scores[2]), (3, Some(0.5)));
    }

    #[test]
    fn what_makes_no_table_is_refused_with_its_place() {
        let mut cases = table();
        assert!(Cases::new(["l1", "l1"]).is_err() && Cases::new(["label"]).is_err() && Cases::new([""]).is_err());
        assert!(
            cases.push(case("healthy", Role::Healthy, "a", 1.0, None)).unwrap_err().to_string().contains("two cases")
        );
        let said = cases.push(case("healthy", Role::Healthy, "c", f64::NAN, None)).unwrap_err().to_string();
        assert!(said.contains("l1 of case c in set \"healthy\" is NaN"), "{said}");
        let head = "dataset,set,role,id,label,l1\n";
        for (text, wanted) in [
            ("dataset,set,id,label\n".to_owned(), "t.csv, line 1, column role: there is no column \"role\""),
            (format!("{head}d,s,healthy,a,N,nan\n"), "t.csv, line 2, column l1, case a: \"nan\" is not a finite"),
            (format!("{head}d,s,healthy,a,N,1\nd,s,sick,b,N,1\n"), "line 3, column role, case b: \"sick\" is no role"),
            (format!("{head}d,s,healthy,a,N\n"), "t.csv, line 2: it has 5 cells, the head has 6"),
            (
                format!("{head}d,s,healthy,a,N,1\nd,s,healthy,a,N,2\n"),
                "line 3, case a: table of cases: set \"s\" has two",
            ),
            (format!("{head}d,,healthy,a,N,1\n"), "line 2, column set, case a: it is empty"),
            ("dataset,set,role,id,label,l1,l1\n".to_owned(), "line 1: table of cases: the column \"l1\""),
        ] {
            let said = Cases::from_csv("t.csv", text.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(wanted), "{said}\n{wanted}");
        }
    }
}
