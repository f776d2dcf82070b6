//! [`Cron`]: when something is to be done again and again, written as in a crontab.
//!
//! Minute, hour, day of the month, month and day of the week, or seconds before them; `*`, numbers, names, ranges,
//! steps and lists; `@daily` and its kind. As cron has it, a day matches if either of the two fields for days does,
//! unless one of them begins with `*`. Times are local ones: an hour that is skipped when clocks change is made up for
//! right after it, one that comes twice counts once.

use std::fmt;
use std::ops::RangeInclusive;

use jiff::Zoned;
use jiff::civil::{Date, DateTime, Time};

/// A schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both fields for days count, and one of them is enough.
    either_day: bool,
}

/// What is wrong with a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CronError(String);

impl fmt::Display for CronError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CronError {}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One field: its name, its numbers, and names for them from the first number on.
struct Field {
    name: &'static str,
    numbers: RangeInclusive<u8>,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const fn field(name: &'static str, numbers: RangeInclusive<u8>) -> Field {
    Field {
        name,
        numbers,
        names: &[],
    }
}

const FIELDS: [Field; 6] = [
    field("second", 0..=59),
    field("minute", 0..=59),
    field("hour", 0..=23),
    field("day of the month", 1..=31),
    Field {
        name: "month",
        numbers: 1..=12,
        names: &MONTHS,
    },
    Field {
        name: "day of the week",
        numbers: 0..=7,
        names: &WEEKDAYS,
    },
];

const NICKNAMES: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Days looked at for one that matches: the 29th of February may be eight years away.
const DAYS_MAX: u32 = 366 * 9;

impl Cron {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it. A schedule that never comes is one of these.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        let nickname = NICKNAMES.iter().find(|(name, _)| *name == text.trim());
        let written = nickname.map_or(text, |(_, meant)| meant);
        let mut parts: Vec<&str> = written.split_whitespace().collect();
        match parts.len() {
            5 => parts.insert(0, "0"),
            6 => {}
            found => {
                let what = format!(
                    "\"{}\" has {found} fields: write minute, hour, day, month and day of the week, like \"30 3 * * 0\"",
                    text.escape_debug()
                );
                return Err(CronError(what));
            }
        }
        let mut masks = [0; 6];
        for ((mask, part), field) in masks.iter_mut().zip(&parts).zip(&FIELDS) {
            *mask = field.parse(part)?;
        }
        let [seconds, minutes, hours, days, months, mut weekdays] = masks;
        if weekdays & 1 << 7 != 0 {
            weekdays |= 1;
        }
        let cron = Self {
            text: text.trim().to_owned(),
            seconds,
            minutes,
            hours,
            days,
            months,
            weekdays,
            either_day: !parts[3].starts_with('*') && !parts[5].starts_with('*'),
        };
        match cron.next(DateTime::constant(2000, 1, 1, 0, 0, 0, 0)) {
            Some(_) => Ok(cron),
            None => Err(CronError(format!("\"{cron}\" never comes"))),
        }
    }

    /// The first moment after `now`, in its time zone; `None` where time ends.
    #[must_use]
    pub fn next_after(&self, now: &Zoned) -> Option<Zoned> {
        let mut from = now.datetime();
        loop {
            from = self.next(from)?;
            let found = from.to_zoned(now.time_zone().clone()).ok()?;
            // The second time an hour comes, it was there already.
            if found > *now {
                return Some(found);
            }
        }
    }

    /// The first moment after `after`, by the clock on the wall.
    fn next(&self, after: DateTime) -> Option<DateTime> {
        let from = after.with().subsec_nanosecond(0).build().ok()?;
        let from = from.checked_add(jiff::Span::new().seconds(1)).ok()?;
        let mut date = from.date();
        let mut earliest = from.time();
        for _ in 0..DAYS_MAX {
            if self.matches_day(date)
                && let Some(time) = self.time_from(earliest)
            {
                return Some(date.to_datetime(time));
            }
            date = date.tomorrow().ok()?;
            earliest = Time::midnight();
        }
        None
    }

    fn matches_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().to_sunday_zero_offset());
        let matches = if self.either_day {
            day || weekday
        } else {
            day && weekday
        };
        has(self.months, date.month()) && matches
    }

    /// The first time of a day from this one on.
    fn time_from(&self, earliest: Time) -> Option<Time> {
        for hour in earliest.hour()..24 {
            if !has(self.hours, hour) {
                continue;
            }
            let same_hour = hour == earliest.hour();
            for minute in if same_hour { earliest.minute() } else { 0 }..60 {
                if !has(self.minutes, minute) {
                    continue;
                }
                let same_minute = same_hour && minute == earliest.minute();
                let from = if same_minute { earliest.second() } else { 0 };
                let second = (from..60).find(|second| has(self.seconds, *second));
                if let Some(second) = second {
                    return Time::new(hour, minute, second, 0).ok();
                }
            }
        }
        None
    }
}

fn has(mask: u64, number: i8) -> bool {
    mask & 1 << number != 0
}

impl Field {
    fn parse(&self, text: &str) -> Result<u64, CronError> {
        let mut mask = 0;
        for part in text.split(',') {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, Some(step)),
                None => (part, None),
            };
            let (start, end) = match range.split_once('-') {
                _ if range == "*" => (*self.numbers.start(), self.last()),
                Some((start, end)) => (self.number(start)?, self.number(end)?),
                // `5/10` is `5-59/10`.
                None if step.is_some() => (self.number(range)?, self.last()),
                None => (self.number(range)?, self.number(range)?),
            };
            let step: u8 = match step {
                None => 1,
                Some(step) => {
                    let step = digits(step).filter(|step| *step > 0);
                    step.ok_or_else(|| self.wrong(part))?
                }
            };
            if start > end {
                return Err(self.wrong(part));
            }
            for number in (start..=end).step_by(step.into()) {
                mask |= 1 << number;
            }
        }
        Ok(mask)
    }

    /// The last number: of Sunday's two the first is meant by `*`.
    fn last(&self) -> u8 {
        match self.names.len() {
            7 => 6,
            _ => *self.numbers.end(),
        }
    }

    fn number(&self, text: &str) -> Result<u8, CronError> {
        let name = text.to_ascii_lowercase();
        let named = self.names.iter().position(|known| *known == name);
        let named = named.and_then(|at| u8::try_from(at).ok());
        let number = match named {
            Some(at) => Some(at + self.numbers.start()),
            None => digits(text),
        };
        number
            .filter(|number| self.numbers.contains(number))
            .ok_or_else(|| self.wrong(text))
    }

    fn wrong(&self, text: &str) -> CronError {
        let (start, end) = (self.numbers.start(), self.numbers.end());
        CronError(format!(
            "\"{}\" is no {}: write numbers from {start} to {end}, ranges, lists or *",
            text.escape_debug(),
            self.name
        ))
    }
}

fn digits(text: &str) -> Option<u8> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;

    use super::*;

    fn next(cron: &str, after: &str) -> String {
        let after: DateTime = after.parse().unwrap();
        Cron::parse(cron).unwrap().next(after).unwrap().to_string()
    }

    #[test]
    fn the_next_time_is_found() {
        for (cron, after, expected) in [
            ("30 3 * * *", "2026-11-21T03:29:59", "2026-11-21T03:30:00"),
            ("30 3 * * *", "2026-11-21T03:30:00", "2026-11-22T03:30:00"),
            ("30 3 * * 0", "2026-11-21T12:00:00", "2026-11-22T03:30:00"),
            ("30 3 * * 7", "2026-11-22T12:00:00", "2026-11-29T03:30:00"),
            ("0 0 1 jan *", "2026-11-21T12:00:00", "2027-01-01T00:00:00"),
            (
                "*/15 8-10 * * mon-fri",
                "2026-11-20T10:45:00",
                "2026-11-23T08:00:00",
            ),
            ("5/20 * * * *", "2026-11-21T12:25:00", "2026-11-21T12:45:00"),
            ("0 0 29 2 *", "2096-03-01T00:00:00", "2104-02-29T00:00:00"),
            ("0 12 31 * *", "2026-11-21T00:00:00", "2026-12-31T12:00:00"),
            (
                "*/10 * * * * *",
                "2026-11-21T12:00:51",
                "2026-11-21T12:01:00",
            ),
            ("@weekly", "2026-11-21T12:00:00", "2026-11-22T00:00:00"),
            // Either of the days, unless one of them is any day.
            ("0 0 13 * 5", "2026-11-21T00:00:00", "2026-11-27T00:00:00"),
            ("0 0 13 * *", "2026-11-21T00:00:00", "2026-12-13T00:00:00"),
            ("0 0 */2 * 5", "2026-11-21T00:00:00", "2026-11-27T00:00:00"),
        ] {
            assert_eq!(next(cron, after), expected, "{cron} after {after}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_field() {
        for (cron, part) in [
            ("", "0 fields"),
            ("* * * *", "4 fields"),
            ("60 * * * *", "no minute"),
            ("* 24 * * *", "no hour"),
            ("* * 0 * *", "no day of the month"),
            ("* * * 13 *", "no month"),
            ("* * * * 8", "no day of the week"),
            ("* * * * sunday", "no day of the week"),
            ("5-3 * * * *", "no minute"),
            ("*/0 * * * *", "no minute"),
            ("1,,2 * * * *", "no minute"),
            ("+1 * * * *", "no minute"),
            ("0 0 30 2 *", "never comes"),
            ("@reboot", "1 fields"),
        ] {
            let error = Cron::parse(cron).unwrap_err().to_string();
            assert!(error.contains(part), "{cron}: {error}");
        }
    }

    #[test]
    fn changes_of_the_clock_neither_lose_nor_repeat_a_time() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let after = |cron: &str, at: &str| {
            let at: jiff::Timestamp = at.parse().unwrap();
            let next = Cron::parse(cron).unwrap();
            let next = next.next_after(&at.to_zoned(zone.clone())).unwrap();
            next.timestamp().to_string()
        };
        // 02:30 is skipped on 2026-03-29: an hour later by the wall, at the same moment as planned.
        assert_eq!(
            after("30 2 * * *", "2026-03-29T00:00:00Z"),
            "2026-03-29T01:30:00Z"
        );
        // 02:30 comes twice on 2026-10-25, and counts once.
        assert_eq!(
            after("30 2 * * *", "2026-10-25T00:00:00Z"),
            "2026-10-25T00:30:00Z"
        );
        assert_eq!(
            after("30 2 * * *", "2026-10-25T00:30:00Z"),
            "2026-10-26T01:30:00Z"
        );
        assert_eq!(
            after("30 2 * * *", "2026-10-25T01:10:00Z"),
            "2026-10-26T01:30:00Z"
        );
    }

    /// The fields of a schedule as lists of numbers, and the text for them.
    fn lists() -> impl Strategy<Value = [Vec<u8>; 5]> {
        let list = |range: RangeInclusive<u8>| proptest::collection::vec(range, 1..4);
        (
            list(0..=59),
            list(0..=23),
            list(1..=28),
            list(1..=12),
            list(0..=7),
        )
            .prop_map(|(a, b, c, d, e)| [a, b, c, d, e])
    }

    proptest! {
        #[test]
        fn nothing_between_now_and_the_next_time_matches(
            lists in lists(),
            minutes in 0_i64..2_000_000,
            any_weekday: bool,
        ) {
            let mut texts = lists.clone().map(|list| {
                list.iter().map(u8::to_string).collect::<Vec<_>>().join(",")
            });
            if any_weekday {
                texts[4] = "*".to_owned();
            }
            let cron = Cron::parse(&texts.join(" ")).unwrap();
            let matches = |at: DateTime| {
                let has = |list: usize, number: i8| lists[list].contains(&(number as u8));
                let weekday = at.date().weekday().to_sunday_zero_offset();
                let week = any_weekday || has(4, weekday) || weekday == 0 && has(4, 7);
                let day = has(2, at.day());
                let days = if any_weekday { day } else { day || week };
                has(0, at.minute()) && has(1, at.hour()) && days && has(3, at.month())
            };
            let start = DateTime::constant(2026, 1, 1, 0, 0, 0, 0);
            let after = start.checked_add(jiff::Span::new().minutes(minutes)).unwrap();
            let found = cron.next(after).unwrap();
            prop_assert!(found > after && matches(found) && found.second() == 0);
            let mut at = after;
            // A day of minutes is enough to look at one by one.
            for _ in 0..1_440 {
                at = at.checked_add(jiff::Span::new().minutes(1)).unwrap();
                if at >= found {
                    break;
                }
                prop_assert!(!matches(at), "{} at {at}, found {found}", cron);
            }
        }
    }
}
