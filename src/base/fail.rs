//! Fail points: places between two steps at which a test lets the process die by SIGKILL. Only builds with the
//! feature `failpoints` have them. Tests switch it on (by a dev-dependency of this package on itself), and nothing else does.

/// All of them, in the order of a row's way from the change log into the database of another node.
#[cfg(feature = "failpoints")]
pub const POINTS: &[&str] = &[
    "log read",
    "set encoded",
    "message handed over",
    "bytes written to the broker",
    "acknowledgement received",
    "acknowledgement noted",
    "message received",
    "message queued",
    "batch decoded",
    "transaction asked for",
    "transaction begun",
    "schema and log caught up",
    "lost write kept",
    "row written",
    "row logged",
    "echo settled",
    "rows written",
    "checkpoint written",
    "moment written",
    "marks written",
    "keys taken",
    "log written back",
    "committed",
    "applied noted",
    "sequence map written",
];

/// Which point, in which of its passes, ends the process.
#[cfg(feature = "failpoints")]
const VARIABLE: &str = "HARMONYLITE_FAIL_POINT";

/// Ends the process here, if the environment says `NAME:N` and it is the Nth time.
#[cfg(feature = "failpoints")]
pub fn point(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static WANTED: LazyLock<Option<(String, u64)>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (name, count) = text.rsplit_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    static PASSES: AtomicU64 = AtomicU64::new(0);
    let Some((wanted, count)) = &*WANTED else { return };
    if wanted == name && PASSES.fetch_add(1, Ordering::Relaxed) + 1 == *count {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // Nothing more may happen in this thread until the kernel has ended it.
        loop {
            std::thread::park();
        }
    }
}

/// Nothing, in what is shipped.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn point(_: &str) {}
