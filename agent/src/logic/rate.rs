//! Bytes per second: [`parse`] as people write them, and [`Bwlimit`], which may depend on the time of day.

use std::fmt;
use std::num::NonZeroU64;

use jiff::civil::DateTime;

/// Minutes of a day.
const DAY_MIN: u16 = 24 * 60;

/// A limit on bytes per second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bwlimit {
    /// The same at all times.
    Always(NonZeroU64),
    /// The first slot that holds the time counts; without one there is no limit.
    Timetable(Vec<Slot>),
}

/// A limit for some hours of some days.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// When it begins.
    pub from: TimeOfDay,
    /// When it ends; before `from` it ends on the next day.
    pub to: TimeOfDay,
    /// The days on which it begins.
    pub days: Days,
    /// Bytes per second.
    pub rate: NonZeroU64,
}

/// A time by the clock on the wall, in minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

/// Days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days(u8);

/// Why a limit cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateError {
    /// It is none.
    Unreadable,
    /// It is 0.
    Zero,
    /// It is no time.
    Time,
    /// These are no days.
    Days,
}

impl fmt::Display for RateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => {
                "write bytes per second, like 1000000 or \"10M\" (K, M and G are 1024 each, KB, MB and GB 1000)"
            }
            Self::Zero => "with 0 nothing would be sent: leave it out for no limit",
            Self::Time => "write a time from \"00:00\" to \"24:00\", like \"08:00\"",
            Self::Days => "write days, like \"mon-fri\" or \"sat,sun\"",
        })
    }
}

impl std::error::Error for RateError {}

/// Reads bytes per second, with the suffixes of rsync.
///
/// # Errors
/// [`RateError`]
pub fn parse(text: &str) -> Result<u64, RateError> {
    let text = text.trim().to_ascii_lowercase();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let (base, letter) = match unit.as_bytes() {
        [] => (1, b'-'),
        [letter] => (1_024, *letter),
        [letter, b'i', b'b'] => (1_024, *letter),
        [letter, b'b'] => (1_000, *letter),
        _ => return Err(RateError::Unreadable),
    };
    let power = match letter {
        b'-' => 0,
        b'b' if base == 1_024 => 0,
        b'k' => 1,
        b'm' => 2,
        b'g' => 3,
        b't' => 4,
        _ => return Err(RateError::Unreadable),
    };
    let factor = u128::from(u64::pow(base, power));
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() + part.len() > 18 || whole.is_empty() {
        return Err(RateError::Unreadable);
    }
    let digits = |text: &str| match text {
        "" => Ok(0),
        text => text.parse::<u128>().map_err(|_| RateError::Unreadable),
    };
    let scale = 10_u128.pow(u32::try_from(part.len()).unwrap_or(0));
    let bytes = (digits(whole)? * scale + digits(part)?) * factor / scale;
    u64::try_from(bytes).map_err(|_| RateError::Unreadable)
}

impl Bwlimit {
    /// One limit at all times.
    #[must_use]
    pub fn always(rate: NonZeroU64) -> Self {
        Self::Always(rate)
    }

    /// The limit at a local time.
    #[must_use]
    pub fn at(&self, now: DateTime) -> Option<NonZeroU64> {
        match self {
            Self::Always(rate) => Some(*rate),
            Self::Timetable(slots) => {
                let holds = |slot: &&Slot| slot.holds(now);
                slots.iter().find(holds).map(|slot| slot.rate)
            }
        }
    }

    /// Whether it changes with time.
    #[must_use]
    pub fn changes(&self) -> bool {
        matches!(self, Self::Timetable(_))
    }
}

impl Slot {
    fn holds(&self, now: DateTime) -> bool {
        let minute = TimeOfDay(
            u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs()),
        );
        let today = now.date().weekday().to_monday_zero_offset();
        let yesterday = (today + 6) % 7;
        if self.from < self.to {
            return self.days.has(today) && (self.from..self.to).contains(&minute);
        }
        self.days.has(today) && self.from <= minute || self.days.has(yesterday) && minute < self.to
    }
}

impl TimeOfDay {
    /// The beginning of the day.
    pub const START: Self = Self(0);
    /// The end of the day.
    pub const END: Self = Self(DAY_MIN);

    /// Reads `08:00`.
    ///
    /// # Errors
    /// [`RateError::Time`]
    pub fn parse(text: &str) -> Result<Self, RateError> {
        let two = |text: &str| {
            let good = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            good.then(|| text.parse::<u16>().ok())?
        };
        let (hour, minute) = text.split_once(':').ok_or(RateError::Time)?;
        match (two(hour), two(minute)) {
            (Some(hour), Some(minute)) if minute < 60 && hour * 60 + minute <= DAY_MIN => {
                Ok(Self(hour * 60 + minute))
            }
            _ => Err(RateError::Time),
        }
    }
}

impl Days {
    /// Every day.
    pub const ALL: Self = Self(0x7f);

    /// Reads `mon-fri,sun`.
    ///
    /// # Errors
    /// [`RateError::Days`]
    pub fn parse(text: &str) -> Result<Self, RateError> {
        const NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let day = |name: &str| {
            let name = name.trim().to_ascii_lowercase();
            NAMES
                .iter()
                .position(|known| *known == name)
                .ok_or(RateError::Days)
        };
        let mut mask = 0;
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (day(first)?, day(last)?);
            let mut at = first;
            mask |= 1 << at;
            while at != last {
                at = (at + 1) % 7;
                mask |= 1 << at;
            }
        }
        Ok(Self(mask))
    }

    fn has(self, day: i8) -> bool {
        self.0 & 1 << day != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn suffixes_are_those_of_rsync() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1_000),
            ("1k", 1_024),
            ("1KiB", 1_024),
            ("1KB", 1_000),
            ("10M", 10 << 20),
            ("1.5m", 3 << 19),
            ("2GB", 2_000_000_000),
            ("100b", 100),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in [
            "",
            "M",
            "1X",
            "-1",
            "1.2.3",
            "1 M B",
            "99999999999999999G",
            ".5M",
            "1kbit",
        ] {
            assert_eq!(parse(bad), Err(RateError::Unreadable), "{bad}");
        }
    }

    fn table(slots: &[(&str, &str, &str, u64)]) -> Bwlimit {
        let slots = slots.iter().map(|(days, from, to, rate)| Slot {
            from: TimeOfDay::parse(from).unwrap(),
            to: TimeOfDay::parse(to).unwrap(),
            days: Days::parse(days).unwrap(),
            rate: NonZeroU64::new(*rate).unwrap(),
        });
        Bwlimit::Timetable(slots.collect())
    }

    fn at(limit: &Bwlimit, time: &str) -> Option<u64> {
        limit.at(time.parse().unwrap()).map(NonZeroU64::get)
    }

    #[test]
    fn the_first_slot_that_holds_the_time_counts() {
        let limit = table(&[
            ("mon-fri", "08:00", "18:00", 1),
            ("fri", "22:00", "06:00", 2),
            ("mon-sun", "00:00", "24:00", 9),
        ]);
        // 2026-11-20 is a Friday.
        for (time, rate) in [
            ("2026-11-20T07:59:59", 9),
            ("2026-11-20T08:00:00", 1),
            ("2026-11-20T17:59:59", 1),
            ("2026-11-20T18:00:00", 9),
            ("2026-11-20T22:00:00", 2),
            ("2026-11-21T05:59:59", 2),
            ("2026-11-21T06:00:00", 9),
            ("2026-11-20T05:00:00", 9),
            ("2026-11-21T10:00:00", 9),
        ] {
            assert_eq!(at(&limit, time), Some(rate), "{time}");
        }
        let day_only = table(&[("sat-mon", "08:00", "18:00", 1)]);
        assert_eq!(at(&day_only, "2026-11-20T12:00:00"), None);
        assert_eq!(at(&day_only, "2026-11-23T12:00:00"), Some(1));
    }

    #[test]
    fn times_and_days_are_read_strictly() {
        for bad in ["8:00", "08", "08:60", "24:01", "25:00", "ab:cd", "08:00:00"] {
            assert_eq!(TimeOfDay::parse(bad), Err(RateError::Time), "{bad}");
        }
        for bad in ["", "monday", "mon-", "mon,,tue", "1-5"] {
            assert_eq!(Days::parse(bad), Err(RateError::Days), "{bad}");
        }
        assert_eq!(Days::parse("mon-sun"), Ok(Days::ALL));
    }

    proptest! {
        #[test]
        fn a_slot_holds_as_long_as_it_lasts(from in 0..DAY_MIN, to in 0..=DAY_MIN) {
            let slot = Slot {
                from: TimeOfDay(from),
                to: TimeOfDay(to),
                days: Days::ALL,
                rate: NonZeroU64::MIN,
            };
            let start = DateTime::constant(2026, 11, 20, 0, 0, 0, 0);
            let minutes = (0..i64::from(DAY_MIN)).filter(|minute| {
                let at = start.checked_add(jiff::Span::new().minutes(*minute)).unwrap();
                slot.holds(at)
            });
            let lasts = if from < to { to - from } else { DAY_MIN - from + to };
            prop_assert_eq!(minutes.count(), usize::from(lasts.min(DAY_MIN)));
        }

        #[test]
        fn whatever_is_written_is_read_or_refused(text in "\\PC{0,12}") {
            let _ = parse(&text);
            let _ = TimeOfDay::parse(&text);
            let _ = Days::parse(&text);
        }
    }
}
