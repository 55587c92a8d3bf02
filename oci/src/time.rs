//! Times as images write them: RFC 3339, UTC, fractions without trailing zeros.

/// Writes a time given as seconds since 1970 and nanoseconds.
pub fn rfc3339(seconds: i64, nanoseconds: u32) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanoseconds > 0 {
        text.push_str(format!(".{nanoseconds:09}").trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Reads an RFC 3339 time as seconds since 1970; the fraction is dropped.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    parse_rfc3339_fraction(text).map(|(seconds, _)| seconds)
}

/// Reads an RFC 3339 time as seconds since 1970 and nanoseconds; what is finer is dropped.
pub fn parse_rfc3339_fraction(text: &str) -> Option<(i64, u32)> {
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
    let rest = text.get(19..)?;
    let digits = rest.strip_prefix('.').unwrap_or_default();
    let digits = &digits[..digits.bytes().take_while(u8::is_ascii_digit).count()];
    let nanoseconds = digits.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = nanoseconds.fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
    let rest = rest.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
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
    Some((days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset, nanoseconds))
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
    fn times_are_written_in_utc() {
        for (seconds, nanoseconds, expected) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (-1, 0, "1969-12-31T23:59:59Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_709_164_800, 120_000_000, "2024-02-29T00:00:00.12Z"),
            (4_102_444_799, 1, "2099-12-31T23:59:59.000000001Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59Z"),
            (i64::MIN, 0, "-292277022657-01-27T08:29:52Z"),
        ] {
            assert_eq!(rfc3339(seconds, nanoseconds), expected);
        }
    }

    #[test]
    fn times_read_back() {
        for seconds in [0, 951_782_399, 951_782_400, 1_700_000_000, 4_102_444_800, 253_402_300_799] {
            let text = rfc3339(seconds, 5);
            assert_eq!(parse_rfc3339(&text), Some(seconds), "{text}");
            assert_eq!(parse_rfc3339_fraction(&text), Some((seconds, 5)), "{text}");
        }
        assert_eq!(parse_rfc3339_fraction("2024-02-29T14:34:56.5+02:00"), Some((1_709_210_096, 500_000_000)));
        assert_eq!(parse_rfc3339_fraction("1970-01-01T00:00:01.0123456789Z"), Some((1, 12_345_678)));
        for wrong in
            ["", "2024", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00", "2024-01-01 é0:00:00Z", "2024-01-01T00:00:00+2"]
        {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong:?}");
        }
    }
}
