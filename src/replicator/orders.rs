//! What the follower tells the publisher.

use crossbeam_channel::{Receiver, Sender, bounded};

/// One thing that it tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// All that was in the streams at the start is applied: publish.
    Start,
    /// A stream lost what we had published: publish again what has not come back.
    Rewind,
}

/// What others hold of the publisher.
#[derive(Clone)]
pub struct Handle {
    commands: Sender<Command>,
    wake: Sender<()>,
}

/// The other end of a [`Handle`].
pub struct Orders {
    pub commands: Receiver<Command>,
    pub wake: Receiver<()>,
}

/// A handle and its orders.
pub fn orders() -> (Handle, Orders) {
    // The follower says Start once, and Rewind once for each change of a stream; one that finds no room is said again.
    let (commands, obeyed) = bounded(4);
    // Level-triggered: one token is as good as many.
    let (wake, woken) = bounded(1);
    (Handle { commands, wake }, Orders { commands: obeyed, wake: woken })
}

impl Handle {
    /// The application has committed, or the follower has made log entries or progress.
    pub fn wake(&self) {
        // Full: the publisher has not seen the last one yet.
        let _ = self.wake.try_send(());
    }

    /// Everything may be published from now on.
    pub fn start(&self) {
        let _ = self.commands.try_send(Command::Start);
    }

    /// What has not come back is to be published again. False: say it again later.
    pub fn rewind(&self) -> bool {
        let said = self.commands.try_send(Command::Rewind).is_ok();
        if said {
            self.wake();
        }
        said
    }
}
