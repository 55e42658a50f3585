//! How the Go program reads a column of type date, datetime, timestamp or boolean: needed only to put a row whose key is
//! such a column into the same shard as it does (compat.md 1a, 1b).

use crate::model::value::Value;

/// What the Go program hashes for a key value.
#[derive(Clone, Debug, PartialEq)]
pub enum Hashed {
    /// The value as it is.
    Plain(Value),
    /// A boolean column's integer.
    Bool(bool),
}

/// The value of a key column as the Go program hashes it.
pub fn hashed(value: &Value, declared_type: &str) -> Hashed {
    let is = |name: &str| declared_type.eq_ignore_ascii_case(name);
    if is("boolean")
        && let Value::Integer(number) = value
    {
        return Hashed::Bool(*number > 0);
    }
    if !(is("date") || is("datetime") || is("timestamp")) {
        return Hashed::Plain(value.clone());
    }
    Hashed::Plain(match value {
        Value::Integer(number) if number.unsigned_abs() > 1_000_000_000_000 => {
            Value::Integer(number.div_euclid(1000))
        }
        Value::Text(bytes) => match std::str::from_utf8(bytes).ok().and_then(parse) {
            Some(seconds) => Value::Integer(seconds),
            None => Value::Null,
        },
        other => other.clone(),
    })
}

/// Unix seconds (rounded down) of a text timestamp in one of the layouts that the Go driver tries; `None` for any other
/// text and for Go's zero time.
pub fn parse(text: &str) -> Option<i64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, rest) = text.split_at_checked(10)?;
    let days = days(date)?;
    if rest.is_empty() {
        return Some(days * 86_400).filter(not_zero_time);
    }
    let rest = rest.strip_prefix([' ', 'T'])?;
    let (clock, offset) = match rest.find(['+', '-']) {
        Some(at) => (&rest[..at], Some(offset(&rest[at..])?)),
        None => (rest, None),
    };
    let (seconds, with_seconds) = of_day(clock)?;
    if offset.is_some() && !with_seconds {
        return None;
    }
    Some(days * 86_400 + seconds - offset.unwrap_or(0)).filter(not_zero_time)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "for Option::filter")]
fn not_zero_time(seconds: &i64) -> bool {
    *seconds != -62_135_596_800
}

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn days(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let (year, month, day) =
        (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if parts.next().is_some() || !(1..=last).contains(&day) {
        return None;
    }
    let shifted_year = year - i64::from(month <= 2);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    Some(era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468)
}

/// Seconds of the day of `HH:MM` or `HH:MM:SS[.fraction]`, and whether seconds were there.
fn of_day(clock: &str) -> Option<(i64, bool)> {
    let mut parts = clock.split(':');
    let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let (second, with_seconds) = match parts.next() {
        None => (0, false),
        Some(text) => {
            let (whole, fraction) = text.split_once(['.', ',']).unwrap_or((text, "0"));
            if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            (digits(whole, 2)?, true)
        }
    };
    let valid = parts.next().is_none() && hour < 24 && minute < 60 && second < 60;
    valid.then_some((hour * 3_600 + minute * 60 + second, with_seconds))
}

fn offset(text: &str) -> Option<i64> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = text[1..].split_once(':')?;
    Some(sign * (digits(hours, 2)? * 3_600 + digits(minutes, 2)? * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts() {
        assert_eq!(parse("2024-01-02"), Some(1_704_153_600));
        assert_eq!(parse("2024-05-06 07:08:09"), Some(1_714_979_289));
        assert_eq!(parse("2024-05-06T07:08:09Z"), Some(1_714_979_289));
        assert_eq!(parse("2025-03-01 12:00:00.123+02:00"), Some(1_740_823_200));
        assert_eq!(parse("2025-03-01 12:00"), Some(1_740_830_400));
        assert_eq!(parse("1969-12-31 23:59:59.5"), Some(-1));
        for bad in [
            "",
            "Jan 5 2024",
            "03/15/2024",
            "2024-13-01",
            "2023-02-29",
            "2024-01-01 24:00",
            "0001-01-01",
            "ü024-01-01 x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_four_types_are_special() {
        assert_eq!(hashed(&Value::Integer(2), "BOOLEAN"), Hashed::Bool(true));
        assert_eq!(hashed(&Value::Integer(-1), "boolean"), Hashed::Bool(false));
        assert_eq!(hashed(&Value::Integer(2), "BOOL"), Hashed::Plain(Value::Integer(2)));
        assert_eq!(
            hashed(&Value::Integer(1_700_000_000_123), "timestamp"),
            Hashed::Plain(Value::Integer(1_700_000_000))
        );
        assert_eq!(hashed(&Value::text("x"), "Date"), Hashed::Plain(Value::Null));
        assert_eq!(
            hashed(&Value::text("2024-01-02"), "DATETIME(6)"),
            Hashed::Plain(Value::text("2024-01-02"))
        );
    }
}
