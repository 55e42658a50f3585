//! A database of which the file header alone is damaged. Nothing else in the file says where its pages begin, so SQLite reads
//! none of it. A copy with another header shows what is in it. Layout of the header:
//! <https://www.sqlite.org/fileformat2.html#the_database_header>.

use crate::base::files;
use crate::base::temporary::Temporary;
use crate::db::{error::Error, open, writable};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::SystemTime;

/// Length of the header in bytes.
const LENGTH: usize = 100;
/// Two bytes; 1 stands for 65,536.
const PAGE_SIZE: Range<usize> = 16..18;
/// Versions for writing and reading. 2 means WAL mode, which every database that we captured was in.
const VERSIONS: Range<usize> = 18..20;
/// Number of pages.
const PAGES: Range<usize> = 28..32;
/// First page of the freelist and number of its pages. Reading does not need what is free.
const FREELIST: Range<usize> = 32..40;
/// Not 0 in a database with auto_vacuum, whose pointer maps reading does not need either.
const AUTO_VACUUM: Range<usize> = 52..56;

/// A copy of a damaged database that can be read.
pub struct Rebuilt {
    copy: Temporary,
    /// Length and time of the WAL beside the damaged file before it was copied. A connection that knows page 1 may still write
    /// there, but not for long: as soon as its rows, or those of the log, need another page, page 1 is written to the WAL, and
    /// the file can be read again.
    wal: Option<(u64, SystemTime)>,
}

impl Rebuilt {
    /// Copies a damaged database and gives the copy the header of `model`, which has the same schema. `None` when there is no
    /// room, or when more is damaged than the header.
    pub fn make(damaged: &Path, model: &Path) -> Result<Option<Rebuilt>, Error> {
        keep_wal_mode(damaged)?;
        let wal = wal_state(damaged);
        let length = std::fs::metadata(damaged).map_err(|error| disk(damaged, &error))?.len();
        if files::free_space(&files::parent(damaged)).is_ok_and(|free| free < length) {
            return Ok(None);
        }
        let copy = Temporary::new(&files::parent(damaged), damaged, "rebuilt")
            .map_err(|error| disk(damaged, &error))?;
        for suffix in ["", "-wal"] {
            let from = files::beside(damaged, suffix);
            if from.exists() {
                std::fs::copy(&from, files::beside(copy.path(), suffix))
                    .map_err(|error| disk(&from, &error))?;
            }
        }
        let mut header = [0; LENGTH];
        File::open(model)
            .and_then(|file| file.read_exact_at(&mut header, 0))
            .map_err(|error| disk(model, &error))?;
        header[VERSIONS].fill(2);
        header[FREELIST].fill(0);
        header[AUTO_VACUUM].fill(0);
        let likely = page_size(&header);
        let others = (9..=16).map(|bits| 1 << bits).filter(|size| *size != likely);
        for size in std::iter::once(likely).chain(others) {
            let pages = u32::try_from(length / u64::from(size)).unwrap_or(u32::MAX);
            header[PAGE_SIZE].copy_from_slice(&u16::try_from(size).unwrap_or(1).to_be_bytes());
            header[PAGES].copy_from_slice(&pages.to_be_bytes());
            File::options()
                .write(true)
                .open(copy.path())
                .and_then(|file| file.write_all_at(&header, 0))
                .map_err(|error| disk(damaged, &error))?;
            match is_whole(copy.path()) {
                Ok(true) => return Ok(Some(Rebuilt { copy, wal })),
                Ok(false) | Err(Error::Corrupt(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    pub fn path(&self) -> &Path {
        self.copy.path()
    }

    /// Whether nothing was written to the damaged database since it was copied.
    pub fn is_up_to_date(&self, damaged: &Path) -> bool {
        self.wal == wal_state(damaged)
    }
}

/// Without a header, SQLite takes a database for one in WAL mode only if its WAL holds anything. In any other mode the
/// replacement would need the file for itself, which no application with an open connection grants. So an empty WAL gets a
/// byte. That harms nobody: it is appended, so it comes after everything that is there; the next writer overwrites it; and a
/// process that reads the WAL for a recovery takes it for the end.
pub fn keep_wal_mode(path: &Path) -> Result<(), Error> {
    let path = files::beside(path, "-wal");
    let append = || -> std::io::Result<()> {
        let mut wal = std::fs::OpenOptions::new().append(true).open(&path)?;
        if wal.metadata()?.len() == 0 {
            wal.write_all(&[0])?;
        }
        Ok(())
    };
    match append() {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(disk(&path, &error)),
        _ => Ok(()),
    }
}

fn page_size(header: &[u8; LENGTH]) -> u32 {
    match u16::from_be_bytes([header[PAGE_SIZE.start], header[PAGE_SIZE.start + 1]]) {
        1 => 1 << 16,
        size => u32::from(size),
    }
}

/// Whether every page that is not free can be read and is where it should be. The lines are those of SQLite's `quick_check`:
/// a heading begins with `***` (its pragma.c), and a page that nothing refers to is reported as "Page N: never used" (its
/// btree.c), which is all that the missing freelist causes.
fn is_whole(path: &Path) -> Result<bool, Error> {
    let connection = open::open(path)?;
    let mut statement = match connection.prepare("PRAGMA quick_check(10)") {
        // SQLite has read the schema, and lacks a function or a collation of the application's.
        Err(error) if writable::is_of_statement(&error) => return Ok(true),
        other => other?,
    };
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let told: String = row.get(0)?;
        if told != "ok" && !told.lines().all(|line| line.starts_with("***") || line.ends_with("never used")) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn wal_state(path: &Path) -> Option<(u64, SystemTime)> {
    let meta = std::fs::metadata(files::beside(path, "-wal")).ok()?;
    Some((meta.len(), meta.modified().ok()?))
}

fn disk(path: &Path, error: &std::io::Error) -> Error {
    Error::Disk(format!("{}: {error}", path.display()))
}
