//! How the Go program reads a column of type date, datetime, timestamp or boolean: needed only to put a row whose key is
//! such a column into the same shard as the Go program does (formats, section "Shards").

use crate::model::value::Value;

/// What the Go program hashes for a key value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Hashed<'a> {
    /// The value as it is.
    Same(&'a Value),
    /// The integer of a boolean column, as a CBOR boolean.
    Bool(bool),
    /// Unix seconds of a point in time.
    Seconds(i64),
    /// Text that is no point in time to the Go program.
    Null,
}

/// The value of a key column as the Go program hashes it.
pub fn hashed<'a>(value: &'a Value, declared_type: &str) -> Hashed<'a> {
    let is = |name: &str| declared_type.eq_ignore_ascii_case(name);
    let is_time = is("date") || is("datetime") || is("timestamp");
    match value {
        Value::Integer(number) if is("boolean") => Hashed::Bool(*number > 0),
        // The Go driver takes so large a number for milliseconds.
        Value::Integer(number) if is_time && number.unsigned_abs() > 1_000_000_000_000 => {
            Hashed::Seconds(number.div_euclid(1000))
        }
        Value::Text(bytes) if is_time => {
            std::str::from_utf8(bytes).ok().and_then(parse).map_or(Hashed::Null, Hashed::Seconds)
        }
        other => Hashed::Same(other),
    }
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
        assert_eq!(parse("2025-03-01 12:00"), Some(1_740_830_400));
        assert_eq!(parse("1969-12-31 23:59:59.5"), Some(-1));
    }

    #[test]
    fn offsets_are_subtracted() {
        assert_eq!(parse("2025-03-01 12:00:00.123+02:00"), Some(1_740_823_200));
        assert_eq!(parse("2025-03-01 12:00:00-02:30"), Some(1_740_830_400 + 9_000));
        // The Go driver has no layout with an offset and without seconds.
        assert_eq!(parse("2025-03-01 12:00+02:00"), None);
    }

    #[test]
    fn leap_days_are_where_the_calendar_has_them() {
        assert_eq!(parse("2000-02-29"), Some(951_782_400));
        assert_eq!(parse("1900-02-29"), None);
        assert_eq!(parse("2023-02-29"), None);
        assert_eq!(parse("2024-02-29").unwrap() + 86_400, parse("2024-03-01").unwrap());
    }

    #[test]
    fn other_texts_are_no_time() {
        for bad in [
            "",
            "Jan 5 2024",
            "03/15/2024",
            "2024-13-01",
            "2024-01-00",
            "2024-01-01 24:00",
            "2024-01-01 10:00:00.",
            "2024-01-01x10:00",
            "0001-01-01",
            "ü024-01-01 x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_four_types_are_special() {
        let two = Value::Integer(2);
        assert_eq!(hashed(&two, "BOOLEAN"), Hashed::Bool(true));
        assert_eq!(hashed(&Value::Integer(-1), "boolean"), Hashed::Bool(false));
        assert_eq!(hashed(&two, "BOOL"), Hashed::Same(&two));
        assert_eq!(hashed(&two, "timestamp"), Hashed::Same(&two));
        assert_eq!(hashed(&Value::Integer(1_700_000_000_123), "timestamp"), Hashed::Seconds(1_700_000_000));
        assert_eq!(hashed(&Value::text("x"), "Date"), Hashed::Null);
        let day = Value::text("2024-01-02");
        assert_eq!(hashed(&day, "DATETIME(6)"), Hashed::Same(&day));
        assert_eq!(hashed(&day, "datetime"), Hashed::Seconds(1_704_153_600));
    }
}
