//! What people ask of changes of the schema: to try a migration on a copy, to see what became of it, to bring back what is gone.

use crate::db::migrate::history::{self, Past};
use crate::db::migrate::kept::{self, Kept};
use crate::db::migrate::{definitions, notice, script};
use crate::db::{error::Error, open, schema::Schema};
use crate::model::change::{Change, Script};
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;
use std::time::{Duration, Instant};

/// What a script came to on a copy of the database.
#[derive(Clone, Debug)]
pub struct ScriptTried {
    /// What it changes of the schema, in a few words; empty: nothing.
    pub schema: String,
    pub took: Duration,
    /// Bytes of the copy before and after.
    pub bytes: (u64, u64),
}

/// Runs a script on the database at `copy`, which nobody needs.
pub fn try_script(copy: &Path, wanted: &Script) -> Result<ScriptTried, Error> {
    let connection = open::open(copy)?;
    let size = |connection: &Connection| -> Result<u64, Error> {
        let sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";
        Ok(connection.query_row(sql, [], |row| row.get::<_, i64>(0))?.unsigned_abs())
    };
    definitions::remember_all(&connection)?;
    let before = size(&connection)?;
    let begun = Instant::now();
    connection.execute_batch("BEGIN IMMEDIATE")?;
    script::run(&connection, wanted)?;
    connection.execute_batch("COMMIT")?;
    let took = begun.elapsed();
    let schema = Schema::read(&connection)?;
    let steps = notice::steps(&connection, &schema, &definitions::difference(&connection)?)?;
    let schema = if steps.is_empty() { String::new() } else { Change::new(0, 0, ("", ""), steps).summary() };
    Ok(ScriptTried { schema, took, bytes: (before, size(&connection)?) })
}

/// The changes of the schema that the database at `path` has seen, in their order.
pub fn changes(path: &Path) -> Result<Vec<Past>, Error> {
    history::all(&open::open(path)?)
}

/// What it keeps of what they took away.
pub fn kept_of(path: &Path) -> Result<Vec<Kept>, Error> {
    kept::all(&open::open(path)?)
}

/// Brings back one of those as a change of this node's application: a daemon sees it and publishes it. Returns the number of rows;
/// `None`: there is none of this number.
pub fn undo(path: &Path, id: i64) -> Result<Option<usize>, Error> {
    let mut connection = open::open(path)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let Some(kept) = kept::all(&transaction)?.into_iter().find(|kept| kept.id == id) else { return Ok(None) };
    let rows = kept::bring_back(&transaction, &kept)?;
    transaction.commit()?;
    Ok(Some(rows))
}
