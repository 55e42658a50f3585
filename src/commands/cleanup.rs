//! `-cleanup`.

use super::Show;
use crate::base::error::{Context, Error, Kind};
use crate::config::Config;
use crate::daemon;
use crate::db;
use serde_json::json;

/// Removes everything of ours, and of a Go node, from the database. No daemon may run on it.
pub fn cleanup(config: &Config, show: Show) -> Result<(), Error> {
    let path = config.db_path.display();
    if !config.db_path.exists() {
        return Err(Error::new(Kind::Missing, format!("{path}: no such file")));
    }
    let _lock = daemon::lock_database(config)?;
    for (queue, rows) in db::queued(&config.db_path).context(&path)? {
        log::warn!(
            "{path}: {rows} entries of {queue} are removed, which a full-text index does not know yet: build that index anew"
        );
    }
    let removed = db::cleanup(&config.db_path).context(&path)?;
    show.print(
        || format!("{path}: removed {} triggers, tables and views of harmonylite", removed.len()),
        || json!({ "removed": removed }),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;

    /// A lock beside a file says that it was a database: the daemon would recover it.
    #[test]
    fn a_file_that_is_no_database_gets_no_lock() {
        let scratch = Scratch::new("cleanup-text");
        let mut config = crate::config::tests::with("");
        config.db_path = scratch.path("notes.txt");
        std::fs::write(&config.db_path, b"this is a text and no database").unwrap();
        let error = cleanup(&config, Show::default()).unwrap_err();
        assert!(error.to_string().contains("no SQLite database"), "{error}");
        assert_eq!(scratch.names(), ["notes.txt"]);
    }
}
