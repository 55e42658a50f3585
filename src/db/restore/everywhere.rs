//! The state of a file, written into a live database as writes of this node: so the whole cluster comes to it.

use crate::db::apply::{Applied, Applier, own_write, remove_row};
use crate::db::error::Error;
use crate::db::restore::reconcile::Comparison;
use crate::db::table::Table;
use crate::model::event::{Event, Kind};
use crate::model::value::Value;
use std::sync::Arc;

impl Applier {
    /// Writes what differs, in one transaction. Rows that have changed since the comparison are overwritten, too.
    pub fn write_everywhere(&mut self, with: &Comparison) -> Result<Applied, Error> {
        self.in_transaction(|applier| {
            let session = &mut applier.session;
            if session.touched.is_none() {
                return Err(Error::Mismatch(
                    "publish = false: this node writes nothing for others".to_owned(),
                ));
            }
            let tables: Vec<Arc<Table>> = session.schema.tables.values().cloned().collect();
            for table in &tables {
                with.each_key(table, "0", |key| own_write(session, table, &deleted(table, key)))?;
                // Before any is written: two rows may have exchanged a UNIQUE value.
                with.each_key(table, "2", |key| remove_row(session, table, &key))?;
            }
            for table in &tables {
                with.each_image(table, |row| own_write(session, table, &event(table, Kind::Insert, row)))?;
            }
            Ok(())
        })
    }
}

fn event(table: &Table, kind: Kind, row: Vec<(Arc<str>, Value)>) -> Event {
    Event { node: 0, id: 0, kind, table: table.name.clone(), row, schema_hash: None }
}

fn deleted(table: &Table, key: Vec<Value>) -> Event {
    event(table, Kind::Delete, table.key.iter().map(|column| column.name.clone()).zip(key).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::ChangeLog;
    use crate::db::restore::reconcile::compare;
    use crate::db::restore::snapshot::{Stamp, make_ready, make_snapshot};
    use crate::db::scratch::Scratch;

    #[test]
    fn rows_of_every_kind_become_those_of_the_file_and_are_logged() {
        let sql = "CREATE TABLE p(id INTEGER PRIMARY KEY, u UNIQUE); CREATE TABLE c(k TEXT PRIMARY KEY, p REFERENCES p(id));
             CREATE TABLE log(v); CREATE TRIGGER a AFTER INSERT ON p BEGIN INSERT INTO log VALUES(NEW.id); END;
             INSERT INTO p VALUES(1, 'a'), (2, 'b'), (3, 'c'); INSERT INTO c VALUES('x', 1)";
        let scratch = Scratch::new("everywhere", sql);
        let dir = crate::base::files::parent(&scratch.path);
        let made = make_snapshot(&scratch.path, &dir, &Stamp::default()).unwrap();
        make_ready(made.file.path(), &Default::default()).unwrap();
        let log = ChangeLog::open(&scratch.path, 1).unwrap().0;
        let changes = "UPDATE p SET u = NULL; UPDATE p SET u = 'b' WHERE id = 1; UPDATE p SET u = 'a' WHERE id = 2;
             DELETE FROM p WHERE id = 3; INSERT INTO p VALUES(9, 'c'); DELETE FROM c; DELETE FROM log WHERE v = 1";
        scratch.app.execute_batch(changes).unwrap();
        log.settle_up_to(i64::MAX).unwrap();
        let mut applier = Applier::open(&scratch.path, 1, &["s".to_owned()]).unwrap();
        let comparison = compare(&scratch.path, made.file.path()).unwrap();
        applier.write_everywhere(&comparison).unwrap();
        let after = compare(&scratch.path, made.file.path()).unwrap();
        assert_eq!((after.extra, after.missing, after.changed), (0, 0, 0));
        let keys = "SELECT group_concat(DISTINCT k1) FROM (SELECT k1 FROM __harmonylite__log WHERE t <> 0 ORDER BY k1)";
        let keys: String = scratch.app.query_row(keys, [], |row| row.get(0)).unwrap();
        assert!(["1", "2", "3", "9", "x"].iter().all(|key| keys.contains(key)), "{keys}");
    }
}
