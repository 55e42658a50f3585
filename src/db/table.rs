//! One replicated table: its columns, its key, its UNIQUE indexes, and the SQL texts that reading and writing its rows takes.
//! The texts are built once for each table, so that a row costs none.

use crate::base::limits;
use crate::db::{capture::log_table, indexes::UniqueIndex, sql::quote};
use crate::model::shard;
use crate::model::value::{Collation, Value, row_key, whole_number};
use std::sync::{Arc, OnceLock};

/// The pseudo column under which the key of a table without a primary key travels.
pub const ROWID: &str = "rowid";

#[derive(Clone, Debug)]
pub struct Column {
    pub name: Arc<str>,
    /// Verbatim from the table's definition; empty when there is none.
    pub declared_type: Arc<str>,
    /// Computed by SQLite, so it is never written and never published.
    pub generated: bool,
    /// Part of the schema hash.
    pub not_null: bool,
    /// What REPLACE writes for NULL in a column that must not be NULL: its default, if that calls no function.
    pub default_if_null: Option<Box<str>>,
    /// Position in the primary key, counted from 1; 0 for a column that is not in it.
    pub key_position: usize,
}

#[derive(Clone, Debug)]
pub struct KeyColumn {
    pub name: Arc<str>,
    pub declared_type: Arc<str>,
    /// That of the index that makes the key unique. The column's own can be another one.
    pub collation: Collation,
}

impl KeyColumn {
    /// Whether two values that are one key are also the same, byte for byte.
    fn equal_is_same(&self) -> bool {
        self.collation == Collation::Binary && !keeps_any_class(&self.declared_type)
    }
}

/// What tells the rows of a table apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keyed {
    /// The rowid, because the table has no primary key. It travels as the pseudo column [`ROWID`].
    Rowid,
    /// `INTEGER PRIMARY KEY`, which is another name of the rowid.
    RowidAlias,
    /// A primary key with an index of its own beside the rowid. Only here several rows can have the same NULL key.
    Index,
    /// The primary key of a table WITHOUT ROWID.
    WithoutRowid,
}

#[derive(Clone, Debug)]
pub struct Table {
    /// The table's number in the change log; 0 until capture has given it one.
    pub id: i64,
    /// Hash of the statements that made it.
    pub print: u64,
    pub name: Arc<str>,
    /// All columns, generated ones too.
    pub columns: Vec<Column>,
    /// The columns of the key in their order.
    pub key: Vec<KeyColumn>,
    pub keyed: Keyed,
    /// SQLite never gives a key again, and keeps the highest one in `sqlite_sequence`.
    pub autoincrement: bool,
    /// UNIQUE indexes besides that of the primary key.
    pub unique: Vec<UniqueIndex>,
    /// Names of the columns that an image has, in their order: the pseudo column [`ROWID`] first if it is the key, then all
    /// columns that are not generated.
    pub image: Vec<Arc<str>>,
    /// Constraints have an ON CONFLICT of their own. What we write must say OR ABORT then: a row that they make SQLite leave out
    /// would count as written. Elsewhere it must not, for it holds for all that triggers do, too.
    has_conflict_clauses: bool,
    sql: OnceLock<Box<Statements>>,
}

/// SQL texts of one table. "Image" as parameters means the values of [`Table::image`], "key" those of [`Table::key`].
#[derive(Clone, Debug, Default)]
pub struct Statements {
    /// Writes a row. Parameters: image.
    pub upsert: String,
    /// Writes a row whose key has a NULL, which conflicts with nothing. Parameters: image.
    pub insert: String,
    /// Overwrites a row, the newest one with a key that has a NULL. Parameters: image, key.
    pub update: String,
    /// Writes a row and deletes those that it collides with. Parameters: image.
    pub replace: String,
    /// Parameters: key.
    pub delete: String,
    /// Yields a row if there is one with the key. Parameters: key.
    pub exists: String,
    /// Yields the image of the row with the key. Parameters: key.
    pub image: String,
    /// Appends a key to the change log. Parameters: the table's number, key.
    pub touch: String,
    pub collisions: Collisions,
}

/// How to find the rows that an image collides with in UNIQUE indexes.
#[derive(Clone, Debug)]
pub enum Collisions {
    /// By one query for each index: all are made of plain columns.
    Select(Vec<Lookup>),
    /// Only by an attempt to write the image: there is an expression, a condition, or a column that a query would compare
    /// otherwise than the index.
    Probe,
}

impl Default for Collisions {
    fn default() -> Collisions {
        Collisions::Select(vec![])
    }
}

/// A query that yields the keys of the rows with given values in one UNIQUE index.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Where in [`Table::image`] the query's parameters are.
    pub places: Vec<usize>,
    pub sql: String,
}

impl Table {
    /// `key` is empty for a table without a primary key.
    pub fn new(
        name: &str,
        mut columns: Vec<Column>,
        mut key: Vec<KeyColumn>,
        keyed: Keyed,
        mut unique: Vec<UniqueIndex>,
    ) -> Table {
        let stored = columns.iter().filter(|column| !column.generated).map(|column| column.name.clone());
        let mut image: Vec<Arc<str>> = stored.collect();
        if keyed == Keyed::Rowid {
            key.push(KeyColumn {
                name: ROWID.into(),
                declared_type: "".into(),
                collation: Collation::Binary,
            });
            image.insert(0, ROWID.into());
        }
        // Room for more is a megabyte and a half with thousands of tables.
        columns.shrink_to_fit();
        key.shrink_to_fit();
        image.shrink_to_fit();
        unique.iter_mut().for_each(|index| index.columns.shrink_to_fit());
        unique.shrink_to_fit();
        Table {
            id: 0,
            print: 0,
            name: name.into(),
            columns,
            key,
            keyed,
            autoincrement: false,
            unique,
            image,
            has_conflict_clauses: false,
            sql: OnceLock::new(),
        }
    }

    /// The SQL texts, made when they are needed first: most of thousands of tables are not written for days.
    pub fn sql(&self) -> &Statements {
        self.sql.get_or_init(|| Box::new(Statements::of(self)))
    }

    /// The same table if its statement has constraints with an ON CONFLICT of their own.
    pub fn with_conflict_clauses(mut self) -> Table {
        self.has_conflict_clauses = true;
        self.sql = OnceLock::new();
        self
    }

    /// An INSERT, an UPDATE and a DELETE of all columns. They are never run: SQLite compiles them and says what it makes of indexes
    /// and triggers. (DEFAULT VALUES would need functions that only the application has, and that we never call.)
    pub fn samples(&self) -> [String; 3] {
        let set: Vec<String> =
            self.stored().map(|column| format!("{0} = {0}", quote(&column.name))).collect();
        let place = self.place();
        [
            self.insert(&self.image.iter().map(AsRef::as_ref).collect::<Vec<_>>()),
            format!("UPDATE {place} SET {}", set.join(", ")),
            format!("DELETE FROM {place}"),
        ]
    }

    /// Columns that are written and published.
    pub fn stored(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !column.generated)
    }

    /// The bytes by which this node knows the row with the given key.
    pub fn row_key<'a>(&self, values: impl IntoIterator<Item = &'a Value>) -> Vec<u8> {
        row_key(self.id, values.into_iter().zip(self.key.iter().map(|column| column.collation)))
    }

    /// All rows share one shard, because two of them can collide, or be the same row under keys with different bytes.
    fn one_shard(&self) -> bool {
        !self.unique.is_empty() || self.key.iter().any(|column| column.collation != Collation::Binary)
    }

    /// The hash that picks a row's shard.
    pub fn shard_hash(&self, key: &[Value]) -> u64 {
        if self.one_shard() {
            return shard::hash(&self.name, &[]);
        }
        let one_class: Vec<Option<Value>> =
            self.key.iter().zip(key).map(|(column, value)| as_integer(column, value)).collect();
        let columns: Vec<shard::KeyColumn> = self
            .key
            .iter()
            .zip(key.iter().zip(&one_class))
            .map(|(column, (value, integer))| {
                (&*column.name, &*column.declared_type, integer.as_ref().unwrap_or(value))
            })
            .collect();
        shard::hash(&self.name, &columns)
    }

    /// The table's name in the main database, as SQL.
    /// Yields terms of the row with a key; parameters: key.
    pub fn select(&self, terms: &str) -> String {
        format!("SELECT {terms} FROM {} WHERE {}", self.place(), self.key_filter(0))
    }

    fn place(&self) -> String {
        format!("main.{}", quote(&self.name))
    }

    fn key_list(&self) -> String {
        self.key.iter().map(|column| quote(&column.name)).collect::<Vec<_>>().join(", ")
    }

    /// A key column of a row of this table as the left side of a comparison, which compares as the key's index does.
    /// `row` is what stands before the column: empty, or a row's name with its dot.
    pub fn key_operand(&self, row: &str, column: &KeyColumn) -> String {
        let name = quote(&column.name);
        match self.keyed {
            Keyed::Rowid | Keyed::RowidAlias => format!("{row}{name}"),
            Keyed::Index | Keyed::WithoutRowid => format!("{row}{name} COLLATE {}", column.collation.name()),
        }
    }

    /// A condition that is true when the rows named `one` and `other` have the same key.
    pub fn same_key(&self, one: &str, other: &str) -> String {
        let one = format!("{one}.");
        let terms = self
            .key
            .iter()
            .map(|column| format!("{} IS {other}.{}", self.key_operand(&one, column), quote(&column.name)));
        terms.collect::<Vec<_>>().join(" AND ")
    }

    /// A condition that finds a row by its key, whose values are the parameters after the first `others`.
    fn key_filter(&self, others: usize) -> String {
        let terms = self
            .key
            .iter()
            .enumerate()
            .map(|(at, column)| format!("{} IS ?{}", self.key_operand("", column), others + at + 1));
        terms.collect::<Vec<_>>().join(" AND ")
    }

    /// Inserts a row; parameters: the values of `columns`.
    pub fn insert(&self, columns: &[&str]) -> String {
        self.insert_or(self.or_abort(), columns)
    }

    /// Inserts a row and deletes those that it collides with; parameters: the values of `columns`.
    pub fn replace(&self, columns: &[&str]) -> String {
        self.insert_or(" OR REPLACE", columns)
    }

    fn or_abort(&self) -> &'static str {
        if self.has_conflict_clauses { " OR ABORT" } else { "" }
    }

    fn insert_or(&self, action: &str, columns: &[&str]) -> String {
        let quoted: Vec<String> = columns.iter().map(|column| quote(column)).collect();
        let places: Vec<String> = (1..=columns.len()).map(|n| format!("?{n}")).collect();
        let (place, columns) = (self.place(), quoted.join(", "));
        format!("INSERT{action} INTO {place}({columns}) VALUES({})", places.join(", "))
    }

    /// Inserts a row or overwrites `columns` of the one with the same key; parameters: the values of `columns`.
    pub fn upsert(&self, columns: &[&str]) -> String {
        let target: Vec<String> = self.key.iter().map(|column| self.key_operand("", column)).collect();
        let differs = columns.iter().filter(|column| !self.is_same(column));
        let set: Vec<String> = differs.map(|column| format!("{0} = excluded.{0}", quote(column))).collect();
        let action =
            if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
        format!("{} ON CONFLICT({}) DO {action}", self.insert(columns), target.join(", "))
    }

    /// Overwrites `columns` of the row with a key, of the newest one if the key has a NULL; parameters: the values of `columns`,
    /// key.
    pub fn update(&self, columns: &[&str]) -> String {
        let mut set: Vec<(usize, &&str)> =
            columns.iter().enumerate().filter(|(_, column)| !self.is_same(column)).collect();
        if set.is_empty() {
            set = columns.iter().enumerate().collect();
        }
        let set: Vec<String> =
            set.into_iter().map(|(at, column)| format!("{} = ?{}", quote(column), at + 1)).collect();
        let (place, filter) = (self.place(), self.key_filter(columns.len()));
        let filter = match self.newest() {
            Some(rowid) => format!("{rowid} = (SELECT max({rowid}) FROM {place} WHERE {filter})"),
            None => filter,
        };
        format!("UPDATE{} {place} SET {} WHERE {filter}", self.or_abort(), set.join(", "))
    }

    /// Whether a column belongs to the key and is the same, byte for byte, where the key is: it needs no writing.
    fn is_same(&self, column: &str) -> bool {
        let is_alias = matches!(self.keyed, Keyed::Rowid | Keyed::RowidAlias);
        let mut key = self.key.iter();
        key.any(|known| known.name.eq_ignore_ascii_case(column) && (is_alias || known.equal_is_same()))
    }

    /// By what the newest of several rows with the same NULL key is found. `None` where no two rows have the same key.
    fn newest(&self) -> Option<&'static str> {
        self.rowid_names().next().filter(|_| self.keyed == Keyed::Index)
    }

    /// The names of the rowid that no column has; none without a rowid.
    pub fn rowid_names(&self) -> impl Iterator<Item = &'static str> {
        let is_free = |name: &&str| !self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        let names = [ROWID, "_rowid_", "oid"];
        names.into_iter().filter(is_free).filter(|_| self.keyed != Keyed::WithoutRowid)
    }

    /// The query for an index of plain columns; `None` for any other index.
    fn lookup(&self, index: &UniqueIndex) -> Option<Lookup> {
        if index.condition.is_some() || index.columns.len() > limits::KEY_COLUMNS {
            return None;
        }
        let mut places = vec![];
        let mut terms = vec![];
        for column in &index.columns {
            let name = column.name.as_deref()?;
            let place = self.image.iter().position(|known| **known == *name)?;
            if self.columns.iter().any(|c| *c.name == *name && is_real(&c.declared_type)) {
                return None;
            }
            places.push(place);
            let collation = quote(&column.collation);
            terms.push(format!("{} COLLATE {collation} = ?{}", quote(name), places.len()));
        }
        let (key, place) = (self.key_list(), self.place());
        Some(Lookup { places, sql: format!("SELECT {key} FROM {place} WHERE {}", terms.join(" AND ")) })
    }
}

/// Whether a column of this type stores integers as REAL (<https://www.sqlite.org/datatype3.html#determination_of_column_affinity>).
/// A large integer is rounded then when it is stored, but not when it is compared, so a query would miss what the index finds.
fn is_real(declared_type: &str) -> bool {
    let upper = declared_type.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| upper.contains(word));
    has(&["REAL", "FLOA", "DOUB"]) && !has(&["INT", "CHAR", "CLOB", "TEXT", "BLOB"])
}

/// Whether a column of this type stores every value in the storage class that it came in: one without a type, and one of BLOB.
/// ANY does so in a STRICT table.
fn keeps_any_class(declared_type: &str) -> bool {
    let upper = declared_type.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| upper.contains(word));
    upper.is_empty() || upper == "ANY" || has(&["BLOB"]) && !has(&["INT", "CHAR", "CLOB", "TEXT"])
}

/// A real number as the integer that is the same key: both must go to one shard. A column of REAL holds no integer.
fn as_integer(column: &KeyColumn, value: &Value) -> Option<Value> {
    match value {
        Value::Real(real) if !is_real(&column.declared_type) => whole_number(*real).map(Value::Integer),
        _ => None,
    }
}

impl Statements {
    fn of(table: &Table) -> Statements {
        let image: Vec<&str> = table.image.iter().map(AsRef::as_ref).collect();
        let list: Vec<String> = image.iter().map(|name| quote(name)).collect();
        let (place, filter) = (table.place(), table.key_filter(0));
        // Of several rows with the same NULL key the newest stands for all.
        let newest = table.newest().map_or(String::new(), |rowid| format!(" ORDER BY {rowid} DESC LIMIT 1"));
        let places: String = (1..=table.key.len()).map(|n| format!(", ?{}", n + 1)).collect();
        let lookups: Option<Vec<Lookup>> = table.unique.iter().map(|index| table.lookup(index)).collect();
        Statements {
            upsert: table.upsert(&image),
            insert: table.insert(&image),
            update: table.update(&image),
            replace: table.replace(&image),
            delete: format!("DELETE FROM {place} WHERE {filter}"),
            exists: format!("SELECT 1 FROM {place} WHERE {filter}"),
            image: format!("SELECT {} FROM {place} WHERE {filter}{newest}", list.join(", ")),
            touch: format!("{} VALUES(?1{places})", log_table::insert(table.key.len())),
            collisions: lookups.map_or(Collisions::Probe, Collisions::Select),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::schema::Schema;
    use rusqlite::{Connection, params_from_iter};

    fn table(sql: &str) -> (Connection, Arc<Table>) {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        let schema = Schema::read(&connection).unwrap();
        let name: String = connection
            .query_row("SELECT name FROM sqlite_schema WHERE type = 'table'", [], |r| r.get(0))
            .unwrap();
        (connection, schema.tables[name.as_str()].clone())
    }

    fn count(connection: &Connection, condition: &str) -> i64 {
        connection
            .query_row(&format!("SELECT count(*) FROM t WHERE {condition}"), [], |row| row.get(0))
            .unwrap()
    }

    fn execute(connection: &Connection, sql: &str, values: &[Value]) -> usize {
        connection.execute(sql, params_from_iter(values)).unwrap()
    }

    #[test]
    fn an_upsert_writes_and_overwrites_everything_but_the_key() {
        let (connection, t) = table("CREATE TABLE t(k INTEGER PRIMARY KEY, a, b)");
        let row = |a: &str| [Value::Integer(1), Value::text(a), Value::Null];
        assert_eq!(execute(&connection, &t.sql().upsert, &row("x")), 1);
        assert_eq!(execute(&connection, &t.sql().upsert, &row("y")), 1);
        assert_eq!(count(&connection, "k = 1 AND a = 'y' AND b IS NULL"), 1);
        assert!(!t.sql().upsert.contains("\"k\" = excluded"), "{}", t.sql().upsert);
    }

    #[test]
    fn a_key_that_compares_without_case_is_written_too() {
        let (connection, t) = table("CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY, a)");
        execute(&connection, &t.sql().upsert, &[Value::text("x"), Value::Integer(1)]);
        execute(&connection, &t.sql().upsert, &[Value::text("X"), Value::Integer(2)]);
        assert_eq!(count(&connection, "k = 'X' COLLATE BINARY AND a = 2"), 1);
        assert_eq!(count(&connection, "true"), 1);
    }

    #[test]
    fn a_key_without_a_type_is_written_in_the_storage_class_of_the_event() {
        let (connection, t) = table("CREATE TABLE t(k PRIMARY KEY, a)");
        execute(&connection, &t.sql().upsert, &[Value::Integer(1), Value::Integer(1)]);
        execute(&connection, &t.sql().upsert, &[Value::Real(1.0), Value::Integer(2)]);
        assert_eq!(count(&connection, "typeof(k) = 'real' AND a = 2"), 1);
        // Both are events of one row, so they need one order.
        assert_eq!(t.shard_hash(&[Value::Integer(1)]), t.shard_hash(&[Value::Real(1.0)]));
        assert_ne!(t.shard_hash(&[Value::Integer(1)]), t.shard_hash(&[Value::Real(1.5)]));
    }

    #[test]
    fn a_key_is_found_as_its_index_compares_it() {
        for (sql, spelling, found) in [
            ("CREATE TABLE t(k TEXT COLLATE NOCASE, a, PRIMARY KEY(k COLLATE BINARY))", "X", 0),
            ("CREATE TABLE t(k TEXT, a, PRIMARY KEY(k COLLATE NOCASE))", "X", 1),
            ("CREATE TABLE t(k TEXT, a, PRIMARY KEY(k COLLATE RTRIM)) WITHOUT ROWID", "x ", 1),
        ] {
            let (connection, t) = table(sql);
            execute(&connection, &t.sql().upsert, &[Value::text("x"), Value::Integer(1)]);
            execute(&connection, &t.sql().upsert, &[Value::text(spelling), Value::Integer(2)]);
            assert_eq!(count(&connection, "true"), 2 - found, "{sql}");
            execute(&connection, &t.sql().delete, &[Value::text("x")]);
            assert_eq!(count(&connection, "true"), 1 - found, "{sql}");
        }
    }

    #[test]
    fn a_table_of_keys_alone_is_written_once() {
        let (connection, t) = table("CREATE TABLE t(a, b, PRIMARY KEY(b, a)) WITHOUT ROWID");
        for _ in 0..2 {
            execute(&connection, &t.sql().upsert, &[Value::Integer(1), Value::Integer(2)]);
        }
        assert_eq!(count(&connection, "a = 1 AND b = 2"), 1);
        // Key values come in the order of the key.
        assert_eq!(execute(&connection, &t.sql().delete, &[Value::Integer(1), Value::Integer(2)]), 0);
        assert_eq!(execute(&connection, &t.sql().delete, &[Value::Integer(2), Value::Integer(1)]), 1);
    }

    #[test]
    fn a_null_key_overwrites_the_newest_row_with_it() {
        let (connection, t) = table("CREATE TABLE t(k TEXT PRIMARY KEY, a)");
        let row = |a: i64| [Value::Null, Value::Integer(a)];
        let with_key = |a: i64| [Value::Null, Value::Integer(a), Value::Null];
        assert_eq!(execute(&connection, &t.sql().update, &with_key(1)), 0);
        execute(&connection, &t.sql().insert, &row(1));
        execute(&connection, &t.sql().insert, &row(2));
        assert_eq!(execute(&connection, &t.sql().update, &with_key(3)), 1);
        assert_eq!((count(&connection, "a = 1"), count(&connection, "a = 3")), (1, 1));
        let a: i64 =
            connection.query_row(&t.sql().image, params_from_iter([&Value::Null]), |row| row.get(1)).unwrap();
        assert_eq!(a, 3);
    }

    #[test]
    fn columns_with_the_names_of_the_rowid_do_not_hide_which_null_key_is_the_newest() {
        for names in ["rowid, b, c", "ROWID, _rowid_, c", "oid, b, RowId"] {
            let (connection, t) = table(&format!("CREATE TABLE t(k TEXT PRIMARY KEY, {names})"));
            let row = |a: i64| [Value::Null, Value::Integer(-a), Value::Integer(a), Value::Integer(a)];
            execute(&connection, &t.sql().insert, &row(1));
            execute(&connection, &t.sql().insert, &row(2));
            let with_key: Vec<Value> = row(3).into_iter().chain([Value::Null]).collect();
            assert_eq!(execute(&connection, &t.sql().update, &with_key), 1);
            let first: Value =
                connection.query_row(&t.sql().image, [&Value::Null], |row| row.get(1)).unwrap();
            assert_eq!((first, count(&connection, "rowid IN (-1, 1)")), (Value::Integer(-3), 1), "{names}");
        }
    }

    #[test]
    fn a_table_without_a_key_is_keyed_by_its_rowid() {
        let (connection, t) = table("CREATE TABLE t(a, b AS (a + 1))");
        assert_eq!(t.keyed, Keyed::Rowid);
        assert_eq!(t.image, [ROWID.into(), Arc::from("a")]);
        execute(&connection, &t.sql().upsert, &[Value::Integer(7), Value::Integer(1)]);
        execute(&connection, &t.sql().upsert, &[Value::Integer(7), Value::Integer(2)]);
        assert_eq!(count(&connection, "rowid = 7 AND a = 2 AND b = 3"), 1);
        assert!(connection.prepare(&t.sql().exists).unwrap().exists([7]).unwrap());
        assert_eq!(execute(&connection, &t.sql().delete, &[Value::Integer(7)]), 1);
    }

    #[test]
    fn any_name_is_quoted() {
        let (connection, t) = table(r#"CREATE TABLE "select "" x"("a b" PRIMARY KEY, "group", "ü'" UNIQUE)"#);
        for sql in [
            &t.sql().upsert,
            &t.sql().insert,
            &t.sql().update,
            &t.sql().delete,
            &t.sql().exists,
            &t.sql().image,
        ] {
            assert!(connection.prepare(sql).is_ok(), "{sql}");
        }
        let Collisions::Select(lookups) = &t.sql().collisions else { panic!() };
        assert!(connection.prepare(&lookups[0].sql).is_ok(), "{}", lookups[0].sql);
    }

    #[test]
    fn plain_indexes_are_looked_up_and_others_probed() {
        let looked_up = |sql: &str| matches!(table(sql).1.sql().collisions, Collisions::Select(_));
        assert!(looked_up("CREATE TABLE t(k PRIMARY KEY, a)"));
        assert!(looked_up("CREATE TABLE t(k PRIMARY KEY, a UNIQUE, b TEXT COLLATE NOCASE, UNIQUE(b, a))"));
        assert!(!looked_up("CREATE TABLE t(k PRIMARY KEY, a); CREATE UNIQUE INDEX i ON t(lower(a))"));
        assert!(!looked_up(
            "CREATE TABLE t(k PRIMARY KEY, a UNIQUE); CREATE UNIQUE INDEX i ON t(a) WHERE a > 1"
        ));
        assert!(!looked_up("CREATE TABLE t(k PRIMARY KEY, a, b AS (a) UNIQUE)"));
        assert!(!looked_up("CREATE TABLE t(k PRIMARY KEY, a REAL UNIQUE)"));
    }

    #[test]
    fn a_lookup_uses_its_index() {
        let (connection, t) =
            table("CREATE TABLE t(k PRIMARY KEY, a, b, c); CREATE UNIQUE INDEX i ON t(b, a COLLATE NOCASE)");
        let Collisions::Select(lookups) = &t.sql().collisions else { panic!() };
        assert_eq!(lookups[0].places, [2, 1]);
        let plan: String = connection
            .query_row(&format!("EXPLAIN QUERY PLAN {}", lookups[0].sql), [1, 2], |row| row.get(3))
            .unwrap();
        assert!(plan.contains("USING INDEX i (b=? AND a=?)"), "{plan}");
    }

    #[test]
    fn affinities_that_round() {
        for name in ["REAL", "double precision", "Float"] {
            assert!(is_real(name), "{name}");
        }
        for name in ["", "INTEGER", "FLOATING POINT", "CHARFLOAT", "NUMERIC", "BLOB", "ANY"] {
            assert!(!is_real(name), "{name}");
        }
    }

    #[test]
    fn rows_that_can_collide_share_a_shard() {
        let one_shard = |sql: &str| table(sql).1.one_shard();
        assert!(!one_shard("CREATE TABLE t(k TEXT PRIMARY KEY, a)"));
        assert!(one_shard("CREATE TABLE t(k TEXT PRIMARY KEY, a UNIQUE)"));
        assert!(one_shard("CREATE TABLE t(k TEXT COLLATE RTRIM PRIMARY KEY, a)"));
        let (_, t) = table("CREATE TABLE t(k INTEGER PRIMARY KEY, a)");
        assert_ne!(t.shard_hash(&[Value::Integer(1)]), t.shard_hash(&[Value::Integer(2)]));
        let (_, t) = table("CREATE TABLE t(k INTEGER PRIMARY KEY, a UNIQUE)");
        assert_eq!(t.shard_hash(&[Value::Integer(1)]), t.shard_hash(&[Value::Integer(2)]));
    }
}
