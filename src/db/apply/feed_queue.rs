//! One queue: made anew when the schema changes, kept within its bounds, and tried before what was queued is committed. An entry
//! that cannot be run must not make the application's statements fail: each one is tried on our connection, inside a savepoint
//! that is rolled back, when it is made, when its row changes, and now and then.

use crate::base::limits;
use crate::db::apply::feed_sql::{Fed, Object, QUEUE};
use crate::db::{error::Error, sql::quote};
use rusqlite::{Connection, OptionalExtension, params};

const QUEUES: &str =
    "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name GLOB '__harmonylite__feed[_]*'";
/// The table that the hooks of a queue stand on, which follows when the application renames it.
const HOOKED: &str = "SELECT tbl_name FROM main.sqlite_schema WHERE type = 'trigger' AND name IN ('__harmonylite__feedhook_INSERT_' || ?1, \
     '__harmonylite__feedhook_UPDATE_' || ?1, '__harmonylite__feedhook_DELETE_' || ?1) LIMIT 1";
const CHANGED: &str = "SELECT DISTINCT id FROM temp.__harmonylite__changed WHERE queue = ?1 ORDER BY id";
const FORGET_CHANGED: &str = "DELETE FROM temp.__harmonylite__changed WHERE queue = ?1";

/// `has` of the entry that asks for the index to be built anew, and of the one that says that it is not fed any more.
const REBUILD: i64 = 2;
const STOPPED: i64 = 3;

/// The names of all queues.
pub fn names(connection: &Connection) -> Result<Vec<String>, Error> {
    let mut statement = connection.prepare(QUEUES)?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

/// The name of the table that a queue is for.
pub fn table_of(queue: &str) -> &str {
    queue.strip_prefix(QUEUE).unwrap_or_default()
}

/// Entries of a queue, those that wait and those that do not.
pub fn count(connection: &Connection, queue: &str) -> Result<(i64, i64), Error> {
    let sql = format!("SELECT count(*) FILTER (WHERE has < {STOPPED}), count(*) FROM main.{}", quote(queue));
    Ok(connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

fn is_pending(connection: &Connection, queue: &str) -> Result<bool, Error> {
    let sql = format!("SELECT has < {STOPPED} FROM main.{} ORDER BY id LIMIT 1", quote(queue));
    Ok(connection.prepare_cached(&sql)?.query_row([], |row| row.get(0)).optional()?.unwrap_or(false))
}

/// Makes objects, each of which is one statement: what follows it in a trigger's text is not run.
pub fn create_objects(connection: &Connection, objects: &[Object]) -> Result<(), rusqlite::Error> {
    objects.iter().try_for_each(|(_, sql)| connection.execute(sql, []).map(drop))
}

/// Where a queue's entries come from when the schema was read.
pub struct Place {
    /// The queue as it was, under this table's name or under the one that the application gave up.
    old: Option<String>,
    columns: Vec<String>,
    /// The hooks have stood on the table all the time.
    hooked: bool,
    /// Nothing has to be made.
    pub in_place: bool,
}

impl Place {
    pub fn of(connection: &Connection, fed: &Fed) -> Result<Place, Error> {
        let own = fed.queue();
        let mut place = Place { old: None, columns: vec![], hooked: false, in_place: false };
        for queue in names(connection)? {
            let hooked: Option<String> =
                connection.query_row(HOOKED, [table_of(&queue)], |row| row.get(0)).optional()?;
            match hooked {
                // A queue under this table's name may be that of another table, which had the name before.
                Some(table) if table.eq_ignore_ascii_case(&fed.table.name) => {
                    (place.old, place.hooked) = (Some(queue), true);
                }
                None if queue == own && place.old.is_none() => place.old = Some(queue),
                _ => {}
            }
        }
        if let Some(old) = &place.old {
            let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
            let names = statement.query_map([old], |row| row.get::<_, String>(0))?;
            place.columns = names.map(|name| name.map(|name| quote(&name))).collect::<Result<_, _>>()?;
            place.in_place = *old == own && bare(&place.columns) == bare(&fed.queue_columns());
        }
        Ok(place)
    }

    /// Takes the old queue away and keeps its entries: another table's new queue may need the name.
    pub fn stash(&self, connection: &Connection, number: usize) -> Result<(), Error> {
        let Some(old) = self.old.as_deref().filter(|_| !self.in_place).map(quote) else { return Ok(()) };
        let kept = kept(number);
        connection.execute_batch(&format!(
            "DROP TABLE IF EXISTS temp.{kept}; CREATE TEMP TABLE {kept} AS SELECT * FROM main.{old}; DROP TABLE main.{old};"
        ))?;
        Ok(())
    }

    /// Makes the queue, with the entries that the old one held.
    pub fn make(&self, connection: &Connection, fed: &Fed, number: usize) -> Result<(), Error> {
        let queue = quote(&fed.queue());
        if !self.in_place {
            connection
                .execute_batch(&format!("DROP TABLE IF EXISTS main.{queue}; {}", fed.create_queue()))?;
        }
        if !self.in_place && self.old.is_some() {
            let wanted = bare(&fed.queue_columns());
            let common = self.columns.iter().filter(|name| wanted.contains(&bare_name(name)));
            let common = common.map(String::as_str).collect::<Vec<_>>().join(", ");
            let kept = kept(number);
            connection.execute_batch(&format!(
                "INSERT INTO main.{queue}({common}) SELECT {common} FROM temp.{kept}; DROP TABLE temp.{kept};"
            ))?;
        }
        // Some old values are missing, or the application has changed rows that it should have run entries for.
        let doubtful = !self.in_place || !self.hooked;
        if doubtful && fed.can_rebuild() && is_pending(connection, &fed.queue())? {
            mark(connection, &queue, REBUILD)?;
        }
        Ok(())
    }
}

/// The temporary table with the entries of an old queue.
fn kept(number: usize) -> String {
    format!("__harmonylite__old_queue_{number}")
}

fn bare(names: &[String]) -> Vec<String> {
    names.iter().map(|name| bare_name(name)).collect()
}

fn bare_name(name: &str) -> String {
    name.trim_matches('"').to_owned()
}

/// Replaces all entries by one that speaks of the whole index.
fn mark(connection: &Connection, queue: &str, has: i64) -> Result<(), Error> {
    forget(connection, queue, "true")?;
    connection.execute(&format!("INSERT INTO main.{queue}(id, has) VALUES(0, ?1)"), [has])?;
    Ok(())
}

/// Deletes entries without running them: 4 stands for nothing.
fn forget(connection: &Connection, queue: &str, which: &str) -> Result<(), Error> {
    connection.execute_batch(&format!(
        "UPDATE main.{queue} SET has = 4 WHERE {which}; DELETE FROM main.{queue} WHERE has = 4;"
    ))?;
    Ok(())
}

/// Makes the temporary triggers, and lets SQLite compile them.
fn prepare(connection: &Connection, fed: &Fed) -> Result<(), rusqlite::Error> {
    create_objects(connection, &fed.trial_runners())?;
    create_objects(connection, &fed.queueing())?;
    connection.prepare(&format!("DELETE FROM main.{}", quote(&fed.queue()))).map(drop)
}

/// A queue that works.
#[derive(Debug)]
pub struct Feed {
    pub fed: Fed,
    pub queue: String,
    /// The hooks are there.
    pub armed: bool,
    /// Transactions of ours in a row that found the queue empty.
    pub idle: u32,
    /// The highest entry when the transaction began.
    highest: i64,
    /// Entries and their bytes, or more.
    rows: i64,
    bytes: i64,
    /// The next transaction tries older entries again.
    pub due: bool,
    /// After which entry that goes on; `None`: all were tried.
    pub round: Option<i64>,
}

impl Feed {
    pub fn new(connection: &Connection, fed: Fed) -> Result<Feed, Error> {
        prepare(connection, &fed)?;
        let queue = fed.queue();
        let (armed, idle) = (false, 0);
        // The triggers may have changed since its entries were tried.
        let (due, round) = (true, Some(0));
        let mut feed = Feed { fed, queue, armed, idle, highest: 0, rows: 0, bytes: 0, due, round };
        feed.begin(connection)?;
        (feed.rows, feed.bytes) = feed.size(connection, 0)?;
        Ok(feed)
    }

    /// What the application runs.
    pub fn objects(&self) -> Vec<Object> {
        self.fed.runners().into_iter().chain(self.fed.hooks()).collect()
    }

    /// A transaction begins.
    pub fn begin(&mut self, connection: &Connection) -> Result<(), Error> {
        let sql = format!("SELECT ifnull(max(id), 0) FROM main.{}", quote(&self.queue));
        self.highest = connection.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
        Ok(())
    }

    pub fn is_pending(&self, connection: &Connection) -> Result<bool, Error> {
        is_pending(connection, &self.queue)
    }

    /// Number and bytes of the entries after an id.
    fn size(&self, connection: &Connection, after: i64) -> Result<(i64, i64), Error> {
        let columns = self.fed.queue_columns();
        let bytes: Vec<String> =
            columns.iter().map(|name| format!("ifnull(length(CAST({name} AS BLOB)), 0)")).collect();
        // A sum of sums: SQLite takes none of more than a thousand terms.
        let sums: Vec<String> = bytes.chunks(50).map(|some| format!("({})", some.join(" + "))).collect();
        let sql = format!(
            "SELECT count(*), ifnull(sum({}), 0) FROM main.{} WHERE id > ?1",
            sums.join(" + "),
            quote(&self.queue)
        );
        Ok(connection.prepare_cached(&sql)?.query_row([after], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    /// Before the commit: keeps the queue within its bounds, and tries what the transaction has queued or changed; returns what is to
    /// be said.
    pub fn check(&mut self, connection: &Connection) -> Result<Vec<String>, Error> {
        self.note_again(connection)?;
        let (rows, bytes) = self.size(connection, self.highest)?;
        self.rows += rows;
        self.bytes += bytes;
        if rows > 0 && self.is_beyond() {
            (self.rows, self.bytes) = self.size(connection, 0)?;
        }
        let told = match rows > 0 && self.is_beyond() {
            true => vec![self.give_up(connection)?],
            false => self.try_changed(connection)?,
        };
        connection.prepare_cached(FORGET_CHANGED)?.execute([&self.queue])?;
        Ok(told)
    }

    fn is_beyond(&self) -> bool {
        self.rows > limits::FEED_MAX_ROWS || self.bytes > limits::FEED_MAX_BYTES
    }

    fn give_up(&mut self, connection: &Connection) -> Result<String, Error> {
        let queue = quote(&self.queue);
        let (table, targets) = (&self.fed.table.name, self.fed.targets());
        (self.rows, self.bytes) = (0, 0);
        if self.fed.can_rebuild() {
            mark(connection, &queue, REBUILD)?;
            return Ok(format!(
                "table {table}: more changes wait for the application than the queue holds: its next write builds {targets} anew"
            ));
        }
        mark(connection, &queue, STOPPED)?;
        Ok(format!(
            "table {table}: more changes wait for the application than the queue holds: {targets} is not fed any more. Build it anew, then \
             DELETE FROM {queue}"
        ))
    }

    /// Notes older entries that are to be tried again: those that each write of the application runs, and the next ones of the round.
    /// What the triggers read besides the row may have changed, and so may the index.
    fn note_again(&mut self, connection: &Connection) -> Result<(), Error> {
        if !std::mem::take(&mut self.due) {
            return Ok(());
        }
        let queue = quote(&self.queue);
        let after = self.round.unwrap_or(i64::MAX);
        let up_to = format!(
            "SELECT max(id) FROM (SELECT id FROM main.{queue} WHERE id > ?1 ORDER BY id LIMIT {})",
            limits::FEED_AGAIN
        );
        self.round = connection.prepare_cached(&up_to)?.query_row([after], |row| row.get(0))?;
        let note = format!(
            "INSERT INTO temp.__harmonylite__changed(queue, id) SELECT ?1, id FROM main.{queue} WHERE id > 0 AND \
             (id IN (SELECT id FROM main.{queue} ORDER BY id LIMIT {}) OR id > ?2 AND id <= ?3)",
            limits::FEED_ROWS
        );
        connection.prepare_cached(&note)?.execute(params![self.queue, after, self.round])?;
        Ok(())
    }

    /// The entries that are to be tried, in the order in which the application runs them.
    fn changed(&self, connection: &Connection) -> Result<Vec<i64>, Error> {
        let mut statement = connection.prepare_cached(CHANGED)?;
        let mut ids = || -> Result<Vec<i64>, rusqlite::Error> {
            statement.query_map([&self.queue], |row| row.get(0))?.collect()
        };
        let found = ids()?;
        let Some(sql) = self.fed.note_former_rows().filter(|_| !found.is_empty()) else { return Ok(found) };
        while connection.prepare_cached(&sql)?.execute([&self.queue])? > 0 {}
        Ok(ids()?)
    }

    fn try_changed(&self, connection: &Connection) -> Result<Vec<String>, Error> {
        let ids = self.changed(connection)?;
        if ids.is_empty() {
            return Ok(vec![]);
        }
        let all = trial(connection, || self.run(connection, &format!("id IN ({CHANGED})"), &self.queue))?;
        if all.is_none() {
            return Ok(vec![]);
        }
        let queue = quote(&self.queue);
        let (table, targets) = (&self.fed.table.name, self.fed.targets());
        let failing = trial(connection, || self.failing(connection, &ids))?;
        if let (Some((_, why)), true) = (failing.first(), self.fed.can_rebuild()) {
            mark(connection, &queue, REBUILD)?;
            return Ok(vec![format!(
                "table {table}: {targets} does not agree with the table ({why}): the application's next write builds it anew"
            )]);
        }
        let mut told = vec![];
        for (id, why) in failing {
            forget(connection, &queue, &format!("id = {id}"))?;
            told.push(format!(
                "table {table}: {targets} lacks a row of another node: the triggers fail: {why}"
            ));
        }
        Ok(told)
    }

    /// Runs entries one after the other; returns those that fail, and why.
    fn failing(&self, connection: &Connection, ids: &[i64]) -> Result<Vec<(i64, String)>, Error> {
        let mut failing = vec![];
        for id in ids {
            connection.execute_batch("SAVEPOINT entry")?;
            if let Some(why) = self.run(connection, "id = ?1", id)? {
                connection.execute_batch("ROLLBACK TO entry")?;
                failing.push((*id, why));
            }
            connection.execute_batch("RELEASE entry")?;
        }
        Ok(failing)
    }

    /// Runs entries; returns why that failed.
    fn run(
        &self,
        connection: &Connection,
        which: &str,
        parameter: &dyn rusqlite::ToSql,
    ) -> Result<Option<String>, Error> {
        let sql = format!("DELETE FROM main.{} WHERE {which}", quote(&self.queue));
        let result = connection.prepare_cached(&sql).and_then(|mut delete| delete.execute([parameter]));
        match result.map_err(Error::from) {
            Ok(_) => Ok(None),
            // The database's own trouble, not the trigger's; SQLite may have rolled all back.
            Err(error @ (Error::Busy | Error::Disk(_) | Error::Corrupt(_))) => Err(error),
            Err(error) if connection.is_autocommit() => Err(error),
            Err(error) => Ok(Some(error.to_string())),
        }
    }
}

/// Runs entries and takes everything back.
fn trial<T>(connection: &Connection, run: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    connection.execute_batch("SAVEPOINT trial")?;
    let result = run();
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK TO trial; RELEASE trial")?;
    }
    result
}
