//! Which errors of the database pass, so that the publisher tries again.

use crate::base::error::Error;
use crate::db;
use crate::operate::Trouble;

/// A lock, a full disk and a change of the schema pass; every other error ends the worker.
pub fn retry_later(trouble: &mut Trouble, what: &str, error: db::Error) -> Result<bool, Error> {
    match error {
        db::Error::Busy => Ok(false),
        db::Error::Disk(why) => {
            trouble.warn(&format!("{what}: {why}; trying again"));
            Ok(false)
        }
        error @ db::Error::SchemaChanged => {
            log::debug!("{what}: {error}");
            Ok(false)
        }
        other => Err(Error::from(other).at(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::error::Kind;
    use crate::operate::Board;
    use std::sync::Arc;

    #[test]
    fn a_lock_and_a_full_disk_pass_and_damage_does_not() {
        let board = Arc::new(Board::default());
        let mut trouble = Trouble::new(&board, "publisher");
        let mut retry = |what: &str, error| retry_later(&mut trouble, what, error);
        assert!(!retry("read", db::Error::Busy).unwrap());
        assert!(!retry("read", db::Error::Disk("full".into())).unwrap());
        assert!(!retry("read", db::Error::SchemaChanged).unwrap());
        let error = retry("read the change log", db::Error::Corrupt("page 3".into())).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (Kind::Damaged, "read the change log: page 3")
        );
    }
}
