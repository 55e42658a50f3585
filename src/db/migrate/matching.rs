//! Which column of a changed table is which of the one before: SQLite keeps no trace of a renaming. Columns of one name are the same;
//! those that are left over between the same neighbours, of the same type, were renamed.

use crate::db::migrate::definitions::Declared;

/// What is found of a table's columns.
#[derive(Debug, PartialEq, Eq)]
pub struct Matched {
    /// For each column as it is now the place of the one before that it may be; `None`: it is new.
    pub from: Vec<Option<usize>>,
    /// One that counts as new may be one of several before.
    pub unsure: bool,
}

/// `rebuilt`: the table was built anew, so a column may have another type than before. By ALTER TABLE it does not get one.
pub fn match_columns(before: &[Declared], now: &[Declared], rebuilt: bool) -> Matched {
    let same_type =
        |one: &Declared, other: &Declared| one.declared_type.eq_ignore_ascii_case(&other.declared_type);
    let is_same = |one: &Declared, other: &Declared| {
        one.name.eq_ignore_ascii_case(&other.name) && (rebuilt || same_type(one, other))
    };
    let place = |list: &[Declared], wanted: &Declared| list.iter().position(|column| is_same(column, wanted));
    // The last column before it that both have.
    let anchor = |list: &[Declared], at: usize, other: &[Declared]| {
        let both = list[..at].iter().rev().find(|column| place(other, column).is_some());
        both.map(|column| column.name.to_lowercase())
    };
    let left = |list: &[Declared], other: &[Declared]| -> Vec<usize> {
        (0..list.len()).filter(|at| place(other, &list[*at]).is_none()).collect()
    };
    let (old, new) = (left(before, now), left(now, before));
    let fits = |old: usize, new: usize| {
        same_type(&before[old], &now[new]) && anchor(before, old, now) == anchor(now, new, before)
    };
    let mut found = Matched { from: now.iter().map(|column| place(before, column)).collect(), unsure: false };
    for at in &new {
        let candidates: Vec<usize> = old.iter().copied().filter(|old| fits(*old, *at)).collect();
        let Some(candidate) = candidates.first() else { continue };
        let rivals = new.iter().filter(|other| fits(*candidate, **other)).count();
        if candidates.len() == 1 && rivals == 1 {
            found.from[*at] = Some(*candidate);
        } else {
            found.unsure = true;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<Declared> {
        let column = |word: &str| {
            let (name, kind) = word.split_once(':').unwrap_or((word, ""));
            Declared { name: name.to_owned(), declared_type: kind.to_owned() }
        };
        text.split_whitespace().map(column).collect()
    }

    fn matched(before: &str, now: &str) -> String {
        let (before, now) = (list(before), list(now));
        let found = match_columns(&before, &now, false);
        let names = found.from.iter().map(|at| at.map_or("+", |at| before[at].name.as_str()));
        let names = names.collect::<Vec<_>>().join(" ");
        if found.unsure { names + " ?" } else { names }
    }

    #[test]
    fn columns_of_one_name_are_the_same_wherever_they_stand() {
        assert_eq!(matched("a b c", "c A b"), "c a b");
        assert_eq!(matched("a b", "a b c"), "a b +");
        assert_eq!(matched("a b c", "a c"), "a c");
    }

    #[test]
    fn a_column_between_the_same_neighbours_was_renamed() {
        assert_eq!(matched("a b:TEXT c", "a x:text c"), "a b c");
        assert_eq!(matched("a b:TEXT c", "a x:INTEGER c"), "a + c");
        assert_eq!(matched("a b:TEXT c", "a c x:TEXT"), "a c +");
        assert_eq!(matched("a b:TEXT c d", "a x:TEXT y d"), "a b c d");
        assert_eq!(matched("a b:TEXT", "x:INTEGER b:TEXT"), "+ b");
    }

    #[test]
    fn of_several_that_it_may_be_it_is_none() {
        assert_eq!(matched("a b:TEXT c:TEXT d", "a x:TEXT y:TEXT d"), "a + + d ?");
        assert_eq!(matched("a b:TEXT c:TEXT d", "a x:TEXT d"), "a + d ?");
    }

    #[test]
    fn only_a_table_that_is_built_anew_gives_a_column_another_type() {
        assert_eq!(matched("a b:TEXT", "a b:INTEGER"), "a +");
        let found = match_columns(&list("a b:TEXT"), &list("a b:INTEGER"), true);
        assert_eq!(found, Matched { from: vec![Some(0), Some(1)], unsure: false });
    }
}
