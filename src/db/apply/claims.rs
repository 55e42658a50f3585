//! What an image claims: its values in UNIQUE indexes, and what it refers to. Two images need not be in the database to be compared.

use crate::db::apply::beneath::Claims;
use crate::db::apply::collisions;
use crate::db::apply::rows::Failure;
use crate::db::apply::savepoint;
use crate::db::apply::session::Session;
use crate::db::apply::subject::Subject;
use crate::db::foreign_keys::ForeignKey;
use crate::db::indexes::UniqueIndex;
use crate::db::sql::quote;
use crate::db::table::Collisions;
use crate::model::event::Event;
use crate::model::value::{Collation, Value, row_key};
use rusqlite::{OptionalExtension, params_from_iter};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The claims of an event's image.
pub fn of(session: &Session, subject: &Subject<'_>) -> Result<Claims, Failure> {
    let keys = session.orphans.keys.iter().enumerate();
    let refers = keys
        .filter(|(_, key)| key.child == subject.table.name)
        .filter_map(|(number, key)| Some((number, refers(key, subject.event)?)))
        .collect();
    Ok(Claims { unique: unique(session, subject)?, refers })
}

/// What an image refers to by a foreign key; `None`: nothing.
pub fn refers(key: &ForeignKey, event: &Event) -> Option<u64> {
    let values: Option<Vec<&Value>> = key.columns.iter().map(|(child, _)| event.value_of(child)).collect();
    digest(values?.into_iter().map(|value| (value, Collation::Binary)))
}

/// `None` with a NULL: it is equal to nothing.
fn digest<'a>(values: impl Iterator<Item = (&'a Value, Collation)>) -> Option<u64> {
    let values: Vec<(&Value, Collation)> = values.collect();
    if values.iter().any(|(value, _)| **value == Value::Null) {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    row_key(0, values).hash(&mut hasher);
    Some(hasher.finish())
}

fn digest_of_index(index: &UniqueIndex, values: &[Value]) -> Option<u64> {
    let collations = index.columns.iter().map(|column| Collation::of(&column.collation));
    digest(values.iter().zip(collations.map(|known| known.unwrap_or(Collation::Binary))))
}

fn unique(session: &Session, subject: &Subject<'_>) -> Result<Vec<Option<u64>>, Failure> {
    let table = &subject.table;
    if table.unique.is_empty() {
        return Ok(vec![]);
    }
    if let Collisions::Select(lookups) = &table.sql().collisions {
        let values_of = |places: &[usize]| -> Option<Vec<Value>> {
            places.iter().map(|place| subject.image_value(*place).cloned()).collect()
        };
        let values: Option<Vec<Vec<Value>>> =
            lookups.iter().map(|lookup| values_of(&lookup.places)).collect();
        if let Some(values) = values {
            return Ok(table
                .unique
                .iter()
                .zip(values)
                .map(|(index, v)| digest_of_index(index, &v))
                .collect());
        }
    }
    unique_as_written(session, subject)
}

/// Expressions and generated columns only SQLite knows: the image is written, read, and taken back.
fn unique_as_written(session: &Session, subject: &Subject<'_>) -> Result<Vec<Option<u64>>, Failure> {
    let (connection, table) = (&session.connection, &subject.table);
    if subject.has_null_key() {
        return Ok(vec![]);
    }
    let mut terms = vec![];
    for index in &table.unique {
        terms.push(format!("({})", index.condition.as_deref().unwrap_or("1")));
        terms.extend(index.columns.iter().map(|column| match &column.name {
            Some(name) => quote(name),
            None => format!("({})", column.expression),
        }));
    }
    let read = || -> Result<Option<Vec<Value>>, Failure> {
        collisions::replace(connection, subject)?;
        let key = params_from_iter(subject.key_values.iter().copied());
        let read = connection
            .prepare_cached(&table.select(&terms.join(", ")))?
            .query_row(key, |row| (0..terms.len()).map(|at| row.get(at)).collect::<Result<Vec<Value>, _>>());
        Ok(read.optional()?)
    };
    connection.execute_batch("SAVEPOINT claims")?;
    let read = session.mirrored.guard(connection, &table.name, read);
    let values = match read {
        Ok(values) => Ok(values.unwrap_or_default()),
        Err(Failure::Database(error)) => Err(Failure::Database(error)),
        // A row that the schema does not take claims nothing.
        Err(_) => Ok(vec![]),
    };
    let taken_back = savepoint::take_back(connection, "claims");
    let values = values?;
    taken_back?;
    let (mut rest, mut found) = (values.as_slice(), vec![]);
    for index in &table.unique {
        let Some((condition, after)) = rest.split_first() else { break };
        let (of_index, after) = after.split_at(index.columns.len().min(after.len()));
        let counts = !matches!(condition, Value::Null | Value::Integer(0));
        found.push(if counts { digest_of_index(index, of_index) } else { None });
        rest = after;
    }
    Ok(found)
}
