//! One SQL value in its storage class, byte for byte.

/// A value as SQLite stores it. Text need not be UTF-8: SQLite does not check, and nothing here rewrites it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// INTEGER, 64 bits.
    Integer(i64),
    /// REAL; never NaN, which SQLite stores as NULL.
    Real(f64),
    /// TEXT in the database's bytes (UTF-8 unless the application stored something else).
    Text(Vec<u8>),
    /// BLOB.
    Blob(Vec<u8>),
}

impl Value {
    /// Text from a string.
    pub fn text(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec())
    }

    /// Bytes that the value occupies, roughly; for bounds on memory.
    pub fn size(&self) -> usize {
        match self {
            Value::Text(bytes) | Value::Blob(bytes) => bytes.len() + 16,
            _ => 16,
        }
    }
}

/// How a key column compares text: part of what makes two keys the same row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collation {
    /// Byte for byte.
    Binary,
    /// ASCII letters without case.
    NoCase,
    /// Without trailing spaces.
    RTrim,
}

/// A row's identity inside one node: table number and key values, as bytes that are equal when SQLite would find the same row.
pub fn row_key(table: i64, values: &[(Value, Collation)]) -> Vec<u8> {
    let mut key = table.to_be_bytes().to_vec();
    for (value, collation) in values {
        canonical(value, *collation, &mut key);
    }
    key
}

fn canonical(value: &Value, collation: Collation, key: &mut Vec<u8>) {
    match value {
        Value::Null => key.push(0),
        Value::Integer(number) => push(key, 1, &number.to_be_bytes()),
        // 1.0 and 1 are the same key to SQLite.
        #[allow(clippy::cast_possible_truncation, reason = "compared back before use")]
        Value::Real(real) if real.trunc() == *real && real.abs() < 9e18 => {
            push(key, 1, &(*real as i64).to_be_bytes());
        }
        Value::Real(real) => push(key, 2, &real.to_bits().to_be_bytes()),
        Value::Text(bytes) => match collation {
            Collation::Binary => push(key, 3, bytes),
            Collation::NoCase => push(key, 3, &bytes.to_ascii_lowercase()),
            Collation::RTrim => {
                let end = bytes.iter().rposition(|b| *b != b' ').map_or(0, |at| at + 1);
                push(key, 3, &bytes[..end]);
            }
        },
        Value::Blob(bytes) => push(key, 4, bytes),
    }
}

fn push(key: &mut Vec<u8>, class: u8, bytes: &[u8]) {
    key.push(class);
    key.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    key.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_equal_exactly_when_sqlite_says_so() {
        let key = |value: Value, collation| row_key(1, &[(value, collation)]);
        let binary = Collation::Binary;
        assert_eq!(key(Value::Integer(1), binary), key(Value::Real(1.0), binary));
        assert_eq!(key(Value::Integer(0), binary), key(Value::Real(-0.0), binary));
        assert_ne!(key(Value::Integer(1), binary), key(Value::Real(1.5), binary));
        assert_ne!(key(Value::text("a"), binary), key(Value::Blob(b"a".to_vec()), binary));
        assert_ne!(key(Value::text("a"), binary), key(Value::text("A"), binary));
        assert_eq!(key(Value::text("a"), Collation::NoCase), key(Value::text("A"), Collation::NoCase));
        assert_eq!(key(Value::text("a  "), Collation::RTrim), key(Value::text("a"), Collation::RTrim));
        let pair = |a: &str, b: &str| row_key(1, &[(Value::text(a), binary), (Value::text(b), binary)]);
        assert_ne!(pair("ab", "c"), pair("a", "bc"));
        assert_ne!(row_key(1, &[(Value::Null, binary)]), row_key(2, &[(Value::Null, binary)]));
    }
}
