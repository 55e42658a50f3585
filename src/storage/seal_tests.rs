//! Labels with seals, and an attacker who can write to the store.

use super::*;
use crate::base::stop::StopSource;
use crate::storage::fake::{Made, MemoryStore, MemoryTree, quick};
use crate::storage::tree::{Files, Source, Tree};
use crate::storage::{Error, Store};
use std::fs::File;

const NAME: &str = limits::SNAPSHOT_NAME;

fn key(byte: u8) -> Key {
    let files = crate::base::scratch::Scratch::new("seal-key");
    let path = files.path("key");
    std::fs::write(&path, format!("{byte:02x}").repeat(32)).unwrap();
    Key::read(&path).unwrap()
}

fn seals() -> Seals {
    Seals::new(Some(&key(1)), "cluster", false)
}

fn accepting() -> Seals {
    Seals::new(Some(&key(1)), "cluster", true)
}

fn label() -> Label {
    Label {
        size: 7,
        digest: "SHA-256=abc=".into(),
        content: "c".into(),
        positions: [("a-1".to_owned(), 3), ("a-2".to_owned(), 4)].into(),
        streams: "s".into(),
        schema: "h".into(),
        node: 9,
        time_ms: 1_795_526_100_000,
        revision: 12,
        encoding: "zstd+encrypted".into(),
        verified: true,
        plain: 70,
        others: [("later".to_owned(), "x".to_owned())].into(),
        ..Label::default()
    }
}

fn stored(name: &str, label: Label) -> Stored {
    Stored { name: name.to_owned(), size: label.size, label, ..Stored::default() }
}

/// Why a label beside `snapshot.db` is refused.
fn refusal(seals: &Seals, label: Label) -> Option<String> {
    seals.judge(stored(NAME, label)).refused().map(str::to_owned)
}

#[test]
fn a_sealed_label_is_believed_and_any_change_of_it_is_not() {
    let sealed = seals().seal(label());
    let judged = seals().judge(stored(NAME, sealed.clone()));
    assert_eq!((judged.seal, judged.label), (Seal::Whole, sealed.clone()));
    type Change = fn(&mut Label);
    let changes: &[(&str, Change)] = &[
        ("size", |label| label.size = 8),
        ("digest", |label| label.digest = "SHA-256=abd=".into()),
        ("padding", |label| label.digest.push('=')),
        ("content", |label| label.content.push('x')),
        ("position", |label| label.positions.extend([("a-1".into(), u64::MAX)])),
        ("no position", |label| label.positions.clear()),
        ("streams", |label| label.streams.clear()),
        ("schema", |label| label.schema = "i".into()),
        ("node", |label| label.node = 0),
        ("time", |label| label.time_ms += 1),
        ("revision", |label| label.revision += 1),
        ("encoding", |label| label.encoding = "encrypted".into()),
        ("verified", |label| label.verified = false),
        ("plain", |label| label.plain = u64::MAX),
        ("others", |label| label.others.clear()),
        ("seal", |label| label.seal = Seals::new(Some(&key(2)), "cluster", false).seal(label.clone()).seal),
        ("cluster", |label| label.seal = Seals::new(Some(&key(1)), "cluste", false).seal(label.clone()).seal),
        ("short", |label| label.seal.truncate(8)),
        ("garbage", |label| label.seal = "\u{e9}".into()),
    ];
    for (what, change) in changes {
        let mut changed = sealed.clone();
        change(&mut changed);
        for seals in [seals(), accepting()] {
            let judged = seals.judge(stored(NAME, changed.clone()));
            assert!(judged.refused().is_some(), "{what}");
            let announced = Label { digest: changed.digest.clone(), ..Label::default() };
            assert_eq!(
                (judged.label, judged.other_labels),
                (announced, vec![]),
                "{what}: nothing of it is believed"
            );
        }
    }
}

#[test]
fn what_has_no_seal_is_taken_only_if_that_is_said() {
    let plain = Label { encoding: "zstd".into(), ..label() };
    assert!(refusal(&seals(), plain.clone()).unwrap().starts_with("it is not encrypted"));
    assert!(refusal(&seals(), label()).unwrap().starts_with("its label is not authenticated"));
    assert!(refusal(&seals(), Label::default()).unwrap().contains("snapshot.accept_plain"), "a Go node's");
    for label in [plain.clone(), label(), Label::default()] {
        let judged = accepting().judge(stored(NAME, label.clone()));
        assert_eq!((&judged.seal, &judged.label), (&Seal::Unasked, &label));
        assert!(!accepting().are_whole(&judged));
        // Without a key everything is believed, sealed or not.
        let sealed = seals().seal(label);
        assert_eq!(Seals::default().judge(stored(NAME, sealed.clone())), stored(NAME, sealed));
    }
    assert_eq!(Seals::default().seal(label()), label());
}

#[test]
fn of_several_labels_the_forged_ones_are_left_out() {
    let (one, two) = (seals().seal(label()), seals().seal(Label { node: 3, ..label() }));
    let forged = Label { node: 66, ..one.clone() };
    let given = Stored { other_labels: vec![one.clone(), label(), two.clone()], ..stored(NAME, forged) };
    let judged = seals().judge(given.clone());
    assert_eq!(
        (judged.label, judged.other_labels, judged.seal),
        (one.clone(), vec![two.clone()], Seal::Unasked),
        "what lies there is probably that of the newest label"
    );
    let older = Stored { other_labels: vec![given.label.clone()], ..stored(NAME, one.clone()) };
    assert_eq!(seals().judge(older), Stored { seal: Seal::Whole, ..stored(NAME, one.clone()) });
    let judged = accepting().judge(given);
    assert_eq!((judged.label, judged.other_labels, judged.seal), (one, vec![label(), two], Seal::Unasked));
}

#[test]
fn a_label_stays_with_the_name_of_its_time() {
    let sealed = seals().seal(label());
    let named = |name: &str| seals().judge(stored(name, sealed.clone())).refused().is_some();
    assert!(!named(NAME) && !named(&dated_name(label().time_ms)));
    assert!(named("snapshot-20991231T235959Z.db"), "it would be the newest of the kept ones");
}

/// A key hides what the store could compare with what it guesses.
#[test]
fn content_is_veiled_with_a_key() {
    let veiled = seals().veiled("SHA-256=x");
    assert!(veiled == seals().veiled("SHA-256=x") && veiled != "SHA-256=x");
    assert_ne!(veiled, Seals::new(Some(&key(2)), "cluster", false).veiled("SHA-256=x"));
    assert_ne!(veiled, Seals::new(Some(&key(1)), "other", false).veiled("SHA-256=x"));
    assert_eq!(Seals::default().veiled("SHA-256=x"), "SHA-256=x");
}

fn store(memory: &MemoryStore, seals: Seals) -> (StopSource, Store) {
    let (source, retry) = quick(limits::STORE_TRIES);
    (source, Store::new(Box::new(memory.clone()), retry).with_seals(seals))
}

fn save(store: &Store, made: &Made, keep: u64) -> Result<Stored, Error> {
    store.save(made.candidate(), keep, &|_| {}, &|| Ok(()))
}

fn fetch(store: &Store, wanted: &Stored) -> Result<Stored, Error> {
    let scratch = crate::base::scratch::Scratch::new("seal-fetch");
    store.fetch(wanted, &File::create(scratch.path("file")).unwrap(), u64::MAX, &|_| {})
}

#[test]
fn a_forged_position_blocks_no_leader_and_serves_nobody() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory, seals());
    assert_eq!(save(&store, &Made::at(1), 1).unwrap().seal, Seal::Whole);
    let mut forged = Made::at(u64::MAX / 1000).label.clone();
    forged.encoding = "encrypted".into();
    let text = b"content at 123456789".to_vec();
    (forged.size, forged.digest) = crate::base::digest::digest_of(&mut text.as_slice()).unwrap();
    memory.objects.lock().unwrap().insert(NAME.to_owned(), (forged, text));
    let found = store.stat(NAME).unwrap().unwrap();
    assert!(found.refused().is_some() && found.label.positions.is_empty() && found.label.time_ms == 0);
    assert!(matches!(fetch(&store, &found), Err(Error::Unreadable(_))));
    // One that was judged by nobody is judged when it is fetched anew.
    let unjudged = Stored { label: Label::default(), seal: Seal::Unasked, ..found };
    assert!(fetch(&store, &unjudged).is_err());
    let saved = save(&store, &Made::at(2), 3).unwrap();
    assert_eq!((saved.seal, saved.label.node), (Seal::Whole, 7));
    assert_eq!(store.list().unwrap().len(), 1, "the forged one was not kept as an older generation");
}

#[test]
fn forged_generations_push_none_of_ours_out() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory, seals());
    for at in 1..=3 {
        save(&store, &Made::at(at), 3).unwrap();
    }
    let ours: Vec<String> = store.list().unwrap().into_iter().map(|stored| stored.name).collect();
    for day in 10..20 {
        let made = Made::at(9);
        let text = std::fs::read(&made.path).unwrap();
        let name = format!("snapshot-299911{day}T000000Z.db");
        memory.objects.lock().unwrap().insert(name, (made.label.clone(), text));
    }
    save(&store, &Made::at(4), 3).unwrap();
    let left = store.list().unwrap();
    let kept: Vec<&str> =
        left.iter().filter(|stored| stored.refused().is_none()).map(|stored| stored.name.as_str()).collect();
    assert_eq!(kept, [NAME, &dated_name(Made::at(3).label.time_ms), ours[1].as_str()]);
    assert_eq!(left.len(), 3 + 2, "and of the forged ones no more are left than of ours");
}

#[test]
fn the_label_of_one_file_beside_another_is_found_out() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory, seals());
    save(&store, &Made::at(1), 1).unwrap();
    let (old, _) = memory.objects.lock().unwrap()[NAME].clone();
    save(&store, &Made::at(2), 1).unwrap();
    memory.objects.lock().unwrap().get_mut(NAME).unwrap().0 = old;
    let found = store.stat(NAME).unwrap().unwrap();
    assert!(matches!(fetch(&store, &found), Err(Error::Damaged(_))));
}

#[test]
fn kept_files_and_their_descriptions_keep_their_seals() {
    for careful in [true, false] {
        let tree = MemoryTree::new(careful);
        let (_source, retry) = quick(limits::STORE_TRIES);
        let files = Files { tree: tree.clone(), read_back: true };
        let store = Store::new(Box::new(files), retry).with_seals(seals());
        for at in 1..=3 {
            let saved = save(&store, &Made::at(at), 3).unwrap();
            assert!(saved.seal == Seal::Whole && saved.label.verified);
        }
        let listed = store.list().unwrap();
        assert!(listed.len() == 3 && listed.iter().all(|stored| stored.seal == Seal::Whole), "{listed:?}");
        // Without its description nothing vouches for a file.
        tree.remove("snapshot.db.json").unwrap();
        assert!(store.stat(NAME).unwrap().unwrap().refused().is_some());
        tree.write("snapshot.db.json", Source::Bytes(b"{\"snapshots\": []}")).unwrap();
        let found = store.stat(NAME).unwrap().unwrap();
        assert!(found.refused().unwrap().starts_with("its description is damaged"), "{found:?}");
        assert_eq!(found.label, Label::default());
    }
}

/// The seal is over what was read and is written again: two texts that are read otherwise must not be written alike.
#[test]
fn a_seal_binds_the_positions_that_are_read() {
    let label = Label { positions: [("a-c-1".to_owned(), 3), ("a-c-2".to_owned(), 40)].into(), ..label() };
    let sealed = seals().seal(label);
    let position = "a-c-1=3 ~2=40";
    assert!(sealed.pairs().contains(&("position", position.to_owned())));
    for stored_text in [
        format!("junk {position}"),
        format!("=x {position}"),
        format!("~1=no {position}"),
        "~2=40 a-c-1=3".to_owned(),
        "~2=40 junk a-c-1=3".to_owned(),
        "a-c-1=3 x ~2=40".to_owned(),
        "x-1=no a-c-1=3 ~2=40".to_owned(),
        "a-c-2=40 a-c-1=3".to_owned(),
    ] {
        let pairs = sealed.pairs();
        let forged = pairs.iter().map(|(key, value)| match *key {
            "position" => (*key, stored_text.as_str()),
            _ => (*key, value.as_str()),
        });
        let judged = seals().judge(stored(NAME, Label::from_pairs(forged)));
        assert!(judged.refused().is_some() || judged.label == sealed, "{stored_text}: {:?}", judged.label);
    }
    for key in ["content", "streams", "schema", "encoding"] {
        let without =
            seals().seal(Label::from_pairs(label_without(key).iter().map(|(k, v)| (*k, v.as_str()))));
        let pairs = without.pairs();
        let forged = pairs.iter().map(|(key, value)| (*key, value.as_str())).chain([(key, "0")]);
        assert!(refusal(&seals(), Label::from_pairs(forged)).is_some(), "{key}");
    }
}

fn label_without(key: &str) -> Vec<(&'static str, String)> {
    let all = [
        ("size", "7"),
        ("digest", "SHA-256=abc="),
        ("content", "c"),
        ("streams", "s"),
        ("schema", "h"),
        ("encoding", "encrypted"),
    ];
    all.iter().filter(|pair| pair.0 != key).map(|(k, v)| (*k, (*v).to_owned())).collect()
}
