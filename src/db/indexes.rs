//! UNIQUE indexes: their columns, expressions and conditions, as SQL text to compare other rows with.

use crate::db::{error::Error, sql::quote};
use rusqlite::Connection;

/// A UNIQUE index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueIndex {
    /// It enforces the primary key.
    pub of_primary_key: bool,
    /// Its columns.
    pub columns: Vec<IndexColumn>,
    /// The condition of a partial index.
    pub condition: Option<String>,
}

/// One column of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexColumn {
    /// A column's name; `None` for an expression.
    pub name: Option<String>,
    /// The expression's text; empty for a column.
    pub expression: String,
    /// How it compares.
    pub collation: String,
}

impl UniqueIndex {
    /// The collation of a plain column.
    pub fn collation_of(&self, column: &str) -> Option<&str> {
        self.columns.iter().find(|c| c.name.as_deref() == Some(column)).map(|c| c.collation.as_str())
    }

    /// SQL that is true of a row `o` of the table when it collides in this index with the row `NEW` of a trigger.
    ///
    /// Names inside an expression or a condition are those of the table's columns: in the outer query they mean `o`, in
    /// the inner one the values of `NEW` under the same names.
    pub fn collides_with_new(&self, all_columns: &[String]) -> String {
        let new_row: Vec<String> = all_columns.iter().map(|c| format!("NEW.{0} AS {0}", quote(c))).collect();
        let mut terms: Vec<String> = self
            .columns
            .iter()
            .map(|column| {
                let collation = quote(&column.collation);
                match &column.name {
                    Some(name) => format!("o.{0} COLLATE {collation} = NEW.{0}", quote(name)),
                    None => format!(
                        "({0}) COLLATE {collation} = (SELECT {0} FROM (SELECT {1}))",
                        column.expression,
                        new_row.join(", ")
                    ),
                }
            })
            .collect();
        if let Some(condition) = &self.condition {
            terms.push(format!("({condition})"));
        }
        terms.join(" AND ")
    }
}

/// All UNIQUE indexes of a table, that of the primary key included.
pub fn list(connection: &Connection, table: &str) -> Result<Vec<UniqueIndex>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT l.name, l.origin, s.sql FROM pragma_index_list(?1) AS l \
         LEFT JOIN sqlite_schema AS s ON s.type = 'index' AND s.name = l.name WHERE l.\"unique\"",
    )?;
    let found: Vec<(String, String, Option<String>)> = statement
        .query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    let mut indexes = vec![];
    for (name, origin, sql) in found {
        let (expressions, condition) = sql.as_deref().map(parts).unwrap_or_default();
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

/// Start and end of each token: quoted things and words whole, everything else one character. Comments are left out.
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
                    && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_' || bytes[at] >= 0x80)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_and_conditions() {
        let sql = "CREATE UNIQUE INDEX \"a(b\" ON t (lower(x || ',)') COLLATE nocase DESC, \"y \"\"(\" /* , ) */, z ASC) where z > 'a)b'";
        let (terms, condition) = parts(sql);
        assert_eq!(terms, ["lower(x || ',)')", "\"y \"\"(\"", "z"]);
        assert_eq!(condition.as_deref(), Some("z > 'a)b'"));
        assert_eq!(parts("CREATE INDEX i ON [t](a, b)"), (vec!["a".to_owned(), "b".to_owned()], None));
        assert_eq!(parts("nonsense"), (vec![], None));
    }
}
