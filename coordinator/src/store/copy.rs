//! Everything that an SQLite file holds, into a PostgreSQL that holds nothing: all of it, or none.
//!
//! It is one transaction of the server, which also has the lease in its hands: no coordinator begins to serve meanwhile. Before
//! it is committed, what was written is read back and compared with what was to be written.

use std::path::Path;

use rusqlite::types::Value;

use super::{
    Error,
    postgres::{Server, text},
    sqlite::Sqlite,
};

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Real,
    Text,
    Blob,
}

/// A table that both kinds of database have, under the same name and with the same columns.
#[derive(Debug)]
pub(super) struct Table {
    pub name: &'static str,
    pub columns: &'static [(&'static str, Kind)],
}

impl Table {
    /// Its columns, with commas between.
    pub(super) fn list(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }
}

/// All of them.
pub(super) const TABLES: [Table; 7] = {
    use Kind::{Blob, Int, Real, Text};
    [
        Table {
            name: "events",
            columns: &[("seq", Int), ("at", Int), ("kind", Text), ("run", Text), ("sweep", Text), ("json", Text)],
        },
        Table {
            name: "metrics",
            columns: &[("run", Text), ("name", Text), ("step", Int), ("at", Int), ("value", Real)],
        },
        Table {
            name: "latest",
            columns: &[("run", Text), ("name", Text), ("step", Int), ("at", Int), ("value", Real), ("total", Real)],
        },
        Table {
            name: "logs",
            columns: &[
                ("id", Int),
                ("run", Text),
                ("attempt", Int),
                ("rank", Int),
                ("seq", Int),
                ("at", Int),
                ("stream", Text),
                ("text", Text),
            ],
        },
        Table { name: "acks", columns: &[("worker", Text), ("incarnation", Text), ("seq", Int)] },
        Table { name: "traces", columns: &[("target", Text), ("traceparent", Text)] },
        Table {
            name: "tokens",
            columns: &[
                ("id", Text),
                ("name", Text),
                ("hash", Blob),
                ("scope", Text),
                ("project", Text),
                ("created_at", Int),
                ("expires_at", Int),
                ("revoked_at", Int),
            ],
        },
    ]
};

/// What the rows of a table are, in whatever order they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sum {
    pub rows: u64,
    /// Of the rows' BLAKE3, word by word.
    digest: [u64; 4],
}

impl Sum {
    pub(super) fn add(&mut self, row: &[Value]) {
        let mut hasher = blake3::Hasher::new();
        let mut put = |kind: u8, bytes: &[u8]| {
            hasher.update(&[kind]).update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        for value in row {
            match value {
                Value::Null => put(0, &[]),
                Value::Integer(n) => put(1, &n.to_le_bytes()),
                Value::Real(x) => put(2, &x.to_bits().to_le_bytes()),
                Value::Text(text) => put(3, text.as_bytes()),
                Value::Blob(bytes) => put(4, bytes),
            }
        }
        let hash = hasher.finalize();
        for (sum, word) in self.digest.iter_mut().zip(hash.as_bytes().chunks_exact(8)) {
            *sum = sum.wrapping_add(u64::from_le_bytes(word.try_into().unwrap_or_default()));
        }
        self.rows += 1;
    }
}

/// Takes one row.
pub(super) type Put<'a> = dyn FnMut(Vec<Value>) -> Result<(), Error> + 'a;

/// Copies the file `from` into `to`, in the name of `holder`; how many rows each table has. The file stays as it is: nobody may
/// write to it meanwhile, and nobody should afterwards.
///
/// # Errors
/// When either cannot be used, `to` holds anything or is served, or does not read back what was written; then it is as before.
pub fn copy(from: &Path, to: &Server, holder: &str) -> Result<Vec<(&'static str, u64)>, Error> {
    let source = Sqlite::read(from)?;
    to.fill(holder, &mut |table, put| {
        source.rows(table, &mut |mut row| {
            for value in &mut row {
                if let Value::Text(t) = value
                    && t.contains('\0')
                {
                    *t = text(t);
                }
            }
            put(row)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_knows_rows_and_not_their_order() {
        let sum = |rows: &[&[Value]]| {
            let mut sum = Sum::default();
            rows.iter().for_each(|row| sum.add(row));
            sum
        };
        let (a, b) = ([Value::Text("a".into()), Value::Null], [Value::Text("b".into()), Value::Integer(1)]);
        assert_eq!(sum(&[&a, &b]), sum(&[&b, &a]));
        assert_ne!(sum(&[&a, &b]), sum(&[&a]));
        assert_ne!(sum(&[&a, &a]), sum(&[&a, &b]));
        let joined = [Value::Text("ab".into()), Value::Text(String::new())];
        assert_ne!(sum(&[&joined]), sum(&[&[Value::Text("a".into()), Value::Text("b".into())]]));
        assert_ne!(sum(&[&[Value::Real(0.0)]]), sum(&[&[Value::Real(-0.0)]]));
    }
}
