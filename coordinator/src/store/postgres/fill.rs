//! Filling an empty database with what another one holds.

use std::{error::Error as StdError, time::Duration};

use bytes::BytesMut;
use postgres::{
    Row, Transaction,
    binary_copy::BinaryCopyInWriter,
    fallible_iterator::FallibleIterator,
    types::{IsNull, ToSql, Type, to_sql_checked},
};
use rusqlite::types::Value;

use super::{
    super::{
        Error,
        copy::{Kind, Put, Sum, TABLES, Table},
    },
    Server, write,
};

/// How long the other end may be silent; the lease is not up for being asked for meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the rows of a table come from.
type Rows<'a> = dyn FnMut(&Table, &mut Put<'_>) -> Result<(), Error> + 'a;

/// See [`Server::fill`].
pub(super) fn fill(server: &Server, holder: &str, rows: &mut Rows<'_>) -> Result<Vec<(&'static str, u64)>, Error> {
    let fail = server.fail("copy into");
    let refused = |why| Error::Postgres { action: "copy into", server: server.name().to_owned(), why };
    let mut session = server.connect(PATIENCE).map_err(server.fail("connect to"))?;
    let mut tx = session.client().transaction().map_err(&fail)?;
    tx.batch_execute(write::DURABLE).map_err(&fail)?;
    if let Err((holder, _)) = write::acquire(&mut tx, server, holder, PATIENCE, None)? {
        return Err(refused(format!("{holder} serves with it; stop it first")));
    }
    for Table { name, .. } in &TABLES {
        let row = tx.query_one(&format!("SELECT EXISTS (SELECT FROM {name})"), &[]).map_err(&fail)?;
        if row.get(0) {
            let why = format!(
                "there are {name} in it already; name an empty database, or drop the schema morph in this one if nobody needs it"
            );
            return Err(refused(why));
        }
    }
    let mut filled = Vec::new();
    for table in &TABLES {
        let written = put(&mut tx, server, table, rows)?;
        let read = sum(&mut tx, table).map_err(&fail)?;
        if written != read {
            let why = format!(
                "of {}, {} rows were written and {} read back, and they are not the same; nothing is kept",
                table.name, written.rows, read.rows
            );
            return Err(refused(why));
        }
        tracing::info!("{}: {} rows", table.name, read.rows);
        filled.push((table.name, read.rows));
    }
    // Lines that come later are numbered after these.
    let next =
        "SELECT setval(pg_get_serial_sequence('morph.logs', 'id'), max(id)) FROM logs HAVING max(id) IS NOT NULL";
    tx.batch_execute(next).map_err(&fail)?;
    tx.batch_execute("UPDATE lease SET free = true").map_err(&fail)?;
    tx.commit().map_err(&fail)?;
    Ok(filled)
}

fn put(tx: &mut Transaction<'_>, server: &Server, table: &Table, rows: &mut Rows<'_>) -> Result<Sum, Error> {
    let fail = server.fail("copy into");
    let types: Vec<Type> = table.columns.iter().map(|(_, kind)| kind.of()).collect();
    let copy = format!("COPY {} ({}) FROM STDIN BINARY", table.name, table.list());
    let mut writer = BinaryCopyInWriter::new(tx.copy_in(&copy).map_err(&fail)?, &types);
    let mut sum = Sum::default();
    rows(table, &mut |row| {
        sum.add(&row);
        let cells: Vec<Cell> = row.into_iter().map(Cell).collect();
        let cells: Vec<&(dyn ToSql + Sync)> = cells.iter().map(|cell| cell as _).collect();
        writer.write(&cells).map_err(&fail)
    })?;
    writer.finish().map_err(&fail)?;
    Ok(sum)
}

fn sum(tx: &mut Transaction<'_>, table: &Table) -> Result<Sum, postgres::Error> {
    let mut sum = Sum::default();
    let none: [i64; 0] = [];
    let mut rows = tx.query_raw(&format!("SELECT {} FROM {}", table.list(), table.name), none)?;
    while let Some(row) = rows.next()? {
        let values = (0..).zip(table.columns).map(|(n, (_, kind))| kind.read(&row, n));
        sum.add(&values.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(sum)
}

impl Kind {
    /// As PostgreSQL has it.
    fn of(self) -> Type {
        match self {
            Self::Int => Type::INT8,
            Self::Real => Type::FLOAT8,
            Self::Text => Type::TEXT,
            Self::Blob => Type::BYTEA,
        }
    }

    fn read(self, row: &Row, n: usize) -> Result<Value, postgres::Error> {
        let value = match self {
            Self::Int => row.try_get::<_, Option<i64>>(n)?.map(Value::Integer),
            Self::Real => row.try_get::<_, Option<f64>>(n)?.map(Value::Real),
            Self::Text => row.try_get::<_, Option<String>>(n)?.map(Value::Text),
            Self::Blob => row.try_get::<_, Option<Vec<u8>>>(n)?.map(Value::Blob),
        };
        Ok(value.unwrap_or(Value::Null))
    }
}

/// A value of SQLite's for PostgreSQL.
#[derive(Debug)]
struct Cell(Value);

impl ToSql for Cell {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match &self.0 {
            Value::Null => Ok(IsNull::Yes),
            Value::Integer(n) => n.to_sql(ty, out),
            Value::Real(x) => x.to_sql(ty, out),
            Value::Text(text) => text.to_sql(ty, out),
            Value::Blob(bytes) => bytes.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        [Type::INT8, Type::FLOAT8, Type::TEXT, Type::BYTEA].contains(ty)
    }

    to_sql_checked!();
}
