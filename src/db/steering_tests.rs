//! Keys that SQLite gives, steered in real databases.

use super::*;
use crate::db::apply::Applier;
use crate::db::capture::ChangeLog;
use crate::db::scratch::Scratch;

const SCHEMA: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, v); \
     CREATE TABLE \"Odd one\"(\"the id\" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, v); \
     CREATE TABLE plain(id INTEGER PRIMARY KEY, v, w DEFAULT 'autoincrement' /* AUTOINCREMENT */)";

fn steered(name: &str) -> (Scratch, ChangeLog, Applier, Steering) {
    let scratch = Scratch::new(name, SCHEMA);
    let (mut log, _) = ChangeLog::open(&scratch.path, 7).unwrap();
    let mut applier = Applier::open(&scratch.path, 7, &["s-1".to_owned()]).unwrap();
    let steering = Steering::on();
    applier.steer(steering.clone()).unwrap();
    // A daemon does it as soon as it sees a schema that is new to it.
    applier.tidy().unwrap();
    log.steer(steering.clone());
    (scratch, log, applier, steering)
}

fn inserted(scratch: &Scratch) -> i64 {
    scratch.app.execute("INSERT INTO t(v) VALUES(1)", []).unwrap();
    scratch.app.last_insert_rowid()
}

#[test]
fn only_autoincrement_tables_are_steered() {
    let (.., steering) = steered("steer-which");
    let wants: Vec<String> =
        steering.next_wants(Duration::ZERO).iter().map(|want| want.table.to_string()).collect();
    assert_eq!(wants, ["Odd one", "t"]);
    assert!(Steering::off().next_wants(Duration::ZERO).is_empty());
}

#[test]
fn the_application_inserts_into_the_block_and_into_the_next_one_when_it_is_used_up() {
    let (scratch, mut log, mut applier, steering) = steered("steer-use");
    assert_eq!(inserted(&scratch), 1);
    steering.claimed("t", Block { first: 101, last: 110 });
    steering.claimed("Odd one", Block { first: 501, last: 600 });
    assert!(steering.is_ready() && steering.due().try_recv().is_ok());
    applier.tidy().unwrap();
    assert_eq!(inserted(&scratch), 101);
    scratch.app.execute("INSERT INTO \"Odd one\"(v) VALUES(1)", []).unwrap();
    assert_eq!(scratch.app.last_insert_rowid(), 501);
    assert_eq!(inserted(&scratch), 102);
    let next = steering.next_wants(Duration::ZERO);
    assert!(next.iter().any(|want| &*want.table == "t" && want.above == 110 && want.had_some), "{next:?}");
    steering.claimed("t", Block { first: 201, last: 300 });
    steering.claimed("Odd one", Block { first: 601, last: 700 });
    for _ in 0..7 {
        inserted(&scratch);
    }
    assert!(!steering.is_ready(), "nobody has told");
    log.read(100).unwrap();
    assert!(steering.is_ready());
    applier.tidy().unwrap();
    assert_eq!(inserted(&scratch), 201);
    // Another process finds the block in the database.
    let mut applier = Applier::open(&scratch.path, 7, &["s-1".to_owned()]).unwrap();
    let again = Steering::on();
    applier.steer(again.clone()).unwrap();
    applier.tidy().unwrap();
    assert!(!again.is_ready());
    assert_eq!(again.next_wants(Duration::ZERO).iter().map(|want| want.above).max(), Some(600));
}

#[test]
fn a_transaction_that_is_rolled_back_takes_no_block() {
    let (scratch, _, mut applier, steering) = steered("steer-back");
    steering.claimed("t", Block { first: 101, last: 200 });
    steering.claimed("Odd one", Block { first: 101, last: 200 });
    let failed = applier.in_transaction(|_| Err(Error::Busy));
    assert!(failed.is_err());
    assert_eq!(inserted(&scratch), 1);
    applier.tidy().unwrap();
    assert_eq!(inserted(&scratch), 101);
}

#[test]
fn a_file_that_becomes_the_database_has_its_blocks_before() {
    let scratch = Scratch::new("steer-file", SCHEMA);
    scratch.app.execute_batch("INSERT INTO t(v) VALUES(1), (2)").unwrap();
    crate::db::install_capture(&scratch.path).unwrap();
    crate::db::apply::ensure_state(&scratch.path).unwrap();
    let claim = |want: &Want| Some(Block { first: want.above + 1_000, last: want.above + 2_000 });
    steer_file(&scratch.path, claim).unwrap();
    assert_eq!(inserted(&scratch), 1_002);
    let scratch = Scratch::new("steer-file-alone", SCHEMA);
    crate::db::install_capture(&scratch.path).unwrap();
    steer_file(&scratch.path, |_| None).unwrap();
    assert_eq!(inserted(&scratch), 1);
}
