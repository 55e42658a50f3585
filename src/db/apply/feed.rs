//! Virtual tables (full-text indexes) that the application's triggers write are never written by us: two versions of SQLite that
//! write one FTS5 index damage it within seconds. What we change is queued instead, and the application's next write runs the
//! queue in its own process (see [`crate::db::apply::feed_sql`]).
//!
//! The hooks are there only while a queue holds something: an application that changes its schema would otherwise meet triggers
//! that name what it has dropped. An entry that cannot be run must not make the application's statements fail, so each one is
//! tried before it is committed, on our connection and inside a savepoint that is rolled back.

use crate::base::limits;
use crate::db::apply::feed_sql::{Fed, Object, QUEUE};
use crate::db::{error::Error, open, ours, schema, sql::quote};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, params};
use std::collections::HashSet;
use std::path::Path;

const MAIN_OBJECTS: &str = "SELECT name, sql FROM main.sqlite_schema WHERE type IN ('view', 'trigger') \
     AND name GLOB '__harmonylite__feed[^_]*' ORDER BY rowid";
const TEMP_OBJECTS: &str = "SELECT name, sql FROM temp.sqlite_schema WHERE type IN ('view', 'trigger') \
     AND (name GLOB '__harmonylite__queue*' OR name GLOB '__harmonylite__trial*')";
const QUEUES: &str =
    "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name GLOB '__harmonylite__feed[_]*'";
/// The table that the hooks of a queue stand on, which follows when the application renames it.
const HOOKED: &str = "SELECT tbl_name FROM main.sqlite_schema WHERE type = 'trigger' AND name IN ('__harmonylite__feedhook_INSERT_' || ?1, \
     '__harmonylite__feedhook_UPDATE_' || ?1, '__harmonylite__feedhook_DELETE_' || ?1) LIMIT 1";
/// The newest trigger of the application on a table: hooks must be newer, for SQLite runs the newest one first.
const NEWEST_TRIGGER: &str = "SELECT max(rowid) FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE \
     AND name NOT GLOB '__harmonylite__*'";
const OLDEST_HOOK: &str = "SELECT min(rowid) FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE \
     AND name GLOB '__harmonylite__feedhook_*'";

/// All queues of a database.
#[derive(Debug, Default)]
pub struct Feeds {
    feeds: Vec<Feed>,
    /// What was said once.
    said: HashSet<String>,
}

#[derive(Debug)]
struct Feed {
    fed: Fed,
    queue: String,
    /// The hooks are there.
    armed: bool,
    /// Transactions of ours in a row that found the queue empty.
    idle: u32,
    /// The highest entry that was tried.
    tried: i64,
    /// Entries and their bytes, or more.
    rows: i64,
    bytes: i64,
}

/// Drops the views and triggers by which the application runs queues; the queues stay.
pub fn disarm_all(connection: &Connection) -> Result<(), Error> {
    drop_objects(connection, &objects(connection, MAIN_OBJECTS)?)
}

/// Names of the queues that hold something, with the number of their entries.
pub fn pending(connection: &Connection) -> Result<Vec<(String, i64)>, Error> {
    let mut found = vec![];
    for name in queues(connection)? {
        let sql = format!("SELECT count(*) FROM main.{}", quote(&name));
        let rows = connection.query_row(&sql, [], |row| row.get(0))?;
        if rows > 0 {
            found.push((name, rows));
        }
    }
    Ok(found)
}

/// The same for the database at `path`.
pub fn queued(path: &Path) -> Result<Vec<(String, i64)>, Error> {
    pending(&open::open(path)?)
}

/// Whether an object of ours belongs to one of the queues.
pub fn belongs_to(object: &str, queues: &[(String, i64)]) -> bool {
    let table =
        object.strip_prefix(limits::FEED).and_then(|rest| rest.split_once('_')).map(|(what, rest)| {
            // A hook has the kind of change in its name, too.
            if what == "hook" { rest.split_once('_').map_or(rest, |(_, table)| table) } else { rest }
        });
    table.is_some_and(|table| queues.iter().any(|(queue, _)| queue.strip_prefix(QUEUE) == Some(table)))
}

fn queues(connection: &Connection) -> Result<Vec<String>, Error> {
    let mut statement = connection.prepare(QUEUES)?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

fn objects(connection: &Connection, sql: &str) -> Result<Vec<Object>, Error> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn drop_objects(connection: &Connection, objects: &[Object]) -> Result<(), Error> {
    for (name, sql) in objects {
        let kind = if is_view(sql) { "VIEW" } else { "TRIGGER" };
        // A view takes its trigger along.
        connection.execute_batch(&format!("DROP {kind} IF EXISTS {}", quote(name)))?;
    }
    Ok(())
}

fn is_view(sql: &str) -> bool {
    sql.starts_with("CREATE VIEW") || sql.starts_with("CREATE TEMP VIEW")
}

fn create_objects(connection: &Connection, objects: &[Object]) -> Result<(), rusqlite::Error> {
    objects.iter().try_for_each(|(_, sql)| connection.execute_batch(sql))
}

impl Feeds {
    /// Brings queues, triggers and views in step with the schema.
    pub fn refresh(&mut self, connection: &Connection, wanted: Vec<Fed>) -> Result<(), Error> {
        drop_objects(connection, &objects(connection, TEMP_OBJECTS)?)?;
        self.feeds.clear();
        for fed in wanted {
            let place = Place::of(connection, &fed)?;
            place.make(connection, &fed)?;
            if let Err(why) = prepare(connection, &fed) {
                self.say_once(&format!(
                    "table {}: its triggers do not run for replicated rows, so {} lacks them: {why}",
                    fed.table.name,
                    fed.targets()
                ));
                drop_objects(connection, &fed.queueing())?;
                drop_objects(connection, &fed.trial_runners())?;
                connection.execute_batch(&format!("DROP TABLE main.{}", quote(&fed.queue())))?;
                continue;
            }
            self.introduce(&fed);
            self.feeds.push(Feed::new(connection, fed)?);
        }
        self.forget_others(connection)?;
        self.sync(connection)
    }

    /// Queues of tables that are gone or not fed any more.
    fn forget_others(&self, connection: &Connection) -> Result<(), Error> {
        for name in queues(connection)? {
            if !self.feeds.iter().any(|feed| feed.queue == name) {
                connection.execute_batch(&format!("DROP TABLE main.{}", quote(&name)))?;
            }
        }
        Ok(())
    }

    /// The hooks are there where a queue holds something, and no others.
    fn sync(&mut self, connection: &Connection) -> Result<(), Error> {
        let present = objects(connection, MAIN_OBJECTS)?;
        let mut wanted = vec![];
        let mut in_order = true;
        for feed in &mut self.feeds {
            feed.armed = feed.is_pending(connection)?;
            if feed.armed {
                wanted.extend(feed.objects());
                in_order &= hooks_are_newest(connection, &feed.fed.table.name)?;
            }
        }
        let same: HashSet<&Object> = present.iter().collect();
        if in_order && present.len() == wanted.len() && wanted.iter().all(|object| same.contains(object)) {
            return Ok(());
        }
        drop_objects(connection, &present)?;
        for at in (0..self.feeds.len()).rev() {
            if self.feeds[at].armed {
                self.arm(connection, at)?;
            }
        }
        Ok(())
    }

    /// Puts the hooks in place. If they do not compile, the table is not fed.
    fn arm(&mut self, connection: &Connection, at: usize) -> Result<(), Error> {
        let feed = &mut self.feeds[at];
        let made = create_objects(connection, &feed.objects()).and_then(|()| compiles(connection, &feed.fed));
        feed.armed = true;
        let Err(why) = made else { return Ok(()) };
        let text = format!("table {}: {} cannot be fed: {why}", feed.fed.table.name, feed.fed.targets());
        let feed = self.feeds.remove(at);
        drop_objects(connection, &feed.objects())?;
        drop_objects(connection, &feed.fed.queueing())?;
        drop_objects(connection, &feed.fed.trial_runners())?;
        connection.execute_batch(&format!("DROP TABLE main.{}", quote(&feed.queue)))?;
        self.say_once(&text);
        Ok(())
    }

    /// A transaction begins: what it queues is tried at its end.
    pub fn begin(&mut self, connection: &Connection) -> Result<(), Error> {
        for feed in &mut self.feeds {
            feed.tried = feed.highest(connection)?;
        }
        Ok(())
    }

    /// Before the commit: tries what was queued, keeps the queues within their bounds, and puts hooks in place or takes them
    /// away. Returns whether that changed the schema.
    pub fn finish(&mut self, connection: &Connection) -> Result<bool, Error> {
        let before = schema::version(connection)?;
        for at in (0..self.feeds.len()).rev() {
            for text in self.feeds[at].check(connection)? {
                self.say_once(&text);
            }
            let feed = &mut self.feeds[at];
            let pending = feed.is_pending(connection)?;
            feed.idle = if pending { 0 } else { feed.idle.saturating_add(1) };
            if pending && !feed.armed {
                self.arm(connection, at)?;
            } else if feed.armed && feed.idle >= limits::FEED_IDLE {
                drop_objects(connection, &feed.objects())?;
                feed.armed = false;
            }
        }
        Ok(schema::version(connection)? != before)
    }

    /// Says once how a table's indexes are fed.
    fn introduce(&mut self, fed: &Fed) {
        let names: Vec<&str> = fed.triggers.iter().map(|trigger| trigger.name.as_str()).collect();
        let (table, targets, names) = (&fed.table.name, fed.targets(), names.join(", "));
        if fed.must_rebuild {
            self.say_once(&format!(
                "table {table}: {targets} takes the old words from the table itself (triggers {names}), so the application builds it anew at \
                 its first write after each change from another node; an FTS5 trigger that gives them ('delete' with OLD) is faster"
            ));
        } else {
            let text = format!(
                "table {table}: {targets} is fed with rows of other nodes by the application's next write (triggers {names})"
            );
            if self.said.insert(text.clone()) {
                log::info!("{text}");
            }
        }
    }

    fn say_once(&mut self, text: &str) {
        if self.said.insert(text.to_owned()) {
            log::warn!("{text}");
        }
    }
}

/// Where a queue's entries come from when the schema was read.
struct Place {
    /// The queue as it was, under this table's name or under the one that the application gave up.
    old: Option<String>,
    columns: Vec<String>,
}

impl Place {
    fn of(connection: &Connection, fed: &Fed) -> Result<Place, Error> {
        let renamed = |queue: &String| {
            let table = queue.strip_prefix(QUEUE).unwrap_or_default();
            let now: Option<String> =
                connection.query_row(HOOKED, [table], |row| row.get(0)).optional().ok().flatten();
            now.is_some_and(|now| now.eq_ignore_ascii_case(&fed.table.name))
        };
        let own = fed.queue();
        let old = if ours::has_table(connection, &own)? {
            Some(own)
        } else {
            queues(connection)?.into_iter().find(renamed)
        };
        let mut columns = vec![];
        if let Some(old) = &old {
            let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
            let names = statement.query_map([old], |row| row.get::<_, String>(0))?;
            columns = names.map(|name| name.map(|name| quote(&name))).collect::<Result<_, _>>()?;
        }
        Ok(Place { old, columns })
    }

    /// Makes the queue, with the entries that the old one held.
    fn make(&self, connection: &Connection, fed: &Fed) -> Result<(), Error> {
        let bare =
            |names: &[String]| names.iter().map(|name| name.trim_matches('"').to_owned()).collect::<Vec<_>>();
        let Some(old) = &self.old else { return Ok(connection.execute_batch(&fed.create_queue())?) };
        if *old == fed.queue() && bare(&self.columns) == bare(&fed.queue_columns()) {
            return Ok(());
        }
        // The hooks name the old columns.
        disarm_all(connection)?;
        let wanted = bare(&fed.queue_columns());
        let common: Vec<&str> = self
            .columns
            .iter()
            .map(String::as_str)
            .filter(|name| wanted.contains(&name.trim_matches('"').to_owned()))
            .collect();
        let common = common.join(", ");
        connection.execute_batch(&format!(
            "DROP TABLE IF EXISTS temp.__harmonylite__old_queue; CREATE TEMP TABLE __harmonylite__old_queue AS SELECT * FROM main.{old}; \
             DROP TABLE main.{old}; {create} \
             INSERT INTO main.{new}({common}) SELECT {common} FROM temp.__harmonylite__old_queue; DROP TABLE temp.__harmonylite__old_queue;",
            old = quote(old),
            create = fed.create_queue(),
            new = quote(&fed.queue())
        ))?;
        let queue = quote(&fed.queue());
        let pending: bool =
            connection
                .query_row(&format!("SELECT EXISTS (SELECT 1 FROM main.{queue})"), [], |row| row.get(0))?;
        if pending && fed.can_rebuild {
            // Some old values are missing now.
            mark(connection, &queue, REBUILD)?;
        }
        Ok(())
    }
}

/// `has` of the entry that asks for the index to be built anew, and of the one that says that it is not fed any more.
const REBUILD: i64 = 2;
const STOPPED: i64 = 3;

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

/// Lets SQLite compile what the application will run.
fn compiles(connection: &Connection, fed: &Fed) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    let (table, queue) = (quote(&fed.table.name), quote(&fed.queue()));
    let column = fed.table.stored().next().map_or_else(|| "rowid".to_owned(), |column| quote(&column.name));
    let compiled = [
        format!("DELETE FROM {queue}"),
        format!("INSERT INTO {table} DEFAULT VALUES"),
        format!("UPDATE {table} SET {column} = {column}"),
        format!("DELETE FROM {table}"),
    ]
    .iter()
    .try_for_each(|sql| connection.prepare(sql).map(drop));
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    compiled
}

fn hooks_are_newest(connection: &Connection, table: &str) -> Result<bool, Error> {
    let rowid = |sql: &str| connection.query_row(sql, [table], |row| row.get::<_, Option<i64>>(0));
    Ok(rowid(OLDEST_HOOK)?.unwrap_or(i64::MAX) > rowid(NEWEST_TRIGGER)?.unwrap_or(0))
}

impl Feed {
    fn new(connection: &Connection, fed: Fed) -> Result<Feed, Error> {
        let queue = fed.queue();
        let mut feed = Feed { fed, queue, armed: false, idle: 0, tried: 0, rows: 0, bytes: 0 };
        feed.tried = feed.highest(connection)?;
        (feed.rows, feed.bytes) = feed.size(connection, 0)?;
        Ok(feed)
    }

    fn objects(&self) -> Vec<Object> {
        self.fed.runners().into_iter().chain(self.fed.hooks()).collect()
    }

    fn ask<T: rusqlite::types::FromSql>(&self, connection: &Connection, what: &str) -> Result<T, Error> {
        let sql = format!("SELECT {what} FROM main.{}", quote(&self.queue));
        Ok(connection.prepare_cached(&sql)?.query_row([], |row| row.get(0))?)
    }

    fn highest(&self, connection: &Connection) -> Result<i64, Error> {
        self.ask(connection, "ifnull(max(id), 0)")
    }

    fn is_pending(&self, connection: &Connection) -> Result<bool, Error> {
        let sql = format!("SELECT has < 3 FROM main.{} ORDER BY id LIMIT 1", quote(&self.queue));
        Ok(connection.prepare_cached(&sql)?.query_row([], |row| row.get(0)).optional()?.unwrap_or(false))
    }

    /// Number and bytes of the entries after an id.
    fn size(&self, connection: &Connection, after: i64) -> Result<(i64, i64), Error> {
        let columns = self.fed.queue_columns();
        let bytes: Vec<String> =
            columns.iter().map(|name| format!("ifnull(length(CAST({name} AS BLOB)), 0)")).collect();
        let sql = format!(
            "SELECT count(*), ifnull(sum({}), 0) FROM main.{} WHERE id > ?1",
            bytes.join(" + "),
            quote(&self.queue)
        );
        Ok(connection.prepare_cached(&sql)?.query_row([after], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    /// Tries what was queued since the transaction began, and keeps the queue within its bounds; returns what is to be said.
    fn check(&mut self, connection: &Connection) -> Result<Vec<String>, Error> {
        let (rows, bytes) = self.size(connection, self.tried)?;
        if rows == 0 {
            return Ok(vec![]);
        }
        self.rows += rows;
        self.bytes += bytes;
        if self.rows > limits::FEED_MAX_ROWS || self.bytes > limits::FEED_MAX_BYTES {
            (self.rows, self.bytes) = self.size(connection, 0)?;
        }
        if self.rows > limits::FEED_MAX_ROWS || self.bytes > limits::FEED_MAX_BYTES {
            return Ok(vec![self.give_up(connection)?]);
        }
        self.try_new(connection)
    }

    fn give_up(&mut self, connection: &Connection) -> Result<String, Error> {
        let queue = quote(&self.queue);
        let (table, targets) = (&self.fed.table.name, self.fed.targets());
        (self.rows, self.bytes) = (0, 0);
        if self.fed.can_rebuild {
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

    fn try_new(&self, connection: &Connection) -> Result<Vec<String>, Error> {
        if self.attempt(connection, "id > ?1", self.tried)?.is_none() {
            return Ok(vec![]);
        }
        let queue = quote(&self.queue);
        let ids: Vec<i64> = {
            let mut statement =
                connection.prepare(&format!("SELECT id FROM main.{queue} WHERE id > ?1 ORDER BY id"))?;
            statement.query_map(params![self.tried], |row| row.get(0))?.collect::<Result<_, _>>()?
        };
        let mut told = vec![];
        for id in ids {
            let Some(why) = self.attempt(connection, "id = ?1", id)? else { continue };
            let (table, targets) = (&self.fed.table.name, self.fed.targets());
            if self.fed.can_rebuild {
                mark(connection, &queue, REBUILD)?;
                return Ok(vec![format!(
                    "table {table}: {targets} does not agree with the table ({why}): the application's next write builds it anew"
                )]);
            }
            forget(connection, &queue, &format!("id = {id}"))?;
            told.push(format!(
                "table {table}: {targets} lacks a row of another node: the triggers fail: {why}"
            ));
        }
        Ok(told)
    }

    /// Runs entries and takes everything back; returns why that failed.
    fn attempt(&self, connection: &Connection, which: &str, parameter: i64) -> Result<Option<String>, Error> {
        connection.execute_batch("SAVEPOINT trial")?;
        let sql = format!("DELETE FROM main.{} WHERE {which}", quote(&self.queue));
        let result = connection.prepare_cached(&sql).and_then(|mut delete| delete.execute([parameter]));
        connection.execute_batch("ROLLBACK TO trial; RELEASE trial")?;
        match result.map_err(Error::from) {
            Ok(_) => Ok(None),
            // The database's own trouble, not the trigger's.
            Err(error @ (Error::Busy | Error::Disk(_) | Error::Corrupt(_))) => Err(error),
            Err(error) => Ok(Some(error.to_string())),
        }
    }
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
