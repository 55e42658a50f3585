//! Finding out that another running daemon has this node's `node_id`: a cloned machine, a copied configuration.
//!
//! Each daemon says now and then, on a subject of its node, that it is there: who hears somebody else there has a namesake.
//! Rows survive that (events carry the database's incarnation), but leases and people take the two for one.

use crate::base::{limits, retry, stop::Stop, worker};
use crate::config::Config;
use crate::nats::Connection;
use crate::operate::board::Status;
use crossbeam_channel::{Sender, bounded, select};
use serde_json::json;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

/// Messages that wait to be looked at; one that finds no room comes again.
const QUEUE: usize = 16;

/// Starts the thread that speaks and listens.
pub fn start(
    config: &Config,
    connection: &Connection,
    status: &Arc<Status>,
    stop: &Stop,
    exits: &Sender<worker::Exit>,
) -> Result<(), String> {
    let subject = format!("{}.node.{}", config.nats.stream_prefix, config.node_id);
    let (connection, status, stop) = (connection.clone(), status.clone(), stop.clone());
    let me = format!("{:016x}", retry::random_u64());
    let place = format!("{} (process {})", config.db_path.display(), std::process::id());
    let node_id = config.node_id;
    worker::spawn("presence", exits, move || {
        let hello = json!({ "id": me, "database": place, "host": host() }).to_string();
        let (queue, heard) = bounded(QUEUE);
        let _subscription = connection.subscribe(&subject, queue);
        let mut spoke: Option<Instant> = None;
        let mut heard_at: Option<Instant> = None;
        loop {
            if spoke.is_none_or(|at| at.elapsed() >= limits::PRESENCE_INTERVAL) && connection.is_up() {
                spoke = Some(Instant::now());
                // Not said now: said later.
                let _ = connection.publish(&subject, &[], hello.as_bytes());
            }
            if heard_at.is_some_and(|at| at.elapsed() >= limits::PRESENCE_INTERVAL * 3) {
                heard_at = None;
                set(&status, String::new());
            }
            select! {
                recv(stop.receiver()) -> _ => return Ok(()),
                recv(heard) -> message => {
                    let Ok(message) = message else { return Ok(()) };
                    if let Some(other) = somebody_else(&message.payload, &me) {
                        heard_at = Some(Instant::now());
                        if set(&status, other.clone()) {
                            log::error!(
                                "another daemon runs with node_id {node_id}, {other}: give each node a node_id of its own"
                            );
                            // The other one shall know soon, too.
                            spoke = None;
                        }
                    }
                }
                default(std::time::Duration::from_secs(1)) => {}
            }
        }
    })
    .map(drop)
}

/// Notes the namesake; true when that is news.
fn set(status: &Status, other: String) -> bool {
    let mut known = status.namesake.lock().unwrap_or_else(PoisonError::into_inner);
    let news = *known != other;
    *known = other;
    news
}

/// Where a message's sender runs, if it is not us.
fn somebody_else(payload: &[u8], me: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
    let text = |key: &str| {
        let text: String = value[key].as_str()?.chars().filter(|c| !c.is_control()).take(200).collect();
        Some(text)
    };
    (text("id")? != me)
        .then(|| format!("on {}: {}", text("host").unwrap_or_default(), text("database").unwrap_or_default()))
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_somebody_else_counts() {
        let hello = br#"{"id":"a","host":"h","database":"/x\n(process 7)"}"#;
        assert_eq!(somebody_else(hello, "a"), None);
        assert_eq!(somebody_else(hello, "b").unwrap(), "on h: /x(process 7)");
        assert_eq!(somebody_else(b"junk", "b"), None);
        assert_eq!(somebody_else(b"{}", "b"), None);
    }
}
