//! The rules of the store over a store in memory.

use super::*;
use crate::base::scratch::Scratch;
use crate::base::stop::StopSource;
use crate::storage::fake::{Fault, Made, MemoryStore, quick};

const NAME: &str = limits::SNAPSHOT_NAME;

fn store(memory: &MemoryStore) -> (StopSource, Store) {
    let (source, retry) = quick(limits::STORE_TRIES);
    (source, Store::new(Box::new(memory.clone()), retry))
}

fn save(store: &Store, made: &Made, keep: u64) -> Result<Stored, Error> {
    store.save(made.candidate(), keep, &|_| {}, &|| Ok(()))
}

fn names(memory: &MemoryStore) -> Vec<String> {
    memory.objects.lock().unwrap().keys().cloned().collect()
}

fn dated(made: &Made) -> String {
    format!("snapshot-{}.db", clock::compact(made.label.time_ms))
}

#[test]
fn what_always_fails_is_tried_five_times_whichever_step_it_is() {
    for (operation, keep) in [("stat", 1), ("put", 1), ("put", 2), ("copy", 2)] {
        let memory = MemoryStore::new();
        let (_source, store) = store(&memory);
        save(&store, &Made::at(1), 1).unwrap();
        memory.faults.when(move |_, text| text.starts_with(operation).then_some(Fault::Fail));
        let error = save(&store, &Made::at(2), keep).unwrap_err();
        assert_eq!(memory.faults.count(operation), 5, "{operation}");
        assert!(error.to_string().contains("(after 5 tries, "), "{error}");
    }
}

#[test]
fn a_look_that_fails_only_during_an_upload_is_tried_five_times() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    // The first look of all succeeds: the upload begins, and asks whether it may switch.
    memory.faults.when(|number, text| (number > 0 && text.starts_with("stat")).then_some(Fault::Fail));
    assert!(save(&store, &Made::at(1), 1).is_err());
    assert_eq!((memory.faults.count("stat"), memory.faults.count("put")), (1 + 5, 0));
}

#[test]
fn an_answer_that_is_always_lost_is_no_failure() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    memory.faults.when(|_, text| text.starts_with("put").then_some(Fault::LoseAnswer));
    let stored = save(&store, &Made::at(1), 1).unwrap();
    assert_eq!((stored.label.node, memory.faults.count("put")), (7, 1));
}

#[test]
fn a_refusal_is_final() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    memory.faults.when(|_, text| text.starts_with("put").then_some(Fault::Refuse));
    assert!(matches!(save(&store, &Made::at(1), 1), Err(Error::Permanent(_))));
    assert_eq!(memory.faults.count("put"), 1);
}

#[test]
fn a_caller_that_may_not_switch_changes_nothing_and_gets_its_own_reason() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    save(&store, &Made::at(1), 1).unwrap();
    memory.faults.when(|_, _| None);
    let lost = || Err(base::Error::waiting("the lease was lost"));
    let error = store.save(Made::at(2).candidate(), 1, &|_| {}, &lost).unwrap_err();
    assert_eq!(base::Error::from(error), base::Error::waiting("the lease was lost"));
    assert_eq!(memory.faults.count("put"), 0);
    assert_eq!(store.stat(NAME).unwrap().unwrap().label, Made::at(1).label);
}

#[test]
fn an_older_snapshot_replaces_no_newer_one() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    save(&store, &Made::at(5), 1).unwrap();
    let error = save(&store, &Made::at(4), 1).unwrap_err();
    assert_eq!(error.to_string(), "the store holds a newer snapshot, of node 7: it stays");
    save(&store, &Made::at(5), 1).unwrap();
    // A newer one that comes during the upload is seen at the last moment.
    let newer = memory.clone();
    let overtaken = move || {
        let made = Made::at(9);
        let text = std::fs::read(&made.path).unwrap();
        newer.objects.lock().unwrap().insert(NAME.to_owned(), (made.label.clone(), text));
        Ok(())
    };
    let error = store.save(Made::at(6).candidate(), 1, &|_| {}, &overtaken).unwrap_err();
    assert!(error.to_string().contains("newer snapshot"), "{error}");
    assert_eq!(store.stat(NAME).unwrap().unwrap().label, Made::at(9).label);
}

#[test]
fn older_generations_are_kept_and_the_oldest_go() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    let made: Vec<Made> = (1..=5).map(Made::at).collect();
    for one in &made {
        save(&store, one, 3).unwrap();
    }
    let listed: Vec<String> = store.list().unwrap().into_iter().map(|stored| stored.name).collect();
    assert_eq!(listed, [NAME, &dated(&made[3]), &dated(&made[2])]);
    save(&store, &Made::at(6), 1).unwrap();
    assert_eq!(names(&memory), [NAME]);
}

/// A Go node's snapshot, or one whose description was lost, has no time of its own.
#[test]
fn one_of_unknown_age_pushes_none_out_that_came_after_it() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    let made: Vec<Made> = (1..=3).map(Made::at).collect();
    for _ in 0..2 {
        memory.objects.lock().unwrap().insert(NAME.to_owned(), (Label::default(), b"anything".to_vec()));
        save(&store, &made[0], 9).unwrap();
    }
    assert_eq!(names(&memory).len(), 3, "nothing was written over: {:?}", names(&memory));
    for one in &made[1..] {
        save(&store, one, 2).unwrap();
    }
    assert_eq!(names(&memory), [dated(&made[1]), NAME.to_owned()]);
}

#[test]
fn what_was_kept_already_is_not_copied_again() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    let made = Made::at(1);
    save(&store, &made, 1).unwrap();
    // The copy is done and its answer lost; the try after it finds the copy.
    let mut lost = false;
    memory.faults.when(move |_, text| {
        let first = text.starts_with("copy") && !std::mem::replace(&mut lost, true);
        first.then_some(Fault::LoseAnswer)
    });
    save(&store, &Made::at(2), 2).unwrap();
    assert_eq!(memory.faults.count("copy"), 1);
    assert_eq!(names(&memory), [dated(&made), NAME.to_owned()]);
}

#[test]
fn a_copy_that_is_refused_does_not_hold_up_a_new_snapshot() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    save(&store, &Made::at(1), 1).unwrap();
    memory.faults.when(|_, text| text.starts_with("copy").then_some(Fault::Refuse));
    save(&store, &Made::at(2), 2).unwrap();
    assert_eq!(names(&memory), [NAME]);
}

#[test]
fn a_stop_ends_the_pause_before_the_next_try() {
    let memory = MemoryStore::new();
    let (source, token) = crate::base::stop::pair();
    let long = std::time::Duration::from_secs(60);
    let store = Store::new(Box::new(memory.clone()), Retry::with_pauses(5, long, long, token));
    let mut source = Some(source);
    memory.faults.when(move |_, _| {
        drop(source.take());
        Some(Fault::Fail)
    });
    let begun = std::time::Instant::now();
    assert!(matches!(store.stat(NAME), Err(Error::Stopped)));
    assert!(begun.elapsed().as_secs() < 1 && memory.faults.count("") == 1);
}

#[test]
fn progress_begins_anew_with_each_try() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    let mut failed = false;
    memory.faults.when(move |_, text| {
        let first = text.starts_with("put") && !std::mem::replace(&mut failed, true);
        first.then_some(Fault::Fail)
    });
    let made = Made::at(1);
    let last = AtomicU64::new(0);
    store.save(made.candidate(), 1, &|bytes| last.store(bytes, Relaxed), &|| Ok(())).unwrap();
    assert_eq!(last.load(Relaxed), made.label.size);
}

fn fetch(store: &Store, wanted: &Stored) -> Result<(Stored, String), Error> {
    let scratch = Scratch::new("fetch");
    let path = scratch.path("file");
    let stored = store.fetch(wanted, &File::create(&path).unwrap(), u64::MAX, &|_| {})?;
    Ok((stored, std::fs::read_to_string(path).unwrap()))
}

#[test]
fn a_snapshot_that_is_replaced_while_it_is_read_is_read_once_more() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    save(&store, &Made::at(1), 1).unwrap();
    let wanted = store.stat(NAME).unwrap().unwrap();
    save(&store, &Made::at(2), 1).unwrap();
    let (stored, text) = fetch(&store, &wanted).unwrap();
    assert_eq!((stored.label, text.as_str()), (Made::at(2).label, "content at 000000002"));
}

#[test]
fn damage_that_stays_is_reported_after_a_second_look() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    save(&store, &Made::at(1), 1).unwrap();
    memory.objects.lock().unwrap().get_mut(NAME).unwrap().1[0] ^= 1;
    let wanted = store.stat(NAME).unwrap().unwrap();
    memory.faults.when(|_, _| None);
    assert!(matches!(fetch(&store, &wanted), Err(Error::Damaged(_))));
    assert_eq!(memory.faults.count("get"), 2);
}

#[test]
fn a_snapshot_that_is_gone_is_not_found() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    assert!(store.stat(NAME).unwrap().is_none() && store.list().unwrap().is_empty());
    let wanted = Stored { name: NAME.to_owned(), ..Stored::default() };
    assert!(matches!(fetch(&store, &wanted), Err(Error::NotFound)));
}

#[test]
fn what_came_is_compared_with_what_was_announced() {
    let label = |digest: &str| Label { size: 5, digest: digest.into(), ..Label::default() };
    let stored = Stored {
        size: 5,
        label: label("SHA-256=a"),
        other_labels: vec![label("SHA-256=b=")],
        ..Stored::default()
    };
    assert_eq!(identify(stored.clone(), 5, "SHA-256=a=").unwrap(), stored);
    let other = identify(stored.clone(), 5, "SHA-256=b").unwrap();
    assert_eq!((other.label, other.other_labels), (label("SHA-256=b="), vec![]));
    assert!(matches!(identify(stored.clone(), 5, "SHA-256=c"), Err(Error::Damaged(_))));
    assert!(matches!(identify(stored.clone(), 4, "SHA-256=a"), Err(Error::Transient(_))));
    let cut = Stored { size: 4, ..stored };
    assert!(matches!(identify(cut, 4, "SHA-256=a"), Err(Error::Damaged(_))));
    let of_a_go_node = Stored { size: 5, ..Stored::default() };
    assert_eq!(identify(of_a_go_node.clone(), 5, "SHA-256=x").unwrap(), of_a_go_node);
}

#[test]
fn of_content_without_end_no_more_is_taken_than_was_announced() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    let made = Made::at(1);
    let wanted = save(&store, &made, 1).unwrap();
    memory.is_endless.store(true, Relaxed);
    let scratch = Scratch::new("endless");
    let (path, most) = (scratch.path("file"), AtomicU64::new(0));
    let note = |count| {
        most.fetch_max(count, Relaxed);
    };
    let error = store.fetch(&wanted, &File::create(&path).unwrap(), u64::MAX, &note).unwrap_err();
    assert!(matches!(error, Error::Transient(_)), "another try may help: {error}");
    assert!(error.to_string().contains("more than the 20 bytes"), "{error}");
    assert_eq!(most.load(Relaxed), made.label.size);
    assert!(std::fs::metadata(&path).unwrap().len() <= made.label.size);
}

#[test]
fn a_stop_ends_a_transfer() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    save(&store, &Made::at(1), 1).unwrap();
    let (source, token) = crate::base::stop::pair();
    let retry = Retry::with_pauses(5, std::time::Duration::ZERO, std::time::Duration::ZERO, token);
    let store = Store::new(Box::new(memory.clone()), retry);
    let wanted = Stored { size: u64::MAX, ..store.stat(NAME).unwrap().unwrap() };
    memory.is_endless.store(true, Relaxed);
    let source = std::cell::Cell::new(Some(source));
    let (stop, calls) = (|| drop(source.take()), AtomicU64::new(0));
    let scratch = Scratch::new("stopped");
    let note = |_| {
        calls.fetch_add(1, Relaxed);
        stop();
    };
    let error = store.fetch(&wanted, &File::create(scratch.path("file")).unwrap(), u64::MAX, &note);
    assert!(matches!(error, Err(Error::Stopped)) && calls.load(Relaxed) == 1, "{error:?}");
}

/// An unsealed label says what it likes; the file gets a name all the same.
#[test]
fn a_snapshot_of_a_time_without_a_name_is_kept_under_the_present_one() {
    let memory = MemoryStore::new();
    let (_source, store) = store(&memory);
    save(&store, &Made::at(1), 1).unwrap();
    for (at, time_ms) in [(2, i64::MAX), (4, 253_402_300_800_000)] {
        memory.objects.lock().unwrap().get_mut(NAME).unwrap().0.time_ms = time_ms;
        save(&store, &Made::at(at), 2).unwrap();
        let names = names(&memory);
        assert!(names.len() == 2 && names.iter().all(|name| crate::storage::is_snapshot(name)), "{names:?}");
        save(&store, &Made::at(at + 1), 1).unwrap();
    }
}

#[test]
fn what_an_unsealed_label_and_the_store_say_widens_no_bound() {
    let stored = |size, plain, others: usize| Stored {
        size,
        label: Label { plain, ..Label::default() },
        other_labels: vec![Label::default(); others],
        ..Stored::default()
    };
    for size in [10, 1 << 40] {
        for (plain, others) in [(0, 0), (6_000, 0), (1_000, 1), (0, 2)] {
            assert_eq!(bound(&stored(size, plain, others), 5_000), Bound::Room(5_000));
        }
        assert_eq!(bound(&stored(size, 1_000, 0), 5_000), Bound::Announced(1_000));
        let sealed = Stored { seal: Seal::Whole, ..stored(size, 6_000, 0) };
        assert_eq!(bound(&sealed, 5_000), Bound::Announced(6_000));
    }
}
