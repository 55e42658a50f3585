//! Stopping: a token that every waiting thread looks at. A stop is the disconnection of a channel, so that it can be one of
//! several things that a thread waits for.

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use std::convert::Infallible;
use std::time::Duration;

/// Dropping it stops everything that holds a [`Stop`] of it.
#[derive(Debug)]
pub struct StopSource(Sender<Infallible>);

/// What a worker holds to learn that it should end. Nothing is ever sent: only the disconnection means something.
#[derive(Clone, Debug)]
pub struct Stop(Receiver<Infallible>);

/// A new source and its token.
pub fn pair() -> (StopSource, Stop) {
    let (sender, receiver) = bounded(0);
    (StopSource(sender), Stop(receiver))
}

impl StopSource {
    /// Requests the stop.
    pub fn stop(self) {
        drop(self.0);
    }
}

impl Stop {
    /// Whether a stop was requested.
    pub fn requested(&self) -> bool {
        matches!(self.0.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Waits for at most `pause`. True: a stop was requested before it was over.
    pub fn wait(&self, pause: Duration) -> bool {
        matches!(self.0.recv_timeout(pause), Err(RecvTimeoutError::Disconnected))
    }

    /// For `select!`: its disconnection is the stop.
    pub fn receiver(&self) -> &Receiver<Infallible> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_stop_reaches_every_token_and_every_wait() {
        let (source, one) = pair();
        let two = one.clone();
        assert!(!one.requested() && !two.wait(Duration::ZERO));
        source.stop();
        let begun = Instant::now();
        assert!(one.requested() && two.wait(Duration::from_secs(60)));
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[test]
    fn a_source_that_is_dropped_stops_as_well() {
        let (source, token) = pair();
        drop(source);
        assert!(token.requested());
    }
}
