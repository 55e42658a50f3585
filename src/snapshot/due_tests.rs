//! The decisions of the leader, without a broker, a store or a clock.

use super::*;
use crate::model::positions::SeqMap;
use crate::storage::Label;

const HOUR: Duration = Duration::from_secs(3600);

fn map(pairs: &[(&str, u64)]) -> SeqMap {
    pairs.iter().map(|(name, seq)| ((*name).to_owned(), *seq)).collect()
}

fn label(pairs: &[(&str, u64)]) -> Label {
    Label { positions: map(pairs), ..Label::default() }
}

/// Where a database stands beside a stored snapshot at (a=100, b=10), with streams of 1,000 messages that take 10 bytes each.
fn standings(at: &[(&str, u64)]) -> Vec<Standing> {
    let stored = label(&[("a", 100), ("b", 10)]);
    let standing = |(stream, seq): &(&str, u64)| {
        let stored = stored.positions.get(*stream).copied().unwrap_or(0);
        let (stream, bytes) = ((*stream).to_owned(), seq.saturating_sub(stored) * 10);
        Standing { stream, seq: *seq, stored, bytes, reach: Reach::of_messages(1_000) }
    };
    at.iter().map(standing).collect()
}

/// The decision, with an interval of an hour.
fn decide(at: &[(&str, u64)], change: impl FnOnce(&mut Facts<'_>)) -> Option<Reason> {
    decide_with(Reach::of_messages(1_000), at, change)
}

fn decide_with(reach: Reach, at: &[(&str, u64)], change: impl FnOnce(&mut Facts<'_>)) -> Option<Reason> {
    let mut standings = standings(at);
    standings.iter_mut().for_each(|standing| standing.reach = reach);
    let mut facts = Facts { standings: &standings, is_anew: false, interval: HOUR, elapsed: Duration::ZERO };
    change(&mut facts);
    reason(&facts)
}

#[test]
fn nothing_is_due_when_nothing_has_changed() {
    assert_eq!(decide(&[("a", 100), ("b", 10)], |facts| facts.elapsed = HOUR * 9), None);
}

#[test]
fn the_interval_counts_when_a_stream_has_advanced() {
    let at = &[("a", 100), ("b", 11)];
    assert_eq!(decide(at, |facts| facts.elapsed = HOUR - Duration::from_millis(1)), None);
    assert_eq!(decide(at, |facts| facts.elapsed = HOUR), Some(Reason::Interval));
}

#[test]
fn without_an_interval_time_does_not_count() {
    let never = |facts: &mut Facts<'_>| (facts.interval, facts.elapsed) = (Duration::ZERO, HOUR * 9);
    assert_eq!(decide(&[("a", 101), ("b", 10)], never), None);
}

#[test]
fn half_of_what_a_stream_keeps_makes_one_due_whatever_the_time() {
    assert_eq!(decide(&[("a", 599), ("b", 10)], |_| {}), None);
    assert_eq!(decide(&[("a", 600), ("b", 10)], |_| {}), Some(Reason::StreamAdvanced));
    assert_eq!(decide(&[("a", 100), ("b", 510)], |_| {}), Some(Reason::StreamAdvanced), "any stream");
}

#[test]
fn a_stream_that_the_snapshot_does_not_know_counts_from_its_first_message() {
    assert_eq!(decide(&[("a", 100), ("b", 10), ("c", 500)], |_| {}), Some(Reason::StreamAdvanced));
}

#[test]
fn a_stream_of_one_message_does_not_make_one_due_for_ever() {
    let tiny = |at| decide_with(Reach::of_messages(1), at, |_| {});
    assert_eq!(tiny(&[("a", 100), ("b", 10)]), None);
    assert_eq!(tiny(&[("a", 101), ("b", 10)]), Some(Reason::StreamAdvanced));
}

#[test]
fn half_of_the_bytes_makes_one_due_too_and_not_what_is_read_and_not_applied() {
    let bytes = |at| decide_with(Reach { messages: u64::MAX, bytes: 2_000 }, at, |_| {});
    assert_eq!(bytes(&[("a", 199), ("b", 10)]), None);
    assert_eq!(bytes(&[("a", 200), ("b", 10)]), Some(Reason::StreamAdvanced));
}

#[test]
fn a_stream_that_was_created_anew_needs_another_snapshot() {
    assert_eq!(decide(&[("a", 3), ("b", 10)], |facts| facts.is_anew = true), Some(Reason::StreamAnew));
    assert_eq!(decide(&[("a", 3), ("b", 10)], |_| {}), None, "this node has only not caught up");
}

#[test]
fn only_streams_that_the_snapshot_holds_more_of_are_doubtful() {
    let names = |at| doubtful(&standings(at)).map(|standing| standing.stream.clone()).collect::<Vec<_>>();
    assert!(names(&[("a", 100), ("b", 12)]).is_empty());
    assert_eq!(names(&[("a", 99), ("b", 12)]), ["a"]);
    assert!(names(&[("unknown", 0)]).is_empty(), "a Go node's snapshot");
}

#[test]
fn reasons_for_people() {
    let told: Vec<String> =
        [Reason::NoneThere, Reason::StreamAdvanced, Reason::Asked { node: 2, revision: 9 }]
            .iter()
            .map(Reason::to_string)
            .collect();
    assert_eq!(told, ["there was none", "the stream advanced", "node 2 asked for one"]);
}

#[test]
fn the_interval_goes_on_where_the_last_leader_left_it() {
    let now = Instant::now() + HOUR * 24;
    let began = |made_ms| interval_began(made_ms, HOUR, (now, 100_000_000)).map(|began| now - began);
    assert_eq!(began(100_000_000 - 60_000), Some(Duration::from_secs(60)));
    assert_eq!(began(0), Some(HOUR), "no longer than one interval");
    assert_eq!(began(100_000_001), Some(Duration::ZERO), "a clock that is ahead");
    assert_eq!(began(i64::MIN), Some(HOUR));
}

fn wanted(node_id: u64, positions: &[(&str, u64)]) -> Wanted {
    Wanted::new(node_id, map(positions), String::new())
}

fn stored(positions: &[(&str, u64)]) -> Stored {
    Stored { name: "snapshot.db".into(), label: label(positions), ..Stored::default() }
}

#[test]
fn requests_are_looked_at_now_and_then() {
    let start = Instant::now();
    let mut requests = Requests::new(start);
    assert!(!requests.is_due(start));
    assert!(!requests.is_due(start + limits::ASKED_LOOK / 2));
    assert!(requests.is_due(start + limits::ASKED_LOOK));
    assert!(!requests.is_due(start + limits::ASKED_LOOK + Duration::from_secs(1)));
    assert!(requests.is_due(start + limits::ASKED_LOOK * 2));
}

#[test]
fn a_request_that_the_stored_snapshot_serves_is_served() {
    let mut requests = Requests::new(Instant::now());
    assert!(requests.is_new(4));
    assert_eq!(requests.reason(&(4, wanted(2, &[("a", 5)])), Some(&stored(&[("a", 5)]))), None);
    assert!(!requests.is_new(4) && requests.is_new(5));
}

#[test]
fn a_request_that_is_not_served_is_a_reason_until_a_snapshot_was_made() {
    let mut requests = Requests::new(Instant::now());
    let asked = (4, wanted(2, &[("a", 5)]));
    let due = Reason::Asked { node: 2, revision: 4 };
    assert_eq!(requests.reason(&asked, Some(&stored(&[("a", 4)]))).as_ref(), Some(&due));
    assert_eq!(requests.reason(&asked, None).as_ref(), Some(&due), "somebody removed it");
    assert!(requests.is_new(4), "the snapshot may fail");
    let now = Instant::now();
    requests.made(&Reason::Interval, now);
    assert!(requests.is_new(4) && !requests.has_to_wait(2, now));
    requests.made(&due, now);
    assert!(!requests.is_new(4));
}

/// Snapshots that are made within a day for `nodes` that ask without end, in turns.
fn made_in_a_day(nodes: impl Iterator<Item = u64>) -> usize {
    let start = Instant::now();
    let mut requests = Requests::new(start);
    let looks =
        (1..).map(|look| start + limits::ASKED_LOOK * look).take_while(|now| *now < start + HOUR * 24);
    let mut made = 0;
    for (now, (node, revision)) in looks.zip(nodes.zip(1..)) {
        if !requests.has_to_wait(node, now) {
            requests.made(&Reason::Asked { node, revision }, now);
            made += 1;
        }
    }
    made
}

#[test]
fn a_node_that_asks_without_end_is_served_ever_more_rarely() {
    let made = made_in_a_day(std::iter::repeat(7));
    assert!((20..40).contains(&made), "{made} of 17280");
}

#[test]
fn nodes_that_are_invented_are_served_ever_more_rarely_too() {
    let made = made_in_a_day(1..);
    assert!((100..1_000).contains(&made), "{made} of 17280");
}

#[test]
fn a_node_that_was_calm_is_served_at_once() {
    let start = Instant::now();
    let mut requests = Requests::new(start);
    let asked = Reason::Asked { node: 7, revision: 1 };
    for _ in 0..4 {
        requests.made(&asked, start);
    }
    let pause = limits::ASKED_LOOK * 8;
    assert!(requests.has_to_wait(7, start + pause / 2) && !requests.has_to_wait(8, start));
    assert!(!requests.has_to_wait(7, start + pause));
    let later = start + pause + limits::ASK_AGAIN_MAX;
    requests.made(&asked, later);
    assert!(!requests.has_to_wait(7, later + limits::ASKED_LOOK));
}

#[test]
fn only_a_request_wants_another_snapshot_of_the_same_content() {
    assert!(Reason::Asked { node: 2, revision: 4 }.wants_another());
    assert!(!Reason::Interval.wants_another() && !Reason::Unfinished.wants_another());
}

#[test]
fn without_an_interval_nothing_is_proven() {
    assert!(!Proving::default().is_due(Instant::now(), Duration::ZERO));
}

#[test]
fn a_new_leader_proves_at_once_or_goes_on_with_the_interval() {
    let start = Instant::now();
    let mut proving = Proving::default();
    assert!(proving.is_due(start, HOUR) && !proving.is_known());
    proving.goes_on(100_000_000 - 60_000, HOUR, (start, 100_000_000));
    assert!(proving.is_known() && !proving.is_due(start, HOUR));
    let left = HOUR - Duration::from_secs(60);
    assert!(!proving.is_due(start + left - Duration::from_millis(1), HOUR));
    assert!(proving.is_due(start + left, HOUR));
}

#[test]
fn a_proof_that_is_older_than_the_interval_is_due_again() {
    let start = Instant::now();
    let mut proving = Proving::default();
    proving.goes_on(0, HOUR, (start, 100_000_000));
    assert!(proving.is_due(start, HOUR));
}

#[test]
fn a_proof_that_failed_is_tried_again_sooner() {
    let start = Instant::now();
    let mut proving = Proving::default();
    proving.proven(start, HOUR);
    assert!(!proving.is_due(start + limits::PROVE_AGAIN, HOUR) && proving.is_due(start + HOUR, HOUR));
    proving.failed(start, HOUR);
    assert!(!proving.is_due(start + limits::PROVE_AGAIN / 2, HOUR));
    assert!(proving.is_due(start + limits::PROVE_AGAIN, HOUR));
    let short = Duration::from_secs(2);
    proving.failed(start, short);
    assert!(proving.is_due(start + short, short), "never later than the interval");
}

#[test]
fn pauses_after_failures_grow_and_begin_anew_after_a_success() {
    let start = Instant::now();
    let mut pauses = Pauses::default();
    assert!(pauses.may_try(start));
    let first = pauses.failed(start);
    assert_eq!(first, PAUSE_MIN);
    assert!(!pauses.may_try(start + first / 2) && pauses.may_try(start + first));
    let mut last = first;
    for _ in 0..30 {
        last = pauses.failed(start);
    }
    assert!(last >= PAUSE_MAX / 2 && last <= PAUSE_MAX);
    pauses.succeeded();
    assert!(pauses.may_try(start));
    assert_eq!(pauses.failed(start), PAUSE_MIN);
}

#[test]
fn what_is_not_taken_is_replaced() {
    let stored = |seal: Seal| Stored { seal, ..Stored::default() };
    let refused = || stored(Seal::Refused("its description is damaged".into()));
    assert_eq!(not_taken(&stored(Seal::Whole), true), None);
    assert_eq!(not_taken(&stored(Seal::Unasked), true), Some(Reason::Unsealed));
    assert_eq!(not_taken(&refused(), true), Some(Reason::Unsealed));
    assert_eq!(not_taken(&stored(Seal::Unasked), false), None);
    assert_eq!(not_taken(&refused(), false), Some(Reason::Damaged));
}
