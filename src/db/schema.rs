//! The application's schema as replication needs it: which tables are replicated, and the schema hash.

use crate::base::limits;
use crate::db::indexes::{self, UniqueIndex};
pub use crate::db::schema_rows::version;
use crate::db::table::{Column, KeyColumn, Keyed, ROWID, Table};
use crate::db::{capture::log_table, error::Error, ours, schema_rows, writable};
use crate::model::value::Collation;
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Debug)]
pub struct Schema {
    /// `PRAGMA schema_version` when the schema was read.
    pub version: i64,
    /// The replicated tables by name.
    pub tables: HashMap<Arc<str>, Arc<Table>>,
    /// The replicated tables by their numbers in the change log; empty until [`Schema::number`] was called.
    pub by_number: HashMap<i64, Arc<Table>>,
    /// Names of what is there and not replicated: views, virtual tables and their shadow tables, tables that cannot be
    /// replicated.
    pub others: HashSet<String>,
    /// The application's tables that cannot be replicated, and why.
    pub refused: BTreeMap<String, String>,
    /// Hash of the replicated tables (formats, section "Schema hash").
    pub hash: Arc<str>,
}

impl Default for Schema {
    fn default() -> Schema {
        Schema {
            version: 0,
            tables: HashMap::new(),
            by_number: HashMap::new(),
            others: HashSet::new(),
            refused: BTreeMap::new(),
            hash: "".into(),
        }
    }
}

/// The schema as it was read last, for all connections to one database: the next one takes it, or reads only what has changed.
#[derive(Clone, Default)]
pub struct Known(Arc<Mutex<Arc<Schema>>>, Arc<Looks>);

/// What is known of the application's changes of the schema.
#[derive(Default)]
struct Looks {
    /// The version at which it was looked for some; 0: nobody looks.
    version: AtomicI64,
    /// How many were noted.
    noted: AtomicU64,
}

impl Known {
    /// The schema with the numbers that capture has given to the tables, as the connection sees it now.
    pub fn read(&self, connection: &Connection) -> Result<Arc<Schema>, Error> {
        schema_rows::warm(connection)?;
        // Others wait, for they need the same.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.version != version(connection)? || last.tables.is_empty() {
            *last = Arc::new(Schema::read_after(connection, &last, numbered)?);
        }
        Ok(last.clone())
    }

    /// What was read last, however old it is.
    pub fn last(&self) -> Arc<Schema> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It was looked for changes of the application, and one was noted or none.
    pub fn has_looked(&self, version: i64, noted: bool) {
        self.1.noted.fetch_add(u64::from(noted), Ordering::Relaxed);
        self.1.version.store(version, Ordering::Release);
    }

    /// The version at which it was looked last; `None`: nobody looks.
    pub fn looked(&self) -> Option<i64> {
        Some(self.1.version.load(Ordering::Acquire)).filter(|version| *version != 0)
    }

    /// How many changes were noted.
    pub fn noted(&self) -> u64 {
        self.1.noted.load(Ordering::Acquire)
    }

    pub fn put(&self, schema: Arc<Schema>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = schema;
    }
}

fn numbered(connection: &Connection, schema: &mut Schema) -> Result<(), Error> {
    if ours::has_table(connection, log_table::NUMBERS)? {
        schema.number(&log_table::numbers(connection)?);
    }
    Ok(())
}

/// The statements that make a table and its indexes.
#[derive(Default)]
struct Statements {
    table: String,
    indexes: Vec<(String, Option<String>)>,
}

impl Statements {
    /// All tables' statements, by the tables' names. One pass: a query for each table would read all of the schema each time.
    fn of_all(connection: &Connection) -> Result<HashMap<String, Statements>, Error> {
        let sql = "SELECT tbl_name, name, sql, type = 'table' FROM main.sqlite_schema WHERE type IN ('table', 'index') ORDER BY rowid";
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut all: HashMap<String, Statements> = HashMap::new();
        while let Some(row) = rows.next()? {
            let found = all.entry(row.get(0)?).or_default();
            if row.get(3)? {
                found.table = row.get::<_, Option<String>>(2)?.unwrap_or_default();
            } else {
                found.indexes.push((row.get(1)?, row.get(2)?));
            }
        }
        Ok(all)
    }

    /// As long as it is the same, so is what was read of the table.
    fn print(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.table, &self.indexes).hash(&mut hasher);
        hasher.finish()
    }
}

/// Names and types, each once in memory: thousands of tables share a few dozen.
#[derive(Default)]
struct Words(HashSet<Arc<str>>);

impl Words {
    fn get(&mut self, word: &str) -> Arc<str> {
        if let Some(known) = self.0.get(word) {
            return known.clone();
        }
        let word: Arc<str> = word.into();
        self.0.insert(word.clone());
        word
    }
}

/// What replication makes of a table.
enum Found {
    Replicated(Table),
    /// The table is not replicated, and why.
    LeftOut(String),
}

impl Schema {
    /// Reads the schema.
    pub fn read(connection: &Connection) -> Result<Schema, Error> {
        Schema::read_after(connection, &Schema::default(), |_, _| Ok(()))
    }

    /// Reads the schema, of the tables only those that are not as in the schema `before`, and `more` in the same transaction.
    pub fn read_after(
        connection: &Connection,
        before: &Schema,
        more: impl FnOnce(&Connection, &mut Schema) -> Result<(), Error>,
    ) -> Result<Schema, Error> {
        // Of what the caller's transaction sees, or of one moment.
        let transaction = match connection.is_autocommit() {
            true => Some(connection.unchecked_transaction()?),
            false => None,
        };
        let mut schema = Schema::read_tables(connection, before)?;
        more(connection, &mut schema)?;
        if let Some(transaction) = transaction {
            transaction.commit()?;
        }
        Ok(schema)
    }

    fn read_tables(connection: &Connection, before: &Schema) -> Result<Schema, Error> {
        let _bare = writable::Bare::new(connection)?;
        let mut schema = Schema { version: version(connection)?, ..Schema::default() };
        let statements = Statements::of_all(connection)?;
        let (nothing, mut words, mut same) = (Statements::default(), Words::default(), 0);
        let mut list = connection.prepare(
            "SELECT name, type, wr FROM pragma_table_list \
             WHERE schema = 'main' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        )?;
        let all = list.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        for (name, kind, without_rowid) in all.collect::<Result<Vec<(String, String, bool)>, _>>()? {
            if name.starts_with(limits::PREFIX) {
                continue;
            }
            if kind != "table" {
                schema.others.insert(name);
                continue;
            }
            let made = statements.get(&name).unwrap_or(&nothing);
            let print = made.print();
            if let Some(known) = before.tables.get(name.as_str()).filter(|known| known.print == print) {
                schema.tables.insert(known.name.clone(), known.clone());
                same += 1;
                continue;
            }
            match read_table(connection, (&name, made), without_rowid, &mut words)? {
                Found::Replicated(mut table) => {
                    table.print = print;
                    let table = Arc::new(table);
                    schema.tables.insert(table.name.clone(), table);
                }
                Found::LeftOut(why) => {
                    schema.others.insert(name.clone());
                    schema.refused.insert(name, why);
                }
            }
        }
        schema.hash = if same == schema.tables.len() && same == before.tables.len() && same > 0 {
            before.hash.clone()
        } else {
            schema.compute_hash().into()
        };
        Ok(schema)
    }

    /// Reads the schema with the numbers that capture has given to the tables.
    pub fn read_numbered(connection: &Connection) -> Result<Schema, Error> {
        Schema::read_after(connection, &Schema::default(), numbered)
    }

    /// Gives the tables their numbers; those that `known` does not name have none.
    pub fn number(&mut self, known: &HashMap<String, i64>) {
        self.by_number.clear();
        for table in self.tables.values_mut() {
            let id = known.get(&*table.name).copied().unwrap_or(0);
            if table.id != id {
                Arc::make_mut(table).id = id;
            }
            self.by_number.insert(id, table.clone());
        }
        self.by_number.remove(&0);
    }

    /// Names in a warning each table that cannot be replicated, unless the schema `before` knew it.
    pub fn tell_refused(&self, before: &Schema) {
        for (name, why) in &self.refused {
            if before.refused.get(name) != Some(why) {
                log::warn!("table {name} is not replicated, all others are: {why}");
            }
        }
    }

    /// Number of columns that the longest key has.
    pub fn key_width(&self) -> usize {
        self.tables.values().map(|table| table.key.len()).max().unwrap_or(1)
    }

    /// The replicated table of a name. As in SQL, upper and lower case of ASCII letters are equal.
    pub fn find(&self, name: &str) -> Option<&Arc<Table>> {
        let other_case = || self.tables.values().find(|table| table.name.eq_ignore_ascii_case(name));
        self.tables.get(name).or_else(other_case)
    }

    /// Whether no migration can bring a replicated table of this name: something else has it, or it is one of ours or of SQLite.
    pub fn leaves_out(&self, name: &str) -> bool {
        let begins = |prefix: &str| name.get(..prefix.len()).is_some_and(|n| n.eq_ignore_ascii_case(prefix));
        begins(limits::PREFIX)
            || begins("sqlite_")
            || self.others.contains(name)
            || self.others.iter().any(|other| other.eq_ignore_ascii_case(name))
    }

    /// The hash of a schema without any table that is replicated.
    pub fn hash_of_nothing() -> String {
        Schema::default().compute_hash()
    }

    fn compute_hash(&self) -> String {
        let mut tables: Vec<&Table> = self.tables.values().map(Arc::as_ref).collect();
        tables.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        let mut text = String::new();
        for table in tables {
            text.push_str(&table.name);
            let mut columns: Vec<&Column> = table.columns.iter().collect();
            columns.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
            for column in columns {
                // What the Go program's library calls a column without a type.
                let kind = if column.declared_type.is_empty() {
                    "*schema.BinaryType"
                } else {
                    &column.declared_type
                };
                let _ =
                    write!(text, "|{}:{kind}:{}:{}", column.name, column.not_null, column.key_position > 0);
            }
            text.push('\n');
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        data_encoding::HEXLOWER.encode(digest.as_ref())
    }
}

fn read_table(
    connection: &Connection,
    (name, made): (&str, &Statements),
    without_rowid: bool,
    words: &mut Words,
) -> Result<Found, Error> {
    let columns = read_columns(connection, name, words)?;
    let names = columns.iter().map(|column| &*column.name).chain([name]);
    if names.map(str::len).max() > Some(limits::EVENT_NAME) {
        let why = format!("its name or that of a column is longer than {} bytes", limits::EVENT_NAME);
        return Ok(Found::LeftOut(why));
    }
    let (of_key, unique): (Vec<_>, Vec<_>) = match made.indexes.is_empty() && !without_rowid {
        true => vec![],
        // The key of a table WITHOUT ROWID is an index without a statement.
        false => indexes::list(connection, name, &made.indexes)?,
    }
    .into_iter()
    .partition(|index| index.of_primary_key);
    let key_index = of_key.first();
    if columns.iter().filter(|column| column.key_position > 0).count() > limits::KEY_COLUMNS {
        let why = format!("its primary key has more than {} columns", limits::KEY_COLUMNS);
        return Ok(Found::LeftOut(why));
    }
    let mut key_columns: Vec<&Column> = columns.iter().filter(|column| column.key_position > 0).collect();
    key_columns.sort_by_key(|column| column.key_position);
    let keyed = match (key_columns.is_empty(), without_rowid, key_index) {
        (true, _, _) => Keyed::Rowid,
        (false, true, _) => Keyed::WithoutRowid,
        (false, false, None) => Keyed::RowidAlias,
        (false, false, Some(_)) => Keyed::Index,
    };
    if keyed == Keyed::Rowid && columns.iter().any(|column| column.name.eq_ignore_ascii_case(ROWID)) {
        let why = "it has no primary key, and a column of its own named rowid: declare a primary key";
        return Ok(Found::LeftOut(why.to_owned()));
    }
    if key_index.is_some_and(|index| index.columns.len() != key_columns.len()) {
        return Ok(Found::LeftOut("its primary key names a column twice: name it once".to_owned()));
    }
    let mut key = vec![];
    for column in key_columns {
        let collation = key_index.and_then(|index| index.collation_of(&column.name)).unwrap_or("BINARY");
        let Some(known) = known_collation(collation) else {
            return Ok(Found::LeftOut(format!(
                "its key compares by the application's own collation {collation}"
            )));
        };
        let (name, declared_type) = (column.name.clone(), column.declared_type.clone());
        key.push(KeyColumn { name, declared_type, collation: known });
    }
    if let Some(collation) = unknown_collation(&unique) {
        return Ok(Found::LeftOut(format!(
            "a UNIQUE index compares by the application's own collation {collation}"
        )));
    }
    let mut table = Table::new(name, columns, key, keyed, unique);
    table.autoincrement = keyed == Keyed::RowidAlias && indexes::has_word(&made.table, "autoincrement");
    if table.image.len() > limits::EVENT_COLUMNS {
        return Ok(Found::LeftOut(format!(
            "it has {} columns and no primary key: declare one",
            limits::EVENT_COLUMNS
        )));
    }
    if !indexes::conflict_clauses(&made.table).is_empty() {
        table = table.with_conflict_clauses();
    }
    Ok(match writable::obstacle(connection, &table)? {
        Some(why) => Found::LeftOut(why),
        None => Found::Replicated(table),
    })
}

fn read_columns(connection: &Connection, table: &str, words: &mut Words) -> Result<Vec<Column>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT name, type, \"notnull\", pk, hidden, dflt_value FROM pragma_table_xinfo(?1)",
    )?;
    let columns = statement.query_map([table], |row| {
        Ok(Column {
            name: words.get(row.get_ref(0)?.as_str()?),
            declared_type: words.get(row.get_ref(1)?.as_str()?),
            not_null: row.get(2)?,
            key_position: usize::from(row.get::<_, u16>(3)?),
            // 2 and 3 are virtual and stored generated columns, 1 a hidden column of a virtual table.
            generated: row.get::<_, i64>(4)? >= 2,
            default_if_null: match row.get::<_, Option<String>>(5)? {
                Some(default) if row.get(2)? && indexes::functions_called(&default).is_empty() => {
                    Some(default.into())
                }
                _ => None,
            },
        })
    })?;
    Ok(columns.collect::<Result<_, _>>()?)
}

fn unknown_collation(unique: &[UniqueIndex]) -> Option<&str> {
    let mut collations =
        unique.iter().flat_map(|index| &index.columns).map(|column| column.collation.as_str());
    collations.find(|collation| known_collation(collation).is_none())
}

fn known_collation(name: &str) -> Option<Collation> {
    match name.to_ascii_uppercase().as_str() {
        "BINARY" => Some(Collation::Binary),
        "NOCASE" => Some(Collation::NoCase),
        "RTRIM" => Some(Collation::RTrim),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> Schema {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        Schema::read(&connection).unwrap()
    }

    fn key(schema: &Schema, table: &str) -> Vec<String> {
        schema.tables[table].key.iter().map(|column| column.name.to_string()).collect()
    }

    #[test]
    fn the_hash_is_over_sorted_tables_and_columns() {
        let schema =
            read("CREATE TABLE b(y, x TEXT NOT NULL, PRIMARY KEY(x)); CREATE TABLE a(i INTEGER PRIMARY KEY)");
        let text = "a|i:INTEGER:false:true\nb|x:TEXT:true:true|y:*schema.BinaryType:false:false\n";
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        assert_eq!(*schema.hash, *data_encoding::HEXLOWER.encode(digest.as_ref()));
    }

    #[test]
    fn the_hash_sees_types_and_not_indexes() {
        let hash = |sql: &str| read(sql).hash;
        let plain = hash("CREATE TABLE t(k INTEGER PRIMARY KEY, a TEXT)");
        assert_eq!(
            plain,
            hash("CREATE TABLE t(a TEXT, k INTEGER PRIMARY KEY); CREATE UNIQUE INDEX i ON t(a)")
        );
        assert_ne!(plain, hash("CREATE TABLE t(k INTEGER PRIMARY KEY, a BLOB)"));
        assert_ne!(plain, hash("CREATE TABLE t(k INTEGER PRIMARY KEY, a TEXT NOT NULL)"));
    }

    #[test]
    fn keys_come_in_the_order_of_the_primary_key() {
        let schema = read("CREATE TABLE t(a, b, c, PRIMARY KEY(c, a)); CREATE TABLE n(a)");
        assert_eq!(key(&schema, "t"), ["c", "a"]);
        assert_eq!(key(&schema, "n"), ["rowid"]);
        assert_eq!(schema.key_width(), 2);
    }

    #[test]
    fn four_ways_to_tell_rows_apart() {
        let schema = read(
            "CREATE TABLE a(x); CREATE TABLE b(x INTEGER PRIMARY KEY); CREATE TABLE c(x TEXT PRIMARY KEY); \
             CREATE TABLE d(x TEXT PRIMARY KEY) WITHOUT ROWID; CREATE TABLE e(x INTEGER PRIMARY KEY) WITHOUT ROWID; \
             CREATE TABLE f(x INTEGER PRIMARY KEY DESC);",
        );
        let keyed = ["a", "b", "c", "d", "e", "f"].map(|name| schema.tables[name].keyed);
        let expected =
            [Keyed::Rowid, Keyed::RowidAlias, Keyed::Index, Keyed::WithoutRowid, Keyed::WithoutRowid];
        assert_eq!(keyed[..5], expected);
        // A quirk of SQLite: DESC makes it no alias of the rowid.
        assert_eq!(keyed[5], Keyed::Index);
    }

    #[test]
    fn collations_of_keys_are_known() {
        let schema = read("CREATE TABLE t(a TEXT COLLATE nocase, b COLLATE RTRIM, c, PRIMARY KEY(a, b, c))");
        let collations: Vec<Collation> =
            schema.tables["t"].key.iter().map(|column| column.collation).collect();
        assert_eq!(collations, [Collation::NoCase, Collation::RTrim, Collation::Binary]);
    }

    #[test]
    fn collations_of_the_application_leave_a_table_out() {
        let connection = Connection::open_in_memory().unwrap();
        // Only the application's connection knows its collation, so the schema is written by force.
        connection
            .execute_batch(
                "CREATE TABLE k(a TEXT COLLATE RTRIM PRIMARY KEY); CREATE TABLE u(a INTEGER PRIMARY KEY, b COLLATE RTRIM UNIQUE); \
                 CREATE TABLE fine(a INTEGER PRIMARY KEY, b COLLATE RTRIM); PRAGMA writable_schema=ON; \
                 UPDATE sqlite_schema SET sql = replace(sql, 'RTRIM', 'mine'); PRAGMA writable_schema=RESET",
            )
            .unwrap();
        let schema = Schema::read(&connection).unwrap();
        assert!(schema.leaves_out("k") && schema.leaves_out("u"));
        assert!(schema.tables.contains_key("fine"));
    }

    /// A database whose statements were written by force: only the application's connection knows `mine`.
    fn forced(sql: &str, from: &str) -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(sql).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql = replace(sql, '{from}', 'mine'); \
                 PRAGMA writable_schema=RESET"
            ))
            .unwrap();
        connection
    }

    #[test]
    fn a_table_that_cannot_be_written_is_refused_with_the_name_of_what_is_missing() {
        let all = "CREATE TABLE fine(a INTEGER PRIMARY KEY, b, CHECK(abs(b) > 0))";
        for (sql, from, named) in [
            (
                "CREATE INDEX i ON t(b COLLATE RTRIM)",
                "RTRIM",
                "index i compares by the application's own collation mine",
            ),
            ("CREATE INDEX i ON t(b, abs(b))", "abs", "index i calls the application's own function mine"),
            (
                "CREATE UNIQUE INDEX i ON t(abs(b))",
                "abs",
                "index i calls the application's own function mine",
            ),
            (
                "CREATE INDEX i ON t(b) WHERE abs(b) > 0",
                "abs",
                "index i calls the application's own function mine",
            ),
            ("ALTER TABLE t ADD COLUMN g AS (abs(b))", "abs", "mine"),
        ] {
            let setup = format!("CREATE TABLE t(a INTEGER PRIMARY KEY, b); {all}; {sql}");
            let connection = forced(&setup, from);
            let schema = Schema::read(&connection).unwrap();
            assert!(schema.leaves_out("t"), "{sql}");
            assert!(schema.refused["t"].contains(named), "{sql}: {:?}", schema.refused);
            // Only a condition on rows calls the function there, and rows of others have met it.
            assert!(schema.tables.contains_key("fine"), "{sql}");
            assert!(
                connection.db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER).unwrap()
            );
        }
    }

    /// Every event has all columns, so the function is never called here.
    #[test]
    fn a_default_that_only_the_application_can_compute_is_no_obstacle() {
        let schema =
            Schema::read(&forced("CREATE TABLE t(a INTEGER PRIMARY KEY, b DEFAULT (abs(1)))", "abs"));
        assert!(schema.unwrap().tables.contains_key("t"));
    }

    /// Each of these once ended the daemon at every start.
    #[test]
    fn as_many_columns_as_sqlite_allows() {
        let names = |count: usize| (1..=count).map(|n| format!("c{n}")).collect::<Vec<_>>().join(", ");
        let with_key = |columns: usize, key: usize| {
            read(&format!("CREATE TABLE t({}, PRIMARY KEY({}))", names(columns), names(key)))
        };
        for key in [255, 256, limits::KEY_COLUMNS] {
            assert_eq!(with_key(key, key).tables["t"].key.len(), key);
        }
        assert!(with_key(2_000, limits::KEY_COLUMNS + 1).leaves_out("t"));
        assert_eq!(with_key(2_000, 1).tables["t"].image.len(), limits::EVENT_COLUMNS);
        assert!(read(&format!("CREATE TABLE t({})", names(1_999))).tables.contains_key("t"));
        let left_out = read(&format!("CREATE TABLE t({})", names(2_000)));
        assert!(left_out.refused["t"].contains("no primary key"), "{:?}", left_out.refused);
    }

    #[test]
    fn a_key_that_names_a_column_twice_is_refused() {
        assert!(read("CREATE TABLE t(a, PRIMARY KEY(a, a COLLATE NOCASE))").leaves_out("t"));
    }

    #[test]
    fn views_shadows_and_our_own_tables_are_left_out() {
        let schema = read(
            "CREATE TABLE t(a); CREATE VIEW v AS SELECT a FROM t; CREATE VIRTUAL TABLE f USING fts5(x); \
             CREATE TABLE \"__harmonylite__log\"(id INTEGER PRIMARY KEY)",
        );
        assert_eq!(schema.tables.len(), 1);
        for name in ["v", "f", "f_data", "__harmonylite__log", "__harmonylite__anything"] {
            assert!(schema.leaves_out(name), "{name}");
        }
        assert!(!schema.leaves_out("t") && !schema.leaves_out("unknown"));
    }

    #[test]
    fn odd_names_are_tables_like_any_other() {
        let schema = read(
            r#"CREATE TABLE "a""b"("x y" PRIMARY KEY); CREATE TABLE "таблица"(a); CREATE TABLE sqlitex(a); CREATE TABLE "1"(rowid INTEGER PRIMARY KEY);"#,
        );
        assert_eq!(key(&schema, "a\"b"), ["x y"]);
        assert_eq!(key(&schema, "1"), ["rowid"]);
        assert!(schema.tables.contains_key("таблица") && schema.tables.contains_key("sqlitex"));
    }

    /// Other nodes refuse events with longer names.
    #[test]
    fn a_table_with_a_name_longer_than_an_event_may_hold_is_left_out() {
        let (most, more) = ("n".repeat(limits::EVENT_NAME), "n".repeat(limits::EVENT_NAME + 1));
        assert!(read(&format!("CREATE TABLE {most}(a PRIMARY KEY, {most})")).tables.contains_key(&*most));
        assert!(read(&format!("CREATE TABLE {more}(a PRIMARY KEY)")).leaves_out(&more));
        assert!(read(&format!("CREATE TABLE t(a PRIMARY KEY, {more})")).leaves_out("t"));
    }

    #[test]
    fn a_column_named_rowid_needs_a_key_beside_it() {
        assert!(read("CREATE TABLE t(RowId, a)").leaves_out("t"));
        assert!(read("CREATE TABLE t(rowid, a PRIMARY KEY)").tables.contains_key("t"));
    }

    #[test]
    fn numbers_lead_back_to_tables() {
        let mut schema = read("CREATE TABLE a(x); CREATE TABLE b(x)");
        schema.number(&HashMap::from([("a".to_owned(), 7), ("gone".to_owned(), 8)]));
        assert_eq!((schema.tables["a"].id, schema.tables["b"].id), (7, 0));
        assert_eq!(schema.by_number.len(), 1);
        assert_eq!(&*schema.by_number[&7].name, "a");
    }
}
