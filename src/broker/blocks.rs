//! A look into a configuration file of nats-server: which settings stand in one of its blocks. Values are not read, files that it
//! includes are not seen.

/// Names of the settings in the last block at the top of the file that has one of these names, in lower case; `None`: there is no
/// such block.
pub fn settings_of(text: &str, names: &[&str]) -> Option<Vec<String>> {
    let mut scan = Scan { names, path: vec![], key: String::new(), key_comes: true, found: None };
    let (mut rest, mut before) = (text, '\n');
    while let Some(c) = rest.chars().next() {
        // Inside a word both may stand: nats://host.
        let is_comment =
            (c == '#' || rest.starts_with("//")) && (before.is_whitespace() || "{}[],;".contains(before));
        let used = match c {
            _ if is_comment => rest.find('\n').unwrap_or(rest.len()),
            '"' | '\'' => {
                let end = end_of_quoted(rest, c);
                scan.word(rest.get(1..end - 1).unwrap_or_default());
                end
            }
            _ if scan.mark(c) => c.len_utf8(),
            _ => {
                let ends = |c: char| c.is_whitespace() || "{}[],;:=\"'".contains(c);
                let end = rest.find(ends).unwrap_or(rest.len());
                scan.word(&rest[..end]);
                end
            }
        };
        before = rest[..used].chars().next_back().unwrap_or(c);
        rest = &rest[used..];
    }
    scan.found
}

/// Bytes of a text in quotes at the beginning of `text`, with both quotes.
fn end_of_quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return at + 1;
        }
        escaped = c == '\\' && quote == '"' && !escaped;
    }
    text.len()
}

struct Scan<'a> {
    names: &'a [&'a str],
    /// Names of the blocks and lists that are open.
    path: Vec<String>,
    /// The last name of a setting: what opens next is its value.
    key: String,
    /// The next word is the name of a setting.
    key_comes: bool,
    found: Option<Vec<String>>,
}

impl Scan<'_> {
    /// Takes a character that separates words; false: it is none.
    fn mark(&mut self, c: char) -> bool {
        match c {
            '{' | '[' => {
                self.path.push(std::mem::take(&mut self.key));
                if self.is_inside() {
                    self.found = Some(vec![]);
                }
                self.key_comes = true;
            }
            '}' | ']' => {
                self.path.pop();
                self.key_comes = true;
            }
            '\n' | ',' | ';' => self.key_comes = true,
            ':' | '=' => {}
            _ => return c.is_whitespace(),
        }
        true
    }

    fn word(&mut self, word: &str) {
        if !std::mem::take(&mut self.key_comes) {
            return;
        }
        self.key = word.to_ascii_lowercase();
        if self.is_inside()
            && let Some(found) = &mut self.found
        {
            found.push(self.key.clone());
        }
    }

    fn is_inside(&self) -> bool {
        matches!(self.path.as_slice(), [block] if self.names.contains(&block.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<String> {
        settings_of(text, &["leaf", "leafnodes"]).map(|names| names.join(" "))
    }

    #[test]
    fn settings_of_a_block_and_of_no_other() {
        for (text, names) in [
            ("", None),
            ("port: 4222\nauthorization { user: a, password: b }", None),
            ("leafnodes { listen: \"127.0.0.1:7\" }", Some("listen")),
            ("leafnodes: {\n port = 7\n}\nauthorization { token: x }", Some("port")),
            ("LeafNodes\n{\n  Listen 0.0.0.0:7; authorization { user: a } }", Some("listen authorization")),
            (
                "leafnodes { remotes: [ { url: nats://h:1 }, {authorization: 1} ], port: 7 }",
                Some("remotes port"),
            ),
            ("x { leafnodes { port: 7 } }", None),
            ("leaf { port: 7 }\nleaf { 'host' : x }", Some("host")),
            ("leafnodes { port: 7 # authorization: x\n // authorization { }\n }", Some("port")),
            ("leafnodes { note: \"a \\\" } authorization {\", port: 7 }", Some("note port")),
            ("leafnodes { note: 'authorization: \"', port: 7 }", Some("note port")),
            ("leafnodes { port: 7", Some("port")),
            ("leafnodes { note: \"", Some("note")),
            ("} ] \" ' é # é\nleafnodes {é: 1}", None),
        ] {
            assert_eq!(of(text).as_deref(), names, "{text}");
        }
    }

    #[test]
    fn mutants_of_a_file_end_nothing() {
        let valid =
            [b"leafnodes { listen: \"h:7\", 'a' = b # c\n remotes: [{url: nats://x}] } // d".to_vec()];
        crate::base::mutants::each("blocks", &valid, |mutant| {
            settings_of(&String::from_utf8_lossy(mutant), &["leafnodes"]);
        });
    }
}
