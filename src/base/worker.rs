//! Threads with a name that never die in silence: each reports its end to the daemon.

use crossbeam_channel::Sender;
use std::thread::JoinHandle;

/// The end of a worker: its name and, if it failed, why.
#[derive(Debug)]
pub struct Exit {
    /// The thread's name.
    pub name: &'static str,
    /// How it ended.
    pub result: Result<(), String>,
}

/// Starts a named thread. Its end is sent to `exits`, whose queue holds one place per worker.
#[allow(clippy::disallowed_methods, reason = "the one place that makes threads")]
pub fn spawn(
    name: &'static str,
    exits: &Sender<Exit>,
    body: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> Result<JoinHandle<()>, String> {
    let exits = exits.clone();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let result = body();
            // The receiver is gone only when the daemon has ended: nobody is left to tell.
            let _ = exits.send(Exit { name, result });
        })
        .map_err(|error| format!("start thread {name}: {error}"))
}

/// A panic is a bug: one line with the thread's name, then the process ends and its supervisor starts it again.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        log::error!("panic in thread {}: {info}", thread.name().unwrap_or("?"));
        std::process::abort();
    }));
}
