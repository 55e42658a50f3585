//! What the applications have committed, and whether it is there: the last write to each row, unless another node has overwritten it
//! knowingly, or a conflict names it.

use super::application::{Image, State};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Table and key.
pub type Row = (String, String);

/// A row before and after a transaction.
#[derive(Deserialize)]
pub struct Change {
    pub table: String,
    pub key: String,
    pub before: Option<Image>,
    pub after: Option<Image>,
}

/// An entry of `-conflicts -json`.
pub struct Conflict {
    pub row: Row,
    pub kind: String,
    pub lost_by: u64,
    pub won_by: u64,
    pub text: String,
}

impl Conflict {
    pub fn read(entry: &Value) -> Conflict {
        let key = entry["key"].as_object().unwrap();
        let key: Vec<String> = key.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
        Conflict {
            row: (entry["table"].as_str().unwrap().to_owned(), key.join(",")),
            kind: entry["kind"].as_str().unwrap().to_owned(),
            lost_by: entry["lost_by"].as_u64().unwrap(),
            won_by: entry["won_by"].as_u64().unwrap(),
            text: entry.to_string(),
        }
    }
}

/// A value of a key as the application writes it. Bytes in our keys are always blobs.
fn shown(value: &Value) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match value {
        Value::Number(number) => format!("i{number}"),
        Value::String(text) => format!("t{}", hex(text.as_bytes())),
        Value::Object(blob) => format!("b{}", blob["hex"].as_str().unwrap()),
        _ => "n".to_owned(),
    }
}

/// The changes since all nodes were equal, by row, with the node that made each.
#[derive(Default)]
pub struct History(BTreeMap<Row, Vec<Write>>);

impl History {
    pub fn add(&mut self, node: u64, change: Change) {
        let Change { table, key, before, after } = change;
        self.0.entry((table, key)).or_default().push((node, before, after));
    }

    /// All of it, with the conflicts of its time.
    pub fn text(&self, conflicts: &[Conflict]) -> String {
        let mut text = String::new();
        for (row, writes) in &self.0 {
            for (node, before, after) in writes {
                let (before, after) = (short(before.as_ref()), short(after.as_ref()));
                text.push_str(&format!("{row:?} node {node}: {before} -> {after}\n"));
            }
        }
        conflicts.iter().for_each(|conflict| text.push_str(&format!("{}\n", conflict.text)));
        text
    }

    /// Everything that is not as it must be, now that all nodes are equal again, and are in the state `now`.
    pub fn faults(&self, before: &State, now: &State, conflicts: &[Conflict]) -> Vec<String> {
        let named = |row: &Row| conflicts.iter().any(|conflict| conflict.row == *row);
        let mut faults = vec![];
        let rows: BTreeSet<&Row> = before.rows.keys().chain(now.rows.keys()).chain(self.0.keys()).collect();
        for row in rows {
            let here = now.rows.get(row);
            let was = before.rows.get(row);
            let changed = was.is_none_or(|was| here.is_none_or(|here| !is_as(Some(was), Some(here))));
            match self.0.get(row) {
                None if changed && !named(row) => {
                    faults.push(format!("{row:?} was not written: {was:?}, and is {here:?}"));
                }
                None => {}
                Some(writes) => {
                    let takes = |node| self.takes_its_value(row, node);
                    faults.extend(of_row((row, writes), (was, here), conflicts, &takes));
                }
            }
        }
        faults
    }

    /// Whether a node has given another row of the table a UNIQUE value that this row got.
    fn takes_its_value(&self, row: &Row, node: u64) -> bool {
        let got: BTreeSet<Vec<u8>> =
            self.0[row].iter().filter_map(|write| unique(write.2.as_ref())).collect();
        let others = self.0.iter().filter(|(other, _)| other.0 == row.0 && *other != row);
        let mut writes = others.flat_map(|(_, writes)| writes).filter(|write| write.0 == node);
        writes.any(|write| unique(write.2.as_ref()).is_some_and(|value| got.contains(&value)))
    }

    /// Orphans that no conflict names.
    pub fn orphans(&self, before: &State, now: &State, conflicts: &[Conflict]) -> Vec<String> {
        let orphans =
            |row: &Row| conflicts.iter().any(|conflict| conflict.row == *row && conflict.kind == "orphan");
        // An orphan whose key was changed: SQLite looks at a foreign key only when that is changed.
        let parent = |row: &Row, state: &State| (row.0.clone(), state.rows[row]["p"].clone());
        let known: BTreeSet<_> = before.orphans.iter().map(|row| parent(row, before)).collect();
        let untold = now.orphans.iter().filter(|row| !known.contains(&parent(row, now)) && !orphans(row));
        untold.map(|row| self.of_orphan(row, now)).collect()
    }

    /// An orphan, and what happened to it and to the row that it refers to.
    fn of_orphan(&self, row: &Row, now: &State) -> String {
        let parent = format!("k={}", now.rows[row]["p"]);
        let mut told = format!("{row:?} is an orphan, and no conflict says so");
        for (row, writes) in self.0.iter().filter(|(other, _)| *other == row || other.1 == parent) {
            for (node, before, after) in writes {
                let (before, after) = (short(before.as_ref()), short(after.as_ref()));
                told.push_str(&format!("\n  {row:?} node {node}: {before} -> {after}"));
            }
        }
        told
    }
}

/// An image as it was written, and as it is: columns that were added since may hold anything.
fn is_as(written: Option<&Image>, here: Option<&Image>) -> bool {
    match (written, here) {
        (Some(written), Some(here)) => written.iter().all(|(name, value)| here.get(name) == Some(value)),
        (None, None) => true,
        _ => false,
    }
}

/// The text that UNIQUE columns and indexes are about, in whatever form.
fn unique(image: Option<&Image>) -> Option<Vec<u8>> {
    let hex = image?.get("u")?.strip_prefix('t')?;
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(|at| byte(at).map(|byte| byte.to_ascii_lowercase())).collect()
}

/// An image for people.
fn short(image: Option<&Image>) -> String {
    let Some(image) = image else { return "none".to_owned() };
    let values: Vec<String> =
        image.iter().map(|(name, value)| format!("{name} {}", cut(value, 24))).collect();
    format!("({})", values.join(", "))
}

fn cut(text: &str, length: usize) -> String {
    text.chars().take(length).collect()
}

type Write = (u64, Option<Image>, Option<Image>);

fn of_row(
    (row, writes): (&Row, &[Write]),
    (was, here): (Option<&Image>, Option<&Image>),
    conflicts: &[Conflict],
    takes_its_value: &dyn Fn(u64) -> bool,
) -> Vec<String> {
    let mut faults = vec![];
    let writers: BTreeSet<u64> = writes.iter().map(|write| write.0).collect();
    let of_row: Vec<&Conflict> = conflicts.iter().filter(|conflict| conflict.row == *row).collect();
    let told = |why: &str| {
        let all: Vec<String> = writes
            .iter()
            .map(|(node, before, after)| {
                format!("  node {node}: {} -> {}", short(before.as_ref()), short(after.as_ref()))
            })
            .collect();
        let listed: String =
            of_row.iter().map(|conflict| format!("\n  {}", cut(&conflict.text, 600))).collect();
        format!("{row:?} {why}\n{}\n  is now: {}\n  conflicts: {listed}", all.join("\n"), short(here))
    };
    let last =
        |node: u64| writes.iter().rev().find(|write| write.0 == node).and_then(|write| write.2.as_ref());
    if !writers.iter().any(|node| is_as(last(*node), here)) && of_row.is_empty() {
        faults.push(told("is as nobody has left it"));
    }
    for node in &writers {
        let left = last(*node);
        let seen = writes.iter().any(|write| write.0 != *node && is_as(left, write.1.as_ref()));
        // Another node may have left the same, later in the order: then it is that node's write that is listed.
        let is_same = |loser: u64| loser == *node || writers.contains(&loser) && last(loser) == left;
        let kept = of_row.iter().any(|conflict| is_same(conflict.lost_by) || conflict.kind == "unique");
        if !is_as(left, here) && !seen && !kept {
            faults.push(told(&format!("lacks the last write of node {node}")));
        }
    }
    // The README: an event that is applied late gives in to the row that has its UNIQUE value, and both are published as they are, by
    // the node that was late.
    let gave_in = |conflict: &Conflict| {
        conflicts.iter().any(|other| {
            other.kind == "unique" && other.row.0 == conflict.row.0 && other.won_by == conflict.won_by
        })
    };
    // A row that lost its place to a row of another node is gone there, and so later writes of it are lost, too.
    let is_race = |conflict: &Conflict| {
        ["insert", "update", "delete"].contains(&conflict.kind.as_str()) && !takes_its_value(conflict.won_by)
    };
    // A node that was restored and whose application has just made a table again writes before the rows are there that the others have:
    // it has not seen what it overwrites.
    let unseen = was.is_some() && writes.first().is_some_and(|write| write.1.is_none());
    if writers.len() == 1 && !unseen && of_row.iter().any(|conflict| is_race(conflict) && !gave_in(conflict))
    {
        faults.push(told("was written by one node alone, and is called a conflict"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(value: &str) -> Image {
        Image::from([("v".to_owned(), value.to_owned())])
    }

    fn change(before: Option<&str>, after: Option<&str>) -> Change {
        Change { table: "t".into(), key: "k=i1".into(), before: before.map(image), after: after.map(image) }
    }

    fn state(value: Option<&str>) -> State {
        let row = ("t".to_owned(), "k=i1".to_owned());
        State { rows: value.map(|value| (row, image(value))).into_iter().collect(), orphans: vec![] }
    }

    fn judged(
        changes: &[(u64, Option<&str>, Option<&str>)],
        now: Option<&str>,
        kinds: &[(&str, u64)],
    ) -> usize {
        let mut history = History::default();
        for (node, before, after) in changes {
            history.add(*node, change(*before, *after));
        }
        let conflicts: Vec<Conflict> = kinds
            .iter()
            .map(|(kind, lost_by)| Conflict {
                row: ("t".into(), "k=i1".into()),
                kind: (*kind).into(),
                lost_by: *lost_by,
                won_by: 3 - lost_by,
                text: String::new(),
            })
            .collect();
        history.faults(&state(Some("first")), &state(now), &conflicts).len()
    }

    #[test]
    fn the_judge_sees_what_is_lost() {
        assert_eq!(judged(&[], Some("first"), &[]), 0);
        assert_eq!(judged(&[], None, &[]), 1, "it vanished");
        assert_eq!(judged(&[(1, Some("first"), Some("a"))], Some("a"), &[]), 0);
        assert_eq!(judged(&[(1, Some("first"), Some("a"))], Some("first"), &[]), 2, "it was not published");
        assert_eq!(judged(&[(1, Some("first"), None)], Some("first"), &[]), 2, "it came back");
        let seen = [(1, Some("first"), Some("a")), (2, Some("a"), Some("b"))];
        assert_eq!(judged(&seen, Some("b"), &[]), 0);
        let unseen = [(1, Some("first"), Some("a")), (2, Some("first"), Some("b"))];
        assert_eq!(judged(&unseen, Some("b"), &[]), 1, "lost and not listed");
        assert_eq!(judged(&unseen, Some("b"), &[("update", 1)]), 0);
        assert_eq!(judged(&unseen, Some("b"), &[("update", 2)]), 1, "the wrong one is listed");
        assert_eq!(judged(&[(1, Some("first"), Some("a"))], Some("a"), &[("update", 1)]), 1, "no race");
        assert_eq!(judged(&[(1, None, Some("a"))], Some("a"), &[("insert", 2)]), 0, "it had not seen it");
        let gave_in = [("update", 1), ("unique", 1)];
        assert_eq!(judged(&[(1, Some("first"), Some("a"))], Some("a"), &gave_in), 0, "applied late");
    }

    #[test]
    fn who_has_lost_its_place_loses_later_writes_too() {
        let of = |u: &str| Some(Image::from([("u".to_owned(), u.to_owned())]));
        let change = |key: &str, u| Change { table: "t".into(), key: key.into(), before: None, after: of(u) };
        let mut history = History::default();
        history.add(2, change("k=i1", "t5331"));
        history.add(3, change("k=i2", "t7331"));
        let row = |key: &str| ("t".to_owned(), key.to_owned());
        assert!(history.takes_its_value(&row("k=i1"), 3), "S1 and s1 are equal in an index of lower(u)");
        assert!(!history.takes_its_value(&row("k=i1"), 1) && !history.takes_its_value(&row("k=i2"), 3));
    }
}
