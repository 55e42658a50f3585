//! Stores that misbehave on purpose: every request of an upload fails once, in every way; answers lie.

use crate::support::proxy::{Act, Killer, Liar};
use crate::support::servers::{self, KEY, SECRET};
use crate::support::stores::{NAME, Place, boto, curl, fetch, file, open, s3_config, save, webdav_config};
use crate::support::*;
use harmonylite::testing::storage::{Error, Store};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// A store that is reached through a proxy that lies (`place`) and without it (`direct`).
struct Case {
    dir: Dir,
    liar: Liar,
    place: Place,
    direct: Place,
    _servers: Vec<Box<dyn std::any::Any>>,
}

fn s3(name: &str, strict: bool) -> Case {
    let dir = Dir::new(name);
    let (server, id, secret) = if strict {
        servers::moto(&dir)
    } else {
        let server = servers::rclone(&dir, "s3", &["--auth-key", &format!("{KEY},{SECRET}")]);
        (server, KEY.to_owned(), SECRET.to_owned())
    };
    let port = server.port;
    let liar = Liar::before(port);
    let place = |port: u16| {
        let endpoint = format!("http://127.0.0.1:{port}");
        let witness = boto(&dir, &endpoint, (&id, &secret), "backups", "x/");
        Place::new(name, s3_config(&endpoint, (&id, &secret), "backups", "x"), witness)
    };
    let (place, direct) = (place(liar.port()), place(port));
    Case { dir, place, direct, liar, _servers: vec![Box::new(server)] }
}

fn webdav(name: &str, careless: bool) -> Case {
    let dir = Dir::new(name);
    let (port, server): (u16, Box<dyn std::any::Any>) = if careless {
        let server = servers::rclone(&dir, "webdav", &["--user", servers::USER, "--pass", servers::PASSWORD]);
        (server.port, Box::new(server))
    } else {
        let server = servers::apache(&dir);
        (server.basic, Box::new(server))
    };
    let liar = Liar::before(port);
    let place = |port: u16| {
        let root = format!("http://127.0.0.1:{port}");
        // MOVE and COPY name the server that is asked: through the liar too.
        Place::new(name, webdav_config(&root, "/d"), curl(&dir, &format!("{root}/d"), &[]))
    };
    let (place, direct) = (place(liar.port()), place(port));
    Case { dir, place, direct, liar, _servers: vec![server] }
}

/// The snapshot in the store can be fetched and equals one of these files; returns which.
fn whole(case: &Case, what: &str, files: &[&PathBuf]) -> usize {
    let bytes = fetch(&case.dir, &open(&case.dir, &case.direct), NAME);
    let found = files.iter().position(|path| std::fs::read(path).unwrap() == bytes);
    found.unwrap_or_else(|| {
        panic!("{}: {what}: neither the old nor the new snapshot is there", case.place.name)
    })
}

fn upload(store: &Store, made: &(PathBuf, harmonylite::testing::storage::Label)) -> Result<(), Error> {
    store.prepare()?;
    save(store, made, 2).map(drop)
}

/// Every request, one after the other, goes wrong once: the upload succeeds all the same.
fn each_request_fails_once(case: &Case) {
    let mut position = 1;
    let mut last = file(&case.dir, 17_000_000, 1, position);
    let store = open(&case.dir, &case.place);
    upload(&store, &last).unwrap();
    let requests = case.liar.count();
    assert!(requests > 8, "{requests}");
    for act in [Act::Status(503), Act::CutBody(80), Act::LoseAnswer, Act::Status(429), Act::CutBody(0)] {
        // These two resemble the others: every fifth request is enough.
        let step = if matches!(act, Act::Status(429) | Act::CutBody(0)) { 5 } else { 1 };
        for at in (0..requests).step_by(step) {
            position += 1;
            // Some in several pieces, the others in one.
            let size = if position % 4 == 0 { 17_000_000 } else { 50_000 };
            let made = file(&case.dir, size, position, position);
            case.liar.when(move |number, _, _| if number == at { act } else { Act::Forward });
            let result = upload(&open(&case.dir, &case.place), &made);
            case.liar.honest();
            let what = format!("{act:?} at request {at}: {result:?}");
            let found = whole(case, &what, &[&last.0, &made.0]);
            assert!(result.is_ok() && found == 1, "{}: {what}: {found}", case.place.name);
            let _ = std::fs::remove_file(&last.0);
            last = made;
        }
    }
    let store = open(&case.dir, &case.direct);
    store.prepare().unwrap();
    assert_eq!(store.prepare().unwrap(), 0);
    assert_eq!(store.list().unwrap().len(), 2, "{}: one is current, one is kept", case.place.name);
}

/// The server claims success and does nothing, refuses, or claims that a condition failed: no snapshot is lost, and an upload
/// reports success only when the new snapshot is there.
fn lies_and_refusals(case: &Case) {
    let mut position = 10_000;
    let mut last = file(&case.dir, 40_000, 1, position);
    upload(&open(&case.dir, &case.direct), &last).unwrap();
    for act in [
        Act::Status(200),
        Act::Status(201),
        Act::Status(409),
        Act::Status(412),
        Act::Status(403),
        Act::Status(507),
    ] {
        let until = if matches!(act, Act::Status(200 | 412)) { 20 } else { 1 };
        for at in 0..until {
            position += 1;
            let made = file(&case.dir, 40_000, position, position);
            case.liar.when(move |number, _, _| if number == at { act } else { Act::Forward });
            let result = upload(&open(&case.dir, &case.place), &made);
            case.liar.honest();
            let what = format!("{act:?} at request {at}: {result:?}");
            let found = whole(case, &what, &[&last.0, &made.0]);
            assert!(found == 1 || result.is_err(), "{}: {what}: said to be stored", case.place.name);
            if found == 1 {
                let _ = std::fs::remove_file(&last.0);
                last = made;
            }
        }
        // Every PUT fails: the upload ends in bounded time with an error that has a text, and the old snapshot stays.
        position += 1;
        let made = file(&case.dir, 40_000, position, position);
        case.liar.when(move |_, method, _| if method == "PUT" { act } else { Act::Forward });
        let result = upload(&open(&case.dir, &case.place), &made);
        case.liar.honest();
        let text = result.unwrap_err().to_string();
        assert!(!text.is_empty() && whole(case, &text, &[&last.0]) == 0, "{}: {text}", case.place.name);
    }
    // The rename (or the completion of a multipart upload) is acknowledged and not carried out.
    position += 1;
    let made = file(&case.dir, 40_000, position, position);
    case.liar.when(|_, method, path| {
        let switches = method == "MOVE" || (method == "POST" && path.contains("uploadId"));
        if switches { Act::Status(201) } else { Act::Forward }
    });
    let result = upload(&open(&case.dir, &case.place), &made);
    case.liar.honest();
    let found = whole(case, "the switch is not done", &[&last.0, &made.0]);
    assert!(result.is_err() || found == 1, "{}: {result:?}: said to be stored", case.place.name);
}

/// An answer is cut, has a wrong bit or a wrong length. When that happens once, the reader gets the right bytes all the same;
/// when it happens every time, the reader gets an error.
fn readers_are_not_fooled(case: &Case) {
    let made = file(&case.dir, 3_000_000, 77, 1_000_000);
    let store = open(&case.dir, &case.direct);
    upload(&store, &made).unwrap();
    let right = std::fs::read(&made.0).unwrap();
    for act in [Act::HalfAnswer, Act::FlipAnswer, Act::LieLength, Act::CutBody(0), Act::Status(503)] {
        let store = open(&case.dir, &case.place);
        let stored = store.stat(NAME).unwrap().unwrap();
        for always in [false, true] {
            let count = Arc::new(AtomicU64::new(0));
            let seen = count.clone();
            case.liar.when(move |_, method, _| {
                let content = method == "GET" && (always || seen.fetch_add(1, SeqCst) == 0);
                if content { act } else { Act::Forward }
            });
            let path = case.dir.0.join("read");
            let result = store.fetch(&stored, &File::create(&path).unwrap(), u64::MAX, &|_| {});
            case.liar.honest();
            match result {
                Ok(_) => assert!(std::fs::read(&path).unwrap() == right, "{}: {act:?}", case.place.name),
                Err(error) => assert!(always, "{}: {act:?}: {error}", case.place.name),
            }
        }
    }
    let found = store.stat(NAME).unwrap().unwrap();
    case.liar.when(|_, method, _| if method == "HEAD" { Act::LieLength } else { Act::Forward });
    let lied = open(&case.dir, &case.place).stat(NAME).unwrap().unwrap();
    let path = case.dir.0.join("read");
    let result = open(&case.dir, &case.place).fetch(&lied, &File::create(&path).unwrap(), u64::MAX, &|_| {});
    case.liar.honest();
    assert!(result.is_err() || lied.size == found.size, "{}: a size that is not right", case.place.name);
}

fn all(case: &Case) {
    let begun = std::time::Instant::now();
    each_request_fails_once(case);
    lies_and_refusals(case);
    readers_are_not_fooled(case);
    eprintln!("{}: {:.1} s", case.place.name, begun.elapsed().as_secs_f64());
}

#[test]
fn s3_without_conditions() {
    all(&s3("hostile-s3", false));
}

#[test]
fn s3_with_conditions() {
    all(&s3("hostile-s3-strict", true));
}

#[test]
fn webdav_that_replaces() {
    all(&webdav("hostile-webdav", false));
}

#[test]
fn webdav_that_deletes_first() {
    all(&webdav("hostile-webdav-careless", true));
}

/// A server that sends nothing, or one byte a second: the reader gets an error in bounded time.
#[test]
fn silence_is_bounded() {
    let case = webdav("hostile-silence", true);
    let store = open(&case.dir, &case.place);
    upload(&store, &file(&case.dir, 1000, 1, 1)).unwrap();
    let stored = store.stat(NAME).unwrap().unwrap();
    let acts = [Act::Hang(200), Act::Drip, Act::DripBody];
    case.liar.when(move |number, method, _| match method {
        "GET" => acts[usize::try_from(number).unwrap()],
        _ => Act::Forward,
    });
    std::thread::scope(|scope| {
        for _ in acts {
            scope.spawn(|| {
                let begun = std::time::Instant::now();
                let mut sink = vec![];
                let error = store.backend().get(&stored, &mut sink).unwrap_err();
                let took = begun.elapsed().as_secs();
                assert!(matches!(error, Error::Transient(_)) && took < 130, "{error} after {took} s");
            });
            pause(200);
        }
    });
}

/// A server that works for longer than a transfer may stall, and says so with a blank now and then: it is waited for.
#[test]
fn s3_that_takes_its_time_to_complete_an_upload() {
    let case = s3("hostile-blanks", false);
    let completed = Arc::new(AtomicU64::new(0));
    let seen = completed.clone();
    case.liar.when(move |_, method, path| {
        let completes = method == "POST" && path.contains("uploadId=");
        seen.fetch_add(u64::from(completes), SeqCst);
        if completes { Act::Blanks(18) } else { Act::Forward }
    });
    let made = file(&case.dir, 17_000_000, 1, 1);
    upload(&open(&case.dir, &case.place), &made).unwrap();
    case.liar.honest();
    whole(&case, "a slow completion", &[&made.0]);
    assert_eq!(completed.load(SeqCst), 1, "one try was enough");
}

/// One connection is cut at one of many places of an upload: the upload succeeds all the same.
fn connections_that_break(dir: &Dir, killer: &Killer, place: &Place, direct: &Place) {
    let mut last = file(dir, 2_000_000, 1, 1);
    upload(&open(dir, place), &last).unwrap();
    killer.reset();
    let mut position = 2;
    last = file(dir, 2_000_000, 2, position);
    upload(&open(dir, place), &last).unwrap();
    let total = killer.sent();
    assert!(total > 2_000_000, "{total}");
    let mut cuts = 0;
    for step in 0..=24_u64 {
        position += 1;
        let made = file(dir, 2_000_000, position, position);
        // The small requests are sent at the beginning and at the end of an upload: half of the cuts happen there.
        let limit = match step {
            0..6 => 1 + step * 500,
            6..19 => total * (step - 5) / 14,
            _ => total - (25 - step) * 500,
        };
        let store = open(dir, place);
        killer.cut(limit);
        let result = upload(&store, &made);
        cuts += u64::from(!killer.is_armed());
        killer.reset();
        let bytes = fetch(dir, &open(dir, direct), NAME);
        let new = bytes == std::fs::read(&made.0).unwrap();
        let old = bytes == std::fs::read(&last.0).unwrap();
        assert!(new || old, "{}: cut at {limit}: neither the old nor the new snapshot", place.name);
        assert!(new && result.is_ok(), "{}: cut at {limit} of {total}: {result:?}", place.name);
        last = made;
    }
    assert!(cuts >= 23, "{}: only {cuts} connections were cut", place.name);
    let store = open(dir, direct);
    store.prepare().unwrap();
    assert_eq!(store.prepare().unwrap(), 0);
    assert_eq!(store.list().unwrap().len(), 2, "{}: one is current, one is kept", place.name);
}

#[test]
fn sftp_connections_break() {
    let dir = Dir::new("hostile-sftp");
    let ssh = servers::openssh(&dir);
    let killer = Killer::before(ssh.server.port);
    let place = |port: u16| {
        let url = format!("sftp://{}@127.0.0.1:{port}{}/d", ssh.user, ssh.root.display());
        let config = format!(
            "[snapshot]\nstore = \"sftp\"\n[snapshot.sftp]\nurl = {url:?}\nkey_file = {:?}\n",
            ssh.key
        );
        Place::new("sftp", config, Box::new(|_| None))
    };
    connections_that_break(&dir, &killer, &place(killer.port()), &place(ssh.server.port));
}

#[test]
fn nats_connections_break() {
    let dir = Dir::new("hostile-nats");
    let nats = Nats::start(&dir);
    let killer = Killer::before(nats.port);
    let place = |port: u16| Place {
        nats: Some(format!("nats://127.0.0.1:{port}")),
        ..Place::new("nats", "[snapshot]\nstore = \"nats\"\n".into(), Box::new(|_| None))
    };
    connections_that_break(&dir, &killer, &place(killer.port()), &place(nats.port));
}

/// A server that accepts signatures for one region only: its refusal tells which.
#[test]
fn the_region_is_learned() {
    let case = s3("hostile-region", false);
    for (position, in_header) in [(1, true), (2, false)] {
        case.liar.when(move |_, _, _| Act::OnlyRegion("eu-test-9", in_header));
        let made = file(&case.dir, 17_000_000, position, position);
        upload(&open(&case.dir, &case.place), &made).unwrap();
        whole(&case, "region", &[&made.0]);
    }
    case.liar.when(|_, _, _| Act::OnlyRegion("eu-test-9", true));
    // A region that is configured is not changed: the error names the one that the server wants.
    let config = format!("{}region = \"us-east-1\"\n", case.place.config);
    let configured = Place::new("region", config, Box::new(|_| None));
    let error = open(&case.dir, &configured).prepare().unwrap_err().to_string();
    assert!(error.contains("eu-test-9"), "{error}");
}
