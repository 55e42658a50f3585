//! The publisher of an event, and the message id under which the event's stream knows it.

use std::fmt;

/// A node and an incarnation of its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    pub node: u64,
    /// A random number that the database got together with our tables.
    pub incarnation: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.node, self.incarnation)
    }
}

impl Origin {
    /// The message id of an event: `<node>-<incarnation>-<change-log id>`. `attempt` is 0 the first time. An event that is sent
    /// again although its stream had acknowledged it ends with `-<attempt>`, so that the stream does not take it for a duplicate.
    pub fn message_id(self, id: i64, attempt: u64) -> String {
        if attempt == 0 { format!("{self}-{id}") } else { format!("{self}-{id}-{attempt}") }
    }

    /// Reads a message id that this program made; `None` for any other.
    pub fn parse_message_id(text: &str) -> Option<(Origin, i64)> {
        let mut parts = text.split('-');
        let (node, incarnation, id) =
            (parts.next()?.parse().ok()?, parse_incarnation(parts.next()?)?, parts.next()?.parse().ok()?);
        let attempt = parts.next().is_none_or(|attempt| attempt.parse::<u64>().is_ok());
        (attempt && parts.next().is_none()).then_some((Origin { node, incarnation }, id))
    }
}

/// Reads an incarnation, which is written as 16 lower-case hex digits.
pub fn parse_incarnation(text: &str) -> Option<u64> {
    let ours = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if ours { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_and_back() {
        let origin = Origin { node: 7, incarnation: 0x00ab_cdef_0123_4567 };
        assert_eq!(origin.message_id(12, 0), "7-00abcdef01234567-12");
        assert_eq!(origin.message_id(12, 3), "7-00abcdef01234567-12-3");
        for attempt in [0, 1, 9] {
            assert_eq!(
                Origin::parse_message_id(&origin.message_id(i64::MAX, attempt)),
                Some((origin, i64::MAX))
            );
        }
    }

    #[test]
    fn mutants_of_message_ids_are_of_others_or_are_read_the_same_again() {
        let origin = Origin { node: u64::MAX, incarnation: 0x00ab_cdef_0123_4567 };
        let valid = [origin.message_id(i64::MAX, 0), origin.message_id(-1, 3), "1-0000000000000000-0".into()];
        let valid = valid.map(String::into_bytes);
        crate::base::mutants::each("message ids", &valid, |mutant| {
            let text = String::from_utf8_lossy(mutant);
            if let Some((origin, id)) = Origin::parse_message_id(&text) {
                assert_eq!(Origin::parse_message_id(&origin.message_id(id, 0)), Some((origin, id)), "{text}");
            }
        });
    }

    #[test]
    fn ids_of_others_are_not_ours() {
        for other in [
            "",
            "7",
            "7-00abcdef01234567",
            "7-00ABCDEF01234567-12",
            "7-0abcdef01234567-12",
            "7-00abcdef0123456g-12",
            "x-00abcdef01234567-12",
            "7-00abcdef01234567-x",
            "7-00abcdef01234567-12-x",
            "7-00abcdef01234567-12-1-1",
            "QcF4q0Zz8kSgqkY4r0mPZz",
        ] {
            assert_eq!(Origin::parse_message_id(other), None, "{other}");
        }
    }
}
