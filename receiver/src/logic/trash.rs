//! `trash`: where replaced and removed versions are kept, how their places are named, and when they are old.
//!
//! ```text
//! TRASH/2026-11-21/100322/path/of/the/file      moved here at 10:03:22 UTC
//! TRASH/2026-11-21/100322.1/path/of/the/file    once more within that second
//! ```

use bincode::{Decode, Encode};
use time::OffsetDateTime;

use syncd_proto::path::WirePath;

/// How long versions are kept unless `trash keep` says otherwise, in seconds.
pub const KEEP_DEFAULT_S: u64 = 7 * DAY_S;

/// Seconds of a day.
pub const DAY_S: u64 = 86_400;

/// Where versions go, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Trash {
    /// Their directory.
    pub place: Place,
    /// How long they stay.
    pub keep_s: u64,
}

/// A directory for versions.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Place {
    /// In the module, hidden from agents; made if it is missing.
    Within(WirePath),
    /// Somewhere else: an absolute path.
    At(Vec<u8>),
}

/// Reads `trash` of the module at `root`; `None` if nothing is kept.
///
/// # Errors
/// What is wrong with it.
pub fn place(text: &[u8], root: &[u8]) -> Result<Option<Place>, &'static str> {
    match &text.to_ascii_lowercase()[..] {
        b"no" | b"false" | b"0" => return Ok(None),
        b"yes" | b"true" | b"1" => return Err("name a directory, like .trash"),
        _ => {}
    }
    if text.contains(&0) {
        return Err("no name has a zero byte");
    }
    let names = |path| -> Vec<&[u8]> {
        let parts = <[u8]>::split(path, |byte| *byte == b'/');
        parts.filter(|name| !matches!(*name, b"" | b".")).collect()
    };
    let all: Vec<&[u8]> = names(text);
    if all.contains(&&b".."[..]) {
        return Err("it must not lead up with `..`");
    }
    let below = if text.starts_with(b"/") {
        let outer = names(root);
        match all.strip_prefix(&outer[..]) {
            Some(below) if !outer.is_empty() || root.starts_with(b"/") => below,
            _ => return Ok(Some(Place::At(text.to_vec()))),
        }
    } else {
        &all[..]
    };
    let joined = below.join(&b'/');
    let path = std::str::from_utf8(&joined).ok();
    let path = path.and_then(|path| WirePath::from_relative(path.as_ref()));
    match path {
        Some(path) if path.is_root() => Err("it cannot be the module itself"),
        Some(path) if path.is_reserved() => Err("`.syncd` is the receiver's own"),
        Some(path) => Ok(Some(Place::Within(path))),
        None => Err("it is no path that can be in a module"),
    }
}

/// The name of the directory for a day.
#[must_use]
pub fn day_name(now_s: u64) -> String {
    let Some(at) = moment(now_s) else {
        return format!("@{}", now_s / DAY_S);
    };
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02}")
}

/// The name, in it, of the directory for a second; `again` counts those of one second.
#[must_use]
pub fn slot_name(now_s: u64, again: u32) -> String {
    let second = now_s % DAY_S;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    match again {
        0 => format!("{hour:02}{minute:02}{second:02}"),
        again => format!("{hour:02}{minute:02}{second:02}.{again}"),
    }
}

/// The first second of the day that a directory is named after; `None` if it is not ours.
#[must_use]
pub fn parse_day(name: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(name).ok()?;
    let mut parts = text.split('-').map(digits);
    let [year, month, day] = [parts.next()??, parts.next()??, parts.next()??];
    let month = time::Month::try_from(u8::try_from(month).ok()?).ok()?;
    let date =
        time::Date::from_calendar_date(i32::try_from(year).ok()?, month, day.try_into().ok()?);
    let start = u64::try_from(date.ok()?.midnight().assume_utc().unix_timestamp()).ok()?;
    // Only what is written as we write it.
    (day_name(start).as_bytes() == name).then_some(start)
}

/// The second of the day that a directory is named after; `None` if it is not ours.
#[must_use]
pub fn parse_slot(name: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(name).ok()?;
    let (time, again) = match text.split_once('.') {
        Some((time, again)) => (time, u32::try_from(digits(again)?).ok()?),
        None => (text, 0),
    };
    let number = digits(time)?;
    let (hour, minute, second) = (number / 10_000, number / 100 % 100, number % 100);
    let at = hour * 3_600 + minute * 60 + second;
    (slot_name(at, again) == text && at < DAY_S).then_some(at)
}

/// Whether what was moved there at `at_s` has been kept long enough.
#[must_use]
pub fn is_old(at_s: u64, now_s: u64, keep_s: u64) -> bool {
    now_s.saturating_sub(at_s) > keep_s
}

/// How long to wait between two looks for what is old, in seconds.
#[must_use]
pub fn look_every_s(keep_s: u64) -> u64 {
    (keep_s / 2).clamp(1, LOOK_EVERY_MAX_S)
}

/// Most seconds between two looks.
const LOOK_EVERY_MAX_S: u64 = 3_600;

fn moment(now_s: u64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(i64::try_from(now_s).ok()?).ok()
}

fn digits(text: &str) -> Option<u64> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn within(text: &str) -> Option<Place> {
        let path = WirePath::from_relative(text.as_ref());
        Some(Place::Within(path.unwrap()))
    }

    #[test]
    fn a_directory_is_in_the_module_or_elsewhere() {
        let at = |text: &str| place(text.as_bytes(), b"/srv/./www");
        for off in ["no", "False", "0"] {
            assert_eq!(at(off), Ok(None), "{off}");
        }
        assert_eq!(at(".trash"), Ok(within(".trash")));
        assert_eq!(at("a//./b/"), Ok(within("a/b")));
        assert_eq!(at("/srv/www/old"), Ok(within("old")));
        assert_eq!(at("/srv//./www/old"), Ok(within("old")));
        let elsewhere = |path: &str| Ok(Some(Place::At(path.as_bytes().to_vec())));
        assert_eq!(at("/srv/wwwx"), elsewhere("/srv/wwwx"));
        assert_eq!(at("/srv"), elsewhere("/srv"));
        assert_eq!(place(b"/trash", b"/"), Ok(within("trash")));
        for bad in [
            "yes",
            "/srv/www",
            "..",
            "/srv/www/../x",
            ".",
            ".syncd/x",
            "a\0",
        ] {
            assert!(at(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_times_in_utc() {
        let at = 1_795_255_402;
        assert_eq!(day_name(at), "2026-11-21");
        assert_eq!(slot_name(at, 0), "100322");
        assert_eq!(slot_name(at, 12), "100322.12");
        for foreign in [
            "2026-11-2",
            "2026-13-01",
            "x",
            "2026-11-21-1",
            "02026-11-21",
            "",
        ] {
            assert_eq!(parse_day(foreign.as_bytes()), None, "{foreign}");
        }
        for foreign in [
            "240000",
            "10032",
            "100322.",
            "100322.0",
            "100322.01",
            "106000",
            "x",
        ] {
            assert_eq!(parse_slot(foreign.as_bytes()), None, "{foreign}");
        }
    }

    #[test]
    fn what_is_kept_long_enough_is_old() {
        assert!(!is_old(100, 100 + KEEP_DEFAULT_S, KEEP_DEFAULT_S));
        assert!(is_old(100, 101 + KEEP_DEFAULT_S, KEEP_DEFAULT_S));
        assert!(
            !is_old(100, 50, 1),
            "a clock that was set back ages nothing"
        );
    }

    proptest! {
        #[test]
        fn names_are_read_as_they_are_written(at in 0_u64..200_000_000_000, again: u32) {
            let day = parse_day(day_name(at).as_bytes());
            let slot = parse_slot(slot_name(at, again).as_bytes());
            prop_assert_eq!(day.zip(slot).map(|(day, slot)| day + slot), Some(at));
        }
    }
}
