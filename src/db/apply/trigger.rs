//! A trigger of the application, taken apart so that its body can be put into a trigger of ours.

use crate::db::{indexes, sql::quote};

/// The kind of change that fires a trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Insert,
    Update,
    Delete,
}

impl Change {
    pub const ALL: [Change; 3] = [Change::Insert, Change::Update, Change::Delete];

    /// The word in SQL.
    pub fn word(self) -> &'static str {
        match self {
            Change::Insert => "INSERT",
            Change::Update => "UPDATE",
            Change::Delete => "DELETE",
        }
    }
}

/// A trigger on a replicated table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    pub name: String,
    /// The table's name as the schema has it; the statement may write it in another case.
    pub table: String,
    pub change: Change,
    /// It runs before the row is written.
    pub before: bool,
    /// The columns after UPDATE OF; empty without them.
    pub of: Vec<String>,
    /// What follows the table's name in the statement: WHEN and the body.
    rest: String,
}

impl Trigger {
    /// Takes apart the statement that SQLite stores. `None` for one that is not understood.
    pub fn parse(name: &str, table: &str, sql: &str) -> Option<Trigger> {
        let tokens = indexes::tokens(sql);
        let text = |at: usize| tokens.get(at).map_or("", |token| &sql[token.0..token.1]);
        let is = |at: usize, word: &str| text(at).eq_ignore_ascii_case(word);
        // The first three tokens are CREATE, TRIGGER and the name, which stands alone.
        let before = is(3, "before");
        let mut at = if before || is(3, "after") { 4 } else { 3 };
        let change = *Change::ALL.iter().find(|change| is(at, change.word()))?;
        at += 1;
        let mut of = vec![];
        if is(at, "of") {
            at += 1;
            while !is(at, "on") {
                if text(at).is_empty() {
                    return None;
                }
                if text(at) != "," {
                    of.push(unquoted(text(at)));
                }
                at += 1;
            }
        }
        if !is(at, "on") {
            return None;
        }
        // ON table, or ON schema.table.
        at += if text(at + 2) == "." { 3 } else { 1 };
        let rest = without_rollback(&sql[tokens.get(at)?.1..]);
        Some(Trigger { name: name.to_owned(), table: table.to_owned(), change, before, of, rest })
    }

    /// A statement that makes the same trigger for one connection alone.
    pub fn temporary(&self, name: &str) -> String {
        let time = if self.before { "BEFORE" } else { "AFTER" };
        let of = match self.of.is_empty() {
            true => String::new(),
            false => {
                format!(" OF {}", self.of.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", "))
            }
        };
        format!(
            "CREATE TEMP TRIGGER {} {time} {}{of} ON main.{}{}",
            quote(name),
            self.change.word(),
            quote(&self.table),
            self.rest
        )
    }

    /// It runs for every row, and does the same for each.
    pub fn is_plain(&self) -> bool {
        let tokens = indexes::tokens(&self.rest);
        let chooses = |word: &str| word.eq_ignore_ascii_case("when") || word.eq_ignore_ascii_case("select");
        !tokens.iter().any(|token| chooses(&self.rest[token.0..token.1]))
    }

    /// The statement, from INSTEAD on, that runs the same body for changes of a view.
    pub fn on_view(&self, view: &str) -> String {
        format!("INSTEAD OF {} ON {}{}", self.change.word(), quote(view), self.rest)
    }
}

/// A name without its quotes.
fn unquoted(token: &str) -> String {
    match token.chars().next() {
        Some(quote @ ('"' | '`' | '\'')) => {
            let inner = token.get(1..token.len() - 1).unwrap_or_default();
            inner.replace(&format!("{quote}{quote}"), &quote.to_string())
        }
        Some('[') => token.get(1..token.len() - 1).unwrap_or_default().to_owned(),
        _ => token.to_owned(),
    }
}

/// RAISE(ROLLBACK) and OR ROLLBACK would end a transaction that is not the body's: they become ABORT.
fn without_rollback(sql: &str) -> String {
    let tokens = indexes::tokens(sql);
    let text =
        |at: Option<usize>| at.and_then(|at| tokens.get(at)).map_or("", |token| &sql[token.0..token.1]);
    let (mut out, mut from) = (String::with_capacity(sql.len()), 0);
    for (at, token) in tokens.iter().enumerate() {
        let previous = text(at.checked_sub(1));
        let raised = previous == "(" && text(at.checked_sub(2)).eq_ignore_ascii_case("raise");
        if text(Some(at)).eq_ignore_ascii_case("rollback") && (raised || previous.eq_ignore_ascii_case("or"))
        {
            out.push_str(&sql[from..token.0]);
            out.push_str("ABORT");
            from = token.1;
        }
    }
    out.push_str(&sql[from..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_taken_apart_whatever_their_quotes_and_case() {
        let sql = "CREATE TRIGGER [on] /* , */ before update of \"a \"\"b\", [on], c ON main.'Notes' WHEN new.c BEGIN SELECT 1; END";
        let trigger = Trigger::parse("on", "notes", sql).unwrap();
        assert_eq!((trigger.change, trigger.before), (Change::Update, true));
        assert_eq!(trigger.of, ["a \"b", "on", "c"]);
        assert_eq!(
            trigger.temporary("x"),
            "CREATE TEMP TRIGGER \"x\" BEFORE UPDATE OF \"a \"\"b\", \"on\", \"c\" ON main.\"notes\" WHEN new.c BEGIN SELECT 1; END"
        );
        assert_eq!(trigger.on_view("v"), "INSTEAD OF UPDATE ON \"v\" WHEN new.c BEGIN SELECT 1; END");
        assert!(!trigger.is_plain());
        let plain = Trigger::parse("before", "t", "CREATE TRIGGER before INSERT ON t BEGIN SELECT 1; END");
        assert_eq!(plain.map(|t| (t.change, t.before)), Some((Change::Insert, false)));
        assert_eq!(
            Trigger::parse("x", "v", "CREATE TRIGGER x INSTEAD OF INSERT ON v BEGIN SELECT 1; END"),
            None
        );
    }

    #[test]
    fn a_dollar_sign_is_part_of_a_name() {
        let sql = "CREATE TRIGGER x$y AFTER UPDATE OF a$b, c ON docs$x BEGIN SELECT 1; END";
        let trigger = Trigger::parse("x$y", "docs$x", sql).unwrap();
        assert_eq!(trigger.of, ["a$b", "c"]);
        assert!(trigger.temporary("x").ends_with(" ON main.\"docs$x\" BEGIN SELECT 1; END"));
    }

    #[test]
    fn a_copy_never_rolls_back_what_is_not_its_own() {
        let sql = "CREATE TRIGGER x AFTER DELETE ON t BEGIN SELECT RAISE (rollback, 'rollback'); INSERT OR ROLLBACK INTO rollback VALUES(1); END";
        let copy = Trigger::parse("x", "t", sql).unwrap().temporary("x");
        assert!(copy.contains("RAISE (ABORT, 'rollback'); INSERT OR ABORT INTO rollback"), "{copy}");
    }
}
