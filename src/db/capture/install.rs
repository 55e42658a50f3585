//! Capture installed in a database, kept in step with the application's schema, and removed.

use crate::base::limits;
use crate::db::capture::plan::{Plan, Room, Slice};
use crate::db::capture::{log_table, triggers};
use crate::db::schema::{self, Known, Schema};
use crate::db::{error::Error, open, schema_rows, state};
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// What an installation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capture {
    /// The change log did not exist before.
    pub first: bool,
    /// Number of changes that the Go program had captured and not published.
    pub taken_over: usize,
    /// Tables that have appeared since the last time, with the number of rows they held.
    pub new_tables: Vec<(String, usize)>,
    /// Tables that were there and have lost their triggers: somebody has built them anew.
    pub rebuilt: Vec<String>,
    /// Tables that were not to be replicated before, and are now.
    pub included: Vec<String>,
}

impl Capture {
    fn add(&mut self, slice: Slice) {
        self.taken_over += slice.taken_over;
        self.new_tables.extend(slice.new_tables);
        self.rebuilt.extend(slice.rebuilt);
        self.included.extend(slice.included);
    }
}

/// Installs capture, or brings it in step with the schema.
pub fn install(connection: &mut Connection) -> Result<(Arc<Schema>, Capture), Error> {
    install_after(connection, &Known::default())
}

/// The same, of a schema that may be known already. What is to be done is found out without a lock, so an application waits only for
/// what has changed. While it goes on changing its schema, the lock is taken first in the end.
pub fn install_after(connection: &mut Connection, known: &Known) -> Result<(Arc<Schema>, Capture), Error> {
    let mut done = Capture::default();
    for attempt in 0.. {
        let locked = attempt >= limits::INSTALL_TRIES;
        schema_rows::warm(connection)?;
        let behavior = if locked { TransactionBehavior::Immediate } else { TransactionBehavior::Deferred };
        let transaction = connection.transaction_with_behavior(behavior)?;
        let mut plan = Plan::make(&transaction, &known.last())?;
        done.first |= plan.first;
        if locked && !plan.finished {
            done.add(plan.slice(&transaction, Room::USUAL)?);
        }
        transaction.commit()?;
        if carry_out(connection, &mut plan, &mut done)? {
            let schema = Arc::new(plan.into_schema());
            known.put(schema.clone());
            return Ok((schema, done));
        }
    }
    Err(Error::SchemaChanged)
}

/// Carries out what is left of a plan. False: the application has changed the schema meanwhile, so another plan is needed.
fn carry_out(connection: &mut Connection, plan: &mut Plan, done: &mut Capture) -> Result<bool, Error> {
    while !plan.finished {
        schema_rows::warm(connection)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let begun = Instant::now();
        if schema::version(&transaction)? != plan.schema.version {
            schema_rows::let_others_read(plan.rows);
            return Ok(false);
        }
        let slice = plan.slice(&transaction, Room::USUAL)?;
        transaction.commit()?;
        done.add(slice);
        log::debug!("triggers were made for {} ms under the lock", begun.elapsed().as_millis());
        schema_rows::let_others_read(plan.rows);
    }
    Ok(true)
}

/// Makes the log and its numbers anew if somebody has dropped one of them, or both, under the triggers, which make the application's
/// statements fail now: the triggers go first. What was written since is found out as where tables were built anew. False: nothing is
/// missing.
pub fn mend(connection: &mut Connection) -> Result<bool, Error> {
    if is_whole(connection)? {
        return Ok(false);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if !is_whole(&transaction)? {
        remove(&transaction)?;
        let schema = Schema::read(&transaction)?;
        log_table::create(&transaction, schema.key_width())?;
        for name in schema.tables.keys() {
            log_table::add_number(&transaction, name)?;
        }
        // Ids begin anew.
        state::create(&transaction)?;
        state::new_incarnation(&transaction)?;
        state::set_meta(&transaction, state::MENDED, "1")?;
    }
    transaction.commit()?;
    // This connection knows the triggers still.
    connection.execute_batch("PRAGMA writable_schema=RESET")?;
    Ok(true)
}

fn is_whole(connection: &Connection) -> Result<bool, Error> {
    let both_or_none = log_table::has_both_or_none(connection)?;
    Ok(both_or_none && (log_table::exists(connection)? || triggers::present(connection)?.is_empty()))
}

/// As [`install`], inside of a transaction of the caller, after a change of the schema that it made.
pub fn install_inside(connection: &Connection, before: &Schema) -> Result<(Schema, Capture), Error> {
    let mut plan = Plan::make(connection, before)?;
    let mut done = Capture::default();
    while !plan.finished {
        done.add(plan.slice(connection, Room::USUAL)?);
        // What was written as rows of the schema is known to this connection only when it reads them.
        connection.execute_batch("PRAGMA writable_schema=RESET")?;
    }
    Ok((plan.into_schema(), done))
}

/// Installs capture in a file that is about to become the database: an application may write as soon as it has its name.
pub fn install_capture(path: &Path) -> Result<(), Error> {
    install(&mut open::open(path)?).map(drop)
}

/// Removes the triggers and the change log, for a node that does not publish. A warning names what was not published yet.
pub fn remove_capture(connection: &mut Connection) -> Result<(), Error> {
    if is_whole(connection)? && !log_table::exists(connection)? {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if log_table::exists(&transaction)? {
        let (unpublished, _) = log_table::count_unsettled(&transaction, i64::MAX)?;
        if unpublished > 0 {
            log::warn!(
                "publish = false: {unpublished} changes that were captured before are not published any more"
            );
        }
    }
    remove(&transaction)?;
    transaction.commit()?;
    Ok(())
}

/// Removes the triggers, and the tables as far as they are there.
fn remove(connection: &Connection) -> Result<(), Error> {
    let present = triggers::present(connection)?;
    log_table::drop_tables(connection)?;
    schema_rows::write(connection, || {
        present.values().try_for_each(|trigger| schema_rows::remove(connection, trigger.rowid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(sql: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        state::create(&connection).unwrap();
        connection.execute_batch(sql).unwrap();
        connection
    }

    #[test]
    fn the_second_time_nothing_is_done() {
        let mut connection = database("CREATE TABLE t(a UNIQUE)");
        let (first, done) = install(&mut connection).unwrap();
        assert!(done.first && done.new_tables.is_empty());
        let incarnation = state::meta(&connection, "incarnation").unwrap();
        let (second, done) = install(&mut connection).unwrap();
        assert_eq!(done, Capture::default());
        assert_eq!(first.version, second.version);
        assert_eq!(state::meta(&connection, "incarnation").unwrap(), incarnation);
    }

    #[test]
    fn a_table_that_appears_later_is_logged_whole() {
        let mut connection = database("CREATE TABLE t(a)");
        install(&mut connection).unwrap();
        connection
            .execute_batch("CREATE TABLE u(a, b, PRIMARY KEY(a, b)); INSERT INTO u VALUES(1, 2), (3, 4)")
            .unwrap();
        let (schema, done) = install(&mut connection).unwrap();
        assert_eq!(done.new_tables, [("u".to_owned(), 2)]);
        assert_eq!(log_table::count_unsettled(&connection, 0).unwrap(), (0, 2));
        assert_eq!(log_table::width(&connection).unwrap(), schema.key_width());
    }

    /// Whichever tables somebody has dropped: no trigger stays that fails.
    #[test]
    fn a_node_that_does_not_publish_has_no_triggers_without_their_log() {
        for dropped in
            [vec![log_table::NAME], vec![log_table::NUMBERS], vec![log_table::NAME, log_table::NUMBERS]]
        {
            let mut connection = database("CREATE TABLE t(a UNIQUE)");
            install(&mut connection).unwrap();
            for name in dropped {
                connection.execute_batch(&format!("DROP TABLE {name}")).unwrap();
            }
            remove_capture(&mut connection).unwrap();
            assert!(triggers::present(&connection).unwrap().is_empty() && is_whole(&connection).unwrap());
            assert_eq!(state::meta(&connection, state::MENDED).unwrap(), None);
        }
    }

    #[test]
    fn a_renamed_table_keeps_its_number() {
        let mut connection = database("CREATE TABLE a(x); CREATE TABLE b(x)");
        let (before, _) = install(&mut connection).unwrap();
        connection.execute_batch("DROP TABLE b; ALTER TABLE a RENAME TO b").unwrap();
        let (after, done) = install(&mut connection).unwrap();
        assert_eq!(after.tables["b"].id, before.tables["a"].id);
        assert!(done.new_tables.is_empty());
    }

    #[test]
    fn tables_that_exchange_names_keep_their_numbers_and_entries() {
        let mut connection = database("CREATE TABLE a(x); CREATE TABLE b(x)");
        let (before, _) = install(&mut connection).unwrap();
        connection
            .execute_batch(
                "INSERT INTO a VALUES(1); ALTER TABLE a RENAME TO c; ALTER TABLE b RENAME TO a; ALTER TABLE c RENAME TO b",
            )
            .unwrap();
        let (after, done) = install(&mut connection).unwrap();
        let ids = |schema: &Schema| (schema.tables["a"].id, schema.tables["b"].id);
        let (a, b) = ids(&before);
        assert_eq!((ids(&after), done), ((b, a), Capture::default()));
        assert_eq!(log_table::count_of(&connection, a).unwrap(), 1);
    }

    #[test]
    fn a_column_that_becomes_unique_changes_the_triggers() {
        let mut connection = database("CREATE TABLE t(a, b)");
        install(&mut connection).unwrap();
        assert_eq!(triggers::present(&connection).unwrap().len(), 4);
        connection.execute_batch("CREATE UNIQUE INDEX i ON t(b)").unwrap();
        install(&mut connection).unwrap();
        assert_eq!(triggers::present(&connection).unwrap().len(), 6);
        connection.execute_batch("DROP INDEX i").unwrap();
        install(&mut connection).unwrap();
        assert_eq!(triggers::present(&connection).unwrap().len(), 4);
    }
}
