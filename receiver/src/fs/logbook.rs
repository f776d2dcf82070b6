//! [`Logbook`]: a log file in rsync's form, or the system's log; written beside standard error.
//!
//! A file is opened anew when its name leads somewhere else, so that it can be rotated by renaming.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bincode::{Decode, Encode};
use rustix::fs::{CWD, Mode, OFlags};
use time::OffsetDateTime;
use time::macros::format_description;

use super::meta::{Identity, identity_of, statx_at, statx_fd};
use super::trusted;

/// Where the system's log takes messages.
const SYSTEM_LOG: &str = "/dev/log";

/// How grave a message is, as the system's log counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grave {
    /// Error.
    Error = 3,
    /// Warning.
    Warning = 4,
    /// Information.
    Info = 6,
    /// Debugging.
    Debug = 7,
}

/// Where a log goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub enum Target {
    /// To standard error only.
    #[default]
    Nowhere,
    /// Also to this file.
    File(Vec<u8>),
    /// Also to the system's log.
    System {
        /// Facility.
        facility: u8,
        /// What each message begins with.
        tag: Vec<u8>,
    },
}

/// An open log.
#[derive(Debug, Default)]
pub struct Logbook(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    target: Target,
    file: Option<(File, Identity)>,
    socket: Option<UnixDatagram>,
}

impl Logbook {
    /// A log that goes there.
    #[must_use]
    pub fn new(target: Target) -> Self {
        let book = Self::default();
        book.redirect(target);
        book
    }

    /// Whether it goes to standard error only.
    #[must_use]
    pub fn is_nowhere(&self) -> bool {
        self.lock().target == Target::Nowhere
    }

    /// From now on it goes there; a file is opened anew.
    pub fn redirect(&self, target: Target) {
        *self.lock() = Open {
            target,
            ..Open::default()
        };
    }

    /// Writes lines. What cannot be written is lost: standard error has it.
    pub fn write(&self, grave: Grave, lines: &[String]) {
        let mut open = self.lock();
        match open.target.clone() {
            Target::Nowhere => {}
            Target::File(path) => open.write_file(&path, lines),
            Target::System { facility, tag } => {
                let priority = u16::from(facility) << 3 | grave as u16;
                open.send(priority, &tag, lines);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn write_file(&mut self, path: &[u8], lines: &[String]) {
        let there = statx_at(CWD, path).ok().flatten();
        let same = there.is_some_and(|stat| {
            let known = self.file.as_ref().map(|(_, identity)| *identity);
            known == Some(identity_of(&stat))
        });
        if !same {
            self.file = open_file(Path::new(OsStr::from_bytes(path)));
        }
        let Some((file, _)) = &mut self.file else {
            return;
        };
        let now = now();
        let pid = std::process::id();
        let text: String = lines
            .iter()
            .map(|line| format!("{now} [{pid}] {line}\n"))
            .collect();
        let _ = file.write_all(text.as_bytes());
    }

    fn send(&mut self, priority: u16, tag: &[u8], lines: &[String]) {
        for line in lines {
            let head = format!("<{priority}>");
            let pid = format!("[{}]: ", std::process::id());
            let message = [head.as_bytes(), tag, pid.as_bytes(), line.as_bytes()].concat();
            // The daemon behind it may have been restarted.
            for _ in 0..2 {
                if self.socket.is_none() {
                    self.socket = connected();
                }
                match &self.socket {
                    Some(socket) if socket.send(&message).is_ok() => break,
                    _ => self.socket = None,
                }
            }
        }
    }
}

/// A line without anything that could end it or change what a terminal shows.
#[must_use]
pub fn harmless(line: &str) -> String {
    let shown = |letter: char| if letter.is_control() { '?' } else { letter };
    line.chars().map(shown).collect()
}

fn connected() -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    // A log that does not keep up must not hold up the receiver.
    socket.set_nonblocking(true).ok()?;
    socket.connect(SYSTEM_LOG).ok()?;
    Some(socket)
}

fn open_file(path: &Path) -> Option<(File, Identity)> {
    let (dir, name) = trusted::find(path).ok()?;
    let flags = OFlags::WRONLY
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    let file = rustix::fs::openat(dir, name, flags, mode).ok()?;
    let identity = identity_of(&statx_fd(&file).ok()?);
    Some((File::from(file), identity))
}

/// As rsync writes it; in universal time, since the time zone cannot be asked safely.
fn now() -> String {
    let form = format_description!("[year]/[month]/[day] [hour]:[minute]:[second]");
    let now = OffsetDateTime::from(SystemTime::now());
    now.format(form).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_appended_to_and_may_be_moved_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "before\n").unwrap();
        let book = Logbook::new(Target::File(path.as_os_str().as_bytes().to_vec()));
        book.write(Grave::Info, &["one".to_owned(), "two".to_owned()]);
        fs::rename(&path, dir.path().join("log.1")).unwrap();
        book.write(Grave::Info, &["three".to_owned()]);
        let old = fs::read_to_string(dir.path().join("log.1")).unwrap();
        let new = fs::read_to_string(&path).unwrap();
        let pid = format!(" [{}] ", std::process::id());
        assert!(
            old.starts_with("before\n2") && old.ends_with(&format!("{pid}two\n")),
            "{old}"
        );
        assert!(new.ends_with(&format!("{pid}three\n")), "{new}");
        assert_eq!(new.as_bytes()[4], b'/');
    }

    #[test]
    fn what_cannot_be_opened_is_no_harm() {
        let book = Logbook::new(Target::File(b"/no/such/dir/log".to_vec()));
        book.write(Grave::Error, &["lost".to_owned()]);
        book.redirect(Target::Nowhere);
        book.write(Grave::Error, &["lost".to_owned()]);
    }
}
