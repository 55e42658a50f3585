//! What a message of a change stream holds: a row or a set, compressed or not.

use crate::base::limits;
use crate::model::event::{Event, Malformed, malformed};
use crate::model::set;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Packs and unpacks payloads. It keeps the working memory of the compression from one payload to the next.
pub struct Codec {
    compressor: Option<zstd::bulk::Compressor<'static>>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl Codec {
    /// `compress` says whether [`Codec::pack`] compresses. [`Codec::unpack`] sees it in the payload.
    pub fn new(compress: bool) -> std::io::Result<Codec> {
        let compressor = if compress { Some(zstd::bulk::Compressor::new(1)?) } else { None };
        Ok(Codec { compressor, decompressor: zstd::bulk::Decompressor::new()? })
    }

    /// The payload of an event's message in a stream of rows.
    pub fn pack(&mut self, event: &Event) -> std::io::Result<Vec<u8>> {
        self.shrink(event.encode(), false)
    }

    /// The payload of a message with many rows in a stream of sets.
    pub fn pack_set<'a>(&mut self, events: impl IntoIterator<Item = &'a Event>) -> std::io::Result<Vec<u8>> {
        self.shrink(set::encode(events), true)
    }

    fn shrink(&mut self, plain: Vec<u8>, if_shorter: bool) -> std::io::Result<Vec<u8>> {
        let Some(compressor) = &mut self.compressor else { return Ok(plain) };
        let packed = compressor.compress(&plain)?;
        Ok(if if_shorter && packed.len() >= plain.len() { plain } else { packed })
    }

    /// The event of a payload that holds one row.
    pub fn unpack(&mut self, payload: &[u8]) -> Result<Event, Malformed> {
        match self.read(payload)? {
            Payload::Row(event) => Ok(event),
            Payload::Set(_) => malformed("a set where a row is wanted"),
        }
    }

    /// What a payload holds.
    pub fn read(&mut self, payload: &[u8]) -> Result<Payload, Malformed> {
        if !payload.starts_with(&ZSTD_MAGIC) {
            return Payload::decode(payload);
        }
        // The size of the plain text is not always announced, so a buffer that is too small is tried again with a larger one.
        let mut capacity = (payload.len() * 4).clamp(4096, limits::MESSAGE_BYTES);
        loop {
            match self.decompressor.decompress(payload, capacity) {
                Ok(plain) => return Payload::decode(&plain),
                Err(_) if capacity < limits::MESSAGE_BYTES && payload.len() < capacity => {
                    capacity = (capacity * 8).min(limits::MESSAGE_BYTES);
                }
                Err(error) => return malformed(format!("zstd: {error}")),
            }
        }
    }
}

/// What a message of a change stream holds. Its first byte tells, so that both forms can stand in one stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    /// One row, as Go nodes write it. Its publisher and its id stand in the message's headers, if they are ours.
    Row(Event),
    /// Rows in the order of their ids.
    Set(Vec<Event>),
}

impl Payload {
    fn decode(plain: &[u8]) -> Result<Payload, Malformed> {
        if set::is_set(plain) {
            set::decode(plain).map(Payload::Set)
        } else {
            Event::decode(plain).map(Payload::Row)
        }
    }

    /// Bytes that it takes in memory.
    pub fn weight(&self) -> usize {
        match self {
            Payload::Row(event) => event.weight(),
            Payload::Set(events) => events.iter().map(Event::weight).sum(),
        }
    }
}
