//! The store: whether it answers, and lets us in, and whether this node may take the snapshot in it. A thread of its own asks, for a
//! store that is away may keep it waiting.

use crate::base::error::{Context, Error};
use crate::base::{limits, stop::Stop, worker::Workers};
use crate::operate::{Looker, Lookout, Signals, Trouble, View};
use crate::storage::{OpenStore, Stored};
use crossbeam_channel::{Receiver, Sender, bounded, select};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was seen of it.
pub struct StoreLook {
    trouble: Trouble,
    signals: Arc<Signals>,
    questions: Sender<()>,
    answers: Receiver<Result<Option<String>, Error>>,
    /// Of a store in NATS, what the broker does is said elsewhere.
    in_nats: bool,
    /// When the question was asked that has no answer yet.
    asked: Option<Instant>,
    /// When the last answer came, and whether it was a good one.
    answered: Option<(Instant, bool)>,
}

impl StoreLook {
    pub fn start(
        view: &View,
        open: OpenStore,
        stop: &Stop,
        workers: &mut Workers,
    ) -> Result<StoreLook, Error> {
        let (questions, asked) = bounded::<()>(1);
        let has_key = view.config.snapshot.packing.key.is_some();
        let (answer, answers) = bounded(1);
        let stop = stop.clone();
        workers.spawn("store-look", move || {
            loop {
                select! {
                    recv(stop.receiver()) -> _ => return Ok(()),
                    recv(asked) -> question => if question.is_err() { return Ok(()) },
                }
                let found = open().and_then(|store| {
                    let stored = store.answers().context(store.describe())?;
                    Ok(stored.and_then(|stored| unusable(&stored, has_key, &store.describe())))
                });
                if answer.send(found).is_err() {
                    return Ok(());
                }
            }
        })?;
        Ok(StoreLook {
            trouble: Trouble::new(&view.board, "store"),
            signals: view.signals.clone(),
            questions,
            answers,
            in_nats: !view.config.snapshot.store.is_apart_from_nats(),
            asked: None,
            answered: None,
        })
    }

    /// Takes an answer, and asks again when it is time to.
    pub fn look(&mut self, lookout: &Lookout, now: Instant) {
        if self.asked.is_none() && is_due(self.answered, lookout, now) && self.questions.try_send(()).is_ok()
        {
            self.asked = Some(now);
        }
        let Some(asked) = self.asked else { return };
        // One that refuses does so at once.
        match self.answers.recv_timeout(limits::LOOKOUT_MOMENT) {
            Ok(result) => {
                let was_away = self.answered.is_some_and(|(_, good)| !good);
                (self.asked, self.answered) = (None, Some((Instant::now(), result.is_ok())));
                match result {
                    Ok(unusable) => {
                        // Whoever wants to take it says so in the log.
                        self.trouble.show(&unusable.unwrap_or_default());
                        if was_away {
                            self.signals.note_store_back();
                        }
                    }
                    Err(_) if self.in_nats => self.trouble.show(""),
                    // Whoever needs the store says it in the log.
                    Err(why) => self.trouble.show(&format!("store: {why}: see -doctor")),
                }
            }
            Err(_) if !self.in_nats && now.saturating_duration_since(asked) >= limits::LOOKOUT_ANSWER => {
                self.trouble.show("store: no answer yet: see -doctor");
            }
            Err(_) => {}
        }
    }
}

/// Why this node could not take the snapshot, if it needed it.
fn unusable(stored: &Stored, has_key: bool, place: &str) -> Option<String> {
    let why = match stored.refused() {
        Some(why) => why,
        None if !has_key && stored.label.encoding.contains("encrypted") => {
            "it is encrypted, and this node has no key: set snapshot.key_file, as the other nodes do"
        }
        None => return None,
    };
    Some(format!("snapshot in {place}: {why}"))
}

/// Whether the store is to be asked now. Each question costs a request there.
fn is_due(answered: Option<(Instant, bool)>, lookout: &Lookout, now: Instant) -> bool {
    let Some((at, good)) = answered else { return true };
    let pause = match good {
        true if lookout.is_looked_at(Looker::Person, now) => limits::STORE_LOOK_PERSON,
        true if lookout.is_looked_at(Looker::Program, now) => limits::STORE_LOOK_PROGRAM,
        true => Duration::MAX,
        false if lookout.is_looked_at(Looker::Program, now) => limits::LOOKOUT_QUESTION,
        false => limits::STORE_LOOK_PROGRAM,
    };
    now.saturating_duration_since(at) >= pause
}
