//! When to try again, and how long to wait before.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::StatusCode;

/// No server makes us wait longer than this for one try.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How often and how slowly one request is repeated.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    next: Duration,
    tries_left: u32,
}

impl Backoff {
    /// Allows `tries` repetitions, the first after about `first`, each wait twice the last.
    pub(crate) fn new(first: Duration, tries: u32) -> Self {
        Self { next: first, tries_left: tries }
    }

    /// Returns how long to wait before the next try, or `None` when there is none. What the
    /// server asked for is obeyed, within bounds.
    pub(crate) fn wait(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.tries_left = self.tries_left.checked_sub(1)?;
        let own = self.next.min(LONGEST_WAIT);
        self.next = own * 2;
        Some(match asked {
            Some(asked) => asked.min(LONGEST_WAIT),
            // Half of it by chance, so that many clients do not come back at once.
            None => own / 2 + own.mul_f64(chance() / 2.0),
        })
    }
}

/// Whether the same request may succeed later.
pub(crate) fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// Reads `Retry-After`: seconds, or a date.
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = UNIX_EPOCH + Duration::from_secs(http_date(text)?);
    Some(date.duration_since(now).unwrap_or_default())
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT` as seconds since 1970 (RFC 9110 §5.6.7; the obsolete
/// forms are not read).
pub(crate) fn http_date(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(", ")?;
    let mut words = rest.split(' ');
    let day: u64 = words.next()?.parse().ok().filter(|d| (1..=31).contains(d))?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let name = words.next()?;
    let month = months.iter().position(|m| *m == name)?;
    let year: u64 = words.next()?.parse().ok().filter(|y| (1970..=9999).contains(y))?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok().filter(|n| *n <= 60));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if words.next() != Some("GMT") {
        return None;
    }
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month];
    let leap_day = u64::from(month > 1 && leap(year));
    let years: u64 = (1970..year).map(|y| 365 + u64::from(leap(y))).sum();
    Some((years + before + leap_day + day - 1) * 86400 + hour * 3600 + minute * 60 + second)
}

/// Returns a number from 0 to 1 that differs from call to call.
fn chance() -> f64 {
    let bits = std::hash::RandomState::new().build_hasher().finish() >> 11;
    bits as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_seconds_are_read() {
        let epoch = UNIX_EPOCH;
        assert_eq!(retry_after("120", epoch), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", epoch), Some(Duration::from_secs(784_111_777)));
        assert_eq!(retry_after("Thu, 01 Jan 1970 00:00:00 GMT", SystemTime::now()), Some(Duration::ZERO));
        for text in ["", "soon", "-1", "Sun, 06 Nov 1994", "Sun, 99 Nov 1994 08:49:37 GMT", "x, 1 Mar 0 1:1:1 GMT"] {
            assert_eq!(retry_after(text, epoch), None, "{text:?}");
        }
    }

    #[test]
    fn waits_grow_and_end() {
        let mut backoff = Backoff::new(Duration::from_secs(1), 3);
        let waits: Vec<_> = std::iter::from_fn(|| backoff.wait(None)).collect();
        assert_eq!(waits.len(), 3);
        assert!(waits[0] <= Duration::from_secs(1) && waits[2] >= Duration::from_secs(2));
        assert_eq!(Backoff::new(Duration::ZERO, 1).wait(Some(Duration::MAX)), Some(LONGEST_WAIT));
    }
}
