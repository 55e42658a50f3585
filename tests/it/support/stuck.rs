//! What the processes of a test are doing: told when it waits in vain, and when it does not end at all.

use super::signal;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// No test of CI takes so long.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// The directories of the tests that run, and since when.
static RUNNING: LazyLock<Mutex<HashMap<PathBuf, Instant>>> = LazyLock::new(|| {
    // Whoever sets one of these wants a long run.
    let is_long = ["HARMONYLITE_CHAOS", "HARMONYLITE_BENCH_MB", "HARMONYLITE_FUZZ_MINUTES"]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    if !is_long {
        std::thread::spawn(watch);
    }
    Mutex::default()
});

fn running() -> std::sync::MutexGuard<'static, HashMap<PathBuf, Instant>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A test with this directory has begun.
pub fn begun(directory: &Path) {
    running().insert(directory.to_owned(), Instant::now());
}

/// It has ended.
pub fn ended(directory: &Path) {
    running().remove(directory);
}

/// Ends the run when a test does not end: whoever waits for it learns nothing.
fn watch() {
    loop {
        std::thread::sleep(Duration::from_secs(10));
        let late: Vec<PathBuf> = running()
            .iter()
            .filter(|(_, since)| since.elapsed() > PATIENCE)
            .map(|(path, _)| path.clone())
            .collect();
        if late.is_empty() {
            continue;
        }
        eprintln!("tests that do not end: {late:?}\n{}", doings());
        for pid in descendants(std::process::id()) {
            signal(pid, "KILL");
        }
        std::process::exit(101);
    }
}

/// A line for each process that the tests have started, with what each of its threads waits for in the kernel.
pub fn doings() -> String {
    let mut told = format!("disk stalls: {}", read_to_string("/proc/pressure/io").unwrap_or_default());
    for pid in std::iter::once(std::process::id()).chain(descendants(std::process::id())) {
        let command = read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
        let _ = write!(told, "{pid} {}:", command.chars().take(160).collect::<String>());
        for task in tasks(pid) {
            let of =
                |what: &str| read_to_string(format!("/proc/{pid}/task/{task}/{what}")).unwrap_or_default();
            let stat = of("stat");
            let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?');
            let call = of("syscall").split(' ').next().unwrap_or_default().trim().to_owned();
            let _ = write!(told, " {} {state} {} {call};", of("comm").trim(), of("wchan"));
        }
        told.push('\n');
    }
    told
}

fn tasks(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![];
    for task in tasks(pid) {
        let children = read_to_string(format!("/proc/{pid}/task/{task}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            found.push(child);
            found.extend(descendants(child));
        }
    }
    found
}

#[test]
fn what_a_process_waits_for_is_told() {
    let process = super::Process::start(std::process::Command::new("sleep").arg("60"));
    super::wait_for("it sleeps", 10, || {
        doings().lines().any(|line| line.contains("sleep 60 : sleep S")).then_some(())
    });
    drop(process);
}
