//! What nodes ask each other when they are compared, and the answers, as bytes. Anybody may send some: a length is compared with
//! what is there before anything is reserved, so nothing takes more memory than a few times its bytes.

use crate::db::equality::{Described, Key, Listed, Listing, Range, Seed, Seen, Sights, Span, Wanted};
use crate::model::agree::{Print, Sight};
use crate::model::positions::SeqMap;
use crate::model::value::Value;

/// First byte of all: a node that gets another one does not answer.
const VERSION: u8 = 1;

/// Bytes of the longest request that is read.
pub const ASK_BYTES: usize = 256 << 10;
/// Bytes of the longest answer that is read.
pub const ANSWER_BYTES: usize = 256 << 10;

/// Rows that were to be looked for in the streams.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spoken {
    pub table: String,
    pub definition: u64,
    /// The streams are read from here on.
    pub from: SeqMap,
    pub generation: String,
    /// Keys, with their numbers in UNIQUE indexes.
    pub rows: Vec<(Key, Vec<u64>)>,
}

/// A question to one node.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    Hello,
    /// Tables after a name.
    Tables(String),
    Range(Span),
    List(Span, Vec<u16>),
    Sights(Wanted),
    /// Which rows the streams speak of, up to their ends.
    Spoken(Spoken),
    /// Rows to be published again, as they are expected to be.
    Publish(Wanted, Vec<Option<Print>>),
}

/// Who answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    pub node: u64,
    /// Where this daemon alone is asked.
    pub subject: String,
    pub publishes: bool,
    pub leads: bool,
    /// Why its rows cannot be compared; empty: they can.
    pub why_not: String,
    /// Nodes whose events it has applied.
    pub knows: Vec<u64>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Hello(Hello),
    /// Some tables in the order of their names; true: there are more.
    Tables(Vec<Described>, bool),
    Range(Range),
    List(Listing),
    Sights(Sights),
    Spoken(Vec<bool>),
    /// For each row nothing, or why it was not published.
    Published(Vec<String>),
    /// The table is not there any more, or has another definition.
    Changed,
    Failed(String),
}

impl Ask {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out(vec![VERSION]);
        match self {
            Ask::Hello => out.byte(0),
            Ask::Tables(after) => {
                out.byte(1);
                out.text(after);
            }
            Ask::Range(span) => {
                out.byte(2);
                out.span(span);
            }
            Ask::List(span, buckets) => {
                out.byte(3);
                out.span(span);
                out.each(buckets, |out, bucket| out.0.extend(bucket.to_be_bytes()));
            }
            Ask::Sights(wanted) => {
                out.byte(4);
                out.wanted(wanted);
            }
            Ask::Spoken(Spoken { table, definition, from, generation, rows }) => {
                out.byte(5);
                out.text(table);
                out.number(*definition);
                out.positions(from);
                out.text(generation);
                out.each(rows, |out, (key, unique)| {
                    out.key(key);
                    out.each(unique, |out, print| out.number(*print));
                });
            }
            Ask::Publish(wanted, expected) => {
                out.byte(6);
                out.wanted(wanted);
                out.each(expected, |out, print| out.option(print.as_ref(), |out, print| out.print(*print)));
            }
        }
        out.0
    }

    /// `None`: no question that this version knows.
    pub fn decode(bytes: &[u8]) -> Option<Ask> {
        let mut input = In::new(bytes, ASK_BYTES)?;
        let ask = match input.byte()? {
            0 => Ask::Hello,
            1 => Ask::Tables(input.text()?),
            2 => Ask::Range(input.span()?),
            3 => Ask::List(input.span()?, input.each(2, |input| input.take().map(u16::from_be_bytes))?),
            4 => Ask::Sights(input.wanted()?),
            5 => Ask::Spoken(Spoken {
                table: input.text()?,
                definition: input.number()?,
                from: input.positions()?,
                generation: input.text()?,
                rows: input.each(8, |input| Some((input.key()?, input.each(8, In::number)?)))?,
            }),
            6 => Ask::Publish(input.wanted()?, input.each(1, |input| input.option(In::print))?),
            _ => return None,
        };
        input.end(ask)
    }
}

impl Answer {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Out(vec![VERSION]);
        match self {
            Answer::Hello(Hello { node, subject, publishes, leads, why_not, knows }) => {
                out.byte(0);
                out.number(*node);
                out.text(subject);
                out.byte(u8::from(*publishes));
                out.byte(u8::from(*leads));
                out.text(why_not);
                out.each(knows, |out, node| out.number(*node));
            }
            Answer::Tables(tables, more) => {
                out.byte(1);
                out.each(tables, |out, Described { name, definition, print, aside }| {
                    out.text(name);
                    out.text(definition);
                    out.number(*print);
                    out.number(*aside);
                });
                out.byte(u8::from(*more));
            }
            Answer::Range(Range { stopped, rows, buckets }) => {
                out.byte(2);
                out.option(stopped.as_ref(), |out, key| out.key(key));
                out.number(*rows);
                out.each(buckets, |out, (bucket, print)| {
                    out.0.extend(bucket.to_be_bytes());
                    out.print(*print);
                });
            }
            Answer::List(Listing { stopped, rows, left_out }) => {
                out.byte(3);
                out.option(stopped.as_ref(), |out, key| out.key(key));
                out.each(rows, |out, Listed { key_print, print, key }| {
                    out.print(*key_print);
                    out.print(*print);
                    out.key(key);
                });
                out.number(*left_out);
            }
            Answer::Sights(Sights { positions, generation, rows }) => {
                out.byte(4);
                out.positions(positions);
                out.text(generation);
                out.each(rows, |out, Seen { sight, unique }| {
                    out.option(sight.row.as_ref(), |out, print| out.print(*print));
                    out.byte(u8::from(sight.touched) | u8::from(sight.waits) << 1);
                    out.each(unique, |out, print| out.number(*print));
                });
            }
            Answer::Spoken(spoken_of) => {
                out.byte(5);
                out.each(spoken_of, |out, is| out.byte(u8::from(*is)));
            }
            Answer::Published(done) => {
                out.byte(6);
                out.each(done, |out, why| out.text(why));
            }
            Answer::Changed => out.byte(7),
            Answer::Failed(why) => {
                out.byte(8);
                out.text(why);
            }
        }
        out.0
    }

    /// `None`: no answer that this version knows.
    pub fn decode(bytes: &[u8]) -> Option<Answer> {
        let mut input = In::new(bytes, ANSWER_BYTES)?;
        let answer = match input.byte()? {
            0 => Answer::Hello(Hello {
                node: input.number()?,
                subject: input.text()?,
                publishes: input.flag()?,
                leads: input.flag()?,
                why_not: input.text()?,
                knows: input.each(8, In::number)?,
            }),
            1 => Answer::Tables(input.each(24, In::described)?, input.flag()?),
            2 => Answer::Range(Range {
                stopped: input.option(In::key)?,
                rows: input.number()?,
                buckets: input.each(18, |input| Some((u16::from_be_bytes(input.take()?), input.print()?)))?,
            }),
            3 => Answer::List(Listing {
                stopped: input.option(In::key)?,
                rows: input.each(36, |input| {
                    Some(Listed { key_print: input.print()?, print: input.print()?, key: input.key()? })
                })?,
                left_out: input.number()?,
            }),
            4 => Answer::Sights(Sights {
                positions: input.positions()?,
                generation: input.text()?,
                rows: input.each(6, In::seen)?,
            }),
            5 => Answer::Spoken(input.each(1, In::flag)?),
            6 => Answer::Published(input.each(4, In::text)?),
            7 => Answer::Changed,
            8 => Answer::Failed(input.text()?),
            _ => return None,
        };
        input.end(answer)
    }
}

/// Bytes in the making.
struct Out(Vec<u8>);

impl Out {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, number: u64) {
        self.0.extend(number.to_be_bytes());
    }

    fn print(&mut self, print: Print) {
        self.0.extend(print.to_be_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn each<T>(&mut self, all: &[T], mut put: impl FnMut(&mut Out, &T)) {
        self.0.extend(u32::try_from(all.len()).unwrap_or(u32::MAX).to_be_bytes());
        all.iter().for_each(|one| put(self, one));
    }

    fn option<T>(&mut self, value: Option<&T>, put: impl FnOnce(&mut Out, &T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            put(self, value);
        }
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.byte(0),
            Value::Integer(number) => {
                self.byte(1);
                self.0.extend(number.to_be_bytes());
            }
            Value::Real(real) => {
                self.byte(2);
                self.number(real.to_bits());
            }
            Value::Text(bytes) => {
                self.byte(3);
                self.bytes(bytes);
            }
            Value::Blob(bytes) => {
                self.byte(4);
                self.bytes(bytes);
            }
        }
    }

    fn key(&mut self, key: &Key) {
        self.each(key, Out::value);
    }

    fn positions(&mut self, positions: &SeqMap) {
        let all: Vec<(&String, &u64)> = positions.iter().collect();
        self.each(&all, |out, (stream, seq)| {
            out.text(stream);
            out.number(**seq);
        });
    }

    fn span(&mut self, span: &Span) {
        self.text(&span.table);
        self.number(span.definition);
        self.0.extend(span.seed);
        self.option(span.after.as_ref(), Out::key);
        self.option(span.until.as_ref(), Out::key);
    }

    fn wanted(&mut self, wanted: &Wanted) {
        self.text(&wanted.table);
        self.number(wanted.definition);
        self.0.extend(wanted.seed);
        self.each(&wanted.keys, Out::key);
    }
}

/// Bytes to be read.
struct In<'a>(&'a [u8]);

impl<'a> In<'a> {
    fn new(bytes: &'a [u8], longest: usize) -> Option<In<'a>> {
        match bytes {
            [VERSION, rest @ ..] if bytes.len() <= longest => Some(In(rest)),
            _ => None,
        }
    }

    fn end<T>(&self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn print(&mut self) -> Option<Print> {
        self.take().map(Print::from_be_bytes)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(u32::from_be_bytes(self.take()?)).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        self.bytes().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())
    }

    /// `least`: bytes that one takes at least.
    fn each<T>(&mut self, least: usize, read: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = usize::try_from(u32::from_be_bytes(self.take()?)).ok()?;
        if count.checked_mul(least)? > self.0.len() {
            return None;
        }
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(read(self)?);
        }
        Some(all)
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Some(None) }
    }

    fn value(&mut self) -> Option<Value> {
        Some(match self.byte()? {
            0 => Value::Null,
            1 => Value::Integer(i64::from_be_bytes(self.take()?)),
            2 => Value::Real(f64::from_bits(self.number()?)),
            3 => Value::Text(self.bytes()?.to_vec()),
            4 => Value::Blob(self.bytes()?.to_vec()),
            _ => return None,
        })
    }

    fn key(&mut self) -> Option<Key> {
        self.each(1, In::value)
    }

    fn positions(&mut self) -> Option<SeqMap> {
        Some(self.each(12, |input| Some((input.text()?, input.number()?)))?.into_iter().collect())
    }

    fn seed(&mut self) -> Option<Seed> {
        self.take()
    }

    fn span(&mut self) -> Option<Span> {
        Some(Span {
            table: self.text()?,
            definition: self.number()?,
            seed: self.seed()?,
            after: self.option(In::key)?,
            until: self.option(In::key)?,
        })
    }

    fn wanted(&mut self) -> Option<Wanted> {
        Some(Wanted {
            table: self.text()?,
            definition: self.number()?,
            seed: self.seed()?,
            keys: self.each(4, In::key)?,
        })
    }

    fn described(&mut self) -> Option<Described> {
        Some(Described {
            name: self.text()?,
            definition: self.text()?,
            print: self.number()?,
            aside: self.number()?,
        })
    }

    fn seen(&mut self) -> Option<Seen> {
        let row = self.option(In::print)?;
        let flags = self.byte().filter(|flags| *flags < 4)?;
        let sight = Sight { row, touched: flags & 1 > 0, waits: flags & 2 > 0 };
        Some(Seen { sight, unique: self.each(8, In::number)? })
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
