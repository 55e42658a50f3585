//! Which of the application's tables are replicated: lists of names, in which `*` stands for any characters and `?` for one.

use serde_json::{Value, json};

/// The lists. As in SQL, upper and lower case of ASCII letters are equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lists {
    /// Only these are replicated; empty: all.
    pub include: Vec<String>,
    /// These are not, whatever the other list says.
    pub exclude: Vec<String>,
    /// Rows of tables that are not replicated are in the snapshots all the same.
    pub in_snapshots: bool,
}

impl Default for Lists {
    fn default() -> Lists {
        Lists { include: vec![], exclude: vec![], in_snapshots: true }
    }
}

impl Lists {
    /// Whether every table is replicated that can be.
    pub fn name_nothing(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether a table is not to be replicated.
    pub fn exclude(&self, table: &str) -> bool {
        let is_in = |list: &[String]| list.iter().any(|pattern| matches(pattern, table));
        is_in(&self.exclude) || (!self.include.is_empty() && !is_in(&self.include))
    }

    /// As the database keeps them.
    pub fn encode(&self) -> String {
        json!({ "include": self.include, "exclude": self.exclude, "in_snapshots": self.in_snapshots })
            .to_string()
    }

    /// Reads what [`Lists::encode`] has written; what is missing names nothing.
    pub fn decode(text: &str) -> Lists {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let list = |key: &str| {
            let texts = value[key].as_array().into_iter().flatten();
            texts.filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        Lists {
            include: list("include"),
            exclude: list("exclude"),
            in_snapshots: value["in_snapshots"].as_bool().unwrap_or(true),
        }
    }
}

/// Whether a pattern matches a name as a whole.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut of) = (0, 0);
    // Where the last `*` stands, and up to where of the name it reaches.
    let mut star: Option<(usize, usize)> = None;
    while of < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, of));
                at += 1;
            }
            Some(c) if *c == '?' || c.eq_ignore_ascii_case(&name[of]) => {
                at += 1;
                of += 1;
            }
            _ => match star {
                Some((before, reached)) => {
                    star = Some((before, reached + 1));
                    (at, of) = (before + 1, reached + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(include: &[&str], exclude: &[&str]) -> Lists {
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Lists { include: of(include), exclude: of(exclude), in_snapshots: true }
    }

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, is_match) in [
            ("t", "T", true),
            ("t", "tt", false),
            ("t*", "t", true),
            ("*_log", "audit_log", true),
            ("*_log", "audit_logs", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXcYb", false),
            ("t?", "t", false),
            ("t?", "tä", true),
            ("*", "", true),
            ("", "", true),
            ("", "t", false),
            ("[a]", "a", false),
        ] {
            assert_eq!(matches(pattern, name), is_match, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_ends_in_time() {
        let (pattern, name) = ("*a".repeat(200), "a".repeat(900) + "b");
        assert!(!matches(&pattern, &name));
    }

    #[test]
    fn what_is_excluded_wins() {
        assert!(!lists(&[], &[]).exclude("t") && lists(&[], &[]).name_nothing());
        assert!(lists(&["a*"], &[]).exclude("b") && !lists(&["a*"], &[]).exclude("ab"));
        assert!(lists(&["a*"], &["ab"]).exclude("AB"));
    }

    #[test]
    fn lists_are_read_as_they_were_written() {
        let some = Lists { in_snapshots: false, ..lists(&["a \"b\""], &["c\n*"]) };
        assert_eq!(Lists::decode(&some.encode()), some);
        assert_eq!(Lists::decode("nonsense"), Lists::default());
    }
}
