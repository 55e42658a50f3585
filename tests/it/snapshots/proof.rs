//! The database as it was at a moment, and restores on trial.

use crate::support::*;
use std::path::PathBuf;
use std::process::Output;

const SCHEMA: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE k(a TEXT PRIMARY KEY, b) WITHOUT ROWID";

fn at(node: &Node, when: &str, name: &str) -> (Output, PathBuf) {
    let target = node.dir.join(name);
    let output = node.command(&["-restore-at", when, "-to", target.to_str().unwrap()]);
    (output, target)
}

fn now() -> String {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%3NZ"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn as_it_was() {
    let dir = Dir::new("at");
    let nats = Nats::start(&dir);
    let config = "snapshot.keep = 3\nsnapshot.leader_ttl = 1000\n";
    let mut one = Node::with_schema(&dir, 1, &nats.url(), config, SCHEMA);
    let mut two = Node::with_schema(&dir, 2, &nats.url(), config, SCHEMA);
    one.start_ready();
    two.start_ready();
    wait_for("the first snapshot", 20, || {
        (one.count("stored snapshot") + two.count("stored snapshot") > 0).then_some(())
    });
    let mut moments = vec![];
    for round in 0..8 {
        one.sql(&format!(
            "INSERT INTO t VALUES({round}, 'v{round}'); UPDATE t SET v = v || '+' WHERE id % 2 = {round} % 2"
        ));
        two.sql(&format!(
            "INSERT INTO k VALUES('k{round}', {round}.5); DELETE FROM k WHERE a = 'k{}'",
            round - 3
        ));
        let state = wait_equal(&mut [&mut one, &mut two], 20);
        let seq = nats.client().stream_info("harmonylite-changes-c-1").unwrap().state.last_seq;
        pause(60);
        moments.push((now(), seq, state));
        pause(60);
        if round == 2 || round == 5 {
            assert!(one.command(&["-save-snapshot"]).status.success());
        }
    }
    for (number, (time, seq, state)) in moments.iter().enumerate() {
        let (output, file) = at(&one, time, &format!("time-{number}.db"));
        assert!(output.status.success(), "{}", printed(&output));
        assert_eq!(contents(&file), *state, "at {time}: {}", printed(&output));
        let (output, file) = at(&two, &seq.to_string(), &format!("seq-{number}.db"));
        assert!(output.status.success(), "{}", printed(&output));
        assert_eq!(contents(&file), *state, "at {seq}");
        let long = format!("harmonylite-changes-c-1={seq}");
        let (output, file) = at(&two, &long, &format!("long-{number}.db"));
        assert!(output.status.success() && contents(&file) == *state, "{}", printed(&output));
    }
    // The restored file holds no table of ours, and no existing file is overwritten.
    let file = one.dir.join("time-7.db");
    let ours = rusqlite::Connection::open(&file).unwrap().query_row(
        "SELECT count(*) FROM sqlite_schema WHERE name LIKE '%harmonylite%'",
        [],
        |row| row.get::<_, i64>(0),
    );
    assert_eq!(ours.unwrap(), 0);
    let (output, _) = at(&one, &now(), "time-7.db");
    assert!(
        !output.status.success() && printed(&output).contains("is not overwritten"),
        "{}",
        printed(&output)
    );
    for (when, code, why) in [
        ("2020-01-01T00:00:00Z", 1, "no kept snapshot is old enough"),
        ("999999", 1, "ends at"),
        ("yesterday", 2, "accepted is a time"),
        ("other-1=5", 2, "no stream of this cluster"),
    ] {
        let (output, file) = at(&one, when, "never.db");
        assert_eq!(output.status.code(), Some(code), "{}", printed(&output));
        assert!(printed(&output).contains(why) && !file.exists(), "{}", printed(&output));
    }
}

#[test]
fn restores_on_trial() {
    let dir = Dir::new("proof");
    let nats = Nats::start(&dir);
    let (port, metrics) = (free_port(), free_port());
    let config = format!(
        "health_check.enable = true\nhealth_check.bind = \"127.0.0.1:{port}\"\nprometheus.enable = true\n\
         prometheus.bind = \"127.0.0.1:{metrics}\"\nprometheus.subsystem = \"edge\"\n[snapshot]\nleader_ttl = 1000\nverify_interval = 1500\n"
    );
    let mut one = Node::with_schema(&dir, 1, &nats.url(), &config, SCHEMA);
    let mut two =
        Node::with_schema(&dir, 2, &nats.url(), &config.replace("enable = true", "enable = false"), SCHEMA);
    one.start_ready();
    two.start_ready();
    // Both nodes write all the time, in part to the same rows.
    let proved = |one: &Node| one.count("proved that a restore works");
    let before = proved(&one);
    for number in 0..400 {
        one.sql(&format!("INSERT OR REPLACE INTO t VALUES({}, 'one {number}')", number % 50));
        two.sql(&format!(
            "INSERT OR REPLACE INTO t VALUES({}, 'two {number}'); INSERT INTO k VALUES('{number}', 1)",
            number % 50
        ));
        pause(5);
    }
    wait_for("proofs", 30, || (proved(&one) >= before + 3).then_some(()));
    assert_eq!(one.count("restore not proven"), 0, "{}", one.log());
    let output = two.command(&["-list-snapshots"]);
    assert!(printed(&output).contains("restored on trial "), "{}", printed(&output));
    assert!(printed(&output).contains("last restore on trial: "), "{}", printed(&output));
    let shown = health(port).1;
    assert_eq!(shown["status"], "healthy", "{shown}");
    assert!(shown["last_proven_restore_timestamp"].as_str().unwrap().starts_with("20"), "{shown}");
    let shown = http_get(metrics, "/metrics").unwrap().1;
    let metric = |name: &str| -> i64 {
        let line =
            shown.lines().find(|line| line.starts_with(&format!("harmonylite_edge_{name}{{node_id=\"1\"")));
        line.unwrap_or_else(|| panic!("no {name}: {shown}")).rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(metric("restore_proven_timestamp_seconds") > 1_700_000_000 && metric("published") >= 400);
    assert_eq!((metric("connected"), metric("whole"), metric("restore_unproven")), (1, 1, 0));
    assert!(metric("applied_sequence") >= 400 && shown.contains("# TYPE harmonylite_edge_published untyped"));
    // A row that was written with triggers switched off: no restore would bring it back.
    let connection = one.open();
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).unwrap();
    connection.execute("UPDATE k SET b = 'changed' WHERE a = '7'", []).unwrap();
    wait_for("it is found", 30, || (one.count("1 rows differ from the live database") > 0).then_some(()));
    wait_for("health says so", 10, || (health(port).1["status"] == "degraded").then_some(()));
    let left = |name: &str| name.contains("harmonylite-proof");
    wait_for("no scratch file stays", 10, || {
        let entries = std::fs::read_dir(&one.dir).unwrap();
        entries
            .filter(|entry| left(&entry.as_ref().unwrap().file_name().to_string_lossy()))
            .count()
            .eq(&0)
            .then_some(())
    });
}
