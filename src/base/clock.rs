//! Calendar time: now, and Unix time as text and back. Durations are measured with `std::time::Instant`, those of leases with
//! [`since_boot`].

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC by this machine's clock.
pub fn unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

/// Time since the machine was started, including the time that it slept. A lease is measured with it: a holder that slept past
/// its lease must know.
pub fn since_boot() -> std::time::Duration {
    clock(rustix::time::ClockId::Boottime)
}

/// Time that this thread has worked: neither waiting nor put aside for others.
pub fn of_thread() -> std::time::Duration {
    clock(rustix::time::ClockId::ThreadCPUTime)
}

fn clock(id: rustix::time::ClockId) -> std::time::Duration {
    let now = rustix::time::clock_gettime(id);
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    std::time::Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), nanos)
}

/// Year, month, day of a day number counted from 1970-01-01 (proleptic Gregorian).
fn civil(days: i64) -> (i64, i64, i64) {
    // Count in 400-year eras from 0000-03-01, so that the leap day ends a year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Unix seconds of the beginning of a day in UTC; `None` when the calendar has no such day.
pub fn unix_seconds(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || !(0..=9999).contains(&year) {
        return None;
    }
    // Counted in years that begin in March, as in `civil`.
    let (from_march, shifted) = if month > 2 { (month - 3, year) } else { (month + 9, year - 1) };
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    let days =
        shifted.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    // The 30th of February is the 1st or 2nd of March by this count.
    (civil(days) == (year, month, day)).then_some(days * 86_400)
}

/// Unix milliseconds without punctuation, cut to the second: `20240701T120000Z`.
pub fn compact(ms: i64) -> String {
    let text = date_time(ms.div_euclid(1000), 'T');
    text.chars().filter(|c| *c != '-' && *c != ':').chain(['Z']).collect()
}

/// Date and time with the given separator, without zone: `2024-07-01 12:00:00`.
fn date_time(seconds: i64, separator: char) -> String {
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}{separator}{hour:02}:{minute:02}:{second:02}")
}

/// Unix seconds as the Go program writes a time into a database, on a machine in UTC: `2024-07-01 12:00:00+00:00`.
pub fn go_text(seconds: i64) -> String {
    date_time(seconds, ' ') + "+00:00"
}

/// Unix milliseconds in RFC 3339: `2024-07-01T12:00:00.123Z`.
pub fn rfc3339(ms: i64) -> String {
    format!("{}.{:03}Z", date_time(ms.div_euclid(1000), 'T'), ms.rem_euclid(1000))
}

/// Reads RFC 3339 as Unix milliseconds. Date and time may be separated by a space, seconds, fraction and zone left away;
/// without a zone the time is in UTC.
pub fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.trim().split_once(['T', 't', ' '])?;
    let mut parts = date.split('-').map(|part| part.parse::<i64>().ok());
    let day = unix_seconds(parts.next()??, parts.next()??, parts.next()??)?;
    if parts.next().is_some() {
        return None;
    }
    let (time, zone) = match rest.find(['Z', 'z', '+', '-']) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let clock = |text: &str| -> Option<i64> {
        let mut parts = text.split(':').map(|part| part.parse::<u32>().ok().map(i64::from));
        let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next().unwrap_or(Some(0))?);
        let valid = hour < 24 && minute < 60 && second < 61 && parts.next().is_none();
        valid.then_some(hour * 3600 + minute * 60 + second)
    };
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let digits = fraction.bytes().all(|byte| byte.is_ascii_digit()) && !fraction.is_empty();
    let millis: i64 = digits.then(|| format!("{fraction:0<3}")[..3].parse().ok())??;
    let offset = match zone.as_bytes().first() {
        None => 0,
        Some(b'Z' | b'z') if zone.len() == 1 => 0,
        Some(sign @ (b'+' | b'-')) => clock(&zone[1..])? * if *sign == b'+' { 1 } else { -1 },
        _ => return None,
    };
    Some((day + clock(whole)? - offset) * 1000 + millis)
}

/// Unix milliseconds as people read them: `2024-07-01 12:00:00`.
pub fn console(ms: i64) -> String {
    date_time(ms.div_euclid(1000), ' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        assert_eq!(go_text(0), "1970-01-01 00:00:00+00:00");
        assert_eq!(go_text(1_709_208_000), "2024-02-29 12:00:00+00:00");
        assert_eq!(go_text(-1), "1969-12-31 23:59:59+00:00");
        assert_eq!(go_text(-62_135_596_800), "0001-01-01 00:00:00+00:00");
        assert_eq!(rfc3339(951_782_400_007), "2000-02-29T00:00:00.007Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(compact(1_795_526_100_999), "20261124T131500Z");
        assert_eq!(console(4_107_542_399_000), "2100-02-28 23:59:59");
    }

    #[test]
    fn days_and_back() {
        for days in (-719_468..60_000).step_by(97).chain([-1, 0, 59, 11_016, 20_781, 47_540]) {
            let (year, month, day) = civil(days);
            assert_eq!(unix_seconds(year, month, day), Some(days * 86_400).filter(|_| year >= 0));
        }
    }

    #[test]
    fn days_that_no_calendar_has() {
        for (year, month, day) in [
            (2024, 13, 1),
            (2024, 0, 1),
            (2023, 2, 29),
            (1900, 2, 29),
            (2024, 2, 30),
            (2024, 4, 31),
            (-1, 1, 1),
        ] {
            assert_eq!(unix_seconds(year, month, day), None, "{year}-{month}-{day}");
        }
        assert!(unix_seconds(2000, 2, 29).is_some() && unix_seconds(2024, 2, 29).is_some());
    }

    #[test]
    fn times_that_people_write() {
        for (text, ms) in [
            ("2026-11-24T13:15:00Z", Some(1_795_526_100_000)),
            ("2026-11-24 13:15:00", Some(1_795_526_100_000)),
            ("2026-11-24T13:15", Some(1_795_526_100_000)),
            ("2026-11-24T15:15:00.25+02:00", Some(1_795_526_100_250)),
            ("2026-11-24T08:15:00.123456789-05:00", Some(1_795_526_100_123)),
            ("2026-11-24", None),
            ("2026-13-24T00:00:00Z", None),
            ("2026-02-30T00:00:00Z", None),
            ("2026-11-24T25:00:00Z", None),
            ("2026-11-24T13:15:00Zulu", None),
            ("2026-11-24T13:15:00.xZ", None),
            ("yesterday at noon", None),
        ] {
            assert_eq!(parse(text), ms, "{text}");
        }
        assert_eq!(parse(&rfc3339(951_782_400_007)), Some(951_782_400_007));
    }

    #[test]
    fn clocks_go_forward() {
        let (boot, unix) = (since_boot(), unix_ms());
        assert!(since_boot() >= boot && unix > 1_700_000_000_000);
        let worked = of_thread();
        std::thread::park_timeout(std::time::Duration::from_millis(50));
        let pause = of_thread().checked_sub(worked).unwrap();
        assert!(pause < std::time::Duration::from_millis(40), "waiting is no work: {pause:?}");
    }
}
