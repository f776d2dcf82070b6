//! What can be looked at on this machine: limits, sources, the control socket, certificates and passwords.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Access as Right;
use rustix::process::{Resource, getrlimit};
use rustls::pki_types::UnixTime;
use syncd_proto::path::WirePath;

use super::{Finding, Report};
use crate::commands::load;
use crate::control::protocol::Command;
use crate::control::{self, client};
use crate::error::Fatal;
use crate::fs::root::SourceRoot;
use crate::fs::scan;
use crate::fs::watch::{Limit, in_force, value};
use crate::logic::config::{Access, Config, Source};
use crate::logic::password::Password;
use crate::net::tls::{TlsSettings, date};
use crate::pipeline::selection::Selection;

const QUEUED_EVENTS: &str = "fs.inotify.max_queued_events";
/// The kernel's own value; less is soon too little.
const QUEUED_EVENTS_MIN: u64 = 16_384;
/// Of the directories that may be watched, this share is comfortable.
const WATCHES_PERCENT_MAX: u64 = 80;
/// Connections, watched sources, files that are read at a time.
const FILES_MIN: u64 = 1_024;
/// A certificate that ends sooner is told.
const DAYS_LEFT_MIN: u64 = 30;
const DAY: Duration = Duration::from_secs(86_400);

/// The limits that do not depend on how much there is to watch.
pub(super) fn limits(config: &Config, report: &mut Report) {
    let sources = config.sources.len() as u64;
    for ((subject, found), wanted) in [
        (in_force(Limit::Instances), sources),
        ((QUEUED_EVENTS, value(QUEUED_EVENTS)), QUEUED_EVENTS_MIN),
    ] {
        match found {
            Some(found) if found >= wanted => {
                report.add(Finding::well(subject, found.to_string()));
            }
            Some(found) => {
                let fix = format!("sysctl {subject}={wanted}, and see docs/examples/50-syncd.conf");
                let text = format!("{found} is less than {wanted}");
                report.add(Finding::warned(subject, text, fix));
            }
            None => report.add(unknown(subject)),
        }
    }
    let files = getrlimit(Resource::Nofile).current;
    match files {
        Some(files) if files < FILES_MIN => {
            let text = format!("{files} is less than {FILES_MIN}");
            let fix = format!("ulimit -n {FILES_MIN}, or LimitNOFILE= in the unit");
            report.add(Finding::warned("open files", text, fix));
        }
        _ => {
            let shown = files.map_or_else(|| "no limit".to_owned(), |files| files.to_string());
            report.add(Finding::well("open files", shown));
        }
    }
}

fn unknown(subject: &str) -> Finding {
    Finding::warned(subject, "cannot be read", "mount /proc")
}

/// Each source, and whether all its directories can be watched.
pub(super) fn sources(config: &Config, report: &mut Report) {
    let mut total = 0;
    let mut complete = true;
    for source in &config.sources {
        let subject = format!("source {}", source.path.display());
        match directories(source) {
            Ok((count, unreadable)) => {
                total += count;
                let text = match count {
                    1 => "one directory to watch".to_owned(),
                    count => format!("{count} directories to watch"),
                };
                match unreadable {
                    None => report.add(Finding::well(subject, text)),
                    Some(why) => {
                        let fix = "let the user this runs as read it (CAP_DAC_READ_SEARCH), or exclude it";
                        let text = format!("{text}, and some that cannot be read: {why}");
                        report.add(Finding::warned(subject, text, fix));
                    }
                }
            }
            Err(error) => {
                complete = false;
                let fix = error.hint().unwrap_or_default();
                report.add(Finding::broken(subject, error.to_string(), fix));
            }
        }
    }
    if complete {
        report.add(watches(total));
    }
}

fn watches(directories: u64) -> Finding {
    let (subject, found) = in_force(Limit::Watches);
    let Some(found) = found else {
        return unknown(subject);
    };
    let text = format!("{found} for {directories} to watch");
    let fix = format!(
        "sysctl {subject}={}, and see docs/examples/50-syncd.conf",
        (directories * 2).max(1_048_576)
    );
    if directories > found {
        let text = format!("{text}: the rest would be unwatched, and compared now and then");
        return Finding::broken(subject, text, fix);
    }
    if directories * 100 > found * WATCHES_PERCENT_MAX {
        let text = format!("{text}: other programs of this user count too");
        return Finding::warned(subject, text, fix);
    }
    Finding::well(subject, text)
}

/// How many directories take part, and why some cannot be read.
fn directories(source: &Source) -> Result<(u64, Option<String>), Fatal> {
    let failed = |error| Fatal::Source(source.path.clone(), error);
    let root = Arc::new(SourceRoot::open(&source.path).map_err(failed)?);
    let selection = Selection::new(&source.rules, root.clone())?;
    let mut waiting = vec![WirePath::root()];
    let (mut count, mut unreadable) = (0, None);
    while let Some(dir) = waiting.pop() {
        count += 1;
        match scan::list_dirs(&root, &dir) {
            Ok(names) => {
                let below = names.iter().filter_map(|name| dir.join(name));
                waiting.extend(below.filter(|path| selection.keeps(path, true)));
            }
            Err(error) if dir == WirePath::root() => return Err(failed(error)),
            Err(error) => unreadable = Some(format!("{dir}: {error}")),
        }
    }
    Ok((count, unreadable))
}

/// The control socket; whether an agent answers there.
pub(super) fn control(config: &Config, report: &mut Report) -> bool {
    let path = match &config.control {
        Some(path) => path.clone(),
        None => match control::default_path() {
            Ok(path) => path,
            Err(error) => {
                report.add(Finding::warned(
                    "control socket",
                    error.to_string(),
                    error.hint(),
                ));
                return false;
            }
        },
    };
    let subject = format!("control socket {}", path.display());
    if client::ask(&path, &Command::Status {}).is_ok() {
        report.add(Finding::well(subject, "an agent answers there"));
        return true;
    }
    let there = fs::symlink_metadata(&path);
    let parent = path.parent().unwrap_or(Path::new("/"));
    let finding = match there {
        Ok(found) if !is_socket(&found) => Finding::broken(
            subject,
            "something else is there",
            "remove it, or choose another place: control = PATH",
        ),
        _ => match rustix::fs::access(parent, Right::WRITE_OK | Right::EXEC_OK) {
            Ok(()) => Finding::well(subject, "free"),
            Err(errno) => Finding::broken(
                subject,
                format!("{}: {errno}", parent.display()),
                "choose a directory this user may write to: control = PATH",
            ),
        },
    };
    report.add(finding);
    false
}

fn is_socket(found: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    found.file_type().is_socket()
}

/// What a target needs to be called.
pub(super) type Ready = Option<(TlsSettings, Option<Password>)>;

/// Certificates, keys and password files of each target; one that several share is told once.
pub(super) fn credentials(config: &Config, report: &mut Report) -> Vec<Ready> {
    let mut told: Vec<&Access> = Vec::new();
    let targets = config.sources.iter().flat_map(|source| &source.targets);
    targets
        .map(|target| {
            let access = &target.access;
            let is_new = !told.contains(&access);
            told.push(access);
            let loaded = load(access);
            if is_new {
                tell(access, &loaded, report);
            }
            loaded.ok()
        })
        .collect()
}

fn tell(
    access: &Access,
    loaded: &Result<(TlsSettings, Option<Password>), Fatal>,
    report: &mut Report,
) {
    match loaded {
        Err(error) => {
            let subject = match (error, &access.password_file) {
                (Fatal::Password(_), Some(file)) => format!("password file {}", file.display()),
                (Fatal::ReadPem(error), _) if error.is_unsafe() => {
                    format!("key {}", access.key.display())
                }
                _ => format!("certificate {}", access.cert.display()),
            };
            let fix = error.hint().unwrap_or_default();
            report.add(Finding::broken(subject, error.to_string(), fix));
        }
        Ok((tls, _)) => {
            for (name, path, end) in [
                ("certificate", &access.cert, tls.expires()),
                ("authority", &access.ca, tls.authority_expires()),
            ] {
                let subject = format!("{name} {}", path.display());
                report.add(validity(subject, end));
            }
        }
    }
    if let Ok(found) = fs::metadata(&access.key) {
        let subject = format!("key {}", access.key.display());
        let mode = found.mode() & 0o7777;
        match (mode & 0o006, mode & 0o070) {
            // That is what loading ended with.
            (1.., _) if loaded.is_err() => {}
            (0, 0) => report.add(Finding::well(subject, format!("mode {mode:04o}"))),
            _ => {
                let text = format!("its group may use it (mode {mode:04o})");
                let fix = format!("chmod 600 {}", access.key.display());
                report.add(Finding::warned(subject, text, fix));
            }
        }
    }
    // One that cannot be used is what loading ended with.
    if let (Some(file), Ok(_)) = (&access.password_file, loaded) {
        let subject = format!("password file {}", file.display());
        report.add(Finding::well(subject, "mode and owner are right"));
    }
}

fn validity(subject: String, end: Option<UnixTime>) -> Finding {
    let Some(end) = end else {
        return Finding::well(subject, "in use");
    };
    let left = end.as_secs().saturating_sub(UnixTime::now().as_secs()) / DAY.as_secs();
    let text = format!("until {} ({left} days)", date(end));
    if left >= DAYS_LEFT_MIN {
        return Finding::well(subject, text);
    }
    Finding::warned(
        subject,
        text,
        "have a new one issued in time, and check the clock: date -u",
    )
}
