//! Times as microseconds since 1970, the one form that all three databases
//! keep and order alike.

use chrono::{DateTime, Datelike as _, NaiveDateTime, SecondsFormat, Timelike as _, Utc};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A point in time: microseconds since the Unix epoch, UTC.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From whole seconds since the epoch.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Later by `duration`, without overflow.
    pub fn plus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// Earlier by `duration`, without overflow.
    pub fn minus(self, duration: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)),
        )
    }

    /// Time passed since `earlier`; zero if that lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// How far two moments are apart, whichever comes first. What was written
    /// down ahead of the clock was written before it was put back, nobody knows
    /// how long ago: for whether something is recent it counts as little as what
    /// is as long past.
    pub fn apart(self, other: Self) -> Duration {
        Duration::from_micros(self.0.abs_diff(other.0))
    }

    fn datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// `2026-11-21T05:29:16Z`, as compute, image and network APIs write it.
    pub fn iso_z(self) -> String {
        let mut text = String::with_capacity(20);
        self.push_iso_z(&mut text);
        text
    }

    /// [`Timestamp::iso_z`] at the end of `out`.
    pub fn push_iso_z(self, out: &mut String) {
        match self.digits() {
            Some(digits) => {
                out.extend(digits[..19].iter().copied().map(char::from));
                out.push('Z');
            }
            None => out.push_str(&self.datetime().to_rfc3339_opts(SecondsFormat::Secs, true)),
        }
    }

    /// `2026-11-21T05:29:16.000000Z`, as the identity API writes it.
    pub fn iso_micros_z(self) -> String {
        self.datetime().to_rfc3339_opts(SecondsFormat::Micros, true)
    }

    /// `2026-11-21T05:29:16.000000`, as volume and object listings write it.
    pub fn iso_micros(self) -> String {
        let mut text = String::with_capacity(26);
        self.push_iso_micros(&mut text);
        text
    }

    /// [`Timestamp::iso_micros`] at the end of `out`.
    pub fn push_iso_micros(self, out: &mut String) {
        match self.digits() {
            Some(digits) => out.extend(digits.iter().copied().map(char::from)),
            None => {
                let text = self.datetime().format("%Y-%m-%dT%H:%M:%S%.6f");
                out.push_str(&text.to_string());
            }
        }
    }

    /// `2026-11-21T05:29:16.000000`, for years of four digits. A page of a
    /// thousand servers has three thousand times.
    fn digits(self) -> Option<[u8; 26]> {
        let time = self.datetime();
        let year = u32::try_from(time.year())
            .ok()
            .filter(|year| *year < 10_000)?;
        let mut text = *b"0000-00-00T00:00:00.000000";
        for (end, length, number) in [
            (4, 4, year),
            (7, 2, time.month()),
            (10, 2, time.day()),
            (13, 2, time.hour()),
            (16, 2, time.minute()),
            (19, 2, time.second()),
            (26, 6, time.timestamp_subsec_micros()),
        ] {
            let mut left = number;
            for digit in text.get_mut(end - length..end)?.iter_mut().rev() {
                *digit = b'0' + u8::try_from(left % 10).ok()?;
                left /= 10;
            }
        }
        Some(text)
    }

    /// Reads any RFC 3339 time, and one without an offset as UTC.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Some(Self(time.timestamp_micros()));
        }
        ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f"]
            .iter()
            .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok())
            .map(|time| Self(time.and_utc().timestamp_micros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_api_has_its_own_way_of_writing_a_time() {
        let time = Timestamp::parse("2026-11-21T14:29:16.5+09:00").unwrap();
        assert_eq!(time.iso_z(), "2026-11-21T05:29:16Z");
        assert_eq!(time.iso_micros_z(), "2026-11-21T05:29:16.500000Z");
        assert_eq!(time.iso_micros(), "2026-11-21T05:29:16.500000");
        assert_eq!(Timestamp::parse("2026-11-21T05:29:16.5"), Some(time));
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        let days = [
            0,
            -1,
            951_782_399_999_999,
            951_782_400_000_000,
            1_709_164_800_000_001,
            4_107_542_399_000_000,
            -62_135_596_800_000_000,
            253_402_300_799_999_999,
            253_402_300_800_000_000,
            i64::MIN,
            i64::MAX,
        ];
        for micros in days {
            let time = Timestamp::from_micros(micros);
            let calendar = time.datetime();
            assert_eq!(
                time.iso_z(),
                calendar.to_rfc3339_opts(SecondsFormat::Secs, true)
            );
            assert_eq!(
                time.iso_micros(),
                calendar.format("%Y-%m-%dT%H:%M:%S%.6f").to_string()
            );
        }
    }
}
