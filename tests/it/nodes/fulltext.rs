//! Full-text indexes that the application's triggers feed, under an application with another version of SQLite than ours: the
//! one of the system's Python.

use crate::support::stores::file_store;
use crate::support::*;
use std::process::{Command, Stdio};

/// The application: `schema` makes tables, `write` changes random rows, `check` runs what is queued, lets its SQLite check the
/// indexes and looks for every row.
const APPLICATION: &str = r#"
import sqlite3, sys, random, time
path, what, seed, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
KINDS = {
    'porter': "content='porter', content_rowid='id', tokenize='porter'",
    'prefixed': "content='prefixed', content_rowid='id', prefix='2 3'",
    'own': "tokenize='unicode61'",
    'contentless': "content=''",
}
if sqlite3.sqlite_version_info >= (3, 43, 0):
    KINDS['deletable'] = "content='', contentless_delete=1"
c = sqlite3.connect(path, timeout=60, isolation_level=None)
c.execute('PRAGMA synchronous=NORMAL')
random.seed(seed)
alphabet = 'abcdefghijklmnopqrstuvwxyzéüñß'
words = [''.join(random.choice(alphabet) for _ in range(random.randint(1, 9))) for _ in range(3000)]
def text(i):
    many = range(random.randint(50, 400))
    return 'key%dx%d ' % (i, random.randrange(10**9)) + ' '.join(words[min(2999, int(random.paretovariate(0.7)))] for _ in many)
if what == 'schema':
    c.execute('PRAGMA journal_mode=WAL')
    for kind, options in KINDS.items():
        by_rowid = kind in ('own', 'deletable')
        gone = f"DELETE FROM f_{kind} WHERE rowid = old.id;" if by_rowid else \
            f"INSERT INTO f_{kind}(f_{kind}, rowid, body) VALUES('delete', old.id, old.body);"
        new = f"INSERT INTO f_{kind}(rowid, body) VALUES(new.id, new.body);"
        c.executescript(f"""CREATE TABLE {kind}(id INTEGER PRIMARY KEY, body);
            CREATE VIRTUAL TABLE f_{kind} USING fts5(body, {options});
            CREATE TRIGGER {kind}_ai AFTER INSERT ON {kind} BEGIN {new} END;
            CREATE TRIGGER {kind}_ad AFTER DELETE ON {kind} BEGIN {gone} END;
            CREATE TRIGGER {kind}_au AFTER UPDATE OF body ON {kind} BEGIN {gone} {new} END;""")
elif what == 'write':
    done = 0
    while done < count:
        try:
            c.execute('BEGIN IMMEDIATE')
            for _ in range(random.randint(1, 4)):
                kind, i, dice = random.choice(list(KINDS)), random.randint(1, 150), random.random()
                if dice < .4:
                    c.execute(f'INSERT INTO {kind} VALUES(?, ?) ON CONFLICT(id) DO UPDATE SET body = excluded.body', (i, text(i)))
                elif dice < .5:
                    c.execute(f'INSERT INTO {kind}(body) SELECT ? WHERE (SELECT count(*) FROM {kind}) < 160', ('key0x0 none',))
                    c.execute(f"UPDATE {kind} SET body = replace(body, 'key0x0', 'key' || id || 'x0') WHERE body LIKE 'key0x0 %'")
                elif dice < .8:
                    c.execute(f'UPDATE {kind} SET body = ? WHERE id = ?', (text(i), i))
                else:
                    c.execute(f'DELETE FROM {kind} WHERE id = ?', (i,))
                done += 1
            c.execute('COMMIT')
            time.sleep(.002)
        except sqlite3.OperationalError as error:
            if 'locked' not in str(error):
                raise
            if c.in_transaction:
                c.execute('ROLLBACK')
elif what == 'check':
    for kind in KINDS:
        if c.execute('SELECT 1 FROM sqlite_schema WHERE name = ?', (f'__harmonylite__feed_{kind}',)).fetchone():
            c.execute(f'DELETE FROM "__harmonylite__feed_{kind}"')
        c.execute(f"INSERT INTO f_{kind}(f_{kind}, rank) VALUES('integrity-check', 1)")
        rows = c.execute(f'SELECT id, body FROM {kind}').fetchall()
        for i, body in rows:
            found = c.execute(f'SELECT rowid FROM f_{kind} WHERE f_{kind} MATCH ?', (body.split()[0],)).fetchall()
            assert found == [(i,)], (kind, i, body[:30], found)
        print(kind, len(rows), 'rows')
print('sqlite', sqlite3.sqlite_version)
"#;

fn application(node: &Node, what: &str, seed: u64, count: u64) -> Process {
    let mut command = Command::new("python3");
    command.args(["-c", APPLICATION]).arg(&node.database).args([what, &seed.to_string(), &count.to_string()]);
    Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
}

fn succeeded(process: Process) -> String {
    let output = process.output();
    assert!(output.status.success(), "{}", printed(&output));
    printed(&output)
}

/// One statement by the application's SQLite.
fn run(node: &Node, sql: &str) {
    const RUN: &str = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None).execute(sys.argv[2])";
    let mut command = Command::new("python3");
    command.args(["-c", RUN]).arg(&node.database).arg(sql);
    succeeded(Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped())));
}

/// Two versions of SQLite that write one FTS5 index damage it within seconds: ours must not write it at all.
#[test]
fn an_index_stays_sound_under_another_version_of_sqlite() {
    let dir = Dir::new("fulltext");
    let nats = Nats::start(&dir);
    let (mut one, mut two) = (Node::new(&dir, 1, &nats.url(), ""), Node::new(&dir, 2, &nats.url(), ""));
    for node in [&mut one, &mut two] {
        let version = succeeded(application(node, "schema", 0, 0));
        eprintln!("the application's {version}, ours {}", rusqlite::version());
        assert!(!version.contains(rusqlite::version()), "the test proves nothing with one version");
        node.start_ready();
    }
    for round in 0..2 {
        let writers =
            [application(&one, "write", round * 2 + 1, 800), application(&two, "write", round * 2 + 2, 800)];
        writers.into_iter().for_each(|writer| drop(succeeded(writer)));
        wait_equal(&mut [&mut one, &mut two], 60);
        // A write of the application is enough for a row that it has not seen: the one that was written last.
        run(&one, "INSERT INTO own VALUES(100000, 'fresh')");
        wait_equal(&mut [&mut one, &mut two], 20);
        succeeded(application(&two, "write", 77 + round, 40));
        wait_equal(&mut [&mut one, &mut two], 20);
        for node in [&one, &two] {
            let told = succeeded(application(node, "check", 0, 0));
            eprintln!("{told}");
        }
        run(&one, "DELETE FROM own WHERE id = 100000");
        wait_equal(&mut [&mut one, &mut two], 20);
    }
    for node in [&one, &two] {
        for complaint in ["malformed", "damaged", "lacks a row", "does not agree"] {
            assert_eq!(node.count(complaint), 0, "{}", node.log());
        }
    }
    // A third node gets the queue with the snapshot whose index needs it.
    assert!(one.command(&["-save-snapshot"]).status.success());
    let mut three = Node::new(&dir, 3, &nats.url(), "");
    three.start_ready();
    wait_equal(&mut [&mut one, &mut three], 30);
    succeeded(application(&three, "write", 9, 50));
    wait_equal(&mut [&mut one, &mut two, &mut three], 30);
    succeeded(application(&three, "check", 0, 0));
}

/// SQLite's newer check asks full-text indexes, the application's does not: what they say is a warning, and replication,
/// snapshots, proofs, restores and joins go on.
#[test]
fn an_index_that_only_the_newer_sqlite_dislikes_is_no_damage() {
    let dir = Dir::new("fulltext-disliked");
    let nats = Nats::start(&dir);
    let (_, config) = file_store(&dir);
    let schema = "PRAGMA encoding='UTF-16'; CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE VIRTUAL TABLE f USING fts5(v); \
        CREATE TRIGGER ai AFTER INSERT ON t BEGIN INSERT INTO f(rowid, v) VALUES(new.id, new.v); END;";
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &config, schema);
    one.sql("INSERT INTO t VALUES(1, 'words'), (2, x'800041004200'); UPDATE f_content SET c0 = 'other' WHERE id = 1");
    assert_ne!(
        value(&one, "PRAGMA quick_check"),
        "Text([111, 107])",
        "our SQLite says nothing: the test proves nothing"
    );
    for _ in 0..2 {
        one.start_ready();
        wait_for("the check tells", 20, || (one.count("searches may miss rows") > 0).then_some(()));
        pause(1500);
        one.assert_alive();
        one.sql("INSERT INTO t(v) VALUES('more')");
        assert!(one.command(&["-save-snapshot"]).status.success());
        assert_eq!(one.stop(), 0);
    }
    one.start_ready();
    let proven = one.command(&["-verify-snapshot"]);
    assert!(proven.status.success(), "{}", printed(&proven));
    let mut two = Node::new(&dir, 2, &nats.url(), &config);
    two.start_ready();
    let mut three = Node::with_schema(&dir, 3, &nats.url(), &config, schema);
    three.sql("INSERT INTO t VALUES(50, 'of the third')");
    three.start_ready();
    two.sql("INSERT INTO t VALUES(60, 'of the second')");
    let text = wait_equal(&mut [&mut one, &mut two, &mut three], 30);
    assert!(text.contains("== t (6 rows)"), "{text}");
    for node in [&one, &two, &three] {
        let entries = std::fs::read_dir(&node.dir).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(
            entries.filter(|path| path.to_string_lossy().contains(".damaged-")).count(),
            0,
            "{}",
            node.log()
        );
    }
}

/// An index with external content that lacks rows, as after a crash of an application without triggers: SQLite calls the index
/// malformed when the triggers take the old words out. That is the index's fault and no damage of the database.
#[test]
fn an_index_that_lacks_rows_makes_nobody_recover() {
    let dir = Dir::new("fulltext-stale");
    let nats = Nats::start(&dir);
    let schema = "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE other(id INTEGER PRIMARY KEY, v);
        INSERT INTO t VALUES(1, 'first words'), (2, 'second words'), (3, 'third words');
        CREATE VIRTUAL TABLE f USING fts5(v, content='t', content_rowid='id');
        CREATE TRIGGER ai AFTER INSERT ON t BEGIN INSERT INTO f(rowid, v) VALUES(new.id, new.v); END;
        CREATE TRIGGER ad AFTER DELETE ON t BEGIN INSERT INTO f(f, rowid, v) VALUES('delete', old.id, old.v); END;
        CREATE TRIGGER au AFTER UPDATE ON t BEGIN INSERT INTO f(f, rowid, v) VALUES('delete', old.id, old.v);
          INSERT INTO f(rowid, v) VALUES(new.id, new.v); END;";
    let make = |id: u64| Node::with_schema(&dir, id, &nats.url(), "snapshot.leader_ttl = 1000\n", schema);
    let (mut one, mut two) = (make(1), make(2));
    one.start_ready();
    wait_for("a snapshot", 20, || (one.count("stored snapshot") > 0).then_some(()));
    two.start_ready();
    // Without its triggers, as an application of another version does it.
    let rebuilt = one.open().execute_batch("DELETE FROM t WHERE id = 1");
    assert!(rebuilt.is_err(), "our SQLite finds the index sound: the test proves nothing");
    one.sql("INSERT INTO f(f) VALUES('rebuild'); DELETE FROM t WHERE id = 1; UPDATE t SET v = 'changed' WHERE id = 2");
    for round in 0..2 {
        one.sql(&format!("INSERT INTO other VALUES(1{round}, 'of one')"));
        two.sql(&format!("INSERT INTO other VALUES(2{round}, 'of two')"));
        let crossed = format!("Integer({})", 2 * (round + 1));
        for node in [&one, &two] {
            wait_for("rows cross", 20, || {
                (value(node, "SELECT count(*) FROM other") == crossed).then_some(())
            });
            wait_for("the row is gone", 20, || {
                (value(node, "SELECT count(*) || max(v) FROM t") == value(&one, "SELECT '2third words'"))
                    .then_some(())
            });
        }
        for node in [&mut one, &mut two] {
            node.assert_alive();
            assert_eq!(node.count("damaged"), 0, "{}", node.log());
            assert_eq!(node.stop(), 0);
            node.start_ready();
        }
    }
    for node in [&one, &two] {
        let copies = std::fs::read_dir(&node.dir).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(copies.filter(|path| path.to_string_lossy().contains(".damaged-")).count(), 0);
    }
}
