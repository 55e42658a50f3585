//! Threads with a name, joined by the one that started them. None of them dies in silence: each reports its end.

use crate::base::error::Error;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::thread::JoinHandle;
use std::time::Instant;

/// Places in the queue of ended workers: more than one owner ever starts between two looks at the queue. A worker that
/// finds it full waits with its last breath, and nothing else waits for it.
const PLACES: usize = 32;

/// The end of a worker.
#[derive(Debug)]
pub struct Exit {
    /// The thread's name.
    pub name: &'static str,
    /// How it ended.
    pub result: Result<(), Error>,
}

/// The threads that one owner has started, and the queue in which they report their ends.
#[derive(Debug)]
pub struct Workers {
    running: Vec<(&'static str, JoinHandle<()>)>,
    exits: Sender<Exit>,
    ended: Receiver<Exit>,
}

impl Default for Workers {
    fn default() -> Workers {
        let (exits, ended) = bounded(PLACES);
        Workers { running: vec![], exits, ended }
    }
}

impl Workers {
    /// Starts a named thread.
    #[allow(clippy::disallowed_methods, reason = "the one place that makes threads")]
    pub fn spawn(
        &mut self,
        name: &'static str,
        body: impl FnOnce() -> Result<(), Error> + Send + 'static,
    ) -> Result<(), Error> {
        let exits = self.exits.clone();
        let started = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let result = body();
            // The receiver is gone when the owner is: nobody is left to tell.
            let _ = exits.send(Exit { name, result });
        });
        let handle = started.map_err(|error| Error::local(format!("start thread {name}: {error}")))?;
        self.running.push((name, handle));
        Ok(())
    }

    /// The queue of ends, for `select!`; what comes out of it goes to [`Workers::note`].
    pub fn ended(&self) -> &Receiver<Exit> {
        &self.ended
    }

    /// Takes note of an end: the thread is joined.
    pub fn note(&mut self, exit: &Exit) {
        if let Some(at) = self.running.iter().position(|(name, _)| *name == exit.name) {
            let (_, handle) = self.running.swap_remove(at);
            // It has reported, so this takes no time; a panic would have ended the process.
            let _ = handle.join();
        }
    }

    /// Waits until all workers have ended, at most until `deadline`; logs why any of them failed. Returns the names of those
    /// that are still running.
    pub fn wait(&mut self, deadline: Instant) -> Vec<&'static str> {
        while !self.running.is_empty() {
            let Ok(exit) = self.ended.recv_deadline(deadline) else { break };
            self.note(&exit);
            if let Err(why) = exit.result {
                log::warn!("{}: {why}", exit.name);
            }
        }
        self.running.iter().map(|(name, _)| *name).collect()
    }
}

/// A panic is a bug: one line with the thread's name, then the process ends and its supervisor starts it again.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        log::error!("panic in thread {}: {info}", thread.name().unwrap_or("?"));
        std::process::abort();
    }));
}

/// Starts a named thread inside a scope, which waits for its end. The error: the system has no thread to give.
#[allow(clippy::disallowed_methods, reason = "the one file that makes threads")]
pub fn spawn_scoped<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    name: &'static str,
    body: impl FnOnce() + Send + 'scope,
) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, body).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::stop;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[test]
    fn all_that_were_started_are_waited_for() {
        let (source, token) = stop::pair();
        let mut workers = Workers::default();
        for name in ["one", "two"] {
            let token = token.clone();
            let body = move || {
                token.wait(Duration::from_secs(60));
                Ok(())
            };
            workers.spawn(name, body).unwrap();
        }
        assert_eq!(workers.wait(Instant::now()), ["one", "two"]);
        source.stop();
        assert!(workers.wait(soon()).is_empty());
    }

    #[test]
    fn an_end_that_was_seen_is_not_waited_for_again() {
        let mut workers = Workers::default();
        workers.spawn("short", || Err(Error::local("broken"))).unwrap();
        let exit = workers.ended().recv_deadline(soon()).unwrap();
        assert_eq!((exit.name, exit.result.as_ref().unwrap_err().to_string().as_str()), ("short", "broken"));
        workers.note(&exit);
        assert!(workers.wait(Instant::now()).is_empty());
    }

    #[test]
    fn the_end_of_one_owners_worker_is_no_news_to_another() {
        let (source, token) = stop::pair();
        let (mut first, second) = (Workers::default(), Workers::default());
        first
            .spawn("late", move || {
                token.wait(Duration::from_secs(60));
                Ok(())
            })
            .unwrap();
        source.stop();
        assert!(first.wait(soon()).is_empty());
        assert!(second.ended().try_recv().is_err());
    }
}
