//! What is written beside a snapshot: the facts that a reader wants before it downloads anything.
//!
//! As text it is a list of short `key` / `value` pairs of printable ASCII: headers of a NATS object
//! (`harmonylite-<key>`), user metadata of an S3 object (`x-amz-meta-harmonylite-<key>`), members of a JSON object in
//! stores that have only files. S3 allows 2 KB for all of it.

use crate::model::positions::SeqMap;
use std::io::{self, Read, Write};

/// The description of one snapshot. Empty texts and zeros: not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// Bytes of the stored file.
    pub size: u64,
    /// Of the stored file: `SHA-256=` and padded url-safe base64.
    pub digest: String,
    /// Of the database inside, without what its maker stamped into it: equal for an unchanged database.
    pub content: String,
    /// Position in each stream; empty when its maker (a Go node) did not say.
    pub positions: SeqMap,
    /// Names the generation of the streams that the positions count in: changes when one is created anew.
    pub streams: String,
    /// Schema hash (compat.md 1h).
    pub schema: String,
    /// The node that made it; 0: not known.
    pub node: u64,
    /// When, by that node's clock: Unix milliseconds.
    pub time_ms: i64,
    /// Revision of the lease that it was uploaded under.
    pub revision: u64,
    /// How the database was packed: `zstd`, `encrypted`, `zstd+encrypted`; empty: as it is.
    pub encoding: String,
    /// The store's content was checked against the file during the upload.
    pub verified: bool,
}

impl Label {
    /// The pairs.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![("digest", self.digest.clone()), ("size", self.size.to_string())];
        let mut add = |key, value: String| {
            if !value.is_empty() && value != "0" {
                pairs.push((key, value));
            }
        };
        add("content", self.content.clone());
        add("position", positions_text(&self.positions));
        add("streams", self.streams.clone());
        add("schema", self.schema.clone());
        add("node", self.node.to_string());
        add("time", self.time_ms.to_string());
        add("revision", self.revision.to_string());
        add("encoding", self.encoding.clone());
        add("verified", if self.verified { "yes".to_owned() } else { String::new() });
        pairs
    }

    /// Reads pairs; unknown and unreadable ones are passed over.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Label {
        let mut label = Label::default();
        for (key, value) in pairs {
            match key {
                "digest" => value.clone_into(&mut label.digest),
                "size" => label.size = value.parse().unwrap_or(0),
                "content" => value.clone_into(&mut label.content),
                "position" => label.positions.extend(positions(value)),
                "streams" => value.clone_into(&mut label.streams),
                "schema" => value.clone_into(&mut label.schema),
                "node" => label.node = value.parse().unwrap_or(0),
                "time" => label.time_ms = value.parse().unwrap_or(0),
                "revision" => label.revision = value.parse().unwrap_or(0),
                "encoding" => value.clone_into(&mut label.encoding),
                "verified" => label.verified = value == "yes",
                _ => {}
            }
        }
        label
    }

    /// Whether this snapshot holds all that the other holds, and more. Positions in different streams do not compare.
    pub fn is_newer_than(&self, other: &Label) -> bool {
        if self.positions.is_empty() || self.streams != other.streams {
            return false;
        }
        let ours = |stream: &String| self.positions.get(stream).copied().unwrap_or(0);
        let mut streams = self.positions.keys().chain(other.positions.keys());
        let theirs = |stream: &String| other.positions.get(stream).copied().unwrap_or(0);
        streams.clone().all(|stream| ours(stream) >= theirs(stream))
            && streams.any(|stream| ours(stream) > theirs(stream))
    }

    /// Whether the database inside is the same, at the same position.
    pub fn same_content(&self, other: &Label) -> bool {
        !self.content.is_empty()
            && self.content == other.content
            && self.positions == other.positions
            && self.streams == other.streams
            && self.encoding == other.encoding
    }
}

/// `<stream>=<sequence>`, with a space between two; what a name shares with the first, up to its last `-`, is a `~`.
fn positions_text(positions: &SeqMap) -> String {
    let mut prefix = "";
    let mut parts = vec![];
    for (at, (stream, seq)) in positions.iter().enumerate() {
        match stream.strip_prefix(prefix) {
            Some(rest) if at > 0 && !prefix.is_empty() => parts.push(format!("~{rest}={seq}")),
            _ => parts.push(format!("{stream}={seq}")),
        }
        if at == 0 {
            prefix = stream.rfind('-').map_or("", |end| &stream[..=end]);
        }
    }
    parts.join(" ")
}

fn positions(text: &str) -> SeqMap {
    let mut prefix = String::new();
    let mut map = SeqMap::new();
    for (at, part) in text.split_ascii_whitespace().enumerate() {
        let Some((name, seq)) = part.rsplit_once('=') else { continue };
        let name = match name.strip_prefix('~') {
            Some(rest) if !prefix.is_empty() => format!("{prefix}{rest}"),
            _ => name.to_owned(),
        };
        if at == 0 {
            prefix = name.rfind('-').map_or(String::new(), |end| name[..=end].to_owned());
        }
        if let Ok(seq) = seq.parse() {
            map.insert(name, seq);
        }
    }
    map
}

/// Copies a stream from a store; what fails on its side is worth another try, what fails on ours is not.
pub fn pour(source: &mut dyn Read, sink: &mut dyn Write) -> Result<(), super::Error> {
    let mut buffer = vec![0; crate::base::limits::OBJECT_CHUNK];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => sink
                .write_all(&buffer[..count])
                .map_err(|error| super::Error::Permanent(format!("write: {error}")))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(super::Error::Transient(format!("read: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, u64)]) -> SeqMap {
        pairs.iter().map(|(name, seq)| ((*name).to_owned(), *seq)).collect()
    }

    #[test]
    fn text_and_back() {
        let label = Label {
            size: 7,
            digest: "SHA-256=x".into(),
            positions: map(&[("a-c-1", 3), ("a-c-2", 40), ("b", 5)]),
            node: 9,
            verified: true,
            ..Label::default()
        };
        let pairs = label.pairs();
        assert!(pairs.contains(&("position", "a-c-1=3 ~2=40 b=5".to_owned())));
        assert_eq!(Label::from_pairs(pairs.iter().map(|(k, v)| (*k, v.as_str()))), label);
        let many: Vec<(String, u64)> =
            (1..=64).map(|n| (format!("harmonylite-changes-c-{n}"), 1_000_000_000_000)).collect();
        assert!(positions_text(&many.into_iter().collect()).len() < 1400, "fits S3's metadata");
        assert_eq!(positions("x=1 y=no =2 z"), map(&[("x", 1), ("", 2)]));
    }

    #[test]
    fn newer_means_everything_and_more() {
        let label = |pairs| Label { positions: map(pairs), ..Label::default() };
        let (old, new) = (label(&[("a", 1), ("b", 2)]), label(&[("a", 1), ("b", 3)]));
        assert!(new.is_newer_than(&old) && !old.is_newer_than(&new) && !new.is_newer_than(&new));
        assert!(!label(&[("a", 2)]).is_newer_than(&old), "it lacks b");
        assert!(new.is_newer_than(&Label::default()) && !Label::default().is_newer_than(&new));
        assert!(!Label { streams: "x".into(), ..new }.is_newer_than(&old), "other streams");
    }
}
