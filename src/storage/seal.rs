//! The seal on a label: with a key (`snapshot.key_file`), a label is believed only if a node of the same cluster with the same
//! key wrote it, and only beside the content that it was written for.
//!
//! The pair `seal` of a label is HMAC-SHA256 over all its other pairs, in base64 for URLs without padding. For each pair, in the
//! order of the keys' bytes: the length of the key (4 bytes, big-endian), the key, the length of the value, the value. The HMAC's key is HKDF-SHA256 of the 32-byte key without salt, with the info text
//! `harmonylite snapshot label`, a line feed and `nats.stream_prefix`, so that the same key in two clusters makes two seals.
//! The digest of the stored file is one of the pairs, so a seal binds the label to the content and the content to the cluster.
//!
//! What a seal cannot tell: whether a label and its content, both untouched, were the store's current ones a while ago.

use super::pack::Key;
use super::{Label, Stored, dated_name};
use crate::base::limits;
use data_encoding::BASE64URL_NOPAD;
use ring::hmac;

/// What is said of a snapshot that is not sealed.
const PLAIN: &str = "it is not encrypted, and this node has a key (snapshot.key_file): it is not taken, unless snapshot.accept_plain = true";
const UNSEALED: &str = "its label is not authenticated (an earlier version made it, or somebody without the key): it is not taken, \
                        unless snapshot.accept_plain = true";
/// What is said of one whose seal is another one than this node would have made.
const FORGED: &str = "its maker has another key (give all nodes the same snapshot.key_file) or another nats.stream_prefix, or its label is \
                      not the one that its maker wrote: it is not taken";
const MOVED: &str = "its label is that of a snapshot with another name: it is not taken";

/// What the seal on a label showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seal {
    /// It was not asked for: this node has no key, or takes snapshots without a seal as well. Or it is not known yet which label
    /// belongs to the content, and this node believes only older ones.
    #[default]
    Unasked,
    /// A node of this cluster with this key wrote the label.
    Whole,
    /// The snapshot must not be taken: why.
    Refused(String),
}

/// Makes seals and checks them.
#[derive(Clone, Debug, Default)]
pub struct Seals {
    key: Option<Key>,
    /// Made from `key` for one cluster.
    labels: Option<hmac::Key>,
    /// Whether what has no seal, or is not encrypted, is taken all the same.
    accept_plain: bool,
}

impl Seals {
    /// Without a key nothing is sealed, and every label is believed. `cluster`: `nats.stream_prefix`. `accept_plain`: with a key,
    /// take also what is not encrypted, and labels without a seal.
    pub fn new(key: Option<&Key>, cluster: &str, accept_plain: bool) -> Seals {
        Seals { key: key.cloned(), labels: key.map(|key| key.for_labels(cluster)), accept_plain }
    }

    /// The key that unpacks.
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// Whether content that is not encrypted is refused.
    pub fn refuses_plain(&self) -> bool {
        self.key.is_some() && !self.accept_plain
    }

    /// Whether a snapshot has what this node's uploads have: a whole seal. Without a key all have.
    pub fn are_whole(&self, stored: &Stored) -> bool {
        self.labels.is_none() || stored.seal == Seal::Whole
    }

    /// The label with its seal; without a key as it is.
    pub fn seal(&self, label: Label) -> Label {
        let seal = self.labels.as_ref().map(|key| {
            let tag = hmac::sign(key, &sealed_bytes(&label));
            BASE64URL_NOPAD.encode(tag.as_ref())
        });
        Label { seal: seal.unwrap_or_default(), ..label }
    }

    /// A text that tells one value from another and shows it to nobody without the key; without a key the value itself.
    pub fn veiled(&self, value: &str) -> String {
        match &self.labels {
            Some(key) => {
                BASE64URL_NOPAD.encode(hmac::sign(key, format!("content {value}").as_bytes()).as_ref())
            }
            None => value.to_owned(),
        }
    }

    /// Leaves of a snapshot's labels those that may be believed. If there is none, the snapshot is refused.
    pub fn judge(&self, stored: Stored) -> Stored {
        let Some(key) = self.labels.as_ref().filter(|_| stored.refused().is_none()) else { return stored };
        let Stored { name, size, version, label, other_labels, .. } = stored;
        let announced = Label { digest: label.digest.clone(), ..Label::default() };
        let (mut believed, mut refusal, mut seal) = (vec![], None, Seal::Whole);
        let mut of_another = false;
        for (at, label) in [label].into_iter().chain(other_labels).enumerate() {
            match self.check(key, &name, &label) {
                Ok(Seal::Whole) => believed.push(label),
                Ok(other) => {
                    // One of them has no seal, and it may be the one that fits the content.
                    seal = other;
                    believed.push(label);
                }
                Err(why) => {
                    of_another |= at == 0;
                    refusal.get_or_insert(why);
                }
            }
        }
        if of_another {
            // The newest label is probably that of the content: an older one that is believed says nothing of it then.
            seal = Seal::Unasked;
        }
        if believed.is_empty() {
            believed.push(announced);
            seal = Seal::Refused(refusal.unwrap_or(UNSEALED).to_owned());
        }
        let label = believed.remove(0);
        Stored { name, size, version, label, other_labels: believed, seal }
    }

    fn check(&self, key: &hmac::Key, name: &str, label: &Label) -> Result<Seal, &'static str> {
        if label.seal.is_empty() {
            return match self.accept_plain {
                true => Ok(Seal::Unasked),
                false if label.encoding.contains("encrypted") => Err(UNSEALED),
                false => Err(PLAIN),
            };
        }
        let tag = BASE64URL_NOPAD.decode(label.seal.as_bytes()).map_err(|_| FORGED)?;
        hmac::verify(key, &sealed_bytes(label), &tag).map_err(|_| FORGED)?;
        let is_at_home = name == limits::SNAPSHOT_NAME || name == dated_name(label.time_ms);
        if is_at_home { Ok(Seal::Whole) } else { Err(MOVED) }
    }
}

/// What the seal authenticates.
fn sealed_bytes(label: &Label) -> Vec<u8> {
    let mut pairs = label.sealed_pairs();
    pairs.sort();
    let mut bytes = vec![];
    for (key, value) in &pairs {
        for text in [*key, value.as_str()] {
            // A label is a few kilobytes, and one that is longer than this number can say has no seal of ours.
            bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
