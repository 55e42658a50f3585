//! Keys and schemas that SQLite sees in more than one way: keys that are equal and not the same, functions and collations that
//! only the application has, texts in another encoding.

use crate::support::servers::python;
use crate::support::*;

const STREAM: &str = "harmonylite-changes-c-1";

fn messages(nats: &Nats) -> u64 {
    nats.client().stream_info(STREAM).unwrap().state.last_seq
}

/// Nobody publishes anything while nobody writes.
fn assert_silent(nats: &Nats, nodes: &[&Node]) {
    let before = messages(nats);
    pause(2_000);
    assert_eq!(messages(nats), before, "somebody publishes while nobody writes");
    for node in nodes {
        assert_eq!(node.count("an older copy"), 0, "{}", node.log());
    }
}

fn text(node: &Node, sql: &str) -> String {
    node.open().query_row(sql, [], |row| row.get::<_, Option<String>>(0)).unwrap().unwrap_or_default()
}

#[test]
fn a_key_is_compared_as_its_index_compares_it() {
    let dir = Dir::new("key-rules");
    let nats = Nats::start(&dir);
    let schema = "
        CREATE TABLE strict(k TEXT COLLATE NOCASE, v, PRIMARY KEY(k COLLATE BINARY));
        CREATE TABLE loose(k TEXT, v, PRIMARY KEY(k COLLATE NOCASE));
        CREATE TABLE zero(k TEXT COLLATE NOCASE PRIMARY KEY, v);
        CREATE TABLE typeless(k PRIMARY KEY, v);
        CREATE TABLE empty(k TEXT PRIMARY KEY, v);";
    let make = |id: u64| Node::with_schema(&dir, id, &nats.url(), "snapshot.leader_ttl = 1000\n", schema);
    let (mut one, mut two) = (make(1), make(2));
    one.start_ready();
    two.start_ready();
    one.sql(
        "INSERT INTO strict VALUES('a', 1), ('A', 2); INSERT INTO loose VALUES('Key', 1), ('other', 1);
         INSERT INTO zero VALUES('a' || char(0) || 'b', 1);
         INSERT INTO typeless VALUES(9100000000000000000, 1), (1, 1);",
    );
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_eq!(text(&two, "SELECT group_concat(k || v) FROM (SELECT * FROM strict ORDER BY v)"), "a1,A2");
    // The same keys in another spelling, on the other node.
    two.sql(
        "DELETE FROM loose WHERE k = 'KEY' COLLATE NOCASE; REPLACE INTO loose VALUES('OTHER', 2);
         DELETE FROM strict WHERE k = 'a' COLLATE BINARY; UPDATE strict SET k = 'a';
         REPLACE INTO zero VALUES('A' || char(0) || 'c', 2);
         REPLACE INTO typeless VALUES(9.1e18, 2), (1.0, 2);",
    );
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_eq!(text(&one, "SELECT group_concat(k || v) FROM loose"), "OTHER2");
    assert_eq!(text(&one, "SELECT group_concat(k || v) FROM strict"), "a2");
    assert_eq!(text(&one, "SELECT group_concat(typeof(k) || v) FROM typeless"), "real2,real2");
    one.sql("REPLACE INTO zero VALUES('a' || char(0) || 'd', 3); REPLACE INTO typeless VALUES(9100000000000000000, 3)");
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_silent(&nats, &[&one, &two]);
    // Rows that nothing tells apart: one of them arrives, and that is all.
    one.sql("INSERT INTO empty VALUES(NULL, 1), (NULL, 2)");
    wait_for("the log is empty", 20, || (one.unsettled() == 0).then_some(()));
    assert_silent(&nats, &[&one, &two]);
    assert_eq!(text(&two, "SELECT group_concat(v) || '' FROM empty"), "2");
    assert_eq!((one.stop(), two.stop()), (0, 0));
}

/// Runs statements as an application that has a collation and functions of its own.
fn application(node: &Node, sql: &str) -> String {
    let path = node.database.display();
    python(&format!(
        "import sqlite3\nc = sqlite3.connect({:?}, timeout=20, isolation_level=None)\n\
         c.create_collation('LOCALIZED', lambda a, b: (a[::-1] > b[::-1]) - (a[::-1] < b[::-1]))\n\
         c.create_function('title_sort', 1, lambda t: t and ' '.join(t.split()[::-1]), deterministic=True)\n\
         c.executescript({sql:?})\n\
         print(c.execute('PRAGMA integrity_check').fetchone()[0])\nc.close()",
        path.to_string()
    ))
}

const FOREIGN: &str = "
    CREATE TABLE t(id INTEGER PRIMARY KEY, v);
    CREATE TABLE books(id INTEGER PRIMARY KEY, title); CREATE INDEX by_title ON books(title COLLATE LOCALIZED);
    CREATE TABLE films(id INTEGER PRIMARY KEY, title); CREATE INDEX films_sort ON films(title_sort(title));
    CREATE TABLE songs(id INTEGER PRIMARY KEY, title, sort AS (title_sort(title)) STORED);
    CREATE TABLE parts(id INTEGER PRIMARY KEY, title); CREATE INDEX parts_some ON parts(id) WHERE title_sort(title) > 'm';
    CREATE TRIGGER books_of_t AFTER INSERT ON t WHEN NEW.v = 'a book' BEGIN INSERT INTO books VALUES(NEW.id, NEW.v); END;
    CREATE TABLE checked(id INTEGER PRIMARY KEY, title CHECK(title_sort(title) <> ''));";

const REFUSED: [&str; 4] = ["books", "films", "songs", "parts"];

fn foreign_node(dir: &Dir, nats: &Nats, id: u64) -> Node {
    let node =
        Node::new(dir, id, &nats.url(), "snapshot.leader_ttl = 1000\nsnapshot.verify_interval = 1500\n");
    node.keep_messages(200);
    node
}

fn write_all(node: &Node, id: u64) {
    let rows: String = REFUSED
        .iter()
        .chain(&["checked"])
        .map(|table| format!("INSERT INTO {table}(id, title) VALUES({id}, 'the title of {id}');"))
        .collect();
    application(node, &format!("{rows} INSERT INTO t VALUES({id}, 'row {id}')"));
}

fn ids(node: &Node, table: &str) -> String {
    text(node, &format!("SELECT group_concat(id) FROM (SELECT id FROM {table} NOT INDEXED ORDER BY id)"))
}

fn wait_replicated(nodes: &mut [&mut Node], ids_of: &str) {
    wait_for("the tables that are replicated are equal", 30, || {
        nodes.iter_mut().for_each(|node| node.assert_alive());
        let all = nodes.iter().all(|node| {
            node.unsettled() == 0 && ["t", "checked"].iter().all(|table| ids(node, table) == ids_of)
        });
        all.then_some(())
    });
}

#[test]
fn what_only_the_application_knows_stops_one_table_and_no_other() {
    let dir = Dir::new("own-functions");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = (foreign_node(&dir, &nats, 1), foreign_node(&dir, &nats, 2));
    for node in [&one, &two] {
        application(node, &format!("PRAGMA journal_mode=WAL; {FOREIGN}"));
    }
    write_all(&one, 1);
    write_all(&two, 2);
    one.start_ready();
    wait_for("a snapshot", 20, || (one.count("stored snapshot") > 0).then_some(()));
    two.start_ready();
    wait_replicated(&mut [&mut one, &mut two], "1,2");
    write_all(&one, 3);
    write_all(&two, 4);
    wait_replicated(&mut [&mut one, &mut two], "1,2,3,4");
    for (node, own) in [(&one, "1,3"), (&two, "2,4")] {
        for table in REFUSED {
            assert_eq!(ids(node, table), own, "{table} is not replicated");
            let said = format!("table {table} is not replicated");
            assert_eq!(node.count(&said), 1, "{}", node.log());
        }
    }
    for named in [
        "index by_title compares by the application's own collation LOCALIZED",
        "index films_sort calls the application's own function title_sort",
        "index parts_some calls",
    ] {
        assert_eq!(one.count(named), 1, "{}", one.log());
    }
    wait_for("a proof", 30, || (one.count("proved that a restore works") > 0).then_some(()));
    assert_silent(&nats, &[&one, &two]);
    assert!(one.command(&["-save-snapshot"]).status.success());
    let verified = one.command(&["-verify-snapshot"]);
    assert!(verified.status.success(), "{}", printed(&verified));
    // A new node gets all rows of the snapshot, and an application goes on with the index as it is.
    let mut three = foreign_node(&dir, &nats, 3);
    three.start_ready();
    assert_eq!(ids(&three, "books"), ids(if ids(&three, "books") == "1,3" { &one } else { &two }, "books"));
    write_all(&three, 5);
    wait_replicated(&mut [&mut one, &mut two, &mut three], "1,2,3,4,5");
    for node in [&one, &two, &three] {
        assert_eq!(application(node, "SELECT 1").trim(), "ok");
    }
    // One that fell behind is brought to the state of a snapshot; its own rows of the table that is refused stay.
    two.stop();
    application(
        &one,
        "WITH RECURSIVE n(i) AS (SELECT 100 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) INSERT INTO t SELECT i, 'new' FROM n; DELETE FROM t WHERE id >= 100",
    );
    wait_for("all is published", 30, || (one.unsettled() == 0).then_some(()));
    two.start_ready();
    wait_replicated(&mut [&mut one, &mut two, &mut three], "1,2,3,4,5");
    assert_eq!(ids(&two, "books"), "2,4");
    // Without the index the table is replicated.
    for node in [&one, &two, &three] {
        application(node, "DROP INDEX by_title");
    }
    wait_for("books cross", 30, || {
        (ids(&one, "books") == "1,2,3,4,5" && ids(&two, "books") == "1,2,3,4,5").then_some(())
    });
    for node in [&one, &two, &three] {
        assert_eq!(node.count("damaged"), 0, "{}", node.log());
    }
    assert_eq!((one.stop(), two.stop(), three.stop()), (0, 0, 0));
}

#[test]
fn databases_of_different_encodings_get_in_line() {
    let dir = Dir::new("encodings");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT UNIQUE); CREATE TABLE k(k TEXT COLLATE NOCASE PRIMARY KEY, v) WITHOUT ROWID;";
    let make = |id: u64, encoding: &str| {
        let rows = format!(
            "INSERT INTO t VALUES({id}, 'größe {id}'), (50, 'shared'); INSERT INTO k VALUES('Ä{id}', 'ü'), ('x', {id})"
        );
        let config = "snapshot.leader_ttl = 1000\nsnapshot.verify_interval = 1500\n";
        let node = Node::new(&dir, id, &nats.url(), config);
        node.keep_messages(200);
        // The choice of the encoding comes before everything else, the journal mode too.
        let connection = rusqlite::Connection::open(&node.database).unwrap();
        connection.execute_batch(&format!("PRAGMA encoding='{encoding}'; {schema} {rows}")).unwrap();
        node
    };
    let (mut one, mut two, mut three) = (make(1, "UTF-8"), make(2, "UTF-16le"), make(3, "UTF-16be"));
    one.start_ready();
    two.start_ready();
    three.start_ready();
    let joined = wait_equal(&mut [&mut one, &mut two, &mut three], 30);
    assert!(joined.contains("== t (4 rows)") && joined.contains("== k (4 rows)"), "{joined}");
    one.sql("INSERT INTO t VALUES(10, 'from ä'); REPLACE INTO k VALUES('X', 'one')");
    two.sql("INSERT INTO t VALUES(20, 'from ö\u{1f600}'); DELETE FROM k WHERE k = 'ä1' OR k = 'Ä1'");
    wait_equal(&mut [&mut one, &mut two, &mut three], 20);
    // Each in turn falls behind what the stream keeps.
    for at in 0..3 {
        let mut nodes = [&mut one, &mut two, &mut three];
        nodes[at].stop();
        let own = format!("INSERT INTO t VALUES({}, 'own ü {at}')", 30 + at);
        nodes[at].sql(&own);
        let writer = &nodes[(at + 1) % 3];
        for round in 0..4 {
            writer.sql(&format!(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
                 INSERT INTO t(v) SELECT 'ß {at} {round} ' || i FROM n"
            ));
            pause(30);
        }
        wait_for("all is published", 30, || (writer.unsettled() == 0).then_some(()));
        nodes[at].start();
        let equal = wait_equal(&mut nodes, 60);
        assert!(equal.contains(&format!("Integer({})", 30 + at)), "{equal}");
        assert!(nodes[at].count("brought the database to the state of snapshot") > 0, "{}", nodes[at].log());
    }
    for (node, encoding) in [(&one, "UTF-8"), (&two, "UTF-16le"), (&three, "UTF-16be")] {
        assert_eq!(text(node, "PRAGMA encoding"), encoding);
        assert_eq!(text(node, "PRAGMA integrity_check"), "ok");
    }
    let converted: usize = [&one, &two, &three].iter().map(|node| node.count("converted it")).sum();
    assert!(converted >= 3, "{converted}");
    assert_silent(&nats, &[&one, &two, &three]);
    assert_eq!((one.stop(), two.stop(), three.stop()), (0, 0, 0));
}

/// As many columns as SQLite takes: conditions over all of them are no deep expressions.
#[test]
fn tables_of_very_many_columns_join() {
    let dir = Dir::new("very-wide");
    let nats = Nats::start(&dir);
    let columns: Vec<String> = (1..1_990).map(|n| format!("c{n}")).collect();
    let schema = format!("CREATE TABLE wide(id INTEGER PRIMARY KEY, {})", columns.join(", "));
    let make = |id: u64| Node::with_schema(&dir, id, &nats.url(), "snapshot.leader_ttl = 1000\n", &schema);
    let (mut one, mut two) = (make(1), make(2));
    for (node, id) in [(&one, 1), (&two, 2)] {
        node.sql(&format!(
            "INSERT INTO wide(id, c1, c1989) VALUES({id}, 'first', 'last'), (3, 'of {id}', 1)"
        ));
    }
    one.start_ready();
    wait_for("a snapshot", 20, || (one.count("stored snapshot") > 0).then_some(()));
    two.start_ready();
    wait_equal(&mut [&mut one, &mut two], 20);
    one.sql("UPDATE wide SET c1000 = 'middle'");
    wait_equal(&mut [&mut one, &mut two], 20);
    assert_eq!(text(&two, "SELECT group_concat(id || c1000) FROM wide"), "1middle,2middle,3middle");
    assert_silent(&nats, &[&one, &two]);
    assert_eq!((one.stop(), two.stop()), (0, 0));
}
