//! Tests of the schema as replication reads it.

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
    assert_eq!(plain, hash("CREATE TABLE t(a TEXT, k INTEGER PRIMARY KEY); CREATE UNIQUE INDEX i ON t(a)"));
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
    let expected = [Keyed::Rowid, Keyed::RowidAlias, Keyed::Index, Keyed::WithoutRowid, Keyed::WithoutRowid];
    assert_eq!(keyed[..5], expected);
    // A quirk of SQLite: DESC makes it no alias of the rowid.
    assert_eq!(keyed[5], Keyed::Index);
}

#[test]
fn collations_of_keys_are_known() {
    let schema = read("CREATE TABLE t(a TEXT COLLATE nocase, b COLLATE RTRIM, c, PRIMARY KEY(a, b, c))");
    let collations: Vec<Collation> = schema.tables["t"].key.iter().map(|column| column.collation).collect();
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
        ("CREATE UNIQUE INDEX i ON t(abs(b))", "abs", "index i calls the application's own function mine"),
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
        assert!(connection.db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER).unwrap());
    }
}

/// Every event has all columns, so the function is never called here.
#[test]
fn a_default_that_only_the_application_can_compute_is_no_obstacle() {
    let schema = Schema::read(&forced("CREATE TABLE t(a INTEGER PRIMARY KEY, b DEFAULT (abs(1)))", "abs"));
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
