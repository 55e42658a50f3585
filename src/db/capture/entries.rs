//! Entries of the change log as they are published: each key once, with its highest id.

use crate::db::capture::log_table::Touch;
use crate::db::{error::Error, schema::Schema, table::Table};
use crate::model::value::Value;
use rusqlite::Connection;
use std::collections::HashMap;
use std::sync::Arc;

/// So many times as many entries are read as keys are wanted: a backlog of writes to few rows is sent as these few rows.
const FOLD: u64 = 64;
/// Entries of keys that came again, of which the places are given back.
const COMPACT: usize = 16_384;
/// No entry has this id.
const OVERTAKEN: i64 = 0;

/// A key that the log holds.
pub struct Logged {
    /// Its highest id.
    pub id: i64,
    pub table: Arc<Table>,
    pub key: Vec<Value>,
    /// All its entries say [`Touch::InTheWay`].
    pub in_the_way: bool,
}

/// Entries after the cursor.
#[derive(Default)]
pub struct Entries {
    /// Each key once, in the order of the ids.
    pub keys: Vec<Logged>,
    /// The last id read.
    pub last: i64,
    /// As many were read as were asked for, so there may be more.
    pub full: bool,
}

/// Reads entries after an id until they have so many keys. `sql`: the query for them.
pub fn read(
    connection: &Connection,
    sql: &str,
    (after, limit): (i64, u64),
    schema: &Schema,
) -> Result<Entries, Error> {
    let most = limit.saturating_mul(FOLD);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([after, i64::try_from(most).unwrap_or(i64::MAX)])?;
    let mut found = Entries { last: after, ..Entries::default() };
    // Where each key stands in `found`.
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    let (mut overtaken, mut count) = (0, 0);
    while let Some(row) = rows.next()? {
        if places.len() >= limit {
            found.full = true;
            break;
        }
        let (id, number): (i64, i64) = (row.get(0)?, row.get(1)?);
        found.last = id;
        count += 1;
        let (number, touch) = Touch::of(number);
        let Some(table) = schema.by_number.get(&number) else { continue };
        let key: Vec<Value> = (0..table.key.len()).map(|at| row.get(at + 2)).collect::<Result<_, _>>()?;
        let mut in_the_way = touch.is_unsure(&key);
        if let Some(earlier) = places.insert(table.row_key(&key), found.keys.len()) {
            found.keys[earlier].id = OVERTAKEN;
            in_the_way &= found.keys[earlier].in_the_way;
            overtaken += 1;
        }
        found.keys.push(Logged { id, table: table.clone(), key, in_the_way });
        if overtaken >= COMPACT {
            overtaken = 0;
            found.keys.retain(|logged| logged.id != OVERTAKEN);
            let place = |(at, logged): (usize, &Logged)| (logged.table.row_key(&logged.key), at);
            places = found.keys.iter().enumerate().map(place).collect();
        }
    }
    if overtaken > 0 {
        found.keys.retain(|logged| logged.id != OVERTAKEN);
    }
    found.full |= count == most;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use crate::db::capture::ChangeLog;
    use crate::db::scratch::Scratch;

    /// A backlog of many writes to few rows is sent as these rows, however small a batch is.
    #[test]
    fn a_backlog_of_writes_to_few_rows_is_read_at_once() {
        let scratch = Scratch::new("entries", "CREATE TABLE t(k INTEGER PRIMARY KEY, v)");
        let (mut log, _) = ChangeLog::open(&scratch.path, 1).unwrap();
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)";
        let sql = format!(
            "{rows} INSERT INTO t SELECT i % ?2, i FROM n WHERE true ON CONFLICT DO UPDATE SET v = excluded.v"
        );
        scratch.app.execute(&sql, [20_000, 7]).unwrap();
        let batch = log.read(1_000).unwrap();
        let values: Vec<String> =
            batch.changes.iter().map(|change| format!("{:?}", change.event.row[1].1)).collect();
        assert_eq!(values, (19_994..=20_000).map(|n| format!("Integer({n})")).collect::<Vec<_>>());
        assert!(!batch.more);
        // More keys than a batch takes: each comes once, with its last value.
        scratch.app.execute(&sql, [20_000, 700]).unwrap();
        let mut found = vec![];
        loop {
            let batch = log.read(300).unwrap();
            found.extend(batch.changes.iter().map(|change| (change.event.id, change.event.row.clone())));
            if !batch.more {
                break;
            }
        }
        assert!(found.is_sorted_by_key(|(id, _)| *id));
        let last: std::collections::BTreeMap<String, String> =
            found.iter().map(|(_, row)| (format!("{:?}", row[0].1), format!("{:?}", row[1].1))).collect();
        assert_eq!(last.len(), 700);
        for (key, value) in last {
            let [key, value] =
                [key, value].map(|text| text["Integer(".len()..text.len() - 1].parse::<i64>().unwrap());
            assert!(value > 20_000 - 700 && value % 700 == key, "{key}: {value}");
        }
    }
}
