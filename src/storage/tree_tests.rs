//! Uploads into a directory in memory whose every operation fails in every way.

use super::*;
use crate::storage::fake::{Fault, Made, MemoryTree, quick};
use crate::storage::{Candidate, Store};

const NAME: &str = limits::SNAPSHOT_NAME;
const DATED: &str = "snapshot-20261124T131501Z.db";

/// A store in a directory, tried again without pauses.
fn store(tree: &MemoryTree) -> (crate::base::stop::StopSource, Store) {
    let (source, retry) = quick(limits::STORE_TRIES);
    (source, Store::new(Box::new(Files { tree: tree.clone(), read_back: true }), retry))
}

fn save(store: &Store, candidate: Candidate<'_>) -> Result<Stored, Error> {
    store.save(candidate, 1, &|_| {}, &|| Ok(()))
}

/// The position of the snapshot that a reader gets, by the label that fits its content.
fn readable(tree: &MemoryTree, name: &str) -> u64 {
    let files = Files { tree: tree.clone(), read_back: true };
    let stored = files.stat(name).unwrap().unwrap();
    let mut text = vec![];
    files.get(&stored, &mut text).unwrap();
    let (_, digest) = crate::base::digest::digest_of(&mut text.as_slice()).unwrap();
    let mut labels = [&stored.label].into_iter().chain(&stored.other_labels);
    let position = labels.find(|label| label.digest == digest).unwrap().positions["stream-1"];
    assert_eq!(text, format!("content at {position:09}").as_bytes());
    position
}

/// A directory that holds a snapshot at position 1.
fn with_a_snapshot(careful: bool) -> MemoryTree {
    let tree = MemoryTree::new(careful);
    let (_source, store) = store(&tree);
    save(&store, Made::at(1).candidate()).unwrap();
    assert_eq!(readable(&tree, NAME), 1);
    tree
}

/// Operations of an upload without faults.
fn operations(careful: bool) -> usize {
    let tree = with_a_snapshot(careful);
    tree.faults.when(|_, _| None);
    let (_source, store) = store(&tree);
    save(&store, Made::at(2).candidate()).unwrap();
    tree.faults.count("")
}

#[test]
fn descriptions_and_back() {
    let one = Label { digest: "SHA-256=a".into(), size: 5, node: 3, ..Label::default() };
    let two = Label { digest: "SHA-256=b".into(), size: 5, ..Label::default() };
    let text = description(&[one.clone(), two.clone()]);
    assert_eq!(labels(&text), Some(vec![one, two]));
    for garbage in ["", "[]", "{\"snapshots\": 3}", "{\"snapshots\":[3]}", "\u{0}"] {
        assert_eq!(labels(garbage.as_bytes()), None);
    }
    for at in 0..text.len() {
        let mut damaged = text.clone();
        damaged[at] ^= 1;
        assert_eq!(labels(&damaged), None, "byte {at}");
    }
    assert!(!is_snapshot(&temporary(NAME)));
}

#[test]
fn a_rename_that_always_fails_is_tried_five_times_and_the_upload_is_not_repeated() {
    for careful in [true, false] {
        let tree = with_a_snapshot(careful);
        tree.faults.when(|_, text| text.starts_with("rename").then_some(Fault::Fail));
        let (_source, store) = store(&tree);
        let error = save(&store, Made::at(2).candidate()).unwrap_err();
        assert_eq!(tree.faults.count("rename"), 5, "careful: {careful}");
        assert_eq!(tree.faults.count("write snapshot.db."), 2, "content and description, once each");
        assert!(error.to_string().contains("(after 5 tries, "), "{error}");
        assert_eq!(readable(&tree, NAME), 1);
    }
}

#[test]
fn every_request_that_always_fails_is_tried_at_most_five_times() {
    for careful in [true, false] {
        for request in ["size", "write", "read", "replaces", "rename", "copy", "list"] {
            let tree = with_a_snapshot(careful);
            tree.faults.when(move |_, text| text.starts_with(request).then_some(Fault::Fail));
            let (_source, store) = store(&tree);
            let _ = store.save(Made::at(2).candidate(), 2, &|_| {}, &|| Ok(()));
            let count = tree.faults.count(request);
            assert!((1..=5).contains(&count), "{request}: {count} times, careful: {careful}");
        }
    }
}

#[test]
fn every_operation_may_fail_once() {
    for careful in [true, false] {
        for number in 0..operations(careful) {
            for fault in [Fault::Fail, Fault::LoseAnswer] {
                let tree = with_a_snapshot(careful);
                let (_source, store) = store(&tree);
                tree.faults.when(move |at, _| (at == number).then_some(fault));
                let made = Made::at(2);
                let result = save(&store, made.candidate());
                tree.faults.when(|_, _| None);
                let what = format!("{fault:?} at operation {number}, careful: {careful}");
                assert_eq!(
                    result.unwrap_or_else(|error| panic!("{what}: {error}")).label.digest,
                    made.label.digest
                );
                assert_eq!(readable(&tree, NAME), 2, "{what}");
                store.prepare().unwrap();
                assert_eq!(tree.names(), [NAME, "snapshot.db.json"], "{what}");
            }
        }
    }
}

#[test]
fn after_a_crash_at_any_operation_a_whole_snapshot_is_there() {
    for careful in [true, false] {
        for number in 0..operations(careful) {
            for refused in [false, true] {
                let tree = with_a_snapshot(careful);
                // A crash lets everything fail from then on, a refusal only that operation.
                tree.faults.when(move |at, _| match refused {
                    true => (at == number).then_some(Fault::Refuse),
                    false => (at >= number).then_some(Fault::Refuse),
                });
                let (_source, store) = store(&tree);
                let result = save(&store, Made::at(2).candidate());
                tree.faults.when(|_, _| None);
                let what = format!("operation {number}, careful: {careful}, refused: {refused}: {result:?}");
                let position = readable(&tree, NAME);
                assert!(position == 2 || (position == 1 && result.is_err()), "{what}");
                let described = store.stat(NAME).unwrap().unwrap().label.positions["stream-1"];
                let swept = store.prepare().unwrap();
                assert!(described == position || swept > 0, "{what}: nobody knows that it was interrupted");
                assert_eq!(readable(&tree, NAME), position, "{what}");
                save(&store, Made::at(3).candidate()).unwrap();
                assert_eq!(readable(&tree, NAME), 3, "{what}");
                store.prepare().unwrap();
                assert_eq!(tree.names(), [NAME, "snapshot.db.json"], "{what}");
            }
        }
    }
}

#[test]
fn a_later_uploader_ends_an_earlier_upload() {
    for careful in [true, false] {
        let tree = with_a_snapshot(careful);
        let files = Files { tree: tree.clone(), read_back: false };
        let (_source, retry) = quick(1);
        let made = Made::at(2);
        let result = retry.run("put", |tries| {
            let overtaken = || {
                let (_source, other) = store(&tree);
                assert_eq!(other.prepare()?, 2, "both files of the upload are swept");
                Ok(())
            };
            files.put(&Upload {
                name: NAME,
                label: &made.label,
                path: &made.path,
                sent: &|_| {},
                may_switch: &overtaken,
                tries,
            })
        });
        assert_eq!(result.unwrap_err().to_string(), "a later upload removed this one's files");
        assert_eq!(readable(&tree, NAME), 1);
    }
}

#[test]
fn a_stop_ends_the_pause_inside_an_upload() {
    let tree = with_a_snapshot(true);
    let (source, token) = crate::base::stop::pair();
    let long = std::time::Duration::from_secs(60);
    let retry = crate::base::retry::Retry::with_pauses(5, long, long, token);
    let store = Store::new(Box::new(Files { tree: tree.clone(), read_back: true }), retry);
    let mut source = Some(source);
    tree.faults.when(move |_, text| {
        text.starts_with("rename").then(|| {
            drop(source.take());
            Fault::Fail
        })
    });
    let begun = std::time::Instant::now();
    let error = save(&store, Made::at(2).candidate()).unwrap_err();
    assert!(matches!(error, Error::Stopped), "{error}");
    assert!(begun.elapsed().as_secs() < 1);
    assert_eq!(tree.names(), [NAME, "snapshot.db.json"], "nothing is left of the upload");
}

#[test]
fn other_bytes_than_were_sent_are_sent_again() {
    let tree = with_a_snapshot(true);
    let (_source, store) = store(&tree);
    let files = tree.files.clone();
    let mut spoilt = false;
    tree.faults.when(move |_, text| {
        if let Some(name) = text.strip_prefix("read ").filter(|name| name.ends_with(".tmp") && !spoilt) {
            spoilt = true;
            files.lock().unwrap().get_mut(name).unwrap()[0] ^= 1;
        }
        None
    });
    save(&store, Made::at(2).candidate()).unwrap();
    assert_eq!(tree.faults.count("write snapshot.db."), 3, "the content twice, the description once");
    assert_eq!(readable(&tree, NAME), 2);
}

#[test]
fn a_copy_has_its_label_and_the_original_stays() {
    for careful in [true, false] {
        let tree = with_a_snapshot(careful);
        let (_source, store) = store(&tree);
        let stored = store.stat(NAME).unwrap().unwrap();
        let (_source, retry) = quick(1);
        retry.run("copy", |tries| store.backend().copy(&stored, DATED, tries)).unwrap();
        assert_eq!((readable(&tree, NAME), readable(&tree, DATED)), (1, 1));
        let names: Vec<String> = store.list().unwrap().into_iter().map(|stored| stored.name).collect();
        assert_eq!(names, [NAME, DATED]);
        store.backend().remove(DATED).unwrap();
        assert_eq!(tree.names(), [NAME, "snapshot.db.json"]);
    }
}

#[test]
fn sweeping_gives_a_snapshot_that_was_set_aside_its_name_back() {
    let tree = with_a_snapshot(false);
    {
        let mut files = tree.files.lock().unwrap();
        for name in [NAME, "snapshot.db.json"] {
            let text = files.remove(name).unwrap();
            files.insert(previous(name), text);
        }
        files.insert("snapshot.db.0.tmp".to_owned(), vec![]);
        files.insert("notes.tmp".to_owned(), vec![]);
    }
    assert_eq!(readable(&tree, NAME), 1, "readers find it before");
    let (_source, store) = store(&tree);
    assert_eq!(store.prepare().unwrap(), 3);
    assert_eq!(tree.names(), ["notes.tmp", NAME, "snapshot.db.json"], "what is not ours stays");
    assert_eq!(readable(&tree, NAME), 1);
}

#[test]
fn a_damaged_description_goes_with_the_next_upload() {
    let tree = with_a_snapshot(true);
    tree.files.lock().unwrap().insert("snapshot.db.json".to_owned(), b"{}".to_vec());
    let (_source, store) = store(&tree);
    assert!(matches!(store.stat(NAME), Err(Error::Damaged(_))));
    let files = Files { tree: tree.clone(), read_back: true };
    let (_source, retry) = quick(1);
    let made = Made::at(2);
    retry
        .run("put", |tries| {
            files.put(&Upload {
                name: NAME,
                label: &made.label,
                path: &made.path,
                sent: &|_| {},
                may_switch: &|| Ok(()),
                tries,
            })
        })
        .unwrap();
    assert_eq!(readable(&tree, NAME), 2);
}

#[test]
fn a_file_of_a_go_node_has_no_label() {
    let tree = MemoryTree::new(true);
    tree.files.lock().unwrap().insert(NAME.to_owned(), b"SQLite".to_vec());
    let (_source, store) = store(&tree);
    let stored = store.stat(NAME).unwrap().unwrap();
    assert_eq!((stored.size, stored.label), (6, Label::default()));
    let mut short = Short(vec![]);
    assert!(short.write_all(&vec![0; usize::try_from(limits::HTTP_TEXT).unwrap() + 1]).is_err());
}

/// Who writes to the store can make the check of a description right again; the seal stays.
#[test]
fn mutants_of_labels_are_refused_or_say_the_same() {
    let key_file = crate::base::scratch::Scratch::new("mutants-key");
    std::fs::write(key_file.path("key"), "5a".repeat(32)).unwrap();
    let key = crate::storage::pack::Key::read(&key_file.path("key")).unwrap();
    let seals = crate::storage::Seals::new(Some(&key), "cluster", false);
    let sealed: Vec<Label> = (1..=3)
        .map(|at| seals.seal(Label { encoding: "encrypted".into(), plain: at, ..Made::at(at).label.clone() }))
        .collect();
    let valid: Vec<Vec<u8>> = (1..=3).map(|count| description(&sealed[..count])).collect();
    let mut believed = 0;
    crate::base::mutants::each_seed("labels", |mutator| {
        let mutant = mutator.mutant(&valid);
        assert!(labels(&mutant).is_none_or(|found| found.iter().all(|label| sealed.contains(label))));
        let Ok(mut top) = serde_json::from_slice::<Value>(&mutant) else { return };
        let Some(list) = top.get("snapshots").map(ToString::to_string) else { return };
        top["check"] = hex_sha256(list.as_bytes()).into();
        let Some(mut found) = labels(top.to_string().as_bytes()).filter(|found| !found.is_empty()) else {
            return;
        };
        let label = found.remove(0);
        let stored = Stored { name: NAME.to_owned(), label, other_labels: found, ..Stored::default() };
        let judged = seals.judge(stored);
        if judged.refused().is_some() {
            assert_eq!(judged.label, Label { digest: judged.label.digest.clone(), ..Label::default() });
            return;
        }
        believed += 1;
        for label in [&judged.label].into_iter().chain(&judged.other_labels) {
            assert!(sealed.contains(label), "{label:?}");
        }
    });
    println!("{believed} of them still held one of the true labels");
}
