//! Copies that are set aside under dated names beside a file: only the newest are kept.

use crate::base::{files, limits};
use std::collections::BTreeSet;
use std::path::Path;

/// What SQLite keeps beside a database.
pub const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Removes all but the newest copies of `path`, whose names are that of `path`, `infix` and a time, each with its
/// companions. `fresh`, a copy or a companion of one, was just made: that copy stays, whatever the clock said before.
pub fn keep_newest(path: &Path, infix: &str, fresh: &Path) {
    let prefix = files::beside(path, infix);
    let prefix = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let fresh = fresh.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let found = files::entries(&files::parent(path));
    let copy_of = |name: &str| {
        let copy = COMPANIONS.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        copy.strip_prefix(&prefix).is_some_and(is_time).then(|| copy.to_owned())
    };
    let fresh = copy_of(&fresh).unwrap_or(fresh);
    // The names of copies begin alike and end in a time, so they are sorted by age.
    let mut others: BTreeSet<String> = found.iter().filter_map(|(name, _)| copy_of(name)).collect();
    others.remove(&fresh);
    let keep = limits::COPIES_KEPT - 1;
    let surplus: Vec<&String> = others.iter().rev().skip(keep).collect();
    for (name, path) in &found {
        if copy_of(name).is_some_and(|copy| surplus.contains(&&copy)) {
            match std::fs::remove_file(path) {
                Ok(()) => log::warn!(
                    "removed {}: only the newest {} copies of this kind are kept",
                    path.display(),
                    limits::COPIES_KEPT
                ),
                Err(error) => log::warn!("remove {}: {error}", path.display()),
            }
        }
    }
}

/// Whether a text is a time as `clock::compact` writes it: `20261124T131500Z`.
fn is_time(text: &str) -> bool {
    let form = |(at, byte): (usize, u8)| match at {
        8 => byte == b'T',
        15 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    text.len() == 16 && text.bytes().enumerate().all(form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock;
    use crate::base::scratch::Scratch;

    #[test]
    fn times_are_known_by_their_form() {
        assert!(is_time(&clock::compact(clock::unix_ms())));
        for other in ["", "20261124T131500", "by-hand", "20261124-131500Z", "20261124T131500Z2"] {
            assert!(!is_time(other), "{other}");
        }
    }

    /// The WAL of a database that is gone is set aside without the database, and may hold commits that nothing else has.
    #[test]
    fn a_fresh_companion_stays_when_the_clock_went_back() {
        for suffix in COMPANIONS {
            let scratch = Scratch::new("copies-companion");
            let name = |n: usize| format!("app.db.lost-202611{n:02}T131500Z{suffix}");
            for n in 1..=4 {
                std::fs::write(scratch.path(&name(n)), b"x").unwrap();
            }
            keep_newest(&scratch.path("app.db"), ".lost-", &scratch.path(&name(1)));
            assert_eq!(scratch.names(), [name(1), name(3), name(4)]);
        }
    }

    #[test]
    fn the_oldest_copies_go_with_their_companions() {
        let scratch = Scratch::new("copies");
        let path = scratch.path("app.db");
        let time = |n: usize| format!("202611{n:02}T131500Z");
        for n in 1..=5 {
            std::fs::write(scratch.path(&format!("app.db.damaged-{}", time(n))), b"x").unwrap();
            std::fs::write(scratch.path(&format!("app.db.damaged-{}-wal", time(n))), b"x").unwrap();
            std::fs::write(scratch.path(&format!("app.db.before-join-{}", time(n))), b"x").unwrap();
        }
        let stay = ["app.db", "app.db.damaged-by-hand", "other.db.damaged-20200101T000000Z"];
        for name in stay {
            std::fs::write(scratch.path(name), b"x").unwrap();
        }
        // The clock went back: the copy that was just made looks like the oldest.
        keep_newest(&path, ".damaged-", &scratch.path(&format!("app.db.damaged-{}", time(1))));
        let left: Vec<String> =
            scratch.names().into_iter().filter(|name| name.starts_with("app.db.damaged-2")).collect();
        let expected: Vec<String> = [1, 4, 5]
            .iter()
            .flat_map(|n| ["", "-wal"].map(|suffix| format!("app.db.damaged-{}{suffix}", time(*n))))
            .collect();
        assert_eq!(left, expected);
        assert_eq!(scratch.names().iter().filter(|name| name.contains("before-join")).count(), 5);
        assert!(stay.iter().all(|name| scratch.path(name).exists()));
    }
}
