//! Stopping: a token that every waiting thread looks at. Stop is the disconnection of a channel, so it can be selected on.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use std::time::Duration;

/// Nothing is ever sent: only the disconnection means something.
#[derive(Debug)]
pub enum Never {}

/// Dropping it stops everything that holds a [`Stop`] of it.
#[derive(Debug)]
pub struct StopSource(Sender<Never>);

/// What a worker holds to learn that it should end.
#[derive(Clone, Debug)]
pub struct Stop(Receiver<Never>);

/// A new source and its token.
pub fn pair() -> (StopSource, Stop) {
    let (sender, receiver) = bounded(0);
    (StopSource(sender), Stop(receiver))
}

impl StopSource {
    /// Says stop.
    pub fn stop(self) {
        drop(self.0);
    }
}

impl Stop {
    /// Whether stop was said.
    pub fn requested(&self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Waits for at most `pause`; true when stop was said meanwhile.
    pub fn wait(&self, pause: Duration) -> bool {
        matches!(self.0.recv_timeout(pause), Err(RecvTimeoutError::Disconnected))
    }

    /// For `select!`: disconnected means stop.
    pub fn receiver(&self) -> &Receiver<Never> {
        &self.0
    }
}

/// Waits without anything that could end the wait: for pauses of a few seconds inside one transfer.
pub fn pause(duration: Duration) {
    let _ = crossbeam_channel::after(duration).recv();
}
