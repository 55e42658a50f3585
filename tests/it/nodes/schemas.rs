//! Schemas and statements that applications have, on two nodes whose applications use the system's SQLite: afterwards all tables are
//! equal byte for byte, as that SQLite reads them, and it finds all indexes sound.

use crate::support::*;
use std::process::{Command, Stdio};

/// An application: runs statements, or prints all that it sees. A text is told from a blob, a real number from all others.
const APPLICATION: &str = r#"
import sqlite3, sys
path, sql = sys.argv[1], sys.stdin.read()
db = sqlite3.connect(path, timeout=30, isolation_level=None)
if sql:
    db.execute("PRAGMA foreign_keys=ON")
    db.executescript(sql)
    sys.exit()
db.text_factory = lambda value: ("text", value)
tables = "SELECT CAST(name AS BLOB) FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
for (name,) in db.execute(tables).fetchall():
    name = name.decode()
    if name.startswith("sqlite_") or name.startswith("__harmonylite__"):
        continue
    quoted = '"' + name.replace('"', '""') + '"'
    keyed = db.execute("SELECT count(*) FROM pragma_table_info(?) WHERE pk > 0", [name]).fetchone()[0]
    rows = db.execute("SELECT " + ("*" if keyed else "rowid, *") + " FROM " + quoted + " NOT INDEXED")
    print("==", name)
    print("\n".join(sorted(repr(row) for row in rows)))
print(db.execute("PRAGMA integrity_check").fetchall())
"#;

fn application(node: &Node, sql: &str) -> String {
    let mut child = Command::new(servers::tool("python"))
        .args(["-c", APPLICATION])
        .arg(&node.database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), sql.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{sql}");
    String::from_utf8(output.stdout).unwrap()
}

/// What both applications see when all has arrived.
fn equal(nodes: &mut [&mut Node]) -> String {
    wait_equal(nodes, 60);
    let seen: Vec<String> = nodes.iter().map(|node| application(node, "")).collect();
    for (one, other) in seen[0].lines().zip(seen[1].lines()) {
        assert_eq!(one, other);
    }
    assert_eq!(seen[0].len(), seen[1].len());
    assert!(seen[0].ends_with("[(('text', b'ok'),)]\n"), "{}", seen[0].lines().last().unwrap());
    seen[0].clone()
}

const NAMES: [&str; 3] = [
    r#"CREATE TABLE "select"("from" INTEGER PRIMARY KEY, "group" TEXT UNIQUE, "order"); CREATE TABLE "a ""b; --"("x ""y" TEXT PRIMARY KEY, "'");
       CREATE TABLE "größe ☃"("ключ" TEXT PRIMARY KEY, "值" UNIQUE); CREATE TABLE sqlitex(id INTEGER PRIMARY KEY, v);
       CREATE TABLE SQLite2(id INTEGER PRIMARY KEY, v UNIQUE); CREATE TABLE __harmonylitex(id INTEGER PRIMARY KEY, v);
       CREATE TABLE [1](" " INTEGER PRIMARY KEY, "rowid", OID TEXT); CREATE TABLE CamelCase(Id INTEGER PRIMARY KEY, Value);
       CREATE TABLE "_rowid_"(_rowid_ TEXT PRIMARY KEY, "NEW", "OLD", "excluded")"#,
    r#"INSERT INTO "select" VALUES(1, 'a', 2), (2, 'b', 3); INSERT INTO "a ""b; --" VALUES('k', x'27'), ('', 1.0);
       INSERT INTO "größe ☃" VALUES('я', '值'), ('ü', 'ß'); INSERT INTO sqlitex VALUES(1, 2); INSERT INTO SQLite2 VALUES(1, 2);
       INSERT INTO __harmonylitex VALUES(1, 'x'); INSERT INTO [1] VALUES(5, 6, '7'); INSERT INTO CAMELCASE VALUES(1, 'v');
       INSERT INTO "_rowid_" VALUES('a', 1, 2, 3)"#,
    r#"UPDATE "select" SET "group" = "group" || "order"; DELETE FROM "a ""b; --" WHERE "x ""y" = ''; REPLACE INTO "größe ☃" VALUES('z', '值');
       UPDATE sqlitex SET v = 3; REPLACE INTO sqlite2 VALUES(2, 2); DELETE FROM __harmonylitex; UPDATE [1] SET "rowid" = 'r', oid = 'o';
       UPDATE camelcase SET value = value || id; UPDATE "_rowid_" SET "NEW" = "OLD""#,
];

const KEYS: [&str; 3] = [
    "CREATE TABLE wr(a TEXT, b BLOB, c REAL, v, PRIMARY KEY(b, a DESC, c)) WITHOUT ROWID;
     CREATE TABLE st(k ANY PRIMARY KEY, i INT, r REAL, t TEXT, b BLOB, a ANY) STRICT, WITHOUT ROWID;
     CREATE TABLE rk(k REAL PRIMARY KEY, v); CREATE TABLE dk(k DATE PRIMARY KEY, v BOOLEAN); CREATE TABLE nk(k TEXT PRIMARY KEY, v);
     CREATE TABLE bk(k BLOB PRIMARY KEY, v); CREATE TABLE ik(k INTEGER PRIMARY KEY DESC, v); CREATE TABLE any_k(k PRIMARY KEY, v);
     CREATE TABLE nc(k TEXT COLLATE NOCASE PRIMARY KEY, v TEXT COLLATE RTRIM UNIQUE); CREATE TABLE only_key(a, b, PRIMARY KEY(b, a));
     CREATE TABLE au(id INTEGER PRIMARY KEY AUTOINCREMENT, v)",
    "INSERT INTO wr VALUES('x', x'00', 1.5, 1), ('x', x'00', -0.0, 2), ('', x'', 1e308, 3);
     INSERT INTO st VALUES(1, 2, 3, '4', x'05', 6), ('1', -1, 0.1, '', x'', '6'), (x'31', NULL, NULL, NULL, NULL, NULL), (2.5, 1, 1, 'x', NULL, 2.0);
     INSERT INTO rk VALUES(0.1, 1), (1, 2), (9e999, 3), (-9e999, 4), (NULL, 5); INSERT INTO dk VALUES('2024-02-29', 2), (20240229, 'yes'), (1.5, 0);
     INSERT INTO nk VALUES(NULL, 'null'), ('', 'empty'); INSERT INTO bk VALUES(x'', 1), (x'ff00', 2), ('text', 3); INSERT INTO ik VALUES(-5, 1), (7, 2);
     INSERT INTO any_k VALUES(1, 'i'), ('1', 't'), (x'31', 'b'), (1.25, 'r'); INSERT INTO nc VALUES('Key', 'v'), ('other', 'w ');
     INSERT INTO only_key VALUES(1, 2), ('1', 2), (1, 2.5); INSERT INTO au(v) VALUES('a'), ('b'), ('c'); DELETE FROM au WHERE v = 'c'",
    "UPDATE wr SET c = c + 1, v = 'two' WHERE c < 10; UPDATE st SET a = k, k = k || 'x' WHERE typeof(k) = 'integer'; DELETE FROM rk WHERE k = 1;
     UPDATE rk SET k = k * 3 WHERE k < 1 AND k > 0; UPDATE dk SET v = 1; UPDATE nk SET v = 'still null' WHERE k IS NULL; UPDATE bk SET k = k || x'01';
     DELETE FROM ik WHERE k = -5; REPLACE INTO any_k VALUES(1.0, 'now real'); UPDATE nc SET k = 'KEY' WHERE k = 'key'; DELETE FROM only_key WHERE a = '1';
     INSERT INTO au(v) VALUES('d')",
];

const RULES: [&str; 3] = [
    "CREATE TABLE g(id INTEGER PRIMARY KEY, a TEXT, b AS (a || 'x'), c INTEGER AS (length(a)) STORED, d AS (c % 10) STORED UNIQUE); CREATE INDEX g_b ON g(b);
     CREATE TABLE u(id INTEGER PRIMARY KEY, a, b, c, UNIQUE(a, b)); CREATE UNIQUE INDEX u_1 ON u(lower(c)) WHERE c IS NOT NULL;
     CREATE UNIQUE INDEX u_2 ON u(a + b, c); CREATE INDEX u_3 ON u(c COLLATE RTRIM) WHERE a > 1;
     CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT UNIQUE); CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE,
         q TEXT REFERENCES parent(name) ON DELETE SET NULL ON UPDATE CASCADE, r INTEGER DEFAULT 1 REFERENCES parent ON DELETE SET DEFAULT DEFERRABLE INITIALLY DEFERRED);
     CREATE TABLE ck(id INTEGER PRIMARY KEY, n INTEGER CHECK(n > 0), t NOT NULL DEFAULT 'x', u UNIQUE ON CONFLICT REPLACE, CHECK(t <> ''));
     CREATE TABLE audited(id INTEGER PRIMARY KEY, v); CREATE TABLE audit(n INTEGER PRIMARY KEY AUTOINCREMENT, what); CREATE TABLE tree(id INTEGER PRIMARY KEY, up, depth);
     CREATE TRIGGER a_i AFTER INSERT ON audited BEGIN INSERT INTO audit(what) VALUES('i' || NEW.id); END;
     CREATE TRIGGER a_u BEFORE UPDATE ON audited BEGIN INSERT INTO audit(what) VALUES('u' || OLD.v); END;
     CREATE TRIGGER a_d AFTER DELETE ON audited BEGIN INSERT INTO audit(what) VALUES('d' || OLD.id); END;
     CREATE TRIGGER t_u AFTER UPDATE OF depth ON tree BEGIN UPDATE tree SET depth = NEW.depth + 1 WHERE up = NEW.id; END;
     CREATE VIEW w AS SELECT id, v FROM audited; CREATE TRIGGER w_i INSTEAD OF INSERT ON w BEGIN INSERT INTO audited VALUES(NEW.id, NEW.v); END;
     CREATE TABLE doc(id INTEGER PRIMARY KEY, body, x, y); CREATE VIRTUAL TABLE words USING fts5(body, content='doc', content_rowid='id'); CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1, y0, y1);
     CREATE TRIGGER d_i AFTER INSERT ON doc BEGIN INSERT INTO words(rowid, body) VALUES(NEW.id, NEW.body); END;
     CREATE TRIGGER d_d AFTER DELETE ON doc BEGIN INSERT INTO words(words, rowid, body) VALUES('delete', OLD.id, OLD.body); END",
    "INSERT INTO g(id, a) VALUES(1, 'a'), (2, 'bb'); REPLACE INTO g(id, a) VALUES(3, 'c'); INSERT OR IGNORE INTO g(id, a) VALUES(4, 'd');
     INSERT INTO u VALUES(1, 1, 1, 'A'), (2, 2, 2, 'B'), (3, 3, 3, NULL), (4, 4, 4, NULL); REPLACE INTO u VALUES(5, 9, 9, 'b');
     INSERT INTO parent VALUES(1, 'one'), (2, 'two'), (3, 'three'); INSERT INTO child VALUES(1, 1, 'one', 2), (2, 2, 'two', 3), (3, 3, NULL, 1);
     INSERT INTO ck(id, n, u) VALUES(1, 1, 'u'), (2, 2, 'v'), (3, 3, 'u'); INSERT INTO audited VALUES(1, 'a'), (2, 'b'); UPDATE audited SET v = v || 1; DELETE FROM audited WHERE id = 2;
     INSERT INTO w VALUES(7, 'by a view'); INSERT INTO tree VALUES(1, NULL, 0), (2, 1, 0), (3, 2, 0), (4, 3, 0);
     PRAGMA recursive_triggers=ON; UPDATE tree SET depth = 5 WHERE id = 1; REPLACE INTO audited VALUES(1, 'replaced'); PRAGMA recursive_triggers=OFF;
     INSERT INTO doc VALUES(1, 'hello world', 1, 2), (2, 'bye', 3, 4); INSERT INTO boxes VALUES(1, 0, 1, 0, 1)",
    "UPDATE g SET a = a || '12' WHERE id = 2; UPDATE OR REPLACE g SET a = 'zzz' WHERE id = 2; UPDATE OR IGNORE g SET a = 'wwww';
     BEGIN; UPDATE u SET a = -a; UPDATE u SET a = 4 WHERE id = 3; UPDATE u SET a = 3 WHERE id = 4; COMMIT; INSERT INTO u VALUES(9, 8, 8, 'a') ON CONFLICT DO NOTHING;
     INSERT INTO u VALUES(1, 7, 7, 'c') ON CONFLICT(id) DO UPDATE SET b = 70, c = excluded.c; DELETE FROM parent WHERE id = 2; UPDATE parent SET id = 30, name = 'thirty' WHERE id = 3;
     INSERT INTO ck(id, n, u) VALUES(4, 4, 'v'); UPDATE ck SET n = n + 1; UPDATE audited SET id = id + 100; INSERT OR ROLLBACK INTO tree VALUES(5, 4, 1);
     BEGIN; INSERT INTO tree VALUES(6, 5, 1); SAVEPOINT s; INSERT INTO tree VALUES(7, 6, 1); ROLLBACK TO s; INSERT INTO tree VALUES(8, 6, 2); RELEASE s; COMMIT;
     BEGIN; DELETE FROM tree; ROLLBACK; UPDATE doc SET x = 9; INSERT INTO doc VALUES(3, 'third', 5, 6)",
];

/// No real number here is one of the few that SQLite 3.40 writes with another last digit than ours (manual, promises): so none is random.
const VALUES: [&str; 3] = [
    "CREATE TABLE vals(id INTEGER PRIMARY KEY, v, d DATE, dt DATETIME, b BOOLEAN, ts TIMESTAMP, n NUMERIC(10,2), t TEXT, f FLOAT, i BIGINT, c VARCHAR(3));
     CREATE TABLE one_column(a); CREATE TABLE nokey(a, b);
     CREATE TABLE reals(id INTEGER PRIMARY KEY, r, s TEXT AS (r || '') STORED, q AS ('<' || r || '>')); CREATE INDEX r_1 ON reals(r || ''); CREATE UNIQUE INDEX r_2 ON reals(CAST(r AS TEXT) || id);
     CREATE INDEX r_3 ON reals(q); CREATE INDEX r_4 ON reals(id) WHERE length(r) > 16",
    "INSERT INTO vals(v) VALUES(9e999), (-9e999), (9e999 - 9e999), (9223372036854775807), (-9223372036854775808), (5e-324), (1.7976931348623157e308), (-0.0), (0.1 + 0.2),
         (9007199254740993), (9007199254740993.0), (''), (x''), (CAST(x'c3' AS TEXT)), (CAST(x'ff00fe80' AS TEXT)), ('a' || char(0) || 'b'), (char(0)), (CAST(x'eda080' AS TEXT)), (zeroblob(70000));
     INSERT INTO vals(d, dt, b, ts, n, t, f, i, c) VALUES('2024-01-02', '2024-01-02T03:04:05.678+02:00', 1, 1700000000, 12.50, 1.0, 7, '9223372036854775808', 'longer than three'),
         ('Jan 5 2024', 1700000000123, 2, '2024-01-02', '12.5', x'00', '1e3', '12', 5), ('', 1.5, 'true', 'now', 'abc', 12345678901234567890, 'x', 1.5, NULL), (20240102, '', -1, x'01', 1e20, 0.1, 1, -0.0, '');
     INSERT INTO one_column VALUES(1), (NULL), ('x'); DELETE FROM one_column WHERE a = 1; INSERT INTO nokey VALUES('a', 1), ('b', 2), ('c', 3), ('d', 4); DELETE FROM nokey WHERE b IN (1, 3);
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
     INSERT INTO reals(r) SELECT CASE i % 5 WHEN 0 THEN i / 7.0 WHEN 1 THEN i * 1e17 / 3 WHEN 2 THEN (1 - i % 4) * i * 941562895577793 / 1e10 WHEN 3 THEN 1.0 / (i * 3037000493123457) ELSE i + 0.1 + 0.2 END FROM n;
     INSERT INTO reals(r) VALUES(0.1 + 0.2), (1e15), (1e16), (123456789012345678.0), (0.000012345678901234567), (1.0), (9e999), (2.5), (0.5), (1e22), (1e23)",
    "UPDATE vals SET t = t || 'ä' WHERE id % 2 = 0; UPDATE vals SET v = CAST(v AS BLOB) WHERE id = 14; DELETE FROM vals WHERE id = 3; UPDATE one_column SET a = 'y';
     UPDATE reals SET r = r * 1.1 WHERE id % 3 = 0; DELETE FROM reals WHERE id % 7 = 0",
];

fn wide() -> String {
    let columns: Vec<String> = (1..2_000).map(|n| format!("c{n}")).collect();
    format!("CREATE TABLE wide(id INTEGER PRIMARY KEY, {}, UNIQUE(c1, c1999))", columns.join(", "))
}

fn everything(shards: u64) {
    let dir = Dir::new("schemas");
    let nats = Nats::start(&dir);
    let make = |id: u64, page_size: u32| {
        let config = format!("replication_log.shards = {shards}\nsnapshot.leader_ttl = 1000\n");
        let node = Node::new(&dir, id, &nats.url(), &config);
        let schemas = [NAMES[0], KEYS[0], RULES[0], VALUES[0]].join(";\n");
        application(
            &node,
            &format!("PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; {schemas}; {}", wide()),
        );
        node
    };
    let (mut one, mut two) = (make(1, 512), make(2, 65_536));
    one.start_ready();
    two.start_ready();
    for (at, node) in [(1, 0), (2, 1)] {
        let nodes = [&one, &two];
        for case in [NAMES, KEYS, RULES, VALUES] {
            application(nodes[node], case[at]);
        }
        application(
            nodes[node],
            &format!(
                "INSERT INTO wide(id, c1, c1000, c1999) VALUES({at}, 'first', {at}, 'last {at}'); UPDATE wide SET c1500 = 'of {at}'"
            ),
        );
        equal(&mut [&mut one, &mut two]);
    }
    // Files are written anew under the daemons' eyes; rowids of tables without a key stay.
    for node in [&one, &two] {
        application(
            node,
            "VACUUM; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA wal_checkpoint(RESTART); REINDEX; ANALYZE",
        );
    }
    application(
        &one,
        "INSERT INTO nokey VALUES('e', 5); UPDATE nokey SET b = 20 WHERE a = 'b'; DELETE FROM nokey WHERE a = 'd'",
    );
    application(&two, "UPDATE one_column SET a = 'z' WHERE rowid = 3; INSERT INTO au(v) VALUES('after')");
    let seen = equal(&mut [&mut one, &mut two]);
    assert!(seen.contains("== nokey\n(2, ('text', b'b'), 20)\n(5, ('text', b'e'), 5)"), "{seen}");
    // Each trigger of the application has run once, where its statement did.
    let of_audit: Vec<&str> =
        seen.split("== audit\n").nth(1).unwrap().split("==").next().unwrap().lines().collect();
    let whats = ["i1", "i2", "ua", "ub", "d2", "i7", "d1", "i1", "ureplaced", "uby a view"];
    assert_eq!(of_audit.len(), whats.len(), "{of_audit:?}");
    for what in whats {
        assert!(of_audit.iter().any(|line| line.contains(&format!("b'{what}"))), "{what}: {of_audit:?}");
    }
    for node in [&one, &two] {
        let aside = node.command(&["-set-aside", "-json"]);
        assert_eq!(String::from_utf8_lossy(&aside.stdout).trim(), "[]");
        assert_eq!(node.count("is not replicated") + node.count("ERROR"), 0, "{}", node.log());
    }
    // And a third node gets all of it from a snapshot.
    let mut three = Node::new(&dir, 3, &nats.url(), &format!("replication_log.shards = {shards}\n"));
    assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
    three.start_ready();
    equal(&mut [&mut one, &mut three]);
    assert_eq!((one.stop(), two.stop(), three.stop()), (0, 0, 0));
}

#[test]
fn what_applications_do_in_one_stream() {
    everything(1);
}

#[test]
fn what_applications_do_in_four_streams() {
    everything(4);
}

/// Keys and UNIQUE values on which both nodes disagree at once are settled the same way on both, whatever the number of streams.
#[test]
fn rows_that_collide_have_one_order_in_four_streams() {
    let dir = Dir::new("schemas-collide");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v, u TEXT COLLATE NOCASE UNIQUE); CREATE TABLE k(k TEXT COLLATE NOCASE PRIMARY KEY, v); CREATE TABLE p(id INTEGER PRIMARY KEY, v)";
    let make = |id: u64| Node::with_schema(&dir, id, &nats.url(), "replication_log.shards = 4\n", schema);
    let (mut one, mut two) = (make(1), make(2));
    one.start_ready();
    two.start_ready();
    std::thread::scope(|scope| {
        for (node, id) in [(&one, 1), (&two, 2)] {
            scope.spawn(move || {
                for n in 0..150 {
                    let (value, spelling) = (n % 17, if id == 1 { "a" } else { "A" });
                    node.sql(&format!(
                        "REPLACE INTO t VALUES({}, '{id}-{n}', '{spelling}{value}'); REPLACE INTO k VALUES('{spelling}{value}', '{id}-{n}');
                         REPLACE INTO p VALUES({value}, '{id}-{n}')",
                        n % 13
                    ));
                }
            });
        }
    });
    equal(&mut [&mut one, &mut two]);
    assert_eq!((one.stop(), two.stop()), (0, 0));
}

/// The way to another number of streams that the README describes.
#[test]
fn another_number_of_streams() {
    let dir = Dir::new("schemas-shards");
    let nats = Nats::start(&dir);
    let schema =
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v, u UNIQUE); CREATE TABLE p(id INTEGER PRIMARY KEY, v)";
    let make = |id: u64| {
        Node::with_schema(
            &dir,
            id,
            &nats.url(),
            "replication_log.shards = 1\nsnapshot.leader_ttl = 1000\n",
            schema,
        )
    };
    let mut nodes = [make(1), make(2)];
    nodes.iter_mut().for_each(Node::start_ready);
    for (before, shards) in [(1, 4), (4, 2)] {
        let [one, two] = &mut nodes;
        one.sql(&format!("REPLACE INTO t VALUES({shards}, 'one', 'u{shards}'); REPLACE INTO p SELECT value, {shards} FROM json_each('[1,2,3,4,5,6,7,8]')"));
        equal(&mut [one, two]);
        assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
        assert_eq!((one.stop(), two.stop()), (0, 0));
        let client = nats.client();
        for stream in 1..=before {
            client.delete_stream(format!("harmonylite-changes-c-{stream}")).unwrap();
        }
        for node in [&*one, &*two] {
            let text = std::fs::read_to_string(&node.config).unwrap();
            let now = text.replace(&format!("shards = {before}"), &format!("shards = {shards}"));
            std::fs::write(&node.config, now).unwrap();
        }
        one.start_ready();
        two.start_ready();
        assert!(one.command(&["-save-snapshot", "-quiet"]).status.success());
        one.sql(&format!(
            "INSERT INTO t VALUES({}, 'after', NULL); UPDATE p SET v = v * 10 WHERE id > 4",
            100 + shards
        ));
        two.sql("UPDATE p SET v = -v WHERE id < 4; DELETE FROM p WHERE id = 4");
        let seen = equal(&mut [one, two]);
        assert!(seen.contains(&format!("({}, ('text', b'after'), None)", 100 + shards)), "{seen}");
        let mut three =
            Node::new(&dir, 2 + shards, &nats.url(), &format!("replication_log.shards = {shards}\n"));
        three.start_ready();
        equal(&mut [one, &mut three]);
        assert_eq!(three.stop(), 0);
    }
}

/// A write lock that an application holds for long holds up what comes from others, and nothing else.
#[test]
fn a_write_lock_held_for_long() {
    let dir = Dir::new("schemas-lock");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let make = |id: u64| Node::with_schema(&dir, id, &nats.url(), "", schema);
    let (mut one, mut two) = (make(1), make(2));
    one.start_ready();
    two.start_ready();
    let holder = two.open();
    holder.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES(1000, 'of the holder')").unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut id = 0;
    while std::time::Instant::now() < until {
        id += 1;
        one.sql(&format!("INSERT INTO t VALUES({id}, 'meanwhile')"));
        pause(100);
        two.assert_alive();
    }
    wait_for("the other node is not held up", 10, || (one.unsettled() == 0).then_some(()));
    assert_eq!(value(&two, "SELECT count(*) FROM t"), "Integer(0)");
    holder.execute_batch("COMMIT").unwrap();
    let seen = equal(&mut [&mut one, &mut two]);
    assert!(seen.contains("(1000, ('text', b'of the holder'))") && seen.lines().count() > 150, "{seen}");
    assert_eq!((one.stop(), two.stop()), (0, 0));
}

/// While a daemon runs, its connections hold the journal mode: an application that sets another one is told so by SQLite, or has set what
/// was there, and all goes on.
#[test]
fn an_application_that_sets_a_journal_mode() {
    let dir = Dir::new("schemas-journal");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v)";
    let make = |id: u64| Node::with_schema(&dir, id, &nats.url(), "", schema);
    let (mut one, mut two) = (make(1), make(2));
    one.start_ready();
    two.start_ready();
    for (id, mode) in [(1, "DELETE"), (2, "TRUNCATE"), (3, "PERSIST"), (4, "MEMORY"), (5, "OFF"), (6, "WAL")]
    {
        let application = rusqlite::Connection::open(&one.database).unwrap();
        application.busy_timeout(std::time::Duration::from_millis(200)).unwrap();
        let set: Result<String, _> =
            application.query_row(&format!("PRAGMA journal_mode={mode}"), [], |row| row.get(0));
        assert_eq!(set.is_ok(), mode == "WAL", "{mode}: {set:?}");
        application.execute("INSERT INTO t VALUES(?1, ?2)", rusqlite::params![id, mode]).unwrap();
    }
    let exclusive = rusqlite::Connection::open(&one.database).unwrap();
    exclusive.busy_timeout(std::time::Duration::from_millis(200)).unwrap();
    exclusive.query_row("PRAGMA locking_mode=EXCLUSIVE", [], |_| Ok(())).unwrap();
    assert!(exclusive.execute("INSERT INTO t VALUES(7, 'never')", []).is_err());
    drop(exclusive);
    one.sql("INSERT INTO t VALUES(8, 'later')");
    equal(&mut [&mut one, &mut two]);
    assert_eq!(value(&one, "SELECT count(*) FROM t"), "Integer(7)");
    assert_eq!((one.stop(), two.stop()), (0, 0));
}

/// VACUUM gives the rows of a table without key and index new rowids, if nothing keeps them: on a node that only reads, on one that only
/// sends, and while no daemon runs.
#[test]
fn a_vacuum_changes_no_rowid() {
    let dir = Dir::new("schemas-vacuum");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE nokey(a, b); INSERT INTO nokey SELECT 'row ' || value, value FROM json_each('[1,2,3,4,5,6,7,8,9]'); DELETE FROM nokey WHERE b % 2 = 1;
        CREATE TABLE \"other \"\"one\"(v)";
    let make = |id: u64, extra: &str| {
        Node::with_schema(&dir, id, &nats.url(), &format!("{extra}snapshot.leader_ttl = 1000\n"), schema)
    };
    let (mut one, mut reader) = (make(1, ""), make(2, "publish = false\n"));
    let mut sender = make(3, "replicate = false\n");
    one.start_ready();
    wait_for("a snapshot", 20, || (one.count("stored snapshot") > 0).then_some(()));
    reader.start_ready();
    sender.start();
    wait_for("it captures", 20, || (sender.count("capturing") > 0).then_some(()));
    one.sql("INSERT INTO nokey VALUES('ten', 10), ('eleven', 11); DELETE FROM nokey WHERE a = 'ten'");
    let rowids = |node: &Node| -> String {
        let sql = "SELECT coalesce(group_concat(rowid || ':' || b, ' '), '') FROM nokey";
        node.open().query_row(sql, [], |row| row.get(0)).unwrap()
    };
    let arrives = |nodes: &[&Node], what: &str| {
        wait_for(what, 20, || nodes.iter().all(|node| rowids(node) == what).then_some(()));
    };
    arrives(&[&one, &reader], "2:2 4:4 6:6 8:8 10:11");
    for node in [&one, &reader, &sender] {
        application(node, "VACUUM");
    }
    one.sql("UPDATE nokey SET b = 40 WHERE b = 4; DELETE FROM nokey WHERE b = 2");
    arrives(&[&one, &reader], "4:40 6:6 8:8 10:11");
    // What only sends tells the right rows.
    sender.sql("UPDATE nokey SET b = 60 WHERE b = 6; DELETE FROM nokey WHERE b = 8");
    arrives(&[&one, &reader], "4:40 6:60 10:11");
    assert_eq!((one.stop(), reader.stop(), sender.stop()), (0, 0, 0));
    for node in [&one, &reader, &sender] {
        application(node, "VACUUM");
    }
    one.sql("UPDATE nokey SET b = 110 WHERE b = 11");
    one.start_ready();
    reader.start_ready();
    arrives(&[&one, &reader], "4:40 6:60 10:110");
    one.stop();
    assert!(one.command(&["-cleanup"]).status.success());
    assert_eq!(
        value(&one, "SELECT count(*) FROM sqlite_schema WHERE name GLOB '__harmonylite__*'"),
        "Integer(0)"
    );
}
