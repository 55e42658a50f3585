//! The lookout: sees what no worker would meet before long. A full disk, little memory, somebody who keeps the write lock, a wrong clock, a broker
//! that is there and does not answer, a store that is away: a quiet node would find out with the next write, or the next snapshot.
//!
//! While somebody looks at this node all is looked at, a few times a second what costs nothing; else seldom.

mod broker;
mod machine;
mod memory;
mod store;

use crate::base::{error::Error, limits, stop::Stop, worker::Workers};
use crate::nats::JetStream;
use crate::operate::{Looker, View};
use crate::storage::OpenStore;
use broker::BrokerLook;
use crossbeam_channel::select;
use machine::MachineLook;
use memory::MemoryLook;
use std::time::Instant;
use store::StoreLook;

/// Starts the thread. `open_store`: the store, if it is to be asked.
pub fn start(
    view: &View,
    js: &JetStream,
    open_store: Option<OpenStore>,
    stop: &Stop,
    workers: &mut Workers,
) -> Result<(), Error> {
    let (mut machine, mut memory) = (MachineLook::new(view), MemoryLook::new(view));
    let mut broker = BrokerLook::new(view, js);
    let mut store = open_store.map(|open| StoreLook::start(view, open, stop, workers)).transpose()?;
    let (view, stop) = (view.clone(), stop.clone());
    workers.spawn("lookout", move || {
        loop {
            let now = Instant::now();
            if stop.requested() {
                view.usage.count(&view);
                view.usage.store(&view, true, now);
                return Ok(());
            }
            let is_looked_at = view.lookout.is_looked_at(Looker::Program, now);
            machine.look(now);
            memory.look();
            broker.look(is_looked_at, now);
            if let Some(store) = &mut store {
                store.look(&view.lookout, now);
            }
            view.lookout.has_looked(now);
            view.usage.count(&view);
            view.usage.store(&view, false, now);
            let pause = match is_looked_at {
                true => limits::LOOKOUT_ROUND,
                false if broker.fails => limits::LOOKOUT_FAILING,
                false => limits::LOOKOUT_REST,
            };
            select! {
                recv(stop.receiver()) -> _ => {}
                recv(view.lookout.woken()) -> _ => {}
                default(pause) => {}
            }
            // Many who look at once are served by one round.
            stop.wait(limits::LOOKOUT_SPACING.saturating_sub(now.elapsed()));
        }
    })
}
