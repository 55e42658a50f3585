//! A visit: a Go node has worked on a database that already had our log. It applied events of others, and our triggers took them for
//! writes of the application. What its log entries would publish may be long overwritten elsewhere.

use crate::db::apply::applier::Applier;
use crate::db::apply::lost;
use crate::db::apply::subject::{Source, Subject};
use crate::db::capture::log_table;
use crate::db::{error::Error, ours, state};
use crate::model::event::Event;
use crate::model::positions::SeqMap;
use rusqlite::{Connection, TransactionBehavior};
use std::collections::HashMap;

/// Name of the text that a database has until the visit is over: the Go node's positions.
const VISIT: &str = "visit";

/// Whether there was a visit that is not over. The first time its positions are noted, before anything of the Go program is removed.
pub fn note(connection: &mut Connection, reached: &SeqMap) -> Result<bool, Error> {
    if state::meta(connection, VISIT)?.is_some() {
        return Ok(true);
    }
    if !log_table::exists(connection)? || !ours::any_of_go_program(connection)? {
        return Ok(false);
    }
    let text = serde_json::to_string(reached).map_err(|error| Error::Other(error.to_string()))?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    state::set_meta(&transaction, VISIT, &text)?;
    transaction.commit()?;
    Ok(true)
}

impl Applier {
    /// Up to where a Go node had read the streams, if its visit is not over.
    pub fn visit(&self) -> Result<Option<SeqMap>, Error> {
        let text = state::meta(&self.session.connection, VISIT)?;
        Ok(text.map(|text| serde_json::from_str(&text).unwrap_or_default()))
    }

    /// Ends a visit. `events` are those that the streams hold between our position and the Go node's, in order. An entry whose row is as
    /// the last of them says has nothing to publish: it is settled. Returns the number of those entries.
    pub fn end_visit(&mut self, events: &[Event]) -> Result<usize, Error> {
        let applied = self.in_transaction(|applier| {
            let session = &mut applier.session;
            let mut last = HashMap::new();
            for event in events {
                let Some(table) = session.schema.find(&event.table) else { continue };
                // Which of several rows with a NULL key it is nobody knows.
                let subject = Subject::new(table, event, Source::default());
                if let Some(subject) = subject.filter(|subject| !subject.has_null_key()) {
                    last.insert(subject.key.clone(), subject);
                }
            }
            for (key, subject) in &last {
                let Some(touched) = &session.touched else { break };
                let ids = touched.ids(&session.connection, key)?;
                if ids.is_empty() || !lost::is_here(session, subject)? {
                    continue;
                }
                if let Some(touched) = &mut session.touched {
                    touched.settle(&session.connection, key, &ids)?;
                    session.applied.settled += ids.len();
                }
            }
            state::remove_meta(&session.connection, VISIT)
        })?;
        Ok(applied.settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::capture::ChangeLog;
    use crate::db::scratch::Scratch;
    use crate::model::event::Kind;
    use crate::model::value::Value;

    fn event(kind: Kind, id: i64, v: &str) -> Event {
        let row = vec![("id".into(), Value::Integer(id)), ("v".into(), Value::text(v))];
        Event { node: 9, id: 0, kind, table: "t".into(), row, schema_hash: None }
    }

    #[test]
    fn entries_of_rows_that_are_as_the_streams_say_are_settled() {
        let scratch = Scratch::new("visit", "CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
        drop(ChangeLog::open(&scratch.path, 1).unwrap());
        let mut connection = crate::db::open::open(&scratch.path).unwrap();
        let reached = SeqMap::from([("s".to_owned(), 7)]);
        assert!(!note(&mut connection, &reached).unwrap(), "nobody was here");
        scratch
            .app
            .execute_batch(
                "CREATE TABLE __harmonylite__t_change_log(id INTEGER PRIMARY KEY, val_id, val_v, type, state); \
                 INSERT INTO t VALUES(1, 'theirs'), (2, 'mine'), (3, 'x'), (4, 'alone'), (5, 'y'); DELETE FROM t WHERE id IN (3, 5)",
            )
            .unwrap();
        assert!(note(&mut connection, &reached).unwrap());
        crate::db::capture::install::install(&mut connection).unwrap();
        assert!(note(&mut connection, &SeqMap::new()).unwrap(), "until it is over");
        let mut applier = Applier::open(&scratch.path, 1, &["s".to_owned()]).unwrap();
        assert_eq!(applier.visit().unwrap(), Some(reached));
        let events = [
            event(Kind::Insert, 1, "before"),
            event(Kind::Insert, 1, "theirs"),
            event(Kind::Insert, 2, "mine"),
            event(Kind::Insert, 2, "theirs"),
            event(Kind::Delete, 3, "x"),
            event(Kind::Insert, 5, "y"),
        ];
        applier.end_visit(&events).unwrap();
        assert_eq!(applier.visit().unwrap(), None);
        let left = "SELECT group_concat(k1) FROM (SELECT DISTINCT k1 FROM __harmonylite__log WHERE t <> 0 ORDER BY k1)";
        assert_eq!(scratch.value(left), "'2,4,5'");
    }
}
