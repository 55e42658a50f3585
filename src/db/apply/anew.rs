//! Streams that are not what they were: the database goes on in them as they are now, under a new name, and knows that it has to
//! compare itself with others.

use crate::db::apply::applier::Applier;
use crate::db::state::Why;
use crate::db::{error::Error, state};
use crate::model::epoch::Epoch;
use crate::model::moments::Moments;
use crate::model::positions::Position;

impl Applier {
    /// Goes on at these positions, of which each is given with its stream's number. Where a stream is another one, what was counted in
    /// the old one is forgotten. What is published from now on has a new name: under the old one, others may have folded more than the
    /// streams hold now, and would pass over what is published again.
    pub fn begin_anew(&mut self, positions: &[(usize, Position)], why: Why) -> Result<(), Error> {
        self.in_transaction(|applier| {
            let session = &mut applier.session;
            let mut read = 0_u64;
            for (stream, _) in positions {
                read = read.saturating_add(session.position(*stream)?.map_or(0, |position| position.seq));
            }
            state::note_standing(&session.connection, why, read)?;
            for (stream, position) in positions {
                session.begin_stream(*stream, position)?;
            }
            session.take_new_name()
        })?;
        self.forget_decoded();
        Ok(())
    }

    /// The epoch that the database is in, and how far it had come before the streams changed, if it has not compared itself since.
    /// Asked for again and again, so it is remembered until something is written: a connection that is quiet has given back the schema,
    /// and would read all of it for this.
    pub fn epoch(&mut self) -> Result<(Epoch, Option<String>), Error> {
        if let Some(known) = &self.epoch {
            return Ok(known.clone());
        }
        self.session.note_use();
        let connection = &self.session.connection;
        let known = (state::epoch(connection)?, state::standing(connection)?);
        self.epoch = Some(known.clone());
        Ok(known)
    }

    /// The database is in this epoch from now on.
    pub fn adopt_epoch(&mut self, epoch: Epoch) -> Result<(), Error> {
        self.in_transaction(|applier| state::set_epoch(&applier.session.connection, epoch)).map(drop)
    }

    /// Of the streams and the epoch as the database knows them (see [`state::generation`]).
    pub fn generation(&self) -> Result<String, Error> {
        state::generation(&self.session.connection)
    }

    /// The same, as it will be in another epoch.
    pub fn generation_in(&self, epoch: Epoch) -> Result<String, Error> {
        state::generation_in(&self.session.connection, epoch)
    }

    /// When messages of a stream were stored that were read here.
    pub fn moments(&self, stream: usize) -> Result<Moments, Error> {
        state::moments(&self.session.connection, &self.session.streams[stream])
    }
}
