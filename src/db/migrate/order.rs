//! What other names the changes in the order have given to tables and columns: one that was made beside them says the old ones.

use crate::db::migrate::history::{Past, State};
use crate::model::change::{Change, Step};

/// A table or a column that got another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// Where in the order.
    at: usize,
    /// The table: as it was called before if it is the one, and otherwise after the change.
    pub table: String,
    pub column: Option<String>,
    pub to: String,
}

impl Rename {
    /// As if what has the name before now had got it instead of this one.
    pub fn away(&self, name: &str) -> Rename {
        let name = name.to_owned();
        match &self.column {
            None => Rename { at: self.at, table: name, column: None, to: self.table.clone() },
            Some(column) => {
                let table = self.table.clone();
                Rename { at: self.at, table, column: Some(name), to: column.clone() }
            }
        }
    }
}

/// The changes in their order, as far as names need them.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Ids, and who made them.
    changes: Vec<(String, u64)>,
    renames: Vec<Rename>,
}

impl Order {
    /// That of the changes which were carried out before the first one whose place is open.
    pub fn of(all: &[Past]) -> Order {
        let mut order = Order::default();
        for past in all.iter().take_while(|past| past.state != State::Failed) {
            if past.state == State::Done {
                order.add(&past.change, past.change.placed());
            }
        }
        order
    }

    /// Puts a change that came to these steps at the end.
    pub fn add(&mut self, change: &Change, steps: &[Step]) {
        let at = self.changes.len();
        self.changes.push((change.id.clone(), change.node));
        for step in steps {
            match step {
                Step::RenameTable { from, to } => {
                    self.renames.push(Rename { at, table: from.clone(), column: None, to: to.clone() });
                }
                Step::AlterTable { table, columns, .. } => {
                    let renamed = columns
                        .iter()
                        .filter_map(|column| Some((column.renamed_from()?.to_owned(), column.name.clone())));
                    self.renames.extend(renamed.map(|(from, to)| Rename {
                        at,
                        table: table.clone(),
                        column: Some(from),
                        to,
                    }));
                }
                _ => {}
            }
        }
    }

    /// Where the changes begin that the maker of this one had not seen.
    fn unseen_from(&self, change: &Change) -> usize {
        change.unseen_from(self.changes.iter().map(|(id, _)| id.as_str()))
    }

    /// Whether its maker had seen all changes of others.
    pub fn is_next(&self, change: &Change) -> bool {
        self.changes[self.unseen_from(change)..].iter().all(|(_, node)| *node == change.node)
    }

    /// The renames that its maker had not seen, the oldest first.
    pub fn unseen(&self, change: &Change) -> Vec<Rename> {
        let from = self.unseen_from(change);
        let is_unseen = |rename: &&Rename| rename.at >= from && self.changes[rename.at].1 != change.node;
        self.renames.iter().filter(is_unseen).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renames_of_others_that_its_maker_had_not_seen() {
        let rename = |node: u64, from: &str, to: &str| {
            let step = Step::RenameTable { from: from.into(), to: to.into() };
            Change::new(node, 0, ("", ""), vec![step])
        };
        let (first, second, third) = (rename(1, "a", "b"), rename(2, "b", "c"), rename(1, "x", "y"));
        let mut order = Order::default();
        for change in [&first, &second, &third] {
            order.add(change, &change.steps);
        }
        let names = |seen: Option<&str>, node: u64| -> Vec<String> {
            let change = Change { seen: seen.map(str::to_owned), ..rename(node, "q", "r") };
            assert_eq!(order.is_next(&change), order.unseen(&change).is_empty());
            order.unseen(&change).into_iter().map(|rename| rename.to).collect()
        };
        assert_eq!(names(Some(""), 3), ["b", "c", "y"]);
        assert_eq!(names(Some(""), 1), ["c"]);
        assert_eq!(names(Some(&first.id), 2), ["y"]);
        assert!(names(Some(&third.id), 3).is_empty() && names(None, 3).is_empty());
    }
}
