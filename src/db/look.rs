//! What lies at the database's path, found out without changing it: before the broker has let this node in, and before it is
//! sure that the file is a database, nothing is written to it.

use crate::base::{files, limits};
use crate::db::{error::Error, open, ours};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// How each SQLite database begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Nothing,
    /// A database, be it damaged or of 0 bytes.
    Database,
    /// No database: a file that begins otherwise and has no WAL, or no file at all.
    Another,
}

/// Looks at the first bytes of a file. No connection of this process may have it open: closing the file would drop SQLite's
/// locks.
pub fn look(path: &Path) -> io::Result<Seen> {
    // Before it is opened: that would wait for a writer when it is a pipe.
    let meta = match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Seen::Nothing),
        other => other?,
    };
    if !meta.is_file() {
        return Ok(Seen::Another);
    }
    let mut begin = vec![];
    File::open(path)?.take(MAGIC.len() as u64).read_to_end(&mut begin)?;
    let known = begin.is_empty() || begin == MAGIC || open::wal_page_size(path).is_some();
    Ok(if known { Seen::Database } else { Seen::Another })
}

/// Which SQLite wrote the header of the database at `path` last, as SQLite numbers itself; 0: not known. No connection of this process may
/// have it open, as for [`look`]. Layout: <https://www.sqlite.org/fileformat2.html#validfor>.
pub fn writer_of(path: &Path) -> u32 {
    let mut header = [0; 100];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut header));
    let version = u32::from_be_bytes([header[96], header[97], header[98], header[99]]);
    if read.is_ok() && header.starts_with(MAGIC) { version } else { 0 }
}

/// Whether the database at `path` has tables of ours, or of the Go program. Nothing is written to it, not even by the checkpoint with which SQLite
/// closes a database; one that cannot be read has none.
pub fn is_known(path: &Path) -> bool {
    let look = || -> Result<bool, Error> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.busy_timeout(limits::BUSY_TIMEOUT)?;
        ours::has_own_table(&connection)
    };
    look().unwrap_or(false)
}

/// Whether the application has made a table, of whatever kind, in the database at `path`. One without any counts as none.
pub fn holds_tables(path: &Path) -> Result<bool, Error> {
    ours::has_foreign_table(&open::open(path)?)
}

/// What tells that a database or its WAL was written: lengths and times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark([Option<(u64, Option<std::time::SystemTime>)>; 2]);

/// The present mark. Opens nothing.
pub fn mark(path: &Path) -> Mark {
    Mark(["", "-wal"].map(|suffix| {
        let meta = std::fs::metadata(files::beside(path, suffix)).ok()?;
        Some((meta.len(), meta.modified().ok()))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::scratch::Scratch;
    use crate::db::state;

    #[test]
    fn a_database_is_known_by_its_first_bytes_or_its_wal() {
        let scratch = Scratch::new("look");
        let path = scratch.path("app.db");
        assert_eq!(look(&path).unwrap(), Seen::Nothing);
        assert_eq!(look(scratch.dir()).unwrap(), Seen::Another);
        for (content, seen) in [
            (&b""[..], Seen::Database),
            (b"S", Seen::Another),
            (b"SQLite format 3 is what this text is about", Seen::Another),
            (b"SQLite format 3\0and then garbage", Seen::Database),
            (&[0; 8192], Seen::Another),
        ] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(look(&path).unwrap(), seen, "{content:?}");
        }
        // The header is gone, and the WAL tells what the file was.
        let other = scratch.path("other.db");
        let connection = Connection::open(&other).unwrap();
        connection.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(a)").unwrap();
        std::fs::copy(files::beside(&other, "-wal"), files::beside(&path, "-wal")).unwrap();
        assert_eq!(look(&path).unwrap(), Seen::Database);
    }

    #[test]
    fn a_look_waits_for_nobody() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let scratch = Scratch::new("look-pipe");
        let path = scratch.path("app.db");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (sender, seen) = crossbeam_channel::bounded(1);
        std::thread::scope(|scope| {
            scope.spawn(|| sender.send(look(&path).unwrap()).unwrap());
            let seen = seen.recv_timeout(std::time::Duration::from_secs(10));
            // Whoever waits there goes on.
            File::options().read(true).write(true).open(&path).unwrap();
            assert_eq!(seen, Ok(Seen::Another));
        });
    }

    /// A WAL that a killed application left is not copied back by a look.
    #[test]
    fn a_look_changes_no_byte() {
        let scratch = Scratch::new("look-bytes");
        let (from, path) = (scratch.path("from.db"), scratch.path("app.db"));
        let connection = Connection::open(&from).unwrap();
        let sql = "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a); INSERT INTO t VALUES(1)";
        connection.execute_batch(sql).unwrap();
        for suffix in ["", "-wal"] {
            std::fs::copy(files::beside(&from, suffix), files::beside(&path, suffix)).unwrap();
        }
        let bytes = || ["", "-wal"].map(|suffix| std::fs::read(files::beside(&path, suffix)).unwrap());
        let before = bytes();
        assert!(!before[1].is_empty());
        assert!(!is_known(&path));
        assert_eq!(bytes(), before);
        state::create(&connection).unwrap();
        assert!(is_known(&from));
        assert!(!is_known(&scratch.path("none.db")) && !scratch.path("none.db").exists());
    }

    #[test]
    fn only_tables_of_the_application_count() {
        let scratch = Scratch::new("look-tables");
        let path = scratch.path("app.db");
        std::fs::write(&path, b"").unwrap();
        assert!(!holds_tables(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        state::create(&connection).unwrap();
        let ours =
            "CREATE TABLE __harmonylite__x(a INTEGER PRIMARY KEY AUTOINCREMENT); CREATE VIEW v AS SELECT 1";
        connection.execute_batch(ours).unwrap();
        assert!(!holds_tables(&path).unwrap());
        connection.execute_batch("CREATE TABLE t(a)").unwrap();
        assert!(holds_tables(&path).unwrap());
    }
}
