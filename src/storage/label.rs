//! The label of a snapshot: what a reader wants to know before it downloads anything.
//!
//! As text, a label is a list of short `key` / `value` pairs of printable ASCII: headers of a NATS object
//! (`harmonylite-<key>`), user metadata of an S3 object (`x-amz-meta-harmonylite-<key>`), members of a JSON object in
//! stores that have only files. S3 allows 2 KB for all pairs together.
//!
//! With a key, the pair `seal` authenticates all others (`storage/seal.rs`).

use crate::model::positions::SeqMap;
use std::collections::BTreeMap;

/// The description of one snapshot. An empty text or a zero means that the fact is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// Bytes of the stored file.
    pub size: u64,
    /// Digest of the stored file: `SHA-256=` and padded url-safe base64.
    pub digest: String,
    /// Digest of the database inside, without what its maker stamped into it: it is the same while the database does not
    /// change.
    pub content: String,
    /// Position in each stream; empty in a Go node's snapshot.
    pub positions: SeqMap,
    /// Names the generation of the streams that the positions count in. It changes when one of them is created anew.
    pub streams: String,
    /// Schema hash (formats, section "Schema hash").
    pub schema: String,
    /// The node that made the snapshot.
    pub node: u64,
    /// When it was made, by that node's clock: Unix milliseconds.
    pub time_ms: i64,
    /// Revision of the upload lease at the upload.
    pub revision: u64,
    /// How the database is packed: `zstd`, `encrypted`, `zstd+encrypted`; empty when it is not.
    pub encoding: String,
    /// Whether the store's content was compared with the file during the upload.
    pub verified: bool,
    /// Bytes of the database inside, unpacked.
    pub plain: u64,
    /// Pairs of later versions, kept as they are.
    pub others: BTreeMap<String, String>,
    /// Authenticates all that is above; empty when its maker had no key.
    pub seal: String,
}

impl Label {
    /// The label as text.
    pub fn pairs(&self) -> Vec<(&str, String)> {
        let mut pairs = self.sealed_pairs();
        if !self.seal.is_empty() {
            pairs.push(("seal", self.seal.clone()));
        }
        pairs
    }

    /// The pairs that the seal authenticates: all others.
    pub fn sealed_pairs(&self) -> Vec<(&str, String)> {
        let mut pairs = vec![("digest", self.digest.clone()), ("size", self.size.to_string())];
        let mut add = |key, value: String| {
            if !value.is_empty() {
                pairs.push((key, value));
            }
        };
        let known = |number: String| if number == "0" { String::new() } else { number };
        add("content", self.content.clone());
        add("position", positions_text(&self.positions));
        add("streams", self.streams.clone());
        add("schema", self.schema.clone());
        add("node", known(self.node.to_string()));
        add("time", known(self.time_ms.to_string()));
        add("revision", known(self.revision.to_string()));
        add("encoding", self.encoding.clone());
        add("verified", if self.verified { "yes".to_owned() } else { String::new() });
        add("plain", known(self.plain.to_string()));
        pairs.extend(self.others.iter().map(|(key, value)| (key.as_str(), value.clone())));
        pairs
    }

    /// Reads a label. Pairs that cannot be read are passed over; unknown ones are kept as text.
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
                "plain" => label.plain = value.parse().unwrap_or(0),
                "seal" => value.clone_into(&mut label.seal),
                other => drop(label.others.insert(other.to_owned(), value.to_owned())),
            }
        }
        label
    }

    /// Whether this snapshot holds all that the other one holds, and more. Positions in different streams cannot be compared:
    /// then it is not newer.
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

    /// Whether the database inside is the same, at the same position, packed in the same way.
    pub fn same_content(&self, other: &Label) -> bool {
        !self.content.is_empty()
            && self.content == other.content
            && self.positions == other.positions
            && self.streams == other.streams
            && self.encoding == other.encoding
    }
}

/// `<stream>=<sequence>` for each stream, with a space between two. The names of a node's streams differ only after the last
/// `-`: what a name shares with the first one up to there is written `~`.
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

/// Reads what [`positions_text`] writes, and passes over what that never writes: a name that begins with `~` where there is no
/// prefix. So two maps that were read are never written alike, and the seal on what is written binds what was read.
fn positions(text: &str) -> SeqMap {
    let mut prefix = String::new();
    let mut map = SeqMap::new();
    for part in text.split_ascii_whitespace() {
        let Some((name, seq)) = part.rsplit_once('=') else { continue };
        let Ok(seq) = seq.parse() else { continue };
        let name = match name.strip_prefix('~') {
            Some(_) if prefix.is_empty() => continue,
            Some(rest) => format!("{prefix}{rest}"),
            None => name.to_owned(),
        };
        if map.is_empty() {
            prefix = name.rfind('-').map_or(String::new(), |end| name[..=end].to_owned());
        }
        map.insert(name, seq);
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, u64)]) -> SeqMap {
        pairs.iter().map(|(name, seq)| ((*name).to_owned(), *seq)).collect()
    }

    fn read_back(label: &Label) -> Label {
        Label::from_pairs(label.pairs().iter().map(|(key, value)| (*key, value.as_str())))
    }

    #[test]
    fn text_and_back() {
        let label = Label {
            size: 7,
            digest: "SHA-256=x".into(),
            content: "c".into(),
            positions: map(&[("a-c-1", 3), ("a-c-2", 40), ("b", 5)]),
            streams: "s".into(),
            schema: "h".into(),
            node: 9,
            time_ms: 11,
            revision: 12,
            encoding: "zstd".into(),
            verified: true,
            plain: 90,
            others: [("later".to_owned(), "0".to_owned())].into(),
            seal: "m".into(),
        };
        assert_eq!(read_back(&label), label);
        assert_eq!(read_back(&Label::default()), Label::default());
        assert_eq!(Label::default().pairs().len(), 2, "what is not known is not written");
    }

    #[test]
    fn positions_share_their_prefix() {
        let text = |pairs: &[(&str, u64)]| positions_text(&map(pairs));
        assert_eq!(text(&[("a-c-1", 3), ("a-c-2", 40), ("b", 5)]), "a-c-1=3 ~2=40 b=5");
        assert_eq!(text(&[("a", 3), ("b", 40)]), "a=3 b=40");
        for pairs in [&[("a-c-1", 3), ("a-c-2", 40), ("a-d", 1)][..], &[("a", 1), ("ab", 2)], &[]] {
            assert_eq!(positions(&text(pairs)), map(pairs));
        }
        let many: Vec<(String, u64)> =
            (1..=64).map(|n| (format!("harmonylite-changes-c-{n}"), 1_000_000_000_000)).collect();
        assert!(positions_text(&many.into_iter().collect()).len() < 1400, "fits S3's metadata");
    }

    #[test]
    fn what_cannot_be_read_is_passed_over() {
        assert_eq!(positions("x=1 y=no =2 z"), map(&[("x", 1), ("", 2)]));
        assert_eq!(positions("junk y-1=no x-1=1 ~2=2"), map(&[("x-1", 1), ("x-2", 2)]));
        assert_eq!(positions("~1=1 x=2 ~3=3"), map(&[("x", 2)]));
        let label =
            Label::from_pairs([("size", "many"), ("node", "-1"), ("verified", "no"), ("plain", "1.5")]);
        assert_eq!(label, Label::default());
    }

    #[test]
    fn a_whole_label_fits_the_metadata_of_s3() {
        let sha = "f".repeat(64);
        let stream = |n: u64| (format!("harmonylite-changes-c-{n}"), 1_000_000_000_000);
        let label = Label {
            size: u64::MAX,
            digest: format!("SHA-256={}", "x".repeat(44)),
            content: format!("SHA-256={}", "x".repeat(44)),
            positions: (1..=64).map(stream).collect(),
            streams: "0123456789abcdef".into(),
            schema: sha,
            node: u64::MAX,
            time_ms: 10_000_000_000_000,
            revision: u64::MAX,
            encoding: "zstd+encrypted".into(),
            verified: true,
            plain: u64::MAX,
            others: BTreeMap::new(),
            seal: "x".repeat(43),
        };
        let bytes: usize =
            label.pairs().iter().map(|(key, value)| "harmonylite-".len() + key.len() + value.len()).sum();
        assert!(bytes <= 2048, "{bytes}");
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

    #[test]
    fn the_same_content_is_known_only_if_its_digest_is() {
        let one = Label { content: "c".into(), positions: map(&[("a", 1)]), node: 1, ..Label::default() };
        assert!(one.same_content(&Label { node: 2, time_ms: 5, verified: true, ..one.clone() }));
        assert!(!Label::default().same_content(&Label::default()), "nothing is known of them");
        for other in [
            Label { content: "d".into(), ..one.clone() },
            Label { positions: map(&[("a", 2)]), ..one.clone() },
            Label { streams: "s".into(), ..one.clone() },
            Label { encoding: "zstd".into(), ..one.clone() },
        ] {
            assert!(!one.same_content(&other), "{other:?}");
        }
    }
}
