//! Schemas that are made up: tables with keys of every kind, UNIQUE indexes, foreign keys, triggers, and what is added later.

use super::random::Random;
use super::tally::Tally;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Integer,
    Automatic,
    Text,
    Blob,
    Pair,
    BareText,
    BarePair,
    StrictInteger,
    StrictText,
}

const ALL_KEYS: [Key; 9] = [
    Key::Integer,
    Key::Automatic,
    Key::Text,
    Key::Blob,
    Key::Pair,
    Key::BareText,
    Key::BarePair,
    Key::StrictInteger,
    Key::StrictText,
];

impl Key {
    fn name(self) -> &'static str {
        match self {
            Key::Integer => "INTEGER key",
            Key::Automatic => "AUTOINCREMENT key",
            Key::Text => "TEXT key",
            Key::Blob => "BLOB key",
            Key::Pair => "key of two columns",
            Key::BareText => "WITHOUT ROWID",
            Key::BarePair => "WITHOUT ROWID, two columns",
            Key::StrictInteger => "STRICT, INTEGER key",
            Key::StrictText => "STRICT, TEXT key",
        }
    }

    pub fn is_pair(self) -> bool {
        matches!(self, Key::Pair | Key::BarePair)
    }

    fn is_strict(self) -> bool {
        matches!(self, Key::StrictInteger | Key::StrictText)
    }

    /// Columns, and what stands after all columns, and what stands after the brackets.
    fn declared(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Key::Integer => ("k INTEGER PRIMARY KEY", "", ""),
            Key::Automatic => ("k INTEGER PRIMARY KEY AUTOINCREMENT", "", ""),
            Key::Text => ("k TEXT PRIMARY KEY", "", ""),
            Key::Blob => ("k BLOB PRIMARY KEY", "", ""),
            Key::Pair => ("k1 INTEGER, k2 TEXT", ", PRIMARY KEY(k1, k2)", ""),
            Key::BareText => ("k TEXT PRIMARY KEY", "", "WITHOUT ROWID"),
            Key::BarePair => ("k1 INTEGER, k2 TEXT", ", PRIMARY KEY(k2, k1)", "WITHOUT ROWID"),
            Key::StrictInteger => ("k INTEGER PRIMARY KEY", "", "STRICT"),
            Key::StrictText => ("k TEXT PRIMARY KEY NOT NULL", "", "STRICT"),
        }
    }
}

/// What a column takes: anything, or, in a STRICT table, one type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    Anything,
    Integer,
    Real,
    Text,
    Blob,
}

#[derive(Clone)]
pub struct Table {
    /// In quotes.
    pub name: String,
    pub key: Key,
    /// Columns without any rule, beside those of the key, `w` (which node wrote the row last) and `u` (UNIQUE in one of several ways).
    pub columns: Vec<(String, Takes)>,
    /// `p` refers to this table.
    pub parent: Option<String>,
}

/// Statements that make or change the schema, and the tables that are there then.
#[derive(Clone)]
pub struct Migration {
    pub statements: Vec<String>,
    pub tables: Vec<Table>,
}

/// What every run must have had.
pub const FEATURES: &[&str] = &[
    "INTEGER key",
    "AUTOINCREMENT key",
    "TEXT key",
    "BLOB key",
    "key of two columns",
    "WITHOUT ROWID",
    "WITHOUT ROWID, two columns",
    "STRICT, INTEGER key",
    "STRICT, TEXT key",
    "UNIQUE column",
    "UNIQUE over two columns",
    "partial UNIQUE index",
    "UNIQUE index over an expression",
    "foreign key with actions",
    "CHECK",
    "generated column",
    "application trigger",
];

const NAMES: &[&str] =
    &["\"order\"", "\"a b\"", "sqlitex", "\"\u{fc}ber\"", "\"x'y\"", "notes", "\"Two.Dots\"", "items", "t"];

fn column(random: &mut Random, number: usize, key: Key) -> (String, Takes, &'static str) {
    let strict: [(Takes, &str); 5] = [
        (Takes::Integer, "INTEGER"),
        (Takes::Real, "REAL"),
        (Takes::Text, "TEXT"),
        (Takes::Blob, "BLOB"),
        (Takes::Anything, "ANY"),
    ];
    let (takes, declared) = if key.is_strict() {
        random.of(&strict)
    } else {
        (
            Takes::Anything,
            random.of(&[
                "",
                "INTEGER",
                "TEXT",
                "REAL",
                "BLOB",
                "NUMERIC",
                "DATE",
                "BOOLEAN",
                "VARCHAR(9) COLLATE NOCASE",
            ]),
        )
    };
    (format!("c{number}"), takes, declared)
}

/// A table with a key of this kind; `unique` chooses in which way `u` is UNIQUE.
fn table(
    random: &mut Random,
    name: &str,
    key: Key,
    unique: usize,
    tally: &mut Tally,
) -> (Table, Vec<String>) {
    tally.count(key.name());
    let (keys, primary, options) = key.declared();
    let mut columns = vec![];
    let mut text = format!("{keys}, w INTEGER, u TEXT");
    let index = |what: &str| format!("CREATE UNIQUE INDEX \"{}_u\" ON {name}({what}", name.trim_matches('"'));
    let mut after = vec![];
    match unique % 5 {
        0 => {
            tally.count("UNIQUE column");
            text.push_str(" UNIQUE");
        }
        1 => {
            tally.count("UNIQUE over two columns");
            after.push(index("u, w)"));
        }
        2 => {
            tally.count("partial UNIQUE index");
            after.push(index("u) WHERE w > 1"));
        }
        3 => {
            tally.count("UNIQUE index over an expression");
            after.push(index("lower(u))"));
        }
        _ => {}
    }
    for number in 0..1 + random.place(4) {
        let (column, takes, declared) = column(random, number, key);
        text.push_str(&format!(", {column} {declared}"));
        columns.push((column, takes));
    }
    if random.one_in(2) {
        tally.count("generated column");
        let kind = random.of(&["STORED", "VIRTUAL"]);
        text.push_str(&format!(", g TEXT GENERATED ALWAYS AS (u || '/' || w) {kind}"));
        after.push(format!("CREATE INDEX \"{}_g\" ON {name}(g)", name.trim_matches('"')));
    }
    if random.one_in(2) {
        tally.count("CHECK");
        text.push_str(", CHECK(w BETWEEN 0 AND 9 AND (u IS NULL OR length(u) < 30))");
    }
    let made = format!("CREATE TABLE {name}({text}{primary}) {options}");
    (Table { name: name.to_owned(), key, columns, parent: None }, [vec![made], after].concat())
}

/// A table that refers to another one.
fn child(random: &mut Random, parent: &Table, number: usize, tally: &mut Tally) -> (Table, Vec<String>) {
    tally.count("foreign key with actions");
    let key = random.of(&[Key::Integer, Key::Automatic, Key::Text]);
    tally.count(key.name());
    let name = format!("child{number}");
    let on_delete = random.of(&["CASCADE", "SET NULL", "NO ACTION", "RESTRICT", "SET DEFAULT"]);
    let deferred = random.of(&["", "DEFERRABLE INITIALLY DEFERRED"]);
    let made = format!(
        "CREATE TABLE {name}({}, w INTEGER, u TEXT, p REFERENCES {} ON DELETE {on_delete} ON UPDATE CASCADE {deferred}, c0)",
        key.declared().0,
        parent.name
    );
    let columns = vec![("c0".to_owned(), Takes::Anything)];
    let table = Table { name: name.clone(), key, columns, parent: Some(parent.name.clone()) };
    (table, vec![made, format!("CREATE INDEX {name}_p ON {name}(p)")])
}

/// Triggers on a table that write another one.
fn triggers(table: &Table, audit: &Table, tally: &mut Tally) -> Vec<String> {
    tally.count("application trigger");
    let (name, audit) = (&table.name, &audit.name);
    vec![
        format!(
            "CREATE TRIGGER audit_insert AFTER INSERT ON {name} BEGIN
               INSERT INTO {audit}(w, u, c0) VALUES(new.w, NULL, 'new ' || coalesce(new.u, ''));
             END"
        ),
        format!(
            "CREATE TRIGGER audit_delete AFTER DELETE ON {name} WHEN old.w > 1 BEGIN
               UPDATE {audit} SET c0 = 'gone' WHERE k = (SELECT max(k) FROM {audit} WHERE w = old.w);
             END"
        ),
    ]
}

/// The schema that the nodes begin with.
pub fn first(random: &mut Random, tally: &mut Tally) -> Migration {
    let (keys, names) = (random.shuffled(&ALL_KEYS), random.shuffled(NAMES));
    let from = random.place(5);
    let (mut tables, mut statements) = (vec![], vec![]);
    for (number, (key, name)) in keys.into_iter().zip(names).enumerate() {
        let (table, made) = table(random, name, key, from + number, tally);
        tables.push(table);
        statements.extend(made);
    }
    for number in 0..2 {
        let parents: Vec<&Table> = tables.iter().filter(|table| !table.key.is_pair()).collect();
        let parent = parents[random.place(parents.len())].clone();
        let (table, made) = child(random, &parent, number, tally);
        tables.push(table);
        statements.extend(made);
    }
    let (audit, made) = table(random, "audit", Key::Automatic, 4, tally);
    statements.extend(made);
    let audited = tables[random.place(tables.len())].clone();
    statements.extend(triggers(&audited, &audit, tally));
    tables.push(audit);
    Migration { statements, tables }
}

/// A column more.
pub fn add_column(random: &mut Random, tables: &[Table]) -> Migration {
    let mut tables = tables.to_vec();
    let at = random.place(tables.len());
    let table = &mut tables[at];
    let (name, takes, declared) = column(random, table.columns.len(), table.key);
    let fallback = match (takes, random.below(3)) {
        (_, 0) | (Takes::Blob, _) => "",
        (Takes::Integer, _) => " DEFAULT 7",
        (Takes::Real, _) => " DEFAULT 0.5",
        (_, 1) => " NOT NULL DEFAULT 'x'",
        _ => " DEFAULT 'y'",
    };
    let made = format!("ALTER TABLE {} ADD COLUMN {name} {declared}{fallback}", table.name);
    table.columns.push((name, takes));
    Migration { statements: vec![made], tables }
}

/// An index more, which is not UNIQUE: rows that are there may not fit one that is.
pub fn create_index(random: &mut Random, tables: &[Table], number: usize) -> Migration {
    let table = &tables[random.place(tables.len())];
    let (column, _) = &table.columns[random.place(table.columns.len())];
    let what = match random.below(3) {
        0 => format!("{column}, u"),
        1 => format!("length({column}))  WHERE (w > 1"),
        _ => format!("upper({column})"),
    };
    let made = format!("CREATE INDEX later{number} ON {}({what})", table.name);
    Migration { statements: vec![made], tables: tables.to_vec() }
}

/// A table more.
pub fn create_table(random: &mut Random, tables: &[Table], number: usize, tally: &mut Tally) -> Migration {
    let (key, unique) = (random.of(&ALL_KEYS), random.place(5));
    let (table, statements) = table(random, &format!("\"later {number}\""), key, unique, tally);
    Migration { statements, tables: [tables, &[table]].concat() }
}
