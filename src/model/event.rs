//! An event: one row's image or tombstone as one message of a stream, in the CBOR of the Go program.
//!
//! `map{"FromNodeId": uint, "Payload": map{"Id", "Type", "TableName", "Row": map{column: value}, "sh"}}`, compressed with zstd
//! when the stream is a compressed one (formats, section "Change streams and messages"). Times (tag 32) and booleans, which
//! the Go program writes, are understood and never written.

use crate::base::{clock, limits};
use crate::model::value::Value;
use ciborium_ll::{Decoder, Header};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Text that is not UTF-8 travels as a byte string under this tag, because CBOR text must be UTF-8.
const TAG_RAW_TEXT: u64 = 18_508;
/// The Go program writes a time as `{1: Unix seconds}` under this tag.
const TAG_GO_TIME: u64 = 32;
/// A value that is nested more deeply than this is refused.
const DEPTH: usize = 16;

/// What happened to the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The row has this image. We publish every image as an insert.
    Insert,
    /// The row has this image. Only the Go program publishes updates.
    Update,
    /// The row is gone. [`Event::row`] holds at least the key.
    Delete,
}

/// One message of a change stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The node that published the event.
    pub node: u64,
    /// The event's change-log id at that node.
    pub id: i64,
    /// Image or tombstone.
    pub kind: Kind,
    /// Name of the table.
    pub table: Arc<str>,
    /// Column names and values. Names are shared with the table that the row was read from.
    pub row: Vec<(Arc<str>, Value)>,
    /// Hash of the publisher's schema, 64 hex digits.
    pub schema_hash: Option<Arc<str>>,
}

/// Why bytes are not an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Malformed {
    pub(super) fn new(what: &str) -> Malformed {
        Malformed(what.to_owned())
    }
}

pub(super) fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(what.into()))
}

// ---- writing

/// Appends a CBOR head (major type and number) in its shortest form.
pub(super) fn head(out: &mut Vec<u8>, major: u8, number: u64) {
    let major = major << 5;
    let bytes = number.to_be_bytes();
    match number {
        0..=23 => out.push(major | bytes[7]),
        24..=0xff => out.extend_from_slice(&[major | 24, bytes[7]]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend_from_slice(&bytes[6..]);
        }
        0x1_0000..=0xffff_ffff => {
            out.push(major | 26);
            out.extend_from_slice(&bytes[4..]);
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&bytes);
        }
    }
}

/// Appends a CBOR text string.
pub fn text(out: &mut Vec<u8>, text: &str) {
    head(out, 3, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Appends a column's value in the Go program's CBOR.
pub fn value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Integer(number) => integer(out, *number),
        Value::Real(real) => {
            out.push(0xfb);
            out.extend_from_slice(&real.to_be_bytes());
        }
        Value::Text(bytes) => {
            if std::str::from_utf8(bytes).is_ok() {
                head(out, 3, bytes.len() as u64);
            } else {
                head(out, 6, TAG_RAW_TEXT);
                head(out, 2, bytes.len() as u64);
            }
            out.extend_from_slice(bytes);
        }
        Value::Blob(bytes) => {
            head(out, 2, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
    }
}

/// Appends a CBOR integer in its shortest form.
pub fn integer(out: &mut Vec<u8>, number: i64) {
    match u64::try_from(number) {
        Ok(positive) => head(out, 0, positive),
        Err(_) => head(out, 1, !number.cast_unsigned()),
    }
}

impl Event {
    /// Whether it says that the row is gone.
    pub fn is_tombstone(&self) -> bool {
        self.kind == Kind::Delete
    }

    /// The value of a column.
    pub fn value_of(&self, column: &str) -> Option<&Value> {
        self.row.iter().find(|(name, _)| name.eq_ignore_ascii_case(column)).map(|(_, value)| value)
    }

    /// Bytes of its names and values, about.
    pub fn size(&self) -> usize {
        self.row.iter().map(|(name, value)| name.len() + value.size()).sum()
    }

    /// Bytes that it takes in memory; names are shared.
    pub fn weight(&self) -> usize {
        let values = self.row.iter().map(|(_, value)| value.weight()).sum::<usize>();
        size_of::<Event>() + self.row.len() * size_of::<(Arc<str>, Value)>() + values
    }

    /// The event as CBOR.
    pub fn encode(&self) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(160 + self.row.iter().map(|(n, v)| n.len() + v.size()).sum::<usize>());
        head(&mut out, 5, 2);
        text(&mut out, "FromNodeId");
        head(&mut out, 0, self.node);
        text(&mut out, "Payload");
        head(&mut out, 5, 4 + u64::from(self.schema_hash.is_some()));
        text(&mut out, "Id");
        integer(&mut out, self.id);
        text(&mut out, "Type");
        text(
            &mut out,
            match self.kind {
                Kind::Insert => "insert",
                Kind::Update => "update",
                Kind::Delete => "delete",
            },
        );
        text(&mut out, "TableName");
        text(&mut out, &self.table);
        text(&mut out, "Row");
        head(&mut out, 5, self.row.len() as u64);
        for (name, column) in &self.row {
            text(&mut out, name);
            value(&mut out, column);
        }
        if let Some(hash) = &self.schema_hash {
            text(&mut out, "sh");
            text(&mut out, hash);
        }
        out
    }

    /// Reads an event, and is as lenient as the Go program's decoder: keys in any case and order, unknown keys, map lengths that
    /// are not announced.
    pub fn decode(bytes: &[u8]) -> Result<Event, Malformed> {
        let mut cursor = Cursor::new(bytes);
        let mut node = None;
        let mut body = None;
        cursor.map(|cursor, key| {
            match key {
                k if k.eq_ignore_ascii_case("FromNodeId") => node = Some(cursor.unsigned()?),
                k if k.eq_ignore_ascii_case("Payload") => body = Some(Body::read(cursor)?),
                _ => cursor.skip(DEPTH)?,
            }
            Ok(())
        })?;
        let body = body.ok_or_else(|| Malformed("no Payload".into()))?;
        let kind = match body.kind.as_deref() {
            Some("insert") => Kind::Insert,
            Some("update") => Kind::Update,
            Some("delete") => Kind::Delete,
            other => return malformed(format!("unknown Type {other:?}")),
        };
        let table = body.table.filter(|t| !t.is_empty()).ok_or_else(|| Malformed("no TableName".into()))?;
        if body.row.is_empty() {
            return malformed(format!("table {table}: empty Row"));
        }
        let (node, id) = (node.unwrap_or(0), body.id.unwrap_or(0));
        Ok(Event {
            node,
            id,
            kind,
            table,
            row: body.row,
            schema_hash: body.schema_hash.filter(|h| !h.is_empty()),
        })
    }
}

#[derive(Default)]
struct Body {
    id: Option<i64>,
    kind: Option<Arc<str>>,
    table: Option<Arc<str>>,
    row: Vec<(Arc<str>, Value)>,
    schema_hash: Option<Arc<str>>,
}

impl Body {
    fn read(cursor: &mut Cursor) -> Result<Body, Malformed> {
        let mut body = Body::default();
        cursor.map(|cursor, key| {
            match key {
                k if k.eq_ignore_ascii_case("Id") => body.id = Some(cursor.signed()?),
                k if k.eq_ignore_ascii_case("Type") => body.kind = Some(cursor.string()?),
                k if k.eq_ignore_ascii_case("TableName") => body.table = Some(cursor.string()?),
                k if k.eq_ignore_ascii_case("sh") => body.schema_hash = Some(cursor.string()?),
                k if k.eq_ignore_ascii_case("Row") => {
                    let mut row = Columns::default();
                    cursor.map(|cursor, name| {
                        let value = cursor.value()?;
                        row.put(name, value)
                    })?;
                    body.row = row.found;
                }
                _ => cursor.skip(DEPTH)?,
            }
            Ok(())
        })?;
        Ok(body)
    }
}

/// The columns of a row as they are read. A name that comes twice keeps its last value; the same name in another case is no
/// other column to SQLite, so such an event is no event.
#[derive(Default)]
struct Columns {
    found: Vec<(Arc<str>, Value)>,
    /// Where each name is, in lower case; empty while there are few.
    places: HashMap<String, usize>,
}

impl Columns {
    /// So many names are looked through one by one: nearly all tables have fewer columns.
    const FEW: usize = 24;

    fn put(&mut self, name: &str, value: Value) -> Result<(), Malformed> {
        match self.place(name) {
            Some(at) if *self.found[at].0 == *name => self.found[at].1 = value,
            Some(_) => return malformed(format!("column {name} comes in two spellings")),
            None if self.found.len() >= limits::EVENT_COLUMNS => {
                return malformed(format!("more than {} columns", limits::EVENT_COLUMNS));
            }
            None => {
                self.found.push((name.into(), value));
                self.index();
            }
        }
        Ok(())
    }

    fn place(&self, name: &str) -> Option<usize> {
        if self.found.len() <= Columns::FEW {
            self.found.iter().position(|(known, _)| known.eq_ignore_ascii_case(name))
        } else {
            self.places.get(&name.to_ascii_lowercase()).copied()
        }
    }

    /// Notes the places of those names that have none yet, once there are many.
    fn index(&mut self) {
        if self.found.len() > Columns::FEW {
            for at in self.places.len()..self.found.len() {
                self.places.insert(self.found[at].0.to_ascii_lowercase(), at);
            }
        }
    }
}

// ---- reading

/// The heads of which nearly all data consists: numbers, strings and arrays of known length. `None`: another, or none.
fn plain_head(bytes: &[u8]) -> Option<(Header, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let info = first & 31;
    let (value, rest) = if info < 24 {
        (u64::from(info), rest)
    } else {
        let length = match info {
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => return None,
        };
        let (number, rest) = rest.split_at_checked(length)?;
        (number.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)), rest)
    };
    let length = || usize::try_from(value).ok().map(Some);
    let header = match first >> 5 {
        0 => Header::Positive(value),
        1 => Header::Negative(value),
        2 => Header::Bytes(length()?),
        3 => Header::Text(length()?),
        4 => Header::Array(length()?),
        _ => return None,
    };
    Some((header, rest))
}

pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    /// Times so far. Each is written out as text, which takes a hundred times as long as reading a number.
    times: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes, times: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes that are left.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    /// The length of an array, which must be announced.
    pub(super) fn array(&mut self) -> Result<usize, Malformed> {
        match self.pull()? {
            Header::Array(Some(length)) => Ok(length),
            other => malformed(format!("expected an array, found {other:?}")),
        }
    }

    pub(super) fn byte_string(&mut self) -> Result<Vec<u8>, Malformed> {
        match self.pull()? {
            Header::Bytes(length) => self.bytes(length),
            other => malformed(format!("expected bytes, found {other:?}")),
        }
    }

    fn pull(&mut self) -> Result<Header, Malformed> {
        if let Some((header, rest)) = plain_head(self.rest) {
            self.rest = rest;
            return Ok(header);
        }
        let mut decoder = Decoder::from(self.rest);
        let header = decoder.pull().map_err(|_| Malformed("truncated or invalid CBOR".into()))?;
        self.rest = &self.rest[decoder.offset()..];
        Ok(header)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or_else(|| Malformed("truncated CBOR".into()))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The bytes of a text or byte string whose head was just read.
    fn bytes(&mut self, length: Option<usize>) -> Result<Vec<u8>, Malformed> {
        if let Some(length) = length {
            return Ok(self.take(length)?.to_vec());
        }
        let mut whole = Vec::new();
        loop {
            match self.pull()? {
                Header::Break => return Ok(whole),
                Header::Text(Some(length)) | Header::Bytes(Some(length)) => {
                    whole.extend_from_slice(self.take(length)?);
                }
                _ => return malformed("bad segment of a string"),
            }
        }
    }

    pub(super) fn string(&mut self) -> Result<Arc<str>, Malformed> {
        match self.pull()? {
            Header::Text(length) => Ok(self.name(length)?.into()),
            other => malformed(format!("expected text, found {other:?}")),
        }
    }

    /// The name whose head was just read; copied only if it comes in segments.
    fn name(&mut self, length: Option<usize>) -> Result<Cow<'a, str>, Malformed> {
        let broken = || Malformed("a name is not UTF-8".into());
        let name = match length {
            Some(length) => std::str::from_utf8(self.take(length)?).map(Cow::Borrowed).map_err(|_| broken()),
            None => String::from_utf8(self.bytes(None)?).map(Cow::Owned).map_err(|_| broken()),
        }?;
        if name.len() > limits::EVENT_NAME {
            let (length, most) = (name.len(), limits::EVENT_NAME);
            return malformed(format!("a name of {length} bytes; {most} at most are accepted"));
        }
        Ok(name)
    }

    pub(super) fn unsigned(&mut self) -> Result<u64, Malformed> {
        match self.pull()? {
            Header::Positive(number) => Ok(number),
            other => malformed(format!("expected an unsigned integer, found {other:?}")),
        }
    }

    pub(super) fn signed(&mut self) -> Result<i64, Malformed> {
        match self.pull()? {
            Header::Positive(number) => positive(number),
            Header::Negative(number) => negative(number),
            other => malformed(format!("expected an integer, found {other:?}")),
        }
    }

    /// Reads a map with text keys, calling `entry` with the cursor on each value.
    fn map(
        &mut self,
        mut entry: impl FnMut(&mut Self, &str) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        let Header::Map(length) = self.pull()? else { return malformed("expected a map") };
        let mut left = length;
        loop {
            if left == Some(0) {
                return Ok(());
            }
            let key = match self.pull()? {
                Header::Break if left.is_none() => return Ok(()),
                Header::Text(length) => self.name(length)?,
                other => return malformed(format!("expected a text key, found {other:?}")),
            };
            entry(self, &key)?;
            left = left.map(|n| n - 1);
        }
    }

    pub(super) fn value(&mut self) -> Result<Value, Malformed> {
        Ok(match self.pull()? {
            Header::Positive(number) => Value::Integer(positive(number)?),
            Header::Negative(number) => Value::Integer(negative(number)?),
            Header::Float(real) if real.is_nan() => Value::Null,
            Header::Float(real) => Value::Real(real),
            Header::Simple(20) => Value::Integer(0),
            Header::Simple(21) => Value::Integer(1),
            Header::Simple(22 | 23) => Value::Null,
            Header::Bytes(length) => Value::Blob(self.bytes(length)?),
            Header::Text(length) => Value::Text(self.bytes(length)?),
            Header::Tag(TAG_RAW_TEXT) => match self.pull()? {
                Header::Bytes(length) => Value::Text(self.bytes(length)?),
                other => return malformed(format!("raw text holds {other:?}")),
            },
            Header::Tag(TAG_GO_TIME) => self.go_time()?,
            other => return malformed(format!("a column holds {other:?}")),
        })
    }

    fn go_time(&mut self) -> Result<Value, Malformed> {
        let Header::Map(length) = self.pull()? else { return malformed("a time is not a map") };
        let mut time = Value::Null;
        let mut left = length;
        while left != Some(0) {
            match self.pull()? {
                Header::Break if left.is_none() => break,
                Header::Positive(1) => time = self.seconds()?,
                other => return malformed(format!("a time has the key {other:?}")),
            }
            left = left.map(|n| n - 1);
        }
        Ok(time)
    }

    /// What a time holds: Unix seconds, or nothing. Not any value: a time in a time in a time would have no end.
    fn seconds(&mut self) -> Result<Value, Malformed> {
        let seconds = match self.pull()? {
            Header::Positive(number) => positive(number)?,
            Header::Negative(number) => negative(number)?,
            #[allow(clippy::cast_possible_truncation, reason = "clamped below; what is no number becomes 0")]
            Header::Float(real) => real.floor() as i64,
            Header::Text(length) => return Ok(Value::Text(self.bytes(length)?)),
            Header::Simple(22 | 23) => return Ok(Value::Null),
            other => return malformed(format!("a time holds {other:?}")),
        };
        // No row has more, unless one of its columns comes again and again.
        self.times += 1;
        if self.times > limits::EVENT_COLUMNS {
            return malformed(format!("more than {} times", limits::EVENT_COLUMNS));
        }
        // Years outside 0..9999 have no four-digit form.
        Ok(Value::text(&clock::go_text(seconds.clamp(-62_167_219_200, 253_402_300_799))))
    }

    fn skip(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth == 0 {
            return malformed("nested too deeply");
        }
        match self.pull()? {
            Header::Bytes(length) | Header::Text(length) => self.bytes(length).map(drop),
            Header::Tag(_) => self.skip(depth - 1),
            Header::Array(length) => self.skip_items(length, 1, depth),
            Header::Map(length) => self.skip_items(length, 2, depth),
            Header::Break => malformed("unexpected break"),
            _ => Ok(()),
        }
    }

    fn skip_items(&mut self, length: Option<usize>, each: usize, depth: usize) -> Result<(), Malformed> {
        if let Some(length) = length {
            for _ in 0..length.saturating_mul(each) {
                self.skip(depth - 1)?;
            }
            return Ok(());
        }
        loop {
            let before = self.rest;
            if matches!(self.pull()?, Header::Break) {
                return Ok(());
            }
            self.rest = before;
            self.skip(depth - 1)?;
        }
    }
}

fn positive(number: u64) -> Result<i64, Malformed> {
    i64::try_from(number).map_err(|_| Malformed(format!("integer {number} does not fit 64 signed bits")))
}

fn negative(number: u64) -> Result<i64, Malformed> {
    positive(number).map(|n| !n)
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "event_hostile_tests.rs"]
mod hostile_tests;
