//! The application's schema as replication needs it: which tables are replicated, and the schema hash.

use crate::base::limits;
use crate::db::indexes::{self, UniqueIndex};
pub use crate::db::schema_rows::version;
use crate::db::table::{Column, KeyColumn, Keyed, ROWID, Table};
use crate::db::{capture::log_table, error::Error, ours, schema_rows, state, writable};
use crate::model::lists::Lists;
use crate::model::value::Collation;
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
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
    /// The virtual tables, which cannot be replicated either.
    pub virtuals: BTreeSet<String>,
    /// Which tables are to be replicated, and the names of those that are there and are not.
    pub lists: Arc<Lists>,
    pub excluded: BTreeSet<String>,
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
            virtuals: BTreeSet::new(),
            lists: Arc::default(),
            excluded: BTreeSet::new(),
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

    /// The schema has changed from one version to another by what we did ourselves: there is nothing to look for.
    pub fn has_looked_at_own(&self, before: i64, now: i64) {
        let _ = self.1.version.compare_exchange(before, now, Ordering::AcqRel, Ordering::Relaxed);
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
        let lists = Arc::new(state::lists(connection)?.unwrap_or_default());
        let mut schema = Schema { version: version(connection)?, lists, ..Schema::default() };
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
                if kind == "virtual" && !schema.lists.exclude(&name) {
                    schema.virtuals.insert(name.clone());
                }
                schema.others.insert(name);
                continue;
            }
            if schema.lists.exclude(&name) {
                schema.excluded.insert(name);
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

    /// Names each table that is not replicated, unless the schema `before` knew it: in a warning, if nobody wanted that.
    pub fn tell_refused(&self, before: &Schema) {
        let tell = |now: &BTreeSet<String>, before: &BTreeSet<String>, what: &str| {
            let news: Vec<&str> =
                now.difference(before).take(limits::NAMES_SHOWN).map(String::as_str).collect();
            let more = match now.difference(before).count() - news.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            if !news.is_empty() {
                log::info!("not replicated, {what}: {}{more}", news.join(", "));
            }
        };
        tell(&self.excluded, &before.excluded, "as the lists of tables say");
        tell(&self.virtuals, &before.virtuals, "because they are virtual tables, with what lies under them");
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

    /// The hash without some of the tables.
    pub fn without(mut self, tables: &[String]) -> String {
        let before = self.tables.len();
        self.tables.retain(|name, _| !tables.iter().any(|table| table.eq_ignore_ascii_case(name)));
        if self.tables.len() == before { self.hash.to_string() } else { self.compute_hash() }
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
        let Some(known) = Collation::of(collation) else {
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
    collations.find(|collation| Collation::of(collation).is_none())
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
