//! `-cleanup`.

use super::Show;
use crate::base::error::{Context, Error, Kind};
use crate::config::Config;
use crate::daemon;
use crate::db;
use serde_json::json;

/// Removes everything of ours, and of a Go node, from the database. No daemon may run on it. What may be nowhere else is removed only by
/// `force`.
pub fn cleanup(config: &Config, show: Show, force: bool) -> Result<(), Error> {
    let path = config.db_path.display();
    if !config.db_path.exists() {
        return Err(Error::new(Kind::Missing, format!("{path}: no such file")));
    }
    let _lock = daemon::lock_database(config)?;
    let held = held(db::only_here(&config.db_path).context(&path)?);
    if !held.is_empty() && !force {
        let held = held.join("; ");
        return Err(Error::new(
            Kind::Refused,
            format!(
                "{path}: nothing was removed, for it may be nowhere else: {held}. -cleanup -force removes it"
            ),
        ));
    }
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

/// What there is, and what to do with each.
fn held(only: db::OnlyHere) -> Vec<String> {
    let mut held = vec![];
    if only.changes {
        held.push(
            "changes that have not come back from the stream (start the daemon, and stop it after -sync)"
                .to_owned(),
        );
    }
    for (count, what) in [
        (only.aside, "events that are set aside (-set-aside list)"),
        (only.lost, "writes that lost a race (-conflicts)"),
        (only.dropped, "dropped tables or columns (-schema-undo)"),
    ] {
        if count > 0 {
            held.push(format!("{count} {what}"));
        }
    }
    held
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
        let error = cleanup(&config, Show::default(), false).unwrap_err();
        assert!(error.to_string().contains("no SQLite database"), "{error}");
        assert_eq!(scratch.names(), ["notes.txt"]);
    }
}
