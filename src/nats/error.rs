//! What can go wrong between us and the broker, told apart by what the caller can do.

use crate::base;
use std::fmt;

/// What a person does about [`Error::NoRoom`].
pub const NO_ROOM: &str =
    "make room on the broker (its disk, max_file_store, the account's limits, the stream's bounds)";

/// A text for people in a variant for decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The stream, key or object does not exist.
    NotFound(String),
    /// Another node was first: a condition on a revision did not hold.
    Conflict(String),
    /// A stream cannot be created because another stream has one of its subjects.
    Overlap(String),
    /// The server has not so much room as a stream asks for.
    NoRoom(String),
    /// Trying again will not help.
    Permanent(String),
    /// Something on this machine failed: a file, a thread, the disk that an object is read from or written to.
    Local(String),
    /// Trying again may help: no connection, no answer, a server that is busy with itself.
    Transient(String),
}

impl Error {
    /// The same error with the object, or what was tried, in front of its text.
    #[must_use]
    pub fn at(self, what: impl fmt::Display) -> Error {
        let longer = |why: String| format!("{what}: {why}");
        match self {
            Error::NotFound(why) => Error::NotFound(longer(why)),
            Error::Conflict(why) => Error::Conflict(longer(why)),
            Error::Overlap(why) => Error::Overlap(longer(why)),
            Error::NoRoom(why) => Error::NoRoom(longer(why)),
            Error::Permanent(why) => Error::Permanent(longer(why)),
            Error::Local(why) => Error::Local(longer(why)),
            Error::Transient(why) => Error::Transient(longer(why)),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotFound(why)
            | Error::Conflict(why)
            | Error::Overlap(why)
            | Error::NoRoom(why)
            | Error::Permanent(why)
            | Error::Local(why)
            | Error::Transient(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for base::Error {
    fn from(error: Error) -> base::Error {
        let kind = match &error {
            Error::NotFound(_) => base::Kind::Missing,
            Error::Conflict(_) => base::Kind::Waiting,
            Error::Overlap(_) | Error::Permanent(_) => base::Kind::Refused,
            Error::Local(_) => base::Kind::Local,
            Error::NoRoom(_) | Error::Transient(_) => base::Kind::Unreachable,
        };
        base::Error::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Kind;

    fn all() -> [(Error, Kind); 6] {
        [
            (Error::NotFound("why".into()), Kind::Missing),
            (Error::Conflict("why".into()), Kind::Waiting),
            (Error::Overlap("why".into()), Kind::Refused),
            (Error::Permanent("why".into()), Kind::Refused),
            (Error::Local("why".into()), Kind::Local),
            (Error::Transient("why".into()), Kind::Unreachable),
        ]
    }

    #[test]
    fn each_variant_has_its_kind() {
        for (error, kind) in all() {
            let above = base::Error::from(error);
            assert_eq!((above.kind(), above.to_string().as_str()), (kind, "why"));
        }
    }

    #[test]
    fn the_object_comes_first_and_the_variant_stays() {
        for (error, kind) in all() {
            let longer = base::Error::from(error.at("stream S"));
            assert_eq!((longer.kind(), longer.to_string().as_str()), (kind, "stream S: why"));
        }
    }
}
