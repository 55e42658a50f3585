//! What lies on this machine: the database, its directory and file system, permissions, room, memory, the clock, another daemon.

use super::Report;
use crate::base::stop::Stop;
use crate::base::{clock, files};
use crate::config::Config;
use crate::db::{self, JournalMode, Look, Seen};
use crate::operate::words::bytes;
use rustix::fs::Access;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// From this size on, indexes are not compared with their tables: that may take minutes.
const THOROUGH: u64 = 256 << 20;
/// Free bytes that a disk should have at least.
const FREE: u64 = 64_000_000;
/// Available memory that a machine should have at least.
const MEMORY: u64 = 32_000_000;

/// Looks at all of it.
pub fn look(config: &Config, report: &mut Report, stop: &Stop) {
    let runs = matches!(files::Lock::try_take_existing(&config.lock_path()), Ok(None));
    daemon(config, report, runs);
    directory(config, report);
    database(config, report, stop);
    room(config, report);
    memory(report);
    time(report);
}

fn daemon(config: &Config, report: &mut Report, runs: bool) {
    if !runs {
        report.good("daemon", "none runs on this database now");
        return;
    }
    match crate::operate::socket::ask(&config.socket_path()) {
        Err(error) => report.look(
            "daemon",
            format!("one runs on this database, and does not tell its status: {error}"),
            "wait if it is starting; an earlier version cannot tell",
        ),
        Ok(text) => {
            let status: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            let problems = status["node"]["problems"].as_array().cloned().unwrap_or_default();
            if problems.is_empty() {
                report.good("daemon", "one runs on this database, and is healthy");
            }
            for problem in problems.iter().filter_map(serde_json::Value::as_str) {
                report.look("daemon", problem, "-status shows more");
            }
        }
    }
}

/// What the kernel calls file systems; see `statfs(2)`.
fn file_system(path: &Path) -> Option<(&'static str, bool)> {
    let kind = rustix::fs::statfs(path).ok()?.f_type;
    let known = [
        (0x6969, "NFS", true),
        (0xff53_4d42, "CIFS", true),
        (0xfe53_4d42, "SMB", true),
        (0x517b, "SMB", true),
        (0x0102_1997, "9P", true),
        (0x7375_7245, "Coda", true),
        (0x0bd0_0bd0, "Lustre", true),
        (0x00c3_6400, "Ceph", true),
        (0x0102_1994, "tmpfs", false),
        (0x8584_58f6, "ramfs", false),
    ];
    #[allow(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "these numbers have 32 bits")]
    let kind = kind as u32;
    known.iter().find(|(number, ..)| *number == kind).map(|(_, name, network)| (*name, *network))
}

fn directory(config: &Config, report: &mut Report) {
    let dir = files::parent(&config.db_path);
    let shown = dir.display();
    if !dir.is_dir() {
        let advice = "make it, or mount the disk: the daemon waits for it";
        return report.broken("directory", format!("{shown}: no such directory"), advice);
    }
    match file_system(&dir) {
        Some((name, true)) => report.broken(
            "file system",
            format!("{shown} is on {name}, where SQLite's WAL does not work"),
            "put the database on a disk of this machine",
        ),
        Some((name, false)) => report.look(
            "file system",
            format!("{shown} is on {name}: the database is gone after a restart of the machine"),
            "fine if it is meant so: a node without a database restores a snapshot",
        ),
        None => report.good("file system", format!("{shown} is on this machine")),
    }
    if rustix::fs::access(&dir, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        report.broken(
            "permissions",
            format!("{shown}: not writable by this user"),
            "SQLite makes files beside the database: give the directory to this user or its group",
        );
    } else if std::fs::metadata(&dir).is_ok_and(|meta| meta.mode() & 0o1002 == 0o002) {
        report.look("permissions", format!("{shown}: every user may replace files there"), "chmod o-w it");
    } else {
        report.good("permissions", format!("{shown}: writable"));
    }
}

fn database(config: &Config, report: &mut Report, stop: &Stop) {
    let (path, shown) = (&config.db_path, config.db_path.display());
    // Before anything opens it: that would drop SQLite's locks later.
    let (seen, writer) = (db::look(path), db::writer_of(path));
    match seen {
        Ok(Seen::Database) => {}
        Ok(Seen::Nothing) => {
            let text = format!("{shown}: there is none yet");
            let advice = "start the application first, or let the daemon restore a snapshot";
            return report.look("database", text, advice);
        }
        Ok(Seen::Another) => {
            let text = format!("{shown}: this is no SQLite database");
            return report.broken("database", text, "correct db_path");
        }
        Err(error) => {
            let text = format!("{shown}: {error}");
            return report.broken("database", text, "let this user read and write it");
        }
    }
    if rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK).is_err() {
        let text = format!("{shown}: this user may not read and write it");
        return report.broken("database", text, "run as the application's user, or as one of its group");
    }
    let size = std::fs::metadata(path).map_or(0, |meta| meta.len());
    let version =
        |number: u32| format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000);
    let writer = if writer > 0 { version(writer) } else { "an unknown version".to_owned() };
    report.good("SQLite", format!("ours is {}; {writer} wrote the database last", db::sqlite_version()));
    match db::examine(path) {
        Ok(found) => examined(config, report, &found),
        Err(error) => {
            let advice = "if it is damaged, the daemon recovers it from a snapshot";
            return report.broken("database", format!("{shown}: {error}"), advice);
        }
    }
    let (look, word) = if size < THOROUGH { (Look::Everything, "all") } else { (Look::Pages, "pages") };
    match db::find_damage(path, look, stop) {
        Ok(found) if found.damage.is_empty() => {
            report.good("integrity", format!("{}, {word} checked", bytes(&size.into())));
            for warning in found.warnings {
                report.look("integrity", warning, "build that index anew ('rebuild')");
            }
        }
        Ok(found) => {
            let first = found.damage.first().cloned().unwrap_or_default();
            report.broken("integrity", first, "start the daemon: it recovers the database from a snapshot");
        }
        Err(error) => report.look("integrity", error.to_string(), "try again later"),
    }
}

fn examined(config: &Config, report: &mut Report, found: &db::Examined) {
    match (found.journal_mode.as_str(), config.journal_mode) {
        ("wal", _) => report.good("journal mode", "WAL"),
        (mode, JournalMode::Switch) => report.look(
            "journal mode",
            format!("{mode}: the daemon switches it to WAL when it starts"),
            "an application that sets a journal mode at each open must set WAL, or none",
        ),
        (mode, JournalMode::Refuse) => report.broken(
            "journal mode",
            format!("{mode}, and journal_mode = \"refuse\""),
            "switch it: PRAGMA journal_mode=WAL",
        ),
    }
    if found.tables == 0 {
        report.look("tables", "none that could be replicated", "let the application make its tables");
    } else {
        report.good("tables", format!("{} are replicated", found.tables));
    }
    for (table, why) in &found.left_out {
        report.look("tables", format!("{table} is not replicated: {why}"), "see -help promises");
    }
    for warning in &found.same_keys {
        report.look("keys", warning, "see -help conflicts");
    }
}

fn room(config: &Config, report: &mut Report) {
    let size = std::fs::metadata(&config.db_path).map_or(0, |meta| meta.len());
    let temporary = config.temp_dir();
    let mut places = vec![("disk", files::parent(&config.db_path))];
    if temporary != places[0].1 {
        places.push(("disk (temp)", temporary));
    }
    for (what, dir) in places {
        let shown = dir.display();
        match files::free_space(&dir) {
            // A snapshot is a copy of the database; its proof takes two.
            Ok(free) if free < FREE.max(size.saturating_mul(2)) => report.look(
                what,
                format!("{} free in {shown}, for a database of {}", bytes(&free.into()), bytes(&size.into())),
                "a snapshot needs as much as the database, and the WAL some more: make room, or set snapshot.temp_dir",
            ),
            Ok(free) => report.good(what, format!("{} free in {shown}", bytes(&free.into()))),
            Err(error) => report.broken(what, format!("{shown}: {error}"), "make the directory"),
        }
        let read_only = rustix::fs::statvfs(&dir)
            .is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
        if read_only {
            report.broken(what, format!("{shown}: mounted read-only"), "mount it to be written");
        }
    }
}

fn memory(report: &mut Report) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    match kib.map(|kib| kib * 1024) {
        Some(free) if free < MEMORY => report.look(
            "memory",
            format!("{} available", bytes(&free.into())),
            "the daemon takes about 10 MB, and more for large transactions",
        ),
        Some(free) => report.good("memory", format!("{} available", bytes(&free.into()))),
        None => report.good("memory", "the kernel does not say how much is available"),
    }
}

/// The clock decides nothing but the ages of snapshots; with TLS, a wrong one makes certificates invalid.
fn time(report: &mut Report) {
    /// 2025-01-01.
    const EARLIEST_MS: i64 = 1_735_689_600_000;
    let now = clock::unix_ms();
    if now < EARLIEST_MS {
        let text = format!("{}: the clock is not set", clock::console(now));
        report.broken("clock", text, "set it (NTP): TLS and the ages of snapshots need it");
    } else {
        report.good("clock", clock::console(now));
    }
}
