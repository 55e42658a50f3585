//! The error of everything above `db`, `nats` and `storage`: a text for people, and a kind that says what the caller can do.
//!
//! The three layers have errors of their own, which become this one on their way up. A decision looks at the kind, never at
//! the text.

use std::fmt;

/// What can be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Stop was requested: nothing failed.
    Stopped,
    /// Somebody else holds what is needed, or has to do something first: try again later.
    Waiting,
    /// The broker or the store cannot be reached, or does not answer: try again later.
    Unreachable,
    /// The broker or the store refuses: trying again will not help.
    Refused,
    /// The thing that was named does not exist.
    Missing,
    /// This node's database is damaged: it must be recovered.
    Damaged,
    /// Tables of ours are gone from this node's database: it must be opened anew.
    Stripped,
    /// A stored snapshot is not what it should be, or does not fit this node: another one may serve.
    Unusable,
    /// Something on this machine failed: its disk, its memory, its file permissions.
    Local,
    /// The configuration or the command line is wrong.
    Usage,
}

/// A kind and a text: lower case, no full stop, the object first, then the cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    text: String,
}

impl Error {
    /// An error of any kind.
    pub fn new(kind: Kind, text: impl Into<String>) -> Error {
        Error { kind, text: text.into() }
    }

    /// Stop was requested.
    pub fn stopped() -> Error {
        Error::new(Kind::Stopped, "stopped")
    }

    /// [`Kind::Waiting`].
    pub fn waiting(text: impl Into<String>) -> Error {
        Error::new(Kind::Waiting, text)
    }

    /// [`Kind::Unreachable`].
    pub fn unreachable(text: impl Into<String>) -> Error {
        Error::new(Kind::Unreachable, text)
    }

    /// [`Kind::Local`].
    pub fn local(text: impl Into<String>) -> Error {
        Error::new(Kind::Local, text)
    }

    /// [`Kind::Usage`].
    pub fn usage(text: impl Into<String>) -> Error {
        Error::new(Kind::Usage, text)
    }

    /// What can be done about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same error with the object, or what was tried, in front of its text.
    #[must_use]
    pub fn at(self, what: impl fmt::Display) -> Error {
        Error { kind: self.kind, text: format!("{what}: {}", self.text) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

/// Puts the object in front of an error of any layer.
pub trait Context<T> {
    /// `what: why`.
    fn context(self, what: impl fmt::Display) -> Result<T, Error>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| error.into().at(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_comes_first_and_the_kind_stays() {
        let error = Error::waiting("locked").at("app.db");
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Waiting, "app.db: locked"));
        let result: Result<(), Error> = Err(Error::local("disk full"));
        let error = result.context("make snapshot").unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Local, "make snapshot: disk full"));
    }
}
