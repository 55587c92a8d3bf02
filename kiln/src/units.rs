//! Sizes and times as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DECIMAL: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];

/// Returns a number of bytes in three digits: `7.34MB`, `812kB`, `3B`.
pub fn bytes(number: u64) -> String {
    let (value, unit) = scaled(number);
    if unit == 0 {
        return format!("{number}B");
    }
    let decimals = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", DECIMAL[unit])
}

/// Returns a number of bytes with two decimals, which does not jump about while it grows: `1.05MB`.
pub fn exact_bytes(number: u64) -> String {
    let (value, unit) = scaled(number);
    if unit == 0 { format!("{number}B") } else { format!("{value:.2}{}", DECIMAL[unit]) }
}

fn scaled(number: u64) -> (f64, usize) {
    let mut value = number as f64;
    let mut unit = 0;
    // 999.6 kB would be written as 1000 kB.
    while value >= 999.5 && unit + 1 < DECIMAL.len() {
        value /= 1000.0;
        unit += 1;
    }
    (value, if number < 1000 { 0 } else { unit })
}

/// Reads a size as Docker's flags take it: `64m`, `1.5g`, `512kb`, `1024`. Units are powers of 1024.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let power = match unit.trim() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    let factor = 1u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let value = number.parse::<f64>().ok()? * factor as f64;
    (0.0..9e18).contains(&value).then_some(value as u64)
}

/// Returns a duration in seconds: `0.2s`.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1}s", duration.as_secs_f64())
}

/// Returns how long ago something was: `2 minutes ago`.
pub fn ago(age: Duration) -> String {
    let seconds = age.as_secs();
    let (number, unit) = match seconds {
        0 => return "less than a second ago".to_owned(),
        1..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..172_800 => (seconds / 3600, "hour"),
        172_800..1_209_600 => (seconds / 86_400, "day"),
        1_209_600..5_184_000 => (seconds / 604_800, "week"),
        5_184_000..63_072_000 => (seconds / 2_592_000, "month"),
        _ => (seconds / 31_536_000, "year"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}

/// Returns how long ago an RFC 3339 time was, seen from `now`; `N/A` when it is none.
pub fn created_ago(created: Option<&str>, now: SystemTime) -> String {
    let Some(then) = created.and_then(parse_rfc3339) else { return "N/A".to_owned() };
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    ago(Duration::from_secs(now.saturating_sub(then).max(0) as u64))
}

/// Returns a time as RFC 3339 with nanoseconds, in UTC.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days as i64);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", since.subsec_nanos())
}

/// Reads an RFC 3339 time as seconds since 1970; the fraction is dropped.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let marks = [(4, "-"), (7, "-"), (13, ":"), (16, ":")];
    if marks.iter().any(|(at, mark)| text.get(*at..at + 1) != Some(mark)) || !(1..=12).contains(&month) {
        return None;
    }
    let rest = text.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let offset = match rest {
        "Z" | "z" => 0,
        _ => {
            let sign = match rest.as_bytes().first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let (hours, minutes) = rest.get(1..)?.split_once(':')?;
            sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60)
        }
    };
    Some(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

/// The date of a day counted from 1970-01-01 (years of 365.2425 days, beginning in March).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        let cases = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (7_344_128, "7.34MB"),
            (77_800_000, "77.8MB"),
            (812_345, "812kB"),
            (999_700, "1MB"),
            (1_500_000_000, "1.5GB"),
            (u64::MAX, "18447PB"),
        ];
        for (number, text) in cases {
            assert_eq!(bytes(number), text);
        }
        assert_eq!(exact_bytes(1_050_000), "1.05MB");
        assert_eq!(exact_bytes(12), "12B");
    }

    #[test]
    fn sizes_of_flags_are_binary() {
        let cases = [
            ("1024", Some(1024)),
            ("64m", Some(64 << 20)),
            ("2GB", Some(2 << 30)),
            ("1.5k", Some(1536)),
            ("16 MiB", Some(16 << 20)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1x", None),
            ("999999999999999999999p", None),
            ("1.2.3", None),
        ];
        for (text, number) in cases {
            assert_eq!(parse_bytes(text), number, "{text:?}");
        }
    }

    #[test]
    fn times_read_back() {
        for seconds in [0, 951_782_399, 951_782_400, 1_700_000_000, 4_102_444_800, 253_402_300_799] {
            let text = rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(parse_rfc3339(&text), Some(seconds as i64), "{text}");
        }
        assert_eq!(rfc3339(UNIX_EPOCH + Duration::new(1_709_210_096, 5)), "2024-02-29T12:34:56.000000005Z");
        assert_eq!(parse_rfc3339("2024-02-29T14:34:56.5+02:00"), Some(1_709_210_096));
        for wrong in
            ["", "2024", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00", "2024-01-01 é0:00:00Z", "2024-01-01T00:00:00+2"]
        {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn ages_are_told_roughly() {
        let cases = [
            (0, "less than a second ago"),
            (1, "1 second ago"),
            (150, "2 minutes ago"),
            (90_000, "25 hours ago"),
            (400_000, "4 days ago"),
        ];
        for (seconds, text) in cases {
            assert_eq!(ago(Duration::from_secs(seconds)), text);
        }
        assert_eq!(created_ago(Some("yesterday"), UNIX_EPOCH), "N/A");
        assert_eq!(created_ago(Some("2024-02-29T12:34:56Z"), UNIX_EPOCH), "less than a second ago");
    }
}
