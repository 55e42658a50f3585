//! A snapshot of a database that stores its texts in another encoding than the one that it is for. SQLite attaches no such
//! file, and an application that has its database open could not read it any more after a replacement. So the snapshot is
//! written anew in the database's encoding, through values, as VACUUM writes a database anew.

use crate::base::files;
use crate::base::limits;
use crate::base::temporary::Temporary;
use crate::db::restore::copy::rollback_mode;
use crate::db::{digits, error::Error, open, ours, sql::quote, writable};
use crate::model::value::Value;
use rusqlite::{Connection, params, params_from_iter};
use std::path::Path;

/// Gives a snapshot that nobody else has open the encoding of the database that it is for.
pub fn match_encoding(snapshot: &Path, database: &Path) -> Result<(), Error> {
    let database = open::open(database)?;
    let wanted = encoding(&database)?;
    let is_empty = database.query_row("PRAGMA page_count", [], |row| row.get::<_, i64>(0))? == 0;
    if is_empty {
        return Ok(());
    }
    give_encoding(snapshot, &wanted).map_err(|error| match error {
        // Damage of the snapshot must not look like damage of the database.
        Error::Corrupt(why) => Error::Mismatch(format!("the snapshot cannot be read: {why}")),
        error => error,
    })
}

fn give_encoding(snapshot: &Path, wanted: &str) -> Result<(), Error> {
    let source = Connection::open(snapshot)?;
    let present = encoding(&source)?;
    if present == wanted {
        return Ok(());
    }
    rollback_mode(&source)?;
    let place = files::parent(snapshot);
    let converted = Temporary::new(&place, snapshot, "converted")
        .map_err(|error| Error::Disk(format!("{}: {error}", place.display())))?;
    need_room(snapshot)?;
    convert(&source, converted.path(), wanted).map_err(|error| match error {
        // A mistake of the conversion must not look like one of the database.
        Error::Other(why) | Error::Mismatch(why) => Error::Mismatch(format!(
            "the snapshot stores texts as {present}, this database as {wanted}, and the snapshot cannot be converted ({why}): \
             give all nodes one encoding, by an empty db_path on this one"
        )),
        error => error,
    })?;
    drop(source);
    std::fs::rename(converted.path(), snapshot)
        .map_err(|error| Error::Disk(format!("{}: {error}", snapshot.display())))?;
    log::info!("the snapshot stores texts as {present}, this database as {wanted}: converted it");
    Ok(())
}

fn encoding(connection: &Connection) -> Result<String, Error> {
    Ok(connection.query_row("PRAGMA encoding", [], |row| row.get(0))?)
}

fn need_room(snapshot: &Path) -> Result<(), Error> {
    let disk = |error: std::io::Error| Error::Disk(format!("{}: {error}", snapshot.display()));
    // A text takes twice the bytes at most.
    let needed = std::fs::metadata(snapshot).map_err(disk)?.len() * 2;
    let free = files::free_space(&files::parent(snapshot)).map_err(disk)?;
    if free < needed {
        let place = snapshot.display();
        return Err(Error::Disk(format!(
            "{place}: its conversion needs up to {needed} bytes, {free} are free"
        )));
    }
    Ok(())
}

fn convert(source: &Connection, target: &Path, encoding: &str) -> Result<(), Error> {
    let copy = Connection::open(target)?;
    digits::agree(&copy)?;
    let number = |name: &str| source.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    copy.execute_batch(&format!(
        "PRAGMA encoding='{encoding}'; PRAGMA page_size={}; PRAGMA auto_vacuum={}; PRAGMA journal_mode=OFF; \
         PRAGMA synchronous=OFF; PRAGMA cache_size=-{};",
        number("page_size")?,
        number("auto_vacuum")?,
        limits::PAGE_CACHE_KIB
    ))?;
    let _bare = writable::Bare::new(&copy)?;
    copy.execute_batch("BEGIN")?;
    // Shadow tables of virtual tables are tables like others here.
    run_all(source, &copy, "type = 'table' AND rootpage > 0 AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'")?;
    let mut tables = source.prepare(
        "SELECT name, wr FROM pragma_table_list WHERE schema = 'main' AND type IN ('table', 'shadow') \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
    )?;
    let tables: Vec<(String, bool)> =
        tables.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (name, without_rowid) in tables {
        let columns = stored_columns(source, &name)?;
        // Where a column is the rowid, SQLite might take no further column.
        let has_rowid = !without_rowid && !is_rowid_a_column(source, &name)?;
        let rowid = if has_rowid { rowid_name(&columns) } else { None };
        copy_rows(
            source,
            &copy,
            &name,
            rowid.into_iter().map(str::to_owned).chain(columns.clone()).collect(),
        )?;
    }
    copy_internal(source, &copy)?;
    run_all(source, &copy, "type = 'index' AND sql IS NOT NULL")?;
    copy_without_running(source, &copy)?;
    copy.execute_batch(&format!(
        "PRAGMA user_version={}; PRAGMA application_id={}; COMMIT; PRAGMA writable_schema=RESET;",
        number("user_version")?,
        number("application_id")?
    ))?;
    Ok(())
}

/// Runs the statements of a part of the schema in the copy, in their order.
fn run_all(source: &Connection, copy: &Connection, which: &str) -> Result<(), Error> {
    let mut list = source.prepare(&format!("SELECT sql FROM sqlite_schema WHERE {which} ORDER BY rowid"))?;
    let mut rows = list.query([])?;
    while let Some(row) = rows.next()? {
        // One statement, whatever else a forged schema holds after it.
        copy.execute(&row.get::<_, String>(0)?, [])?;
    }
    Ok(())
}

/// The columns that SQLite does not compute.
fn stored_columns(connection: &Connection, table: &str) -> Result<Vec<String>, Error> {
    let mut columns = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    Ok(columns.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// Whether a column of a table that has rowids is another name of them: a primary key without an index of its own.
fn is_rowid_a_column(connection: &Connection, table: &str) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_table_info(?1) WHERE pk > 0) \
               AND NOT EXISTS (SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk')";
    Ok(connection.query_row(sql, [table], |row| row.get(0))?)
}

/// A name under which a table's rowid can be read and written; `None` when columns have all of its names.
fn rowid_name(columns: &[String]) -> Option<&'static str> {
    let is_free = |name: &&str| !columns.iter().any(|column| column.eq_ignore_ascii_case(name));
    ["rowid", "_rowid_", "oid"].into_iter().find(is_free)
}

fn copy_rows(source: &Connection, copy: &Connection, table: &str, columns: Vec<String>) -> Result<(), Error> {
    let list = columns.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
    let places = vec!["?"; columns.len()].join(", ");
    let table = quote(table);
    let mut insert = copy.prepare(&format!("INSERT INTO main.{table}({list}) VALUES({places})"))?;
    let mut select = source.prepare(&format!("SELECT {list} FROM main.{table} NOT INDEXED"))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let values: Vec<Value> = (0..columns.len()).map(|at| row.get(at)).collect::<Result<_, _>>()?;
        insert.execute(params_from_iter(&values))?;
    }
    Ok(())
}

/// The tables in which SQLite keeps the numbers of AUTOINCREMENT and what ANALYZE found. No statement of the application makes
/// them.
fn copy_internal(source: &Connection, copy: &Connection) -> Result<(), Error> {
    for (table, made_by) in [("sqlite_sequence", ""), ("sqlite_stat1", "ANALYZE sqlite_schema")] {
        if !ours::has_table(source, table)? {
            continue;
        }
        copy.execute_batch(made_by)?;
        // SQLite keeps sqlite_sequence when the last table with AUTOINCREMENT is dropped. Then it counts for none, and
        // nothing makes it in the copy.
        if ours::has_table(copy, table)? {
            copy.execute_batch(&format!("DELETE FROM {table}"))?;
            copy_rows(source, copy, table, stored_columns(source, table)?)?;
        }
    }
    Ok(())
}

/// Views, triggers and virtual tables come as they stand: nothing is made when they do.
fn copy_without_running(source: &Connection, copy: &Connection) -> Result<(), Error> {
    copy.execute_batch("PRAGMA writable_schema=ON")?;
    let mut select = source.prepare(
        "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE type IN ('view', 'trigger') OR (type = 'table' AND rootpage = 0)",
    )?;
    let mut insert = copy.prepare(
        "INSERT INTO sqlite_schema(type, name, tbl_name, rootpage, sql) VALUES(?1, ?2, ?3, 0, ?4)",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let [kind, name, table, sql]: [String; 4] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?];
        insert.execute(params![kind, name, table, sql])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::restore::snapshot::{Stamp, make_ready, make_snapshot};
    use crate::db::scratch::Scratch;

    const SCHEMA: &str = "
        CREATE TABLE plain(a, rowid, v TEXT); CREATE TABLE gone(a);
        CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, v, g AS (v || 'x'), s AS (length(v)) STORED);
        CREATE TABLE w(k TEXT COLLATE NOCASE, j, PRIMARY KEY(k, j)) WITHOUT ROWID;
        CREATE UNIQUE INDEX i ON counted(lower(v)) WHERE v IS NOT NULL;
        CREATE VIEW shown AS SELECT v FROM counted; CREATE TABLE told(v);
        CREATE TRIGGER tells AFTER INSERT ON counted BEGIN INSERT INTO told VALUES(NEW.v); END;
        CREATE VIRTUAL TABLE search USING fts5(v);
        INSERT INTO plain(_rowid_, a, rowid, v) VALUES(77, x'00ff', 1.5, 'ü'), (78, NULL, 'a' || char(0) || 'b', '');
        INSERT INTO counted(v) VALUES('Ä'), ('b'), ('c'); DELETE FROM counted WHERE v = 'c';
        INSERT INTO w VALUES('Key', 1), ('key', 2); INSERT INTO search VALUES('größe und länge'), ('länge');
        PRAGMA user_version=7; PRAGMA application_id=9; DROP TABLE gone; ANALYZE;";

    fn dump(connection: &Connection) -> String {
        let sql = "SELECT group_concat(x, char(10)) FROM (
            SELECT _rowid_ || quote(a) || quote(instr(rowid, 'b')) || typeof(rowid) || quote(v) AS x FROM plain UNION ALL
            SELECT id || quote(v) || quote(g) || quote(s) FROM counted UNION ALL SELECT k || j FROM w UNION ALL
            SELECT 'seq ' || seq FROM sqlite_sequence UNION ALL SELECT 'told ' || v FROM told UNION ALL
            SELECT 'shown ' || v FROM shown UNION ALL SELECT 'found ' || rowid FROM search('länge') UNION ALL
            SELECT type || name FROM sqlite_schema UNION ALL SELECT 'stat ' || stat FROM sqlite_stat1 WHERE tbl = 'w' UNION ALL
            SELECT 'version ' || user_version FROM pragma_user_version UNION ALL
            SELECT 'id ' || application_id FROM pragma_application_id ORDER BY 1)";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_snapshot_takes_the_encoding_of_the_database() {
        let all = ["UTF-8", "UTF-16le", "UTF-16be"];
        for (from, to) in all.iter().flat_map(|from| all.map(|to| (from, to))) {
            let snapshot = Scratch::with_first(
                &format!("from-{from}-{to}"),
                &format!("PRAGMA encoding='{from}'; {SCHEMA}"),
            );
            let database = Scratch::with_first(
                &format!("to-{from}-{to}"),
                &format!("PRAGMA encoding='{to}'; CREATE TABLE t(a)"),
            );
            let before = dump(&snapshot.app);
            let path = files::beside(&snapshot.path, ".copy");
            crate::db::restore::copy::copy_database(&snapshot.path, &path).unwrap();
            match_encoding(&path, &database.path).unwrap();
            let converted = Connection::open(&path).unwrap();
            assert_eq!(encoding(&converted).unwrap(), to);
            assert_eq!(dump(&converted), before, "{from} to {to}");
            let check: String = converted.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(check, "ok", "{from} to {to}");
            converted.execute_batch("INSERT INTO counted(v) VALUES('new')").unwrap();
            assert!(dump(&converted).contains("told new") && dump(&converted).contains("4'new'"));
            std::fs::remove_file(&path).unwrap();
        }
    }

    /// Our own log has AUTOINCREMENT. It is taken out of a snapshot, and what SQLite has made for it stays.
    #[test]
    fn a_snapshot_of_tables_without_autoincrement_takes_an_encoding() {
        let source = Scratch::new(
            "plain-tables",
            "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
             INSERT INTO t SELECT i, 'Größe ' || i || printf('%0100d', i) FROM n",
        );
        crate::db::install_capture(&source.path).unwrap();
        let made = make_snapshot(&source.path, &files::parent(&source.path), &Stamp::default()).unwrap();
        make_ready(made.file.path(), &Default::default()).unwrap();
        let database =
            Scratch::with_first("plain-tables-16", "PRAGMA encoding='UTF-16le'; CREATE TABLE t(v)");
        match_encoding(made.file.path(), &database.path).unwrap();
        let converted = Connection::open(made.file.path()).unwrap();
        assert_eq!(encoding(&converted).unwrap(), "UTF-16le");
        let sum = "SELECT count(*) || max(v) FROM t";
        let found: String = converted.query_row(sum, [], |row| row.get(0)).unwrap();
        assert_eq!(format!("'{found}'"), source.value(sum));
    }

    #[test]
    fn a_table_of_as_many_columns_as_sqlite_takes_is_converted() {
        let columns: String = (1..2_000).map(|n| format!(", c{n}")).collect();
        let snapshot = standing(
            "wide-text",
            &format!(
                "CREATE TABLE t(id INTEGER PRIMARY KEY{columns}); INSERT INTO t(id, c1999) VALUES(7, 'ü')"
            ),
        );
        let database = Scratch::with_first("wide-16", "PRAGMA encoding='UTF-16le'; CREATE TABLE t(v)");
        match_encoding(&snapshot.path, &database.path).unwrap();
        let converted = Connection::open(&snapshot.path).unwrap();
        let row = converted.query_row("SELECT id || c1999 FROM t", [], |row| row.get::<_, String>(0));
        assert_eq!(row.unwrap(), "7ü");
    }

    /// SQLite itself refuses to open such a schema by now.
    #[test]
    fn statements_after_that_of_a_schema_entry_do_not_run() {
        let [source, copy] = [0; 2].map(|_| Connection::open_in_memory().unwrap());
        let forged = "CREATE TABLE t(v); PRAGMA writable_schema=ON; \
                      UPDATE sqlite_schema SET sql = sql || '; CREATE TABLE more(a)'";
        source.execute_batch(forged).unwrap();
        assert!(run_all(&source, &copy, "type = 'table'").is_err());
        assert!(!ours::has_table(&copy, "more").unwrap());
    }

    #[test]
    fn damage_of_the_snapshot_is_none_of_the_database() {
        let snapshot = standing(
            "damaged-text",
            "CREATE TABLE t(v); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
             INSERT INTO t SELECT printf('%0200d', i) FROM n",
        );
        let path = files::beside(&snapshot.path, ".copy");
        let bytes = std::fs::read(&snapshot.path).unwrap();
        let database = Scratch::with_first("damaged-16", "PRAGMA encoding='UTF-16le'; CREATE TABLE t(v)");
        for at in [0, bytes.len() / 4096 / 2 * 4096] {
            let mut bytes = bytes.clone();
            bytes[at..at + 4096].fill(0xa5);
            std::fs::write(&path, bytes).unwrap();
            let error = match_encoding(&path, &database.path).unwrap_err();
            assert!(matches!(&error, Error::Mismatch(why) if why.contains("snapshot")), "{at}: {error:?}");
        }
        std::fs::remove_file(&path).unwrap();
    }

    /// A database that stands alone, as a snapshot does.
    fn standing(name: &str, sql: &str) -> Scratch {
        let snapshot = Scratch::with_first(name, sql);
        snapshot.app.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=DELETE").unwrap();
        snapshot
    }

    #[test]
    fn a_snapshot_that_cannot_be_converted_stays_as_it_is_and_names_the_remedy() {
        let snapshot = standing(
            "unconverted",
            "CREATE TABLE t(v); INSERT INTO t VALUES('x'); CREATE INDEX i ON t(v COLLATE RTRIM); PRAGMA writable_schema=ON;
             UPDATE sqlite_schema SET sql = replace(sql, 'RTRIM', 'mine'); PRAGMA writable_schema=RESET",
        );
        let database = Scratch::with_first("unconverted-16", "PRAGMA encoding='UTF-16le'; CREATE TABLE t(v)");
        let error = match_encoding(&snapshot.path, &database.path).unwrap_err();
        assert!(
            matches!(&error, Error::Mismatch(why) if why.contains("mine") && why.contains("give all nodes one encoding")),
            "{error}"
        );
        assert_eq!(snapshot.value("SELECT v FROM t"), "'x'");
        assert!(!files::beside(&snapshot.path, ".harmonylite-converted").exists());
    }
}
