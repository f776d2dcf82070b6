//! The one table of parameters: names, kinds, and what the receiver does with each.

use super::lexer::is_blank;

/// Where a parameter may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Before the first section or in `[global]` only.
    Global,
    /// In a module, or as a default for modules.
    Module,
}

/// How a value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `yes`/`true`/`1`, `no`/`false`/`0`; the default. Anything else leaves the value before it.
    Flag(bool),
    /// A flag that can also be `unset` (the default).
    Choice,
    /// As many digits as there are; the default.
    Number(i32),
    /// Text; whether it has a built-in value, so that a later default does not reach back.
    Text {
        /// Whether it has.
        built_in: bool,
    },
}

/// What the receiver does with a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// As rsync does.
    Honoured,
    /// Nothing, because it has no meaning here.
    Accepted,
    /// Something else than rsync; said at load when the value is not the default.
    Warned,
    /// Refuses what it stands in (the module, or the start if global) when the value is not the default.
    Refused,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Which one.
    pub key: Key,
    /// Name as the manual writes it.
    pub name: &'static str,
    /// Where it may stand.
    pub scope: Scope,
    /// How its value is read.
    pub kind: Kind,
    /// What is done with it.
    pub standing: Standing,
    /// Whether a misspelling could open a module: near misses are errors then.
    pub security: bool,
    /// What is done, or why nothing is; empty where the standing says it all.
    pub remark: &'static str,
}

const TEXT: Kind = Kind::Text { built_in: false };
const TEXT_BUILT_IN: Kind = Kind::Text { built_in: true };
const YES: Kind = Kind::Flag(true);
const NO: Kind = Kind::Flag(false);
const ZERO: Kind = Kind::Number(0);
const GUARD: bool = true;
const PLAIN: bool = false;

macro_rules! parameters {
    ($($key:ident, $name:literal, $scope:ident, $kind:expr, $standing:ident, $security:expr, $remark:literal;)*) => {
        /// Names a parameter.
        #[expect(missing_docs, reason = "each variant is the parameter of that name")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Key { $($key),* }

        /// Every parameter that can be written: rsync's and this program's own (the last rows).
        pub static PARAMETERS: &[Parameter] = &[$(Parameter {
            key: Key::$key,
            name: $name,
            scope: Scope::$scope,
            kind: $kind,
            standing: Standing::$standing,
            security: $security,
            remark: $remark,
        }),*];
    };
}

parameters! {
    Address, "address", Global, TEXT, Honoured, PLAIN, "";
    Port, "port", Global, Kind::Number(873), Warned, PLAIN, "the rsync daemon's own; here `syncd port` counts";
    PidFile, "pid file", Global, TEXT, Warned, PLAIN, "not written: it belongs to the rsync daemon; here `syncd pid file` counts";
    MotdFile, "motd file", Global, TEXT, Accepted, PLAIN, "there is no banner in the protocol";
    SocketOptions, "socket options", Global, TEXT, Accepted, PLAIN, "sockets are set up as the protocol needs";
    ListenBacklog, "listen backlog", Global, Kind::Number(5), Accepted, PLAIN, "the system's maximum is used";
    ProxyProtocol, "proxy protocol", Global, NO, Honoured, GUARD, "";
    ProxyProtocolHosts, "proxy protocol hosts", Global, TEXT, Honoured, GUARD, "";
    DaemonChroot, "daemon chroot", Global, TEXT, Refused, GUARD, "not supported; module paths would mean something else";
    DaemonUid, "daemon uid", Global, TEXT, Warned, GUARD, "not honoured: run the service as that user instead";
    DaemonGid, "daemon gid", Global, TEXT, Warned, GUARD, "not honoured: run the service with that group instead";

    Path, "path", Module, TEXT, Honoured, PLAIN, "";
    Comment, "comment", Module, TEXT, Honoured, PLAIN, "";
    List, "list", Module, YES, Honoured, PLAIN, "";
    ReadOnly, "read only", Module, YES, Honoured, GUARD, "";
    WriteOnly, "write only", Module, NO, Honoured, GUARD, "nothing is ever sent back; comparing is refused";
    AuthUsers, "auth users", Module, TEXT, Honoured, GUARD, "";
    SecretsFile, "secrets file", Module, TEXT, Honoured, GUARD, "";
    StrictModes, "strict modes", Module, YES, Honoured, GUARD, "";
    AuthDigest, "auth digest", Module, TEXT, Honoured, GUARD, "the login here is stronger than any of them; an unknown name fails every login";
    HostsAllow, "hosts allow", Module, TEXT, Honoured, GUARD, "";
    HostsDeny, "hosts deny", Module, TEXT, Honoured, GUARD, "";
    ReverseLookup, "reverse lookup", Module, YES, Honoured, GUARD, "";
    ForwardLookup, "forward lookup", Module, YES, Honoured, GUARD, "";
    MaxConnections, "max connections", Module, ZERO, Honoured, GUARD, "counted together with an rsync daemon that has the same lock file";
    LockFile, "lock file", Module, TEXT_BUILT_IN, Honoured, PLAIN, "";
    Timeout, "timeout", Module, ZERO, Honoured, PLAIN, "at least 60 seconds: an agent stays connected, and says something every half minute";
    Uid, "uid", Module, TEXT, Honoured, GUARD, "";
    Gid, "gid", Module, TEXT, Honoured, GUARD, "";
    UseChroot, "use chroot", Module, Kind::Choice, Honoured, GUARD, "";
    MungeSymlinks, "munge symlinks", Module, Kind::Choice, Honoured, GUARD, "`no` stores targets as they are, with or without chroot";
    InsecureLinks, "insecure links", Module, NO, Warned, PLAIN, "not honoured: no symlink leads out of a module";
    NumericIds, "numeric ids", Module, Kind::Choice, Honoured, PLAIN,
        "names are looked up as rsync does, by the system's name service, `/etc/passwd` and `/etc/group` first; no name is mapped to 0";
    NameConverter, "name converter", Module, TEXT, Refused, PLAIN, "not supported; owners would differ";
    FakeSuper, "fake super", Module, NO, Honoured, PLAIN, "of extended attributes only those in `user` are kept, no ACLs";
    IncomingChmod, "incoming chmod", Module, TEXT, Honoured, GUARD, "";
    OutgoingChmod, "outgoing chmod", Module, TEXT, Accepted, PLAIN, "nothing is sent out";
    Exclude, "exclude", Module, TEXT, Honoured, GUARD, "";
    Include, "include", Module, TEXT, Honoured, PLAIN, "";
    Filter, "filter", Module, TEXT, Honoured, GUARD, "rules per directory (`:`) cannot be used: the module is not served";
    ExcludeFrom, "exclude from", Module, TEXT, Honoured, GUARD, "";
    IncludeFrom, "include from", Module, TEXT, Honoured, PLAIN, "";
    RefuseOptions, "refuse options", Module, TEXT, Warned, GUARD, "`delete` and its forms refuse removals, `compress` compression; other options of rsync do not exist here";
    TempDir, "temp dir", Module, TEXT, Warned, PLAIN, "not honoured: content is staged in `.syncd` within the module, so that renames are atomic";
    IgnoreErrors, "ignore errors", Module, NO, Warned, PLAIN, "not honoured: after errors nothing is deleted";
    IgnoreNonreadable, "ignore nonreadable", Module, NO, Accepted, PLAIN, "nothing is sent out";
    OpenNoatime, "open noatime", Module, Kind::Choice, Accepted, PLAIN, "nothing is sent out";
    DontCompress, "dont compress", Module, TEXT_BUILT_IN, Accepted, PLAIN, "nothing is sent out";
    Charset, "charset", Module, TEXT, Warned, PLAIN, "not honoured: names are bytes and stay as they are";
    EarlyExec, "early exec", Module, TEXT, Honoured, GUARD, "within 15 seconds, for each session";
    PreXferExec, "pre-xfer exec", Module, TEXT, Honoured, GUARD, "within 15 seconds, for each session; there are no `RSYNC_ARGn`";
    PostXferExec, "post-xfer exec", Module, TEXT, Honoured, PLAIN, "for each session, at most ten minutes";
    LogFile, "log file", Module, TEXT, Honoured, PLAIN, "written beside standard error, times in UTC; a module's own has its transfers";
    SyslogFacility, "syslog facility", Module, TEXT_BUILT_IN, Honoured, PLAIN, "used beside standard error if it or the tag is written and no log file is";
    SyslogTag, "syslog tag", Module, TEXT_BUILT_IN, Honoured, PLAIN, "used beside standard error if it or the facility is written and no log file is";
    LogFormat, "log format", Module, TEXT_BUILT_IN, Honoured, PLAIN, "`%o` is also move and swap; `%M` is in seconds, `%c` is 0, and `%C`, `%t` and `%p` stay as written";
    TransferLogging, "transfer logging", Module, NO, Honoured, PLAIN, "a line for each operation";
    MaxVerbosity, "max verbosity", Module, Kind::Number(1), Accepted, PLAIN, "an agent cannot choose what is logged here";
    Name, "name", Module, TEXT, Honoured, PLAIN, "";

    SyncdPort, "syncd port", Global, Kind::Number(8730), Honoured, PLAIN, "";
    SyncdPidFile, "syncd pid file", Global, TEXT, Honoured, PLAIN, "";
    TlsCertFile, "tls cert file", Global, TEXT, Honoured, GUARD, "";
    TlsKeyFile, "tls key file", Global, TEXT, Honoured, GUARD, "";
    TlsCaFile, "tls ca file", Global, TEXT, Honoured, GUARD, "";
    TlsCrlFile, "tls crl file", Global, TEXT, Honoured, GUARD, "";
    ClientCerts, "client certs", Module, TEXT, Honoured, GUARD, "";
    AllowAnyCertificate, "allow any certificate", Module, NO, Honoured, GUARD, "";
    Durability, "durability", Module, TEXT, Honoured, GUARD, "";
    MaxDelete, "max delete", Module, TEXT, Honoured, GUARD, "so many removals within an hour; more are refused, and all others with them while those are tried again";
    SharedWriters, "shared writers", Module, NO, Honoured, GUARD, "";
    KeepDirlinks, "keep dirlinks", Module, NO, Honoured, GUARD, "";
    Devices, "devices", Module, NO, Honoured, PLAIN, "whether devices are made, if the module's user may; rsync makes them unless `refuse options` names them";
    Trash, "trash", Module, TEXT, Honoured, GUARD, "a directory on the module's file system where versions go that are replaced or removed; `no` is the default";
    TrashKeep, "trash keep", Module, TEXT, Honoured, GUARD, "7d is the default; the clock is this machine's";
}

impl Key {
    /// Its row of the table.
    #[must_use]
    pub fn parameter(self) -> &'static Parameter {
        &PARAMETERS[self as usize]
    }
}

impl Parameter {
    /// Whether rsync does not know it.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        self.key as usize >= Key::SyncdPort as usize
    }
}

/// The parameter of this name, ignoring case and white space.
#[must_use]
pub fn find(written: &[u8]) -> Option<&'static Parameter> {
    let written = joined(written);
    PARAMETERS
        .iter()
        .find(|parameter| joined(parameter.name.as_bytes()) == written)
}

fn joined(name: &[u8]) -> Vec<u8> {
    name.iter()
        .filter(|byte| !is_blank(**byte) && **byte != b'\n')
        .map(u8::to_ascii_lowercase)
        .collect()
}

/// The security parameter that an unknown name was probably meant to be.
#[must_use]
pub(super) fn near_miss(written: &[u8]) -> Option<&'static Parameter> {
    let written = letters(written);
    PARAMETERS
        .iter()
        .filter(|parameter| parameter.security)
        .map(|parameter| {
            let name = letters(parameter.name.as_bytes());
            (distance(&written, &name), name.len(), parameter)
        })
        .filter(|(distance, length, _)| *distance <= tolerance(*length))
        .min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, parameter)| parameter)
}

/// The security parameter that a line without `=` begins with.
#[must_use]
pub(super) fn leading(line: &[u8]) -> Option<&'static Parameter> {
    let line = letters(line);
    PARAMETERS
        .iter()
        .filter(|parameter| parameter.security)
        .find(|parameter| line.starts_with(&letters(parameter.name.as_bytes())))
}

/// How many slips still make a name recognisable; short names have too many neighbours.
const fn tolerance(length: usize) -> usize {
    match length {
        0..=3 => 0,
        4..=6 => 1,
        _ => 2,
    }
}

/// A name without case and everything people put between words.
fn letters(name: &[u8]) -> Vec<u8> {
    name.iter()
        .filter(|byte| byte.is_ascii_alphanumeric())
        .map(u8::to_ascii_lowercase)
        .collect()
}

/// Insertions, deletions, replacements and swaps of neighbours from one to the other.
fn distance(a: &[u8], b: &[u8]) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for (i, &left) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &right) in b.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(left != right);
            let mut best = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && left == b[j - 1] && a[i - 1] == right {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_leads_to_its_row() {
        for (at, parameter) in PARAMETERS.iter().enumerate() {
            assert_eq!(parameter.key as usize, at);
            assert_eq!(
                find(parameter.name.as_bytes()).map(|p| p.key),
                Some(parameter.key)
            );
            assert!(
                matches!(parameter.standing, Standing::Honoured) || !parameter.remark.is_empty(),
                "{} needs a remark",
                parameter.name
            );
        }
    }

    #[test]
    fn names_ignore_case_and_blanks_only() {
        assert_eq!(find(b"R e a d\tOnly").map(|p| p.key), Some(Key::ReadOnly));
        assert!(find(b"read_only").is_none());
    }

    #[test]
    fn slips_in_security_names_are_recognised() {
        for (written, meant) in [
            ("host allow", "hosts allow"),
            ("hosts_allow", "hosts allow"),
            ("allow hosts", ""),
            ("auth user", "auth users"),
            ("auth-users", "auth users"),
            ("atuh users", "auth users"),
            ("hosts dney", "hosts deny"),
            ("secret file", "secrets file"),
            ("read olny", "read only"),
            ("client cert", "client certs"),
            ("u_i_d", "uid"),
            ("frobnicate", ""),
            ("pid", ""),
            ("crush", ""),
            ("bind address", ""),
        ] {
            let found = near_miss(written.as_bytes()).map_or("", |parameter| parameter.name);
            assert_eq!(found, meant, "{written}");
        }
        assert_eq!(
            leading(b"auth users alice").map(|p| p.key),
            Some(Key::AuthUsers)
        );
    }
}
