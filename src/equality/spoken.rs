//! Reading what streams hold between a position and their ends, to learn which rows it speaks of.

use crate::base::stop::Stop;
use crate::db::equality::Watch;
use crate::model::moments::Moments;
use crate::model::positions::Position;
use crate::nats::JetStream;
use crate::streams::{Judgement, Reader, queue};
use std::time::{Duration, Instant};

/// Messages that are read at most: whoever is so far behind is asked again later.
const MESSAGES: u64 = 50_000;
/// Time for all of it.
const TIME: Duration = Duration::from_secs(5);
/// Pause between two looks at the clock.
const LOOK: Duration = Duration::from_millis(100);

/// Lets `watch` hear all messages after the positions. What cannot be read may speak of everything.
pub fn spoken_of(js: &JetStream, from: &[(String, Option<Position>)], watch: &mut Watch, stop: &Stop) {
    let until = Instant::now() + TIME;
    for (stream, from) in from {
        let heard = from.as_ref().is_some_and(|from| hear(js, stream, from, watch, (until, stop)));
        if !heard {
            return watch.give_up();
        }
    }
}

/// Whether all of one stream was heard.
fn hear(
    js: &JetStream,
    stream: &str,
    from: &Position,
    watch: &mut Watch,
    (until, stop): (Instant, &Stop),
) -> bool {
    // The end is looked up now: after the rows were seen.
    let Ok(Some(info)) = js.stream(stream) else { return false };
    let last = info.state.last_seq;
    if last <= from.seq || info.state.first_seq > from.seq + 1 || last - from.seq > MESSAGES {
        return last == from.seq;
    }
    let (deliver, messages) = queue(1);
    let mut reader = Reader::new(js, stream.to_owned(), deliver);
    // A stream that was made anew counts otherwise.
    if !matches!(reader.connect(Some(from), &Moments::default()), Ok(Some(Judgement::Continue(_)))) {
        return false;
    }
    let mut next = from.seq + 1;
    while Instant::now() < until && !stop.requested() && reader.is_connected() {
        let Ok(message) = messages.recv_timeout(LOOK) else { continue };
        if !reader.owns(&message) {
            continue;
        }
        if let Some(item) = reader.take(message, Instant::now()) {
            if item.seq != next {
                return false; // One was deleted, which some nodes may have applied.
            }
            next += 1;
            watch.hear(&item.payload);
            if item.seq >= last {
                return true;
            }
        }
    }
    false
}
