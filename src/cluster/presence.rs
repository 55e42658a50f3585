//! Finding out that another running daemon has this node's `node_id`: a cloned machine, a copied configuration.
//!
//! Each daemon says now and then, on a subject of its node, that it is there. A daemon that hears another one on its own
//! subject has a namesake. Rows survive that (events carry the database's incarnation), but leases and people take the two
//! for one. The same thread listens for daemons that have another number of shards.

use super::shards::Shards;
use crate::base::{error::Error, limits, random, stop::Stop, worker::Workers};
use crate::config::Config;
use crate::nats::Connection;
use crate::operate::Board;
use crossbeam_channel::{bounded, select};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages that wait to be looked at; one that finds no room comes again.
const QUEUE: usize = 16;

/// Starts the thread that speaks and listens.
pub fn start(
    config: &Config,
    connection: &Connection,
    board: &Arc<Board>,
    stop: &Stop,
    workers: &mut Workers,
) -> Result<(), Error> {
    let subject = format!("{}.node.{}", config.nats.stream_prefix, config.node_id);
    let (connection, board, stop) = (connection.clone(), board.clone(), stop.clone());
    let me = format!("{:016x}", random::random_u64());
    let place = format!("{} (process {})", config.db_path.display(), std::process::id());
    let node_id = config.node_id;
    let mut shards = Shards::new(config, &host());
    workers.spawn("presence", move || {
        let hello = json!({ "id": me, "database": place, "host": host() }).to_string();
        let (queue, heard) = bounded(QUEUE);
        let _subscription = connection.subscribe(&subject, queue);
        let (queue, numbers) = bounded(QUEUE);
        let _numbers = connection.subscribe(&shards.subject, queue);
        let mut times = Times::default();
        loop {
            if times.is_silent(Instant::now()) && connection.is_up() {
                times.spoke(Instant::now());
                // What cannot be said now is said later.
                let _ = connection.publish(&subject, &[], hello.as_bytes());
            }
            if times.has_gone(Instant::now()) {
                board.set_namesake("");
            }
            shards.look(&connection, &board, Instant::now());
            select! {
                recv(stop.receiver()) -> _ => return Ok(()),
                recv(heard) -> message => {
                    let Ok(message) = message else { return Ok(()) };
                    if let Some(other) = somebody_else(&message.payload, &me) {
                        let news = board.set_namesake(&other);
                        times.heard(Instant::now(), news);
                        if news {
                            log::error!(
                                "another daemon runs with node_id {node_id}, {other}: give each node a node_id of its own"
                            );
                        }
                    }
                }
                recv(numbers) -> message => {
                    let Ok(message) = message else { return Ok(()) };
                    shards.hear(&message.payload, &board, Instant::now());
                }
                default(Duration::from_secs(1)) => {}
            }
        }
    })
}

/// When we spoke, and when somebody else did.
#[derive(Debug, Default)]
struct Times {
    spoke: Option<Instant>,
    heard: Option<Instant>,
}

impl Times {
    /// Whether it is time to say that we are there.
    fn is_silent(&self, now: Instant) -> bool {
        self.spoke.is_none_or(|at| now.saturating_duration_since(at) >= limits::PRESENCE_INTERVAL)
    }

    fn spoke(&mut self, now: Instant) {
        self.spoke = Some(now);
    }

    /// Somebody else spoke; when that is news, it shall hear of us soon, too.
    fn heard(&mut self, now: Instant, news: bool) {
        self.heard = Some(now);
        if news {
            self.spoke = None;
        }
    }

    /// Whether nobody else was heard for some intervals; true once.
    fn has_gone(&mut self, now: Instant) -> bool {
        let gone =
            self.heard.is_some_and(|at| now.saturating_duration_since(at) >= limits::PRESENCE_INTERVAL * 3);
        if gone {
            self.heard = None;
        }
        gone
    }
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

    #[test]
    fn mutants_of_presence_name_somebody_in_a_line_or_nobody() {
        let valid = [
            br#"{"id":"0123456789abcdef","host":"h","database":"/x (process 7)"}"#.to_vec(),
            "{\"id\":\"\u{1b}[2J\",\"host\":\"a\\u0000b\",\"database\":\"x\\n\"}".into(),
        ];
        crate::base::mutants::each("presence", &valid, |mutant| {
            if let Some(other) = somebody_else(mutant, "me") {
                assert!(!other.contains(char::is_control) && other.chars().count() <= 410, "{other:?}");
            }
        });
    }

    #[test]
    fn a_daemon_speaks_at_once_and_then_once_an_interval() {
        let start = Instant::now();
        let mut times = Times::default();
        assert!(times.is_silent(start));
        times.spoke(start);
        assert!(!times.is_silent(start + limits::PRESENCE_INTERVAL / 2));
        assert!(times.is_silent(start + limits::PRESENCE_INTERVAL));
    }

    #[test]
    fn a_namesake_that_is_news_is_answered_soon_and_forgotten_late() {
        let start = Instant::now();
        let mut times = Times::default();
        times.spoke(start);
        times.heard(start, false);
        assert!(!times.is_silent(start));
        times.heard(start, true);
        assert!(times.is_silent(start));
        assert!(!times.has_gone(start + limits::PRESENCE_INTERVAL * 2));
        assert!(times.has_gone(start + limits::PRESENCE_INTERVAL * 3));
        assert!(!times.has_gone(start + limits::PRESENCE_INTERVAL * 4), "said once");
    }
}
