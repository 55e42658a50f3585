//! For unit tests: a database in a file of its own, with the application's connection to it. Removed when dropped.

use crate::base::files;
use rusqlite::Connection;
use std::path::PathBuf;

pub struct Scratch {
    pub path: PathBuf,
    pub app: Connection,
}

impl Scratch {
    /// A database in WAL mode with our tables, and without capture.
    pub fn new(name: &str, sql: &str) -> Scratch {
        Scratch::with_first(name, &format!("PRAGMA journal_mode=WAL; {sql}"))
    }

    /// The same where `sql` comes before everything else, as the choice of an encoding must.
    pub fn with_first(name: &str, sql: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("harmonylite-unit-{name}-{}.db", std::process::id()));
        remove(&path);
        let app = Connection::open(&path).unwrap();
        // Nothing here survives a crash, so nothing needs to be synced.
        app.execute_batch(&format!("PRAGMA synchronous=OFF; {sql}; PRAGMA journal_mode=WAL")).unwrap();
        crate::db::apply::ensure_state(&path).unwrap();
        Scratch { path, app }
    }

    /// One value as SQL text.
    pub fn value(&self, sql: &str) -> String {
        self.app.query_row(&format!("SELECT quote(({sql}))"), [], |row| row.get(0)).unwrap()
    }
}

fn remove(path: &std::path::Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(files::beside(path, suffix));
    }
    // A copy of it that some tests make.
    let _ = std::fs::remove_file(path.with_extension("agreed"));
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.path);
    }
}
