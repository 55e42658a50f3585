//! The store, where it is not in NATS: whether it answers, and lets us in. A thread of its own asks, for a store that is away may keep
//! it waiting.

use crate::base::error::{Context, Error};
use crate::base::{limits, stop::Stop, worker::Workers};
use crate::operate::{Looker, Lookout, Signals, Trouble, View};
use crate::storage::OpenStore;
use crossbeam_channel::{Receiver, Sender, bounded, select};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What was seen of it.
pub struct StoreLook {
    trouble: Trouble,
    signals: Arc<Signals>,
    questions: Sender<()>,
    answers: Receiver<Result<(), Error>>,
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
        let (answer, answers) = bounded(1);
        let stop = stop.clone();
        workers.spawn("store-look", move || {
            loop {
                select! {
                    recv(stop.receiver()) -> _ => return Ok(()),
                    recv(asked) -> question => if question.is_err() { return Ok(()) },
                }
                let found = open().and_then(|store| store.answers().context(store.describe()));
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
                    Ok(()) => {
                        self.trouble.forget();
                        if was_away {
                            self.signals.note_store_back();
                        }
                    }
                    // Whoever needs the store says it in the log.
                    Err(why) => self.trouble.show(&format!("store: {why}: see -doctor")),
                }
            }
            Err(_) if now.saturating_duration_since(asked) >= limits::LOOKOUT_ANSWER => {
                self.trouble.show("store: no answer yet: see -doctor");
            }
            Err(_) => {}
        }
    }
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
