//! A change set as one message: rows of one publisher that belong together, in our own CBOR.
//!
//! `[1, schema, [[table, kind, [column...], [id...], [value...]]...]]` (formats, section "Change sets"): names stand once for all
//! rows of a table, and values column by column, because like compresses well beside like. The publisher and the number of the
//! part stand in the message's headers.

use crate::base::limits;
use crate::model::event::{self, Cursor, Event, Kind, Malformed, head, integer, malformed, text};
use std::collections::HashMap;
use std::sync::Arc;

/// The form in which the changes of a stream are published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Each row as a message, as Go nodes do.
    #[default]
    Rows,
    /// Change sets: many rows in a message.
    Sets,
}

impl Format {
    /// As the configuration and the command line say it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Rows => "rows",
            Format::Sets => "sets",
        }
    }
}

/// The first item of a set. Another number is another format.
const VERSION: u64 = 1;
/// Bytes of a schema's hash that travel.
const HASH: usize = 8;

/// Rows of one table with the same columns, as they are gathered.
struct Group {
    table: Arc<str>,
    kind: Kind,
    columns: Vec<Arc<str>>,
    ids: Vec<u8>,
    rows: u64,
    last: i64,
    /// A column each.
    values: Vec<Vec<u8>>,
}

impl Group {
    fn new(event: &Event) -> Group {
        Group {
            table: event.table.clone(),
            kind: event.kind,
            columns: event.row.iter().map(|(name, _)| name.clone()).collect(),
            ids: vec![],
            rows: 0,
            last: 0,
            values: vec![vec![]; event.row.len()],
        }
    }

    fn is_of(&self, event: &Event) -> bool {
        self.table == event.table && (self.kind == Kind::Delete) == event.is_tombstone()
    }

    fn takes(&self, event: &Event) -> bool {
        self.columns.len() == event.row.len()
            && self.columns.iter().zip(&event.row).all(|(known, (name, _))| known == name)
    }

    fn push(&mut self, event: &Event) {
        integer(&mut self.ids, event.id.wrapping_sub(self.last));
        self.last = event.id;
        self.rows += 1;
        for (column, (_, value)) in self.values.iter_mut().zip(&event.row) {
            event::value(column, value);
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        head(out, 4, 5);
        text(out, &self.table);
        head(out, 0, u64::from(self.kind == Kind::Delete));
        head(out, 4, self.columns.len() as u64);
        for column in &self.columns {
            text(out, column);
        }
        head(out, 4, self.rows);
        out.extend_from_slice(&self.ids);
        head(out, 4, self.rows * self.columns.len() as u64);
        for column in &self.values {
            out.extend_from_slice(column);
        }
    }
}

/// Encodes events of one publisher as a set. Their ids need not be in order.
pub fn encode<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<u8> {
    let mut groups: Vec<Group> = vec![];
    let mut places: HashMap<(Arc<str>, bool), usize> = HashMap::new();
    let mut schema: Option<&Arc<str>> = None;
    // Rows of one table mostly follow each other.
    let mut last: Option<usize> = None;
    for event in events {
        schema = event.schema_hash.as_ref().or(schema);
        let at = match last.filter(|last| groups[*last].is_of(event)) {
            Some(last) => last,
            None => *places.entry((event.table.clone(), event.is_tombstone())).or_insert(groups.len()),
        };
        let at = if groups.get(at).is_some_and(|group| group.takes(event)) {
            at
        } else {
            places.insert((event.table.clone(), event.is_tombstone()), groups.len());
            groups.push(Group::new(event));
            groups.len() - 1
        };
        groups[at].push(event);
        last = Some(at);
    }
    let mut out = vec![];
    head(&mut out, 4, 3);
    head(&mut out, 0, VERSION);
    let hash = schema.map(|hash| hash_bytes(hash)).unwrap_or_default();
    head(&mut out, 2, hash.len() as u64);
    out.extend_from_slice(&hash);
    head(&mut out, 4, groups.len() as u64);
    for group in &groups {
        group.write(&mut out);
    }
    out
}

/// The first bytes of a hash that is written in hex digits.
fn hash_bytes(hash: &str) -> Vec<u8> {
    let digits = hash.as_bytes().chunks_exact(2).take(HASH);
    digits.map_while(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Whether a payload that is not packed begins as a set does.
pub fn is_set(plain: &[u8]) -> bool {
    plain.first().is_some_and(|byte| byte >> 5 == 4)
}

/// The events of a set, in the order of their ids.
pub fn decode(plain: &[u8]) -> Result<Vec<Event>, Malformed> {
    let mut cursor = Cursor::new(plain);
    if cursor.array()? != 3 {
        return malformed("a set is an array of three");
    }
    let version = cursor.unsigned()?;
    if version != VERSION {
        return malformed(format!("a set of format {version}; this version knows format {VERSION}"));
    }
    let schema = cursor.byte_string()?;
    if schema.len() > HASH {
        return malformed(format!("a schema's hash of {} bytes; {HASH} are accepted", schema.len()));
    }
    let hex: String = schema.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut set = Decoded { schema: (!hex.is_empty()).then(|| hex.into()), events: vec![], values: 0 };
    for _ in 0..cursor.array()? {
        set.group(&mut cursor)?;
    }
    if !cursor.is_empty() {
        return malformed("bytes after a set");
    }
    set.events.sort_by_key(|event| event.id);
    Ok(set.events)
}

/// What was read of a set.
struct Decoded {
    schema: Option<Arc<str>>,
    events: Vec<Event>,
    values: usize,
}

impl Decoded {
    fn group(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
        if cursor.array()? != 5 {
            return malformed("rows of a table are an array of five");
        }
        let table = cursor.string()?;
        if table.is_empty() {
            return malformed("a table without a name");
        }
        let kind = match cursor.unsigned()? {
            0 => Kind::Insert,
            1 => Kind::Delete,
            other => return malformed(format!("rows of the kind {other}")),
        };
        let columns = self.columns(cursor)?;
        let rows = cursor.array()?;
        // Each value takes a byte of the message and much more in memory.
        self.values = self.values.saturating_add(rows.saturating_mul(columns.len()));
        if self.values > limits::SET_VALUES || rows > cursor.left() {
            return malformed(format!("more than {} values in a set", limits::SET_VALUES));
        }
        let first = self.events.len();
        let mut id = 0_i64;
        for _ in 0..rows {
            id = id.checked_add(cursor.signed()?).ok_or_else(|| Malformed::new("an id beyond 64 bits"))?;
            let row = Vec::with_capacity(columns.len());
            let schema_hash = self.schema.clone();
            self.events.push(Event { node: 0, id, kind, table: table.clone(), row, schema_hash });
        }
        if cursor.array()? != rows * columns.len() {
            return malformed(format!("table {table}: not a value for each column of each row"));
        }
        for column in &columns {
            for event in &mut self.events[first..] {
                event.row.push((column.clone(), cursor.value()?));
            }
        }
        Ok(())
    }

    fn columns(&self, cursor: &mut Cursor<'_>) -> Result<Vec<Arc<str>>, Malformed> {
        let count = cursor.array()?;
        if count == 0 || count > limits::EVENT_COLUMNS {
            return malformed(format!("{count} columns; 1 to {} are accepted", limits::EVENT_COLUMNS));
        }
        let mut columns: Vec<Arc<str>> = Vec::with_capacity(count);
        let mut known = std::collections::HashSet::with_capacity(count);
        for _ in 0..count {
            let name = cursor.string()?;
            if !known.insert(name.to_ascii_lowercase()) {
                return malformed(format!("column {name} comes twice"));
            }
            columns.push(name);
        }
        Ok(columns)
    }
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
