//! Virtual tables (full-text indexes) that the application's triggers write are never written by us: two versions of SQLite that
//! write one FTS5 index damage it within seconds. What we change is queued instead, and the application's next write runs the
//! queue in its own process (see [`crate::db::apply::feed_sql`]).
//!
//! The hooks are there only while a queue holds something: an application that changes its schema would otherwise meet triggers
//! that name what it has dropped. If it does so meanwhile, they are taken away within seconds (see [`Feeds::look`]).

use crate::base::limits;
use crate::db::apply::feed_queue::{Feed, Place, count, create_objects, names, table_of};
use crate::db::apply::feed_sql::{CREATE_CHANGED, Fed, Object, QUEUE};
use crate::db::{error::Error, open, ours, schema, sql::quote};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::collections::HashSet;
use std::path::Path;

const MAIN_OBJECTS: &str = "SELECT name, sql FROM main.sqlite_schema WHERE type IN ('view', 'trigger') \
     AND name GLOB '__harmonylite__feed[^_]*' ORDER BY rowid";
const TEMP_OBJECTS: &str = "SELECT name, sql FROM temp.sqlite_schema WHERE type IN ('view', 'trigger') \
     AND (name GLOB '__harmonylite__queue*' OR name GLOB '__harmonylite__trial*')";
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
    /// SQLite's number for what other connections had committed at the last look.
    seen: i64,
    /// Something waits for triggers that are gone.
    keeps: bool,
    /// The next transaction is to find out whether they are there again.
    due: bool,
}

/// Drops the views and triggers by which the application runs queues; the queues stay.
pub fn disarm_all(connection: &Connection) -> Result<(), Error> {
    drop_objects(connection, &objects(connection, MAIN_OBJECTS)?)
}

/// Whether there are such views or triggers.
pub fn any_armed(connection: &Connection) -> Result<bool, Error> {
    Ok(!objects(connection, MAIN_OBJECTS)?.is_empty())
}

/// Names of the queues that hold something, with the number of their entries.
pub fn pending(connection: &Connection) -> Result<Vec<(String, i64)>, Error> {
    let mut found = vec![];
    for name in names(connection)? {
        let (_, rows) = count(connection, &name)?;
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

impl Feeds {
    /// Brings queues, triggers and views in step with the schema.
    pub fn refresh(&mut self, connection: &Connection, wanted: Vec<Fed>) -> Result<(), Error> {
        connection.execute_batch(CREATE_CHANGED)?;
        drop_objects(connection, &objects(connection, TEMP_OBJECTS)?)?;
        self.feeds.clear();
        let mut fed = vec![];
        for one in wanted {
            if self.can_feed(&one) {
                fed.push((Place::of(connection, &one)?, one));
            }
        }
        if fed.iter().any(|(place, _)| !place.in_place) {
            // The hooks name the old queues and their columns.
            disarm_all(connection)?;
        }
        for (number, (place, _)) in fed.iter().enumerate() {
            place.stash(connection, number)?;
        }
        for (number, (place, fed)) in fed.into_iter().enumerate() {
            let made = place.make(connection, &fed, number);
            match made.and_then(|()| Feed::new(connection, fed.clone())) {
                Ok(feed) => {
                    self.introduce(&fed);
                    self.feeds.push(feed);
                }
                Err(error @ (Error::Busy | Error::SchemaChanged | Error::Corrupt(_) | Error::Disk(_))) => {
                    return Err(error);
                }
                Err(why) => {
                    self.say_once(&format!(
                        "table {}: its triggers do not run for replicated rows, so {} lacks them: {why}",
                        fed.table.name,
                        fed.targets()
                    ));
                    drop_objects(connection, &fed.queueing())?;
                    drop_objects(connection, &fed.trial_runners())?;
                }
            }
        }
        self.forget_others(connection)?;
        self.sync(connection)
    }

    /// Whether the application can run a table's triggers later, or build all that they write anew.
    fn can_feed(&mut self, fed: &Fed) -> bool {
        let can = fed.can_rebuild() || !fed.must_rebuild;
        if !can {
            self.say_once(&format!(
                "table {}: {} is not fed with rows of other nodes: the triggers take the old words from the table itself, and what they                  write cannot simply be built anew (they have a WHEN or a SELECT, or write something else too, or the index is not over                  this table's stored columns). Give the old words with 'delete' and OLD, or make the index without content=",
                fed.table.name,
                fed.targets()
            ));
        }
        can
    }

    /// Queues of tables that are gone or not fed any more. What waits stays while there is the table: its triggers may come again.
    fn forget_others(&mut self, connection: &Connection) -> Result<(), Error> {
        self.keeps = false;
        for name in names(connection)? {
            if self.feeds.iter().any(|feed| feed.queue == name) {
                continue;
            }
            let (waiting, all) = count(connection, &name)?;
            let (table, queue) = (table_of(&name), quote(&name));
            if all == 0 || !ours::has_table(connection, table)? {
                connection.execute_batch(&format!("DROP TABLE main.{queue}"))?;
            } else if waiting > 0 {
                self.keeps = true;
                self.say_once(&format!(
                    "table {table}: {waiting} changes of other nodes wait in {queue} for triggers that are gone or cannot be run, and no                      further ones are noted. If the triggers do not come again, build the index anew, then DROP TABLE {queue}"
                ));
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
        self.say_once(&text);
        Ok(())
    }

    /// A transaction begins: what it queues is tried at its end.
    pub fn begin(&mut self, connection: &Connection) -> Result<(), Error> {
        self.feeds.iter_mut().try_for_each(|feed| feed.begin(connection))
    }

    /// Looks now and then whether somebody else has written. The application may have built an index anew, or dropped it: then what
    /// waits makes its writes fail until a transaction of ours meets that.
    pub fn look(&mut self, connection: &Connection) -> Result<(), Error> {
        let mut armed: Vec<&mut Feed> = self.feeds.iter_mut().filter(|feed| feed.armed).collect();
        if armed.is_empty() && !self.keeps {
            return Ok(());
        }
        let version = connection.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        let changed = std::mem::replace(&mut self.seen, version) != version;
        for feed in &mut armed {
            if changed && feed.round.is_none() {
                feed.round = Some(0);
            }
            feed.due = feed.round.is_some();
        }
        self.due |= changed && self.keeps;
        Ok(())
    }

    /// Whether a transaction is to try older entries again.
    pub fn is_due(&self) -> bool {
        self.due || self.feeds.iter().any(|feed| feed.due)
    }

    /// Before the commit: tries what was queued, keeps the queues within their bounds, and puts hooks in place or takes them
    /// away. Returns whether that changed the schema.
    pub fn finish(&mut self, connection: &Connection) -> Result<bool, Error> {
        self.due = false;
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

/// Lets SQLite compile what the application will run.
fn compiles(connection: &Connection, fed: &Fed) -> Result<(), rusqlite::Error> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, true)?;
    let empties = format!("DELETE FROM {}", quote(&fed.queue()));
    let mut statements = fed.table.samples().into_iter().chain([empties]);
    let compiled = statements.try_for_each(|sql| connection.prepare(&sql).map(drop));
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    compiled
}

fn hooks_are_newest(connection: &Connection, table: &str) -> Result<bool, Error> {
    let rowid = |sql: &str| connection.query_row(sql, [table], |row| row.get::<_, Option<i64>>(0));
    Ok(rowid(OLDEST_HOOK)?.unwrap_or(i64::MAX) > rowid(NEWEST_TRIGGER)?.unwrap_or(0))
}

#[cfg(test)]
#[path = "feed_random_tests.rs"]
mod random_tests;
#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
#[cfg(test)]
#[path = "feed_trouble_tests.rs"]
mod trouble_tests;
