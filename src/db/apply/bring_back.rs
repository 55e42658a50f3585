//! Lost writes, written again.

use crate::db::apply::applier::Applier;
use crate::db::apply::carry::{carry_out, delete};
use crate::db::apply::conflicts::{self, Conflict, Kind};
use crate::db::apply::facts::Gathered;
use crate::db::apply::rows::{self, Failure};
use crate::db::apply::session::Session;
use crate::db::apply::subject::{Source, Subject};
use crate::db::error::Error;
use crate::db::migrate::Translation;
use crate::db::table::{Keyed, Table};
use crate::model::event::Event;
use crate::model::fold::{Facts, Plan, Reason, Row};
use crate::model::value::Value;
use rusqlite::params_from_iter;
use std::borrow::Cow;
use std::sync::Arc;

/// What brought a lost write back.
#[derive(Clone, Debug, PartialEq)]
pub enum Restored {
    /// The row is as the write had it, or gone, as it had it.
    AsItWas,
    /// It was one of two that were inserted under one key, and has another key now.
    UnderKey(Value),
}

impl Applier {
    /// Writes a lost write again, as an ordinary write of this node that is later than all others, and takes it off the list. The other
    /// of two rows that were inserted under one integer key stays: this one gets a key of its own.
    pub fn bring_back(&mut self, conflict: &Conflict, event: &Event) -> Result<Restored, Error> {
        let mut restored = Restored::AsItWas;
        self.in_transaction(|applier| {
            if !conflicts::remove(&applier.session.connection, conflict.id)? {
                return Err(Error::Mismatch("it is not on the list any more".to_owned()));
            }
            restored = applier.write_again(conflict.kind, event)?;
            Ok(())
        })?;
        Ok(restored)
    }

    fn write_again(&mut self, kind: Kind, event: &Event) -> Result<Restored, Error> {
        let session = &mut self.session;
        // The schema may have changed since.
        let translation = Translation::read(&session.connection)?;
        let event = translation.translate(event, &session.schema);
        let name = event.table.clone();
        let misfit = |why: &str| Error::Mismatch(format!("table {name}: {why}"));
        if kind == Kind::Orphan {
            return Err(misfit(
                "the row is not lost, the one that it refers to is: write that one again or delete this row, then drop the entry",
            ));
        }
        if session.touched.is_none() && kind != Kind::Local {
            return Err(misfit("publish = false: this node writes nothing for others"));
        }
        let table = session.schema.find(&event.table).cloned();
        let table = table.ok_or_else(|| misfit("there is no such table here"))?;
        let event = translation.complete(&session.connection, &table, Cow::Borrowed(&*event))?;
        let subject = Subject::new(&table, &event, Source::default())
            .ok_or_else(|| misfit("it lacks a column of the key"))?;
        if let Some(column) = subject.missing().first() {
            return Err(misfit(&format!("there is no column {column} here")));
        }
        let has_rowid = matches!(table.keyed, Keyed::RowidAlias | Keyed::Rowid);
        let key: Vec<Value> = subject.key_values.iter().map(|value| (*value).clone()).collect();
        let written =
            if kind == Kind::Insert && has_rowid && rows::is_there(&session.connection, &table, &key)? {
                insert_anew(session, &subject)
            } else {
                overwrite(session, &subject)
            };
        written.map_err(|failure| of_failure(failure, misfit))
    }
}

/// Writes a row, or deletes it, as a write of this node.
pub fn own_write(session: &mut Session, table: &Arc<Table>, event: &Event) -> Result<(), Error> {
    let misfit = |why: &str| Error::Mismatch(format!("table {}: {why}", table.name));
    let subject = Subject::new(table, event, Source::default())
        .ok_or_else(|| misfit("a row lacks a column of the key"))?;
    overwrite(session, &subject).map(drop).map_err(|failure| of_failure(failure, misfit))
}

/// Removes a row that is about to be written anew, or is given up.
pub fn remove_row(session: &Session, table: &Table, key: &[Value]) -> Result<(), Error> {
    let misfit = |why: &str| Error::Mismatch(format!("table {}: {why}", table.name));
    delete(session, table, key).map(drop).map_err(|failure| of_failure(failure, misfit))
}

fn of_failure(failure: Failure, misfit: impl Fn(&str) -> Error) -> Error {
    match failure {
        Failure::Database(error) => error,
        Failure::Refused(why) | Failure::Missing(why) => misfit(&why),
        Failure::Collides => misfit(
            "another row has one of its UNIQUE values: change or delete that row, then restore this one",
        ),
    }
}

fn overwrite(session: &mut Session, subject: &Subject<'_>) -> Result<Restored, Failure> {
    let row = if subject.is_tombstone() { Row::Delete } else { Row::Write };
    let plan = Plan {
        fold: false,
        displace: vec![],
        row,
        touch: true,
        settle: false,
        new_incarnation: false,
        reason: Reason::Folded,
    };
    let gathered = Gathered { facts: Facts::default(), colliding: vec![], unsettled: vec![], renews: None };
    carry_out(session, subject, &gathered, &plan)?;
    Ok(Restored::AsItWas)
}

/// SQLite gives the row a key, as it would give it to the application's next one.
fn insert_anew(session: &mut Session, subject: &Subject<'_>) -> Result<Restored, Failure> {
    let table = &subject.table;
    let is_key = |name: &str| name.eq_ignore_ascii_case(&table.key[0].name);
    let rest = subject.event.row.iter().filter(|(name, _)| !is_key(name));
    let (columns, values): (Vec<&str>, Vec<&Value>) = rest.map(|(name, value)| (&**name, value)).unzip();
    let connection = &session.connection;
    session.mirrored.guard(connection, &table.name, || {
        Ok(connection.execute(&table.insert(&columns), params_from_iter(values.iter().copied()))?)
    })?;
    let key = Value::Integer(connection.last_insert_rowid());
    let row_key = table.row_key([&key]);
    session.touch(table, std::slice::from_ref(&key), &row_key)?;
    Ok(Restored::UnderKey(key))
}
