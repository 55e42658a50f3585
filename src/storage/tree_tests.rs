//! Uploads into a directory in memory whose every operation fails in every way.

use super::*;
use crate::storage::fake::{Fault, Made, MemoryTree, quick};
use crate::storage::{Candidate, Store};
use std::sync::atomic::Ordering::Relaxed;

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
        for name in [NAME, "snapshot.db.json", DATED] {
            files.insert(temporary(name), vec![]);
        }
        files.insert(format!("{DATED}.json.0123456789abcdef.tmp"), vec![]);
        files.insert("snapshot-probe.0123456789abcdef.tmp".to_owned(), vec![]);
        files.insert("snapshot-probe.0123456789abcdef-missing.tmp".to_owned(), vec![]);
    }
    assert_eq!(readable(&tree, NAME), 1, "readers find it before");
    let (_source, store) = store(&tree);
    assert_eq!(store.prepare().unwrap(), 8);
    assert_eq!(tree.names(), [NAME, "snapshot.db.json"]);
    assert_eq!(readable(&tree, NAME), 1);
}

/// A directory may hold other files, whose names may resemble ours.
#[test]
fn files_of_others_are_neither_removed_nor_renamed() {
    let names = [
        "notes.tmp",
        "only.previous",
        "report.txt",
        "report.txt.previous",
        "snapshot-notes.0123456789abcdef.tmp",
        "snapshot-of-my-vm.db",
        "snapshot-of-my-vm.tmp",
        "snapshot-of-the-vms-ABCDE.db",
        "snapshot-of-the-vms-ABCDE.db.json",
        "snapshot-of-the-vms-ABCDE.db.previous",
        "snapshot-probe.tmp",
        "snapshot.db.0.tmp",
        "snapshot.db.0123456789ABCDEF.tmp",
        "snapshot.db.json.bak",
        "snapshot.db.xyz.0123456789abcdef.tmp",
        "snapshot.tmp",
        "snapshots",
        "snapshots.0123456789abcdef.tmp",
    ];
    for careful in [true, false] {
        let tree = with_a_snapshot(careful);
        let content = |name: &str| (name.to_owned(), name.as_bytes().to_vec());
        tree.files.lock().unwrap().extend(names.map(content));
        let (_source, store) = store(&tree);
        for at in 2..5 {
            assert_eq!(store.prepare().unwrap(), 0);
            store.save(Made::at(at).candidate(), 2, &|_| {}, &|| Ok(())).unwrap();
        }
        assert_eq!(store.list().unwrap().len(), 2);
        let files = tree.files.lock().unwrap();
        for name in names {
            assert_eq!(files.get(name).map(Vec::as_slice), Some(name.as_bytes()), "{name}");
        }
    }
}

#[test]
fn what_is_read_back_without_end_fails_the_upload() {
    let tree = with_a_snapshot(true);
    let (_source, store) = store(&tree);
    tree.faults.when({
        let is_endless = tree.is_endless.clone();
        move |_, text| {
            is_endless.store(text.starts_with("read snapshot.db.") && text.ends_with(".tmp"), Relaxed);
            None
        }
    });
    let error = save(&store, Made::at(2).candidate()).unwrap_err();
    assert!(error.to_string().contains("more than the 20 bytes"), "{error}");
    assert_eq!(readable(&tree, NAME), 1);
}

/// Descriptions that are none: cut, of something else, too long.
fn damaged_descriptions() -> [Vec<u8>; 4] {
    [vec![], b"{}".to_vec(), b"{\"snapshots\": []}".to_vec(), vec![b' '; 2 << 20]]
}

#[test]
fn a_damaged_description_refuses_its_snapshot_alone_and_goes_with_the_next_upload() {
    for (careful, text) in
        [true, false].into_iter().flat_map(|careful| damaged_descriptions().map(|text| (careful, text)))
    {
        let tree = with_a_snapshot(careful);
        tree.files.lock().unwrap().insert("snapshot.db.json".to_owned(), text);
        let (_source, store) = store(&tree);
        let found = store.stat(NAME).unwrap().unwrap();
        assert_eq!(found.refused(), Some("its description is damaged (snapshot.db.json): it is not taken"));
        assert_eq!((&found.label, found.other_labels.len()), (&Label::default(), 0));
        assert_eq!(store.list().unwrap(), [found]);
        store.prepare().unwrap();
        store.save(Made::at(2).candidate(), 2, &|_| {}, &|| Ok(())).unwrap();
        assert_eq!(readable(&tree, NAME), 2);
        assert_eq!(tree.names(), [NAME, "snapshot.db.json"], "what was refused is not kept as an older one");
    }
}

#[test]
fn an_older_snapshot_with_a_damaged_description_harms_no_other() {
    for text in damaged_descriptions() {
        let tree = with_a_snapshot(true);
        let (_source, store) = store(&tree);
        let keep = |at: u64| store.save(Made::at(at).candidate(), 3, &|_| {}, &|| Ok(())).unwrap();
        keep(2);
        keep(3);
        tree.files.lock().unwrap().insert(format!("{DATED}.json"), text);
        let refused = |stored: &Stored| stored.refused().is_some();
        let shown: Vec<bool> = store.list().unwrap().iter().map(refused).collect();
        assert_eq!(shown, [false, false, true]);
        keep(4);
        keep(5);
        let shown: Vec<bool> = store.list().unwrap().iter().map(refused).collect();
        assert_eq!(shown, [false, false, false, true], "the old ones go, and none of ours more than before");
    }
}

/// It may have been replaced while it was read.
#[test]
fn a_damaged_description_is_read_once_more() {
    let tree = with_a_snapshot(true);
    let whole = tree.files.lock().unwrap().insert("snapshot.db.json".to_owned(), vec![]).unwrap();
    let (files, mut reads) = (tree.files.clone(), 0);
    tree.faults.when(move |_, text| {
        reads += usize::from(text == "read snapshot.db.json");
        if reads == 2 {
            files.lock().unwrap().insert("snapshot.db.json".to_owned(), whole.clone());
        }
        None
    });
    let (_source, store) = store(&tree);
    assert_eq!(store.stat(NAME).unwrap().unwrap().refused(), None);
    assert_eq!(tree.faults.count("read"), 2);
}

#[test]
fn a_file_of_a_go_node_has_no_label() {
    let tree = MemoryTree::new(true);
    tree.files.lock().unwrap().insert(NAME.to_owned(), b"SQLite".to_vec());
    let (_source, store) = store(&tree);
    let stored = store.stat(NAME).unwrap().unwrap();
    assert_eq!((stored.size, stored.label), (6, Label::default()));
    let mut short = Short::default();
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
        .map(|at| {
            let positions = (1..=at).map(|stream| (format!("stream-{stream}"), at)).collect();
            let made = Made::at(at).label.clone();
            seals.seal(Label { encoding: "encrypted".into(), plain: at, positions, ..made })
        })
        .collect();
    let mut valid: Vec<Vec<u8>> = (1..=3).map(|count| description(&sealed[..count])).collect();
    // Texts of positions that are not written so: the first name gives the prefix of those after it.
    for before in ["junk ", "x-1=no ", "~9=9 ", "=1 "] {
        let text = String::from_utf8(description(&sealed[1..])).unwrap();
        let mut top: Value =
            serde_json::from_str(&text.replace("stream-1=", &format!("{before}stream-1="))).unwrap();
        top["check"] = hex_sha256(top["snapshots"].to_string().as_bytes()).into();
        valid.push(top.to_string().into_bytes());
    }
    let mut believed = 0;
    crate::base::mutants::each_seed("labels", |mutator| {
        let mutant = mutator.mutant(&valid);
        if let Some(found) = labels(&mutant) {
            let stored = |label| Stored { name: NAME.to_owned(), label, ..Stored::default() };
            let judged = found.into_iter().map(|label| seals.judge(stored(label)));
            assert!(judged.into_iter().all(|one| one.refused().is_some() || sealed.contains(&one.label)));
        }
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
