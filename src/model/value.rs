//! One SQL value in its storage class, byte for byte.

/// A value as SQLite stores it. Text need not be UTF-8: SQLite does not check, and nothing here rewrites it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// SQL's NULL.
    Null,
    /// 64 bits.
    Integer(i64),
    /// Never NaN, which SQLite stores as NULL.
    Real(f64),
    /// The database's bytes: UTF-8 unless the application stored something else.
    Text(Vec<u8>),
    /// Bytes without a meaning to SQLite.
    Blob(Vec<u8>),
}

impl Value {
    /// TEXT in UTF-8.
    pub fn text(text: &str) -> Value {
        Value::Text(text.as_bytes().to_vec())
    }

    /// Bytes of memory that the value occupies, roughly: what bounds on memory count.
    pub fn size(&self) -> usize {
        match self {
            Value::Text(bytes) | Value::Blob(bytes) => bytes.len() + 16,
            _ => 16,
        }
    }
}

/// How a key column compares text. It decides whether two keys are the same row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collation {
    /// Byte for byte.
    Binary,
    /// Upper and lower case of ASCII letters are equal.
    NoCase,
    /// Trailing spaces do not count.
    RTrim,
}

/// A row's identity inside one node: bytes that are equal exactly when SQLite finds the same row by the same key. `table` is
/// the table's number in the change log; `values` are those of the key columns, in their order.
pub fn row_key<'a>(table: i64, values: impl IntoIterator<Item = (&'a Value, Collation)>) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    key.extend_from_slice(&table.to_be_bytes());
    for (value, collation) in values {
        canonical(value, collation, &mut key);
    }
    key
}

fn canonical(value: &Value, collation: Collation, key: &mut Vec<u8>) {
    match value {
        Value::Null => key.push(0),
        Value::Integer(number) => push(key, 1, &number.to_be_bytes()),
        // 1.0 and 1 are the same key to SQLite. Beyond 9e18 a real number need not fit 64 bits.
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

    const BINARY: Collation = Collation::Binary;

    fn key(value: Value, collation: Collation) -> Vec<u8> {
        row_key(1, [(&value, collation)])
    }

    #[test]
    fn numbers_are_equal_across_storage_classes() {
        assert_eq!(key(Value::Integer(1), BINARY), key(Value::Real(1.0), BINARY));
        assert_eq!(key(Value::Integer(0), BINARY), key(Value::Real(-0.0), BINARY));
        assert_ne!(key(Value::Integer(1), BINARY), key(Value::Real(1.5), BINARY));
        assert_ne!(key(Value::Integer(1), BINARY), key(Value::text("1"), BINARY));
    }

    #[test]
    fn numbers_beyond_64_bits_keep_apart() {
        assert_ne!(key(Value::Integer(i64::MAX), BINARY), key(Value::Real(1e300), BINARY));
        assert_ne!(key(Value::Real(f64::INFINITY), BINARY), key(Value::Real(f64::NEG_INFINITY), BINARY));
        assert_ne!(key(Value::Integer(i64::MIN), BINARY), key(Value::Integer(i64::MAX), BINARY));
    }

    #[test]
    fn text_compares_by_its_collation() {
        assert_ne!(key(Value::text("a"), BINARY), key(Value::text("A"), BINARY));
        assert_eq!(key(Value::text("a"), Collation::NoCase), key(Value::text("A"), Collation::NoCase));
        assert_ne!(key(Value::text("ä"), Collation::NoCase), key(Value::text("Ä"), Collation::NoCase));
        assert_eq!(key(Value::text("a  "), Collation::RTrim), key(Value::text("a"), Collation::RTrim));
        assert_ne!(key(Value::text(" a"), Collation::RTrim), key(Value::text("a"), Collation::RTrim));
        assert_eq!(key(Value::text("  "), Collation::RTrim), key(Value::text(""), Collation::RTrim));
    }

    #[test]
    fn blobs_have_no_collation_and_are_no_text() {
        let blob = |text: &str| Value::Blob(text.as_bytes().to_vec());
        assert_ne!(key(Value::text("a"), BINARY), key(blob("a"), BINARY));
        assert_ne!(key(blob("a"), Collation::NoCase), key(blob("A"), Collation::NoCase));
    }

    #[test]
    fn neither_columns_nor_tables_run_into_each_other() {
        let pair = |a: &str, b: &str| row_key(1, [(&Value::text(a), BINARY), (&Value::text(b), BINARY)]);
        assert_ne!(pair("ab", "c"), pair("a", "bc"));
        assert_ne!(row_key(1, [(&Value::Null, BINARY)]), row_key(2, [(&Value::Null, BINARY)]));
        assert_ne!(row_key(1, [(&Value::Null, BINARY)]), row_key(1, []));
    }
}
