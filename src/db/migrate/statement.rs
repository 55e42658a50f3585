//! Looking at statements of a schema as text: whether two are the same, what they make, and the columns inside.

use crate::db::indexes::tokens;
use crate::model::change::Thing;

/// Whether two statements say the same, however they are laid out.
pub fn same(one: &str, other: &str) -> bool {
    let words =
        |sql: &str| -> Vec<String> { tokens(sql).iter().map(|token| word(&sql[token.0..token.1])).collect() };
    one == other || words(one) == words(other)
}

/// The same of two tables, whatever their names.
pub fn same_but_name(one: &str, other: &str) -> bool {
    let without_name = |sql: &str| {
        let tokens = tokens(sql);
        let rest = tokens.get(2).map_or(sql.len(), |name| name.1);
        sql[rest..].to_owned()
    };
    one == other || same(&without_name(one), &without_name(other))
}

/// A word as it is compared: names lose their quotes, and all but strings their case.
fn word(token: &str) -> String {
    match token.chars().next() {
        Some('\'') => token.to_owned(),
        _ => bare(token).to_lowercase(),
    }
}

/// A name without its quotes.
pub fn bare(token: &str) -> String {
    let inner = |quote: char| {
        let inside = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
        inside.replace(&format!("{quote}{quote}"), &quote.to_string())
    };
    match token.chars().next() {
        Some(quote @ ('"' | '`' | '\'')) => inner(quote),
        Some('[') => token.get(1..token.len().saturating_sub(1)).unwrap_or_default().to_owned(),
        _ => token.to_owned(),
    }
}

/// Whether a text is one statement that makes a thing of this kind under this name, and nothing else.
pub fn makes(sql: &str, kind: Thing, name: &str) -> bool {
    let tokens = tokens(sql);
    let word = |at: usize| tokens.get(at).map_or("", |token| &sql[token.0..token.1]);
    let is = |at: usize, wanted: &str| word(at).eq_ignore_ascii_case(wanted);
    if !is(0, "create") {
        return false;
    }
    let mut at = 1;
    if kind == Thing::Index && is(at, "unique") {
        at += 1;
    }
    if !is(at, kind.word()) || !bare(word(at + 1)).eq_ignore_ascii_case(name) {
        return false;
    }
    let semicolons = tokens.iter().filter(|token| &sql[token.0..token.1] == ";").count();
    match kind {
        // A table that is made of a query would hold its rows.
        Thing::Table => semicolons == 0 && word(at + 2) == "(",
        Thing::Trigger => tokens.last().is_some_and(|last| sql[last.0..last.1].eq_ignore_ascii_case("end")),
        Thing::Index | Thing::View => semicolons == 0,
    }
}

/// Whether a text is one literal.
pub fn is_literal(sql: &str) -> bool {
    let tokens = tokens(sql);
    let words: Vec<&str> = tokens.iter().map(|token| &sql[token.0..token.1]).collect();
    let is_number = |word: &&str| {
        word.bytes().all(|byte| byte.is_ascii_alphanumeric()) && word.as_bytes()[0].is_ascii_digit()
    };
    match words.as_slice() {
        [one] => one.starts_with('\'') || one.eq_ignore_ascii_case("null") || is_number(one),
        [x, text] if x.eq_ignore_ascii_case("x") => text.starts_with('\''),
        // 1.5, -1, -1.5e+20
        words => {
            !words.is_empty() && words.iter().all(|word| matches!(*word, "-" | "+" | ".") || is_number(word))
        }
    }
}

/// The columns in the statement of a table: names, and the texts that declare them.
pub fn columns(sql: &str) -> Vec<(String, String)> {
    places(sql).into_iter().map(|(name, from, to)| (name, sql[from..to].to_owned())).collect()
}

/// The statement of a table with other columns. Those of a table stand together, before its constraints.
pub fn with_columns(sql: &str, change: impl FnOnce(Vec<(String, String)>) -> Vec<String>) -> String {
    let places = places(sql);
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return sql.to_owned() };
    format!("{}{}{}", &sql[..first.1], change(columns(sql)).join(", "), &sql[last.2..])
}

/// The statement of a table without its foreign keys.
pub fn without_foreign_keys(sql: &str) -> String {
    let tokens = tokens(sql);
    let text = |at: usize| tokens.get(at).map_or("", |token| &sql[token.0..token.1]);
    let is = |at: usize, word: &str| text(at).eq_ignore_ascii_case(word);
    let (mut left, mut depth, mut at, mut until) = (String::new(), 0, 0, 0);
    while at < tokens.len() {
        depth += i32::from(text(at) == "(") - i32::from(text(at) == ")");
        let of_table = is(at, "foreign") && is(at + 1, "key");
        if depth != 1 || !(of_table || is(at, "references")) {
            at += 1;
            continue;
        }
        let named = if at > 1 && is(at - 2, "constraint") { at - 2 } else { at };
        let from = if of_table && is(named - 1, ",") { named - 1 } else { named };
        left += &sql[until..tokens[from].0];
        at = (at..tokens.len())
            .find(|at| is(*at, "references"))
            .map_or(tokens.len(), |at| end_of_reference(at, &is));
        until = tokens.get(at - 1).map_or(sql.len(), |last| last.1);
    }
    left + &sql[until..]
}

/// The token that follows the clause which begins with REFERENCES at this one.
fn end_of_reference(at: usize, is: &impl Fn(usize, &str) -> bool) -> usize {
    let mut at = at + 2;
    if is(at, "(") {
        at = (at..).find(|at| is(*at, ")") || is(*at, "")).unwrap_or(at) + 1;
    }
    loop {
        at += match () {
            () if is(at, "on") && (is(at + 2, "set") || is(at + 2, "no")) => 4,
            () if is(at, "on") => 3,
            () if is(at, "match") || is(at, "initially") || is(at, "not") && is(at + 1, "deferrable") => 2,
            () if is(at, "deferrable") => 1,
            () => return at,
        };
    }
}

/// Names of columns, and where the texts begin and end that declare them.
fn places(sql: &str) -> Vec<(String, usize, usize)> {
    let tokens = tokens(sql);
    let text = |at: usize| tokens.get(at).map_or("", |token| &sql[token.0..token.1]);
    let Some(open) = (0..tokens.len()).find(|at| text(*at) == "(") else { return vec![] };
    let (mut found, mut depth, mut from) = (vec![], 0, open + 1);
    for at in open..tokens.len() {
        match text(at) {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        if (text(at) == "," && depth == 1 || depth == 0) && at > from {
            let first = text(from);
            let constraint = ["constraint", "primary", "unique", "check", "foreign"];
            if !constraint.iter().any(|word| first.eq_ignore_ascii_case(word)) {
                found.push((bare(first), tokens[from].0, tokens[at - 1].1));
            }
            from = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_and_quotes_of_names_do_not_matter() {
        assert!(same("CREATE TABLE t(a TEXT)", "create table \"t\" (\n  [a] text -- x\n)"));
        assert!(same_but_name("CREATE TABLE t(a)", "CREATE TABLE \"u u\"(a)"));
        assert!(!same_but_name("CREATE TABLE t(a)", "CREATE TABLE t(b)"));
        assert!(!same("CREATE TABLE t(a DEFAULT 'X')", "CREATE TABLE t(a DEFAULT 'x')"));
    }

    #[test]
    fn a_statement_makes_what_it_says_and_nothing_else() {
        assert!(makes("CREATE TABLE \"t t\"(a)", Thing::Table, "t t"));
        assert!(makes("CREATE UNIQUE INDEX i ON t(a)", Thing::Index, "I"));
        assert!(makes(
            "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 1; SELECT 2; END",
            Thing::Trigger,
            "x"
        ));
        for (sql, kind) in [
            ("CREATE TABLE u(a)", Thing::Table),
            ("CREATE TABLE t(a); DROP TABLE u", Thing::Table),
            ("CREATE TABLE t AS SELECT * FROM secrets", Thing::Table),
            ("CREATE TEMP TABLE t(a)", Thing::Table),
            ("DROP TABLE t", Thing::Table),
            ("CREATE VIRTUAL TABLE t USING fts5(a)", Thing::Table),
            ("CREATE VIEW t AS SELECT 1; DELETE FROM u", Thing::View),
            ("CREATE TRIGGER t AFTER INSERT ON t BEGIN SELECT 1; END; DROP TABLE u", Thing::Trigger),
        ] {
            assert!(!makes(sql, kind, "t"), "{sql}");
        }
    }

    #[test]
    fn literals() {
        for literal in ["NULL", "'it''s'", "X'00ff'", "-5", "1.5", "-1.25e+20", "9e999"] {
            assert!(is_literal(literal), "{literal}");
        }
        for other in ["random()", "a", "1, 2", "'a' || 'b'", "(1)", ""] {
            assert!(!is_literal(other), "{other}");
        }
    }

    #[test]
    fn foreign_keys_are_left_out() {
        for (sql, left) in [
            ("CREATE TABLE t(a REFERENCES p, b)", "CREATE TABLE t(a , b)"),
            (
                "CREATE TABLE t(a INT CONSTRAINT \"x y\" REFERENCES \"p(\"(i) ON DELETE SET NULL ON UPDATE NO ACTION NOT NULL UNIQUE)",
                "CREATE TABLE t(a INT  NOT NULL UNIQUE)",
            ),
            (
                "CREATE TABLE t(a references p match full not deferrable initially immediate default 'references', b CHECK (b <> 'x'))",
                "CREATE TABLE t(a  default 'references', b CHECK (b <> 'x'))",
            ),
            (
                "CREATE TABLE t(a, b, CONSTRAINT f FOREIGN KEY (a, b) REFERENCES p (x, y) ON DELETE CASCADE DEFERRABLE, UNIQUE(a)) STRICT",
                "CREATE TABLE t(a, b, UNIQUE(a)) STRICT",
            ),
            (
                "CREATE TABLE t(a, \"references\" TEXT, FOREIGN KEY(a) REFERENCES t)",
                "CREATE TABLE t(a, \"references\" TEXT)",
            ),
            ("CREATE TABLE t(a, b)", "CREATE TABLE t(a, b)"),
            ("CREATE TABLE t(a REFERENCES", "CREATE TABLE t(a "),
        ] {
            assert_eq!(without_foreign_keys(sql), left);
        }
    }

    #[test]
    fn columns_are_told_from_constraints() {
        let sql = "CREATE TABLE t(\"a b\" TEXT DEFAULT ('(,)') CHECK (a > 0), c, UNIQUE(c), d REAL NOT NULL, PRIMARY KEY(c)) STRICT";
        let found = columns(sql);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a b", "c", "d"]);
        assert_eq!(found[0].1, "\"a b\" TEXT DEFAULT ('(,)') CHECK (a > 0)");
        assert_eq!(found[2].1, "d REAL NOT NULL");
        let plain = "CREATE TABLE t(a, b TEXT, UNIQUE(a)) STRICT";
        let changed = with_columns(plain, |texts| {
            texts.into_iter().map(|(name, _)| name).chain(["c".to_owned()]).collect()
        });
        assert_eq!(changed, "CREATE TABLE t(a, b, c, UNIQUE(a)) STRICT");
    }
}
