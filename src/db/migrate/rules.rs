//! The UNIQUE rules that a change of the schema brings, in terms of the tables as they are before it, and the rows that break them: a
//! node whose rows kept the rule has made it while others wrote.

use crate::db::error::Error;
use crate::db::indexes::{self, UniqueIndex, has_word, tokens};
use crate::db::migrate::definitions::sql_of;
use crate::db::migrate::statement::bare;
use crate::db::{sql::quote, table::Table};
use crate::model::change::{Change, Column, Step, Thing};
use crate::model::value::Value;
use rusqlite::Connection;

/// A rule that a table is to have.
pub struct Rule {
    /// What the table is called now.
    pub table: String,
    index: UniqueIndex,
}

/// The key of a row, and that of the row with the same values that comes after it by their keys.
type Double = (Vec<Value>, Vec<Value>);

/// The rules of a change that only name columns which are there.
pub fn brought(connection: &Connection, change: &Change) -> Result<Vec<Rule>, Error> {
    let mut found = vec![];
    for step in &change.steps {
        match step {
            Step::AlterTable { table, sql, columns, .. } => {
                let name = name_before(change, table);
                found.extend(rules(&name, &[sql], (table, None), columns)?);
            }
            Step::Create { kind: Thing::Index, name, sql } => {
                let Some(table) = table_of(sql) else { continue };
                let before = name_before(change, &table);
                let altered = change.steps.iter().find_map(|step| match step {
                    Step::AlterTable { table: altered, sql, columns, .. }
                        if altered.eq_ignore_ascii_case(&table) =>
                    {
                        Some((sql.clone(), columns.as_slice()))
                    }
                    _ => None,
                });
                let present = || sql_of(connection, Thing::Table, &before);
                let (made, columns) = match altered {
                    Some(found) => found,
                    None => (present()?.unwrap_or_default(), [].as_slice()),
                };
                found.extend(rules(&before, &[&made, sql], (&table, Some((name, sql))), columns)?);
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Whether a change may bring a rule for the table of this name.
pub fn may_bring(change: &Change, name: &str) -> bool {
    change.steps.iter().any(|step| match step {
        Step::AlterTable { table, .. } => table.eq_ignore_ascii_case(name),
        Step::Create { kind: Thing::Index, sql, .. } => {
            has_word(sql, "unique") && table_of(sql).is_some_and(|table| table.eq_ignore_ascii_case(name))
        }
        _ => false,
    })
}

/// What a table is called before the change.
fn name_before(change: &Change, table: &str) -> String {
    let before = change.steps.iter().find_map(|step| match step {
        Step::RenameTable { from, to } if to.eq_ignore_ascii_case(table) => Some(from.clone()),
        _ => None,
    });
    before.unwrap_or_else(|| table.to_owned())
}

/// The table in the statement of an index.
fn table_of(sql: &str) -> Option<String> {
    let tokens = tokens(sql);
    let word = |at: usize| tokens.get(at).map_or("", |token| &sql[token.0..token.1]);
    let on = (2..tokens.len()).find(|at| word(*at).eq_ignore_ascii_case("on"))?;
    Some(bare(word(on + 1)))
}

/// The rules of a table that is made by these statements; with an index given, those of this index alone. None if they need what
/// only the application has.
fn rules(
    before: &str,
    statements: &[&str],
    (table, index): (&str, Option<(&String, &String)>),
    columns: &[Column],
) -> Result<Vec<Rule>, Error> {
    let scratch = Connection::open_in_memory()?;
    if statements.iter().any(|sql| scratch.execute_batch(sql).is_err()) {
        return Ok(vec![]);
    }
    let made: Vec<(String, Option<String>)> =
        index.iter().map(|(name, sql)| ((*name).clone(), Some((*sql).clone()))).collect();
    let all = indexes::list(&scratch, table, &made)?.into_iter();
    let rules = all.filter(|index| !index.of_primary_key).filter_map(|index| named_before(index, columns));
    Ok(rules.map(|index| Rule { table: before.to_owned(), index }).collect())
}

/// The same index over the columns by their names before the change. `None`: one of them is new, and nobody knows its values; or
/// an expression may name one that had another name.
fn named_before(mut index: UniqueIndex, columns: &[Column]) -> Option<UniqueIndex> {
    let is_plain = index.condition.is_none() && index.columns.iter().all(|column| column.name.is_some());
    if !is_plain && columns.iter().any(|column| column.from.as_ref() != Some(&column.name)) {
        return None;
    }
    for column in &mut index.columns {
        let name = column.name.as_deref();
        if let Some(known) = columns.iter().find(|known| Some(known.name.as_str()) == name) {
            column.name = Some(known.from.clone()?);
        }
    }
    Some(index)
}

impl Rule {
    /// The rows that would break it: of those with the same values all but the last one by their keys. The choice is the same on every
    /// node that has the same rows.
    pub fn doubles(
        &self,
        connection: &Connection,
        table: &Table,
        limit: usize,
    ) -> Result<Vec<Double>, Error> {
        let terms: Vec<String> = self
            .index
            .columns
            .iter()
            .map(|column| {
                let term = column.name.as_deref().map_or_else(|| format!("({})", column.expression), quote);
                format!("{term} COLLATE {}", quote(&column.collation))
            })
            .collect();
        let keys: Vec<String> = table.key.iter().map(|column| quote(&column.name)).collect();
        let counted = terms.iter().chain(&keys).map(|term| format!("{term} IS NOT NULL"));
        let condition = self.index.condition.iter().map(|condition| format!("({condition})"));
        let values = keys.iter().chain(&keys).enumerate().map(|(at, key)| match at < keys.len() {
            true => format!("{key} AS v{at}"),
            false => format!("first_value({key}) OVER w AS v{at}"),
        });
        let list = |count: usize| (0..count).map(|at| format!("v{at}")).collect::<Vec<_>>().join(", ");
        let order = keys.iter().map(|key| format!("{key} DESC")).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT {} FROM (SELECT {}, row_number() OVER w AS n FROM main.{} WHERE {} \
             WINDOW w AS (PARTITION BY {} ORDER BY {order})) WHERE n > 1 LIMIT {limit}",
            list(2 * keys.len()),
            values.collect::<Vec<_>>().join(", "),
            quote(&table.name),
            condition.chain(counted).collect::<Vec<_>>().join(" AND "),
            terms.join(", "),
        );
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map([], |row| {
            let values = |from: usize| -> rusqlite::Result<Vec<Value>> {
                (from..from + keys.len()).map(|at| row.get(at)).collect()
            };
            Ok((values(0)?, values(keys.len())?))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::schema::Schema;

    fn change(steps: Vec<Step>) -> Change {
        let text = String::new;
        Change {
            version: 1,
            id: text(),
            node: 1,
            time_ms: 0,
            before: text(),
            after: text(),
            seen: None,
            steps,
            comes_to: None,
            script: None,
        }
    }

    fn index(sql: &str) -> Step {
        Step::Create { kind: Thing::Index, name: "i".to_owned(), sql: sql.to_owned() }
    }

    fn altered(sql: &str, columns: &[(&str, Option<&str>)]) -> Step {
        let column = |(name, from): &(&str, Option<&str>)| Column {
            name: (*name).to_owned(),
            from: from.map(str::to_owned),
            fill: None,
        };
        let columns = columns.iter().map(column).collect();
        Step::AlterTable {
            table: "t".to_owned(),
            was: String::new(),
            sql: sql.to_owned(),
            columns,
            dropped: vec![],
        }
    }

    /// The keys that break the rules of a change, and those that stay.
    fn doubles(sql: &str, steps: Vec<Step>) -> Vec<(String, String)> {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        let schema = Schema::read(&connection).unwrap();
        let text = |key: &Vec<Value>| format!("{key:?}");
        let mut found = vec![];
        for rule in brought(&connection, &change(steps)).unwrap() {
            let table = schema.find(&rule.table).unwrap();
            found.extend(rule.doubles(&connection, table, 10).unwrap());
        }
        found.iter().map(|(lost, stays)| (text(lost), text(stays))).collect()
    }

    fn integers(pairs: &[(i64, i64)]) -> Vec<(String, String)> {
        let text = |key: i64| format!("{:?}", vec![Value::Integer(key)]);
        pairs.iter().map(|(lost, stays)| (text(*lost), text(*stays))).collect()
    }

    const ROWS: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b); \
        INSERT INTO t VALUES(1, 'x', 1), (2, 'X', 2), (3, 'x', NULL), (4, NULL, 1), (5, NULL, 1), (6, 'x', 1)";

    #[test]
    fn the_last_of_the_rows_with_one_value_stays() {
        assert_eq!(doubles(ROWS, vec![index("CREATE UNIQUE INDEX i ON t(a)")]), integers(&[(3, 6), (1, 6)]));
        assert_eq!(doubles(ROWS, vec![index("CREATE INDEX i ON t(a)")]), []);
        assert_eq!(doubles(ROWS, vec![index("CREATE UNIQUE INDEX i ON t(a, b)")]), integers(&[(1, 6)]));
        assert_eq!(
            doubles(ROWS, vec![index("CREATE UNIQUE INDEX i ON t(a COLLATE NOCASE) WHERE b > 0")]),
            integers(&[(2, 6), (1, 6)])
        );
        assert_eq!(
            doubles(ROWS, vec![index("CREATE UNIQUE INDEX i ON \"t\"(lower(a), b IS NULL)")]),
            integers(&[(2, 6), (1, 6)])
        );
    }

    #[test]
    fn only_what_may_bring_a_rule_counts() {
        let brings = |steps, name| may_bring(&change(steps), name);
        assert!(brings(vec![index("CREATE UNIQUE INDEX i ON \"t\"(a)")], "T"));
        assert!(!brings(vec![index("CREATE UNIQUE INDEX i ON t(a)")], "u"));
        assert!(!brings(vec![index("CREATE INDEX i ON t(a)")], "t"));
        assert!(brings(vec![altered("CREATE TABLE t(a UNIQUE)", &[])], "t"));
    }

    #[test]
    fn columns_are_found_by_what_they_were_called() {
        let same = [("id", Some("id")), ("c", Some("a")), ("b", Some("b"))];
        let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, c TEXT UNIQUE, b)";
        assert_eq!(doubles(ROWS, vec![altered(sql, &same)]), integers(&[(3, 6), (1, 6)]));
        let plain = "CREATE TABLE t(id INTEGER PRIMARY KEY, c TEXT, b)";
        let both = vec![altered(plain, &same), index("CREATE UNIQUE INDEX i ON t(c, b)")];
        assert_eq!(doubles(ROWS, both), integers(&[(1, 6)]));
        // Nobody knows what a new column holds.
        let new = [("id", Some("id")), ("a", Some("a")), ("c", None)];
        let sql = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, c UNIQUE)";
        assert_eq!(doubles(ROWS, vec![altered(sql, &new)]), []);
        let renamed = Step::RenameTable { from: "t".to_owned(), to: "u".to_owned() };
        let sql = "CREATE TABLE u(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b)";
        let columns = [("id", Some("id")), ("a", Some("a")), ("b", Some("b"))];
        let Step::AlterTable { columns, .. } = altered(sql, &columns) else { unreachable!() };
        let table = Step::AlterTable {
            table: "u".to_owned(),
            was: String::new(),
            sql: sql.to_owned(),
            columns,
            dropped: vec![],
        };
        assert_eq!(doubles(ROWS, vec![renamed, table]), integers(&[(3, 6), (1, 6)]));
    }

    #[test]
    fn keys_of_several_columns() {
        let sql = "CREATE TABLE t(k, l, a, PRIMARY KEY(k, l)) WITHOUT ROWID; \
                   INSERT INTO t VALUES(1, 'a', 'x'), (1, 'b', 'x'), (2, 'a', 'y')";
        let found = doubles(sql, vec![index("CREATE UNIQUE INDEX i ON t(a)")]);
        let key =
            |text: &str| format!("{:?}", vec![Value::Integer(1), Value::Text(text.as_bytes().to_vec())]);
        assert_eq!(found, [(key("a"), key("b"))]);
    }
}
