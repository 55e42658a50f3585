//! UNIQUE indexes: their columns, expressions and conditions, as SQL text to compare other rows with.

use crate::db::error::Error;
use rusqlite::Connection;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueIndex {
    /// The index enforces the primary key.
    pub of_primary_key: bool,
    pub columns: Vec<IndexColumn>,
    /// What follows WHERE in the statement of a partial index.
    pub condition: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexColumn {
    /// `None` for an expression.
    pub name: Option<String>,
    /// The text of an expression; empty for a column.
    pub expression: String,
    /// Name of the collation, as SQLite gives it.
    pub collation: String,
}

impl UniqueIndex {
    /// The collation of a plain column.
    pub fn collation_of(&self, column: &str) -> Option<&str> {
        self.columns.iter().find(|c| c.name.as_deref() == Some(column)).map(|c| c.collation.as_str())
    }
}

/// All UNIQUE indexes of a table, including that of the primary key. `made`: names and statements of its indexes.
pub fn list(
    connection: &Connection,
    table: &str,
    made: &[(String, Option<String>)],
) -> Result<Vec<UniqueIndex>, Error> {
    let mut statement =
        connection.prepare_cached("SELECT name, origin FROM pragma_index_list(?1) WHERE \"unique\"")?;
    let found: Vec<(String, String)> =
        statement.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut indexes = vec![];
    for (name, origin) in found {
        let sql = made.iter().find(|(known, _)| *known == name).and_then(|(_, sql)| sql.as_deref());
        let (expressions, condition) = sql.map(parts).unwrap_or_default();
        let mut columns = connection
            .prepare_cached("SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key ORDER BY seqno")?;
        let columns = columns
            .query_map([&name], |row| {
                Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?))
            })?
            .enumerate()
            .map(|(at, row)| {
                let (name, collation) = row?;
                let expression = match name {
                    Some(_) => String::new(),
                    None => expressions.get(at).cloned().unwrap_or_default(),
                };
                Ok(IndexColumn {
                    name,
                    expression,
                    collation: collation.unwrap_or_else(|| "BINARY".to_owned()),
                })
            })
            .collect::<rusqlite::Result<_>>()?;
        indexes.push(UniqueIndex { of_primary_key: origin == "pk", columns, condition });
    }
    Ok(indexes)
}

/// The terms between the parentheses of a CREATE INDEX statement, and the text after WHERE.
fn parts(sql: &str) -> (Vec<String>, Option<String>) {
    let tokens = tokens(sql);
    let text = |from: usize, to: usize| sql[from..to].trim().to_owned();
    let Some(open) = tokens.iter().position(|t| &sql[t.0..t.1] == "(") else { return (vec![], None) };
    let mut terms = vec![];
    let mut depth = 0;
    let mut from = tokens[open].1;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match &sql[token.0..token.1] {
            "(" => depth += 1,
            ")" => {
                depth -= 1;
                if depth == 0 {
                    terms.push(without_suffix(&text(from, token.0)));
                    let condition = tokens
                        .get(at + 1)
                        .filter(|t| sql[t.0..t.1].eq_ignore_ascii_case("where"))
                        .map(|t| text(t.1, sql.len()));
                    return (terms, condition);
                }
            }
            "," if depth == 1 => {
                terms.push(without_suffix(&text(from, token.0)));
                from = token.1;
            }
            _ => {}
        }
    }
    (terms, None)
}

/// A term without its trailing COLLATE name, ASC or DESC.
fn without_suffix(term: &str) -> String {
    let tokens = tokens(term);
    let mut end = tokens.len();
    let word = |at: usize| tokens.get(at).map(|t| term[t.0..t.1].to_ascii_uppercase()).unwrap_or_default();
    if end > 1 && matches!(word(end - 1).as_str(), "ASC" | "DESC") {
        end -= 1;
    }
    if end > 2 && word(end - 2) == "COLLATE" {
        end -= 2;
    }
    tokens.get(end.saturating_sub(1)).map_or_else(String::new, |last| term[..last.1].to_owned())
}

/// Start and end of each token. A token is a word or number, a quoted string or name, or any other single character. Comments
/// are left out.
pub fn tokens(sql: &str) -> Vec<(usize, usize)> {
    let bytes = sql.as_bytes();
    let mut found = vec![];
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let rest = &bytes[at..];
        match rest[0] {
            byte if byte.is_ascii_whitespace() => at += 1,
            b'-' if rest.starts_with(b"--") => {
                at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
            }
            b'/' if rest.starts_with(b"/*") => {
                at += rest.windows(2).skip(2).position(|pair| pair == b"*/").map_or(rest.len(), |n| n + 4);
            }
            quote @ (b'\'' | b'"' | b'`' | b'[') => {
                let close = if quote == b'[' { b']' } else { quote };
                at += 1;
                while at < bytes.len()
                    && (bytes[at] != close || (close != b']' && bytes.get(at + 1) == Some(&close)))
                {
                    at += if bytes[at] == close { 2 } else { 1 };
                }
                at = (at + 1).min(bytes.len());
                found.push((start, at));
            }
            byte if byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80 => {
                while at < bytes.len()
                    && (bytes[at].is_ascii_alphanumeric() || b"_$".contains(&bytes[at]) || bytes[at] >= 0x80)
                {
                    at += 1;
                }
                found.push((start, at));
            }
            _ => {
                at += 1;
                found.push((start, at));
            }
        }
    }
    found
}

/// Whether a statement has a word outside of quotes and comments.
pub fn has_word(sql: &str, word: &str) -> bool {
    tokens(sql).iter().any(|token| sql[token.0..token.1].eq_ignore_ascii_case(word))
}

/// The words that follow ON CONFLICT in the statement of a table, in lower case.
pub fn conflict_clauses(sql: &str) -> Vec<String> {
    let words: Vec<String> = tokens(sql).iter().map(|token| sql[token.0..token.1].to_lowercase()).collect();
    let declared = words.windows(3).filter(|three| three[0] == "on" && three[1] == "conflict");
    declared.map(|three| three[2].clone()).collect()
}

/// Words that can stand before a parenthesis inside an expression and are no functions.
const KEYWORDS: [&str; 26] = [
    "and", "as", "between", "by", "case", "cast", "collate", "distinct", "else", "escape", "exists",
    "filter", "from", "glob", "in", "is", "isnull", "like", "not", "notnull", "or", "over", "select", "then",
    "values", "when",
];

/// The functions that the statement of an index calls, in lower case.
pub fn functions_of_index(sql: &str) -> Vec<String> {
    let (terms, condition) = parts(sql);
    terms.into_iter().chain(condition).flat_map(|text| functions_called(&text)).collect()
}

/// The functions that an expression calls, in lower case.
pub fn functions_called(expression: &str) -> Vec<String> {
    let tokens = tokens(expression);
    let text = |at: usize| tokens.get(at).map_or("", |token| &expression[token.0..token.1]);
    let mut found = vec![];
    for at in 0..tokens.len() {
        let word = text(at);
        let lower = word.to_ascii_lowercase();
        // The operators call functions of these names, which SQLite itself does not have.
        if lower == "regexp" || lower == "match" {
            found.push(lower);
        } else if text(at + 1) == "("
            && let Some(name) = name_of(word)
            && (name != word || !KEYWORDS.contains(&lower.as_str()))
        {
            found.push(name.to_ascii_lowercase());
        }
    }
    found
}

/// The name that a token stands for, without its quotes; `None` for strings, numbers and signs.
fn name_of(token: &str) -> Option<&str> {
    match token.chars().next()? {
        '"' | '`' | '[' => token.get(1..token.len() - 1),
        first if first.is_alphabetic() || first == '_' || !first.is_ascii() => Some(token),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(sql: &str) -> Vec<&str> {
        tokens(sql).into_iter().map(|(from, to)| &sql[from..to]).collect()
    }

    #[test]
    fn terms_and_conditions() {
        let sql = "CREATE UNIQUE INDEX \"a(b\" ON t (lower(x || ',)') COLLATE nocase DESC, \"y \"\"(\" /* , ) */, z ASC) where z > 'a)b'";
        let (terms, condition) = parts(sql);
        assert_eq!(terms, ["lower(x || ',)')", "\"y \"\"(\"", "z"]);
        assert_eq!(condition.as_deref(), Some("z > 'a)b'"));
        assert_eq!(parts("CREATE INDEX i ON [t](a, b)"), (vec!["a".to_owned(), "b".to_owned()], None));
        assert_eq!(parts("nonsense"), (vec![], None));
    }

    #[test]
    fn strings_names_and_comments_are_told_apart() {
        assert_eq!(split("a -- b\nc /* d */ e"), ["a", "c", "e"]);
        assert_eq!(
            split("'it''s' \"a\"\"b\" [x]y] `q``r`"),
            ["'it''s'", "\"a\"\"b\"", "[x]", "y", "]", "`q``r`"]
        );
        assert_eq!(split("é1||_x.5"), ["é1", "|", "|", "_x", ".", "5"]);
        assert_eq!(split("a$b.c$ $d"), ["a$b", ".", "c$", "$", "d"]);
        assert_eq!(split("'open"), ["'open"]);
        assert_eq!(split("/* open"), Vec::<&str>::new());
        assert_eq!(split(""), Vec::<&str>::new());
    }

    #[test]
    fn suffixes_are_taken_off_one_term() {
        assert_eq!(without_suffix("a COLLATE \"x y\" desc"), "a");
        assert_eq!(without_suffix("desc"), "desc");
        assert_eq!(without_suffix("a || collate"), "a || collate");
        assert_eq!(without_suffix("  (a + b)  ASC "), "  (a + b)");
    }

    #[test]
    fn conflict_clauses_are_found_in_whatever_case() {
        let sql = "CREATE TABLE t(a PRIMARY KEY on Conflict /* */ REPLACE, \"on\" conflict, b, UNIQUE(b) ON CONFLICT rollback)";
        assert_eq!(conflict_clauses(sql), ["replace", "rollback"]);
        assert!(
            conflict_clauses("CREATE TABLE t(a DEFAULT 'on conflict fail' REFERENCES b ON DELETE CASCADE)")
                .is_empty()
        );
    }

    #[test]
    fn functions_are_found_and_keywords_are_not() {
        assert_eq!(functions_called("lower(a) || \"my f\" (b, 'x(') AND c IN (1, 2)"), ["lower", "my f"]);
        assert_eq!(functions_called("CAST(a AS text) COLLATE nocase"), Vec::<String>::new());
        assert_eq!(functions_called("CASE WHEN (a) THEN (b) ELSE F(c) END"), ["f"]);
        assert_eq!(functions_called("a REGEXP 'x'"), ["regexp"]);
        assert_eq!(functions_called("a /* g( */ + 5 (b)"), Vec::<String>::new());
    }

    #[test]
    fn indexes_are_listed_with_columns_expressions_and_collations() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE t(a TEXT COLLATE RTRIM PRIMARY KEY, b UNIQUE, c);
                 CREATE UNIQUE INDEX i ON t(c COLLATE NOCASE, a || b) WHERE c IS NOT NULL; CREATE INDEX plain ON t(c)",
            )
            .unwrap();
        let mut made =
            connection.prepare("SELECT name, sql FROM sqlite_schema WHERE type = 'index'").unwrap();
        let made = made.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let found = list(&connection, "t", &made.collect::<Result<Vec<_>, _>>().unwrap()).unwrap();
        assert_eq!(found.len(), 3);
        let of_key = found.iter().find(|index| index.of_primary_key).unwrap();
        assert_eq!(of_key.collation_of("a"), Some("RTRIM"));
        assert_eq!(of_key.collation_of("b"), None);
        let partial = found.iter().find(|index| index.condition.is_some()).unwrap();
        assert_eq!(partial.condition.as_deref(), Some("c IS NOT NULL"));
        let columns: Vec<_> = partial
            .columns
            .iter()
            .map(|c| (c.name.as_deref(), c.expression.as_str(), c.collation.as_str()))
            .collect();
        assert_eq!(columns, [(Some("c"), "", "NOCASE"), (None, "a || b", "BINARY")]);
    }
}
