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
        16 + self.weight()
    }

    /// Bytes that it takes beside itself.
    pub fn weight(&self) -> usize {
        match self {
            Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
            _ => 0,
        }
    }
}

/// How the index that makes a key unique compares the text of one column. It decides whether two keys are the same row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collation {
    /// Byte for byte.
    Binary,
    /// Upper and lower case of ASCII letters are equal, and of what follows a zero byte only the length counts.
    NoCase,
    /// Trailing spaces do not count.
    RTrim,
}

impl Collation {
    /// The one of this name in SQL, if it is SQLite's own.
    pub fn of(name: &str) -> Option<Collation> {
        let all = [Collation::Binary, Collation::NoCase, Collation::RTrim];
        all.into_iter().find(|known| known.name().eq_ignore_ascii_case(name))
    }

    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Collation::Binary => "BINARY",
            Collation::NoCase => "NOCASE",
            Collation::RTrim => "RTRIM",
        }
    }
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
        // 1.0 and 1 are the same key to SQLite.
        Value::Real(real) => match whole_number(*real) {
            Some(number) => push(key, 1, &number.to_be_bytes()),
            None => push(key, 2, &real.to_bits().to_be_bytes()),
        },
        Value::Text(bytes) => match collation {
            Collation::Binary => push(key, 3, bytes),
            Collation::NoCase => {
                // SQLite's function for it compares the bytes before the first zero, and then the lengths.
                let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
                push(key, 3, &bytes[..end].to_ascii_lowercase());
                key.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            }
            Collation::RTrim => {
                let end = bytes.iter().rposition(|b| *b != b' ').map_or(0, |at| at + 1);
                push(key, 3, &bytes[..end]);
            }
        },
        Value::Blob(bytes) => push(key, 4, bytes),
    }
}

/// The integer that SQLite takes a real number for when it compares keys; `None` when there is none of 64 bits.
pub fn whole_number(real: f64) -> Option<i64> {
    // 2 to the power of 63, which is the first real number that is too large.
    const END: f64 = 9_223_372_036_854_775_808.0;
    #[allow(clippy::cast_possible_truncation, reason = "a whole number within 64 bits")]
    (real.trunc() == real && (-END..END).contains(&real)).then_some(real as i64)
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
    fn large_whole_numbers_are_equal_across_storage_classes() {
        assert_eq!(key(Value::Integer(9_100_000_000_000_000_000), BINARY), key(Value::Real(9.1e18), BINARY));
        assert_eq!(
            key(Value::Integer(i64::MIN), BINARY),
            key(Value::Real(-9_223_372_036_854_775_808.0), BINARY)
        );
        // The real number nearest to the largest integer is one more than that.
        assert_ne!(
            key(Value::Integer(i64::MAX), BINARY),
            key(Value::Real(9_223_372_036_854_775_807.0), BINARY)
        );
        assert_ne!(
            key(Value::Integer((1 << 53) + 1), BINARY),
            key(Value::Real(9_007_199_254_740_992.0), BINARY)
        );
    }

    #[test]
    fn what_follows_a_zero_byte_does_not_count_without_case() {
        let nocase = |text: &str| key(Value::text(text), Collation::NoCase);
        assert_eq!(nocase("a\0b"), nocase("A\0c"));
        assert_ne!(nocase("a\0b"), nocase("a\0bc"));
        assert_ne!(nocase("a\0"), nocase("a"));
        assert_ne!(key(Value::text("a\0b"), BINARY), key(Value::text("a\0c"), BINARY));
        assert_ne!(key(Value::text("a\0b"), Collation::RTrim), key(Value::text("a\0c"), Collation::RTrim));
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
