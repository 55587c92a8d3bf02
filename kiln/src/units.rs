//! Sizes and times as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_oci::parse_rfc3339;

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
