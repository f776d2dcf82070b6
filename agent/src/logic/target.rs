//! [`Target`]: a destination as people type it.
//!
//! `[USER@]HOST::MODULE[/SUB]`, as for rsync, or `syncd://[USER@]HOST[:PORT]/MODULE[/SUB]` with `%XX` for
//! odd characters. An IPv6 address stands in brackets. Names are bytes.

use std::ffi::OsStr;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use syncd_proto::limits::LABEL_BYTES_MAX;
use syncd_proto::path::{WirePath, escape, escaped};

/// Port of a receiver that says nothing else.
pub const DEFAULT_PORT: NonZeroU16 = NonZeroU16::new(8730).unwrap();

const SCHEME: &[u8] = b"syncd://";
const HOST_BYTES_MAX: usize = 253;

/// The machine part of a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// DNS name or IP address, without brackets.
    pub host: String,
    /// Port.
    pub port: NonZeroU16,
    /// User for `auth users`.
    pub user: Option<Vec<u8>>,
}

/// A directory of a module of a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// DNS name or IP address, without brackets.
    pub host: String,
    /// Port.
    pub port: NonZeroU16,
    /// User for `auth users`.
    pub user: Option<Vec<u8>>,
    /// Module, as written in the receiver's configuration.
    pub module: Vec<u8>,
    /// Directory within the module.
    pub sub_path: WirePath,
}

/// What is wrong with a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetProblem {
    /// `rsync://`.
    RsyncUrl,
    /// `host:path`.
    SshForm,
    /// A path, or one word.
    NoHost,
    /// `user@::module`.
    EmptyHost,
    /// Not a name or address.
    BadHost,
    /// An IPv6 address without brackets, or with brackets left open.
    Brackets,
    /// Not a port.
    BadPort,
    /// Nothing after the host.
    NoModule,
    /// A module or user name too long or with a NUL.
    BadName,
    /// `..`, a reserved name, or a path above the limits.
    BadSubPath,
    /// `%` without two hexadecimal digits.
    BadEscape,
}

/// A destination that cannot be used: which, why, and how to write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetError {
    given: Vec<u8>,
    problem: TargetProblem,
}

impl TargetError {
    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> TargetProblem {
        self.problem
    }

    /// How to write it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self.problem {
            TargetProblem::RsyncUrl => {
                "write HOST::MODULE or syncd://HOST/MODULE, and run syncd-recv there: it reads the same rsyncd.conf"
            }
            TargetProblem::SshForm => {
                "write two colons and the name of a module, HOST::MODULE, and run syncd-recv there"
            }
            TargetProblem::Brackets => {
                "write an IPv6 address in brackets, [2001:db8::1]::MODULE, and a port as in syncd://HOST:8730/MODULE"
            }
            TargetProblem::BadPort => "write a port from 1 to 65535: syncd://HOST:8730/MODULE",
            TargetProblem::NoModule => {
                "write the name of a module after it, HOST::MODULE; `syncd-agent modules HOST` lists them"
            }
            TargetProblem::BadSubPath => {
                "write a directory below the module without `..` and without `.syncd`: HOST::MODULE/DIR"
            }
            TargetProblem::BadEscape => "write a percent sign in a URL as %25",
            TargetProblem::NoHost
            | TargetProblem::EmptyHost
            | TargetProblem::BadHost
            | TargetProblem::BadName => "write [USER@]HOST::MODULE[/DIR]",
        }
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.problem {
            TargetProblem::RsyncUrl => "this is rsync's own protocol, which syncd does not speak",
            TargetProblem::SshForm => "this is rsync over ssh, which syncd does not speak",
            TargetProblem::NoHost => "no host in it; syncd mirrors to a receiver, not to a path",
            TargetProblem::EmptyHost => "the host is empty",
            TargetProblem::BadHost => "the host is neither a DNS name nor an IP address",
            TargetProblem::Brackets => "cannot tell where the address ends",
            TargetProblem::BadPort => "the port is not a number from 1 to 65535",
            TargetProblem::NoModule => "no module in it",
            TargetProblem::BadName => "a user or module name that is empty, too long or has a NUL",
            TargetProblem::BadSubPath => "the directory cannot be a path within the module",
            TargetProblem::BadEscape => "a % that two hexadecimal digits do not follow",
        };
        write!(f, "destination \"{}\": {why}", escaped(&self.given))
    }
}

impl std::error::Error for TargetError {}

impl Target {
    /// Parses a destination; `port` overrides the one it names.
    ///
    /// # Errors
    /// [`TargetError`], which says how to write it.
    pub fn parse(given: &[u8], port: Option<NonZeroU16>) -> Result<Self, TargetError> {
        let build = || {
            let (address, rest) = split(given)?;
            let rest = rest.ok_or(TargetProblem::NoModule)?;
            let (module, sub_path) = module_and_path(&rest)?;
            Ok(Self {
                host: address.host,
                port: port.unwrap_or(address.port),
                user: address.user,
                module,
                sub_path,
            })
        };
        build().map_err(|problem| TargetError {
            given: given.to_vec(),
            problem,
        })
    }

    /// Its machine part.
    #[must_use]
    pub fn address(&self) -> Address {
        Address {
            host: self.host.clone(),
            port: self.port,
            user: self.user.clone(),
        }
    }
}

impl Address {
    /// Parses `[USER@]HOST`, `[USER@]HOST::` or `syncd://[USER@]HOST[:PORT]`; `port` overrides.
    ///
    /// # Errors
    /// [`TargetError`].
    pub fn parse(given: &[u8], port: Option<NonZeroU16>) -> Result<Self, TargetError> {
        let build = || {
            let after_brackets = find(given, b"]").map_or(given, |end| &given[end..]);
            let whole_form = find(given, b"://").is_some() || find(after_brackets, b"::").is_some();
            let mut whole = given.to_vec();
            if !whole_form {
                whole.extend_from_slice(b"::");
            }
            let (mut address, _) = split(&whole)?;
            address.port = port.unwrap_or(address.port);
            Ok(address)
        };
        build().map_err(|problem| TargetError {
            given: given.to_vec(),
            problem,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            escape(user, f)?;
            f.write_str("@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        f.write_str("::")?;
        escape(&self.module, f)?;
        if !self.sub_path.is_root() {
            write!(f, "/{}", self.sub_path)?;
        }
        if self.port != DEFAULT_PORT {
            write!(f, " (port {})", self.port)?;
        }
        Ok(())
    }
}

/// The address, and what follows it (`MODULE/SUB`) if anything does.
fn split(given: &[u8]) -> Result<(Address, Option<Vec<u8>>), TargetProblem> {
    if given.starts_with(b"rsync://") {
        return Err(TargetProblem::RsyncUrl);
    }
    match given.strip_prefix(SCHEME) {
        Some(rest) => split_url(rest),
        None => split_daemon_form(given),
    }
}

fn split_daemon_form(given: &[u8]) -> Result<(Address, Option<Vec<u8>>), TargetProblem> {
    let (user, rest) = split_user(given, find(given, b"::").or_else(|| find(given, b"]")));
    let (host, rest) = if rest.starts_with(b"[") {
        bracketed(rest)?
    } else {
        match (
            find(rest, b"::"),
            rest.iter().position(|&byte| byte == b':'),
        ) {
            (Some(at), Some(colon)) if at == colon => rest.split_at(at),
            (Some(_), _) if !rest.contains(&b'/') => return Err(TargetProblem::Brackets),
            (_, Some(colon)) if !rest[..colon].contains(&b'/') => {
                return Err(TargetProblem::SshForm);
            }
            _ => return Err(TargetProblem::NoHost),
        }
    };
    let Some(tail) = rest.strip_prefix(b"::") else {
        return Err(match rest.first() {
            Some(b':') => TargetProblem::SshForm,
            _ => TargetProblem::NoModule,
        });
    };
    // `fe80::1::module`: the first `::` was the address's own.
    if find(tail, b"::").is_some() {
        return Err(TargetProblem::Brackets);
    }
    let address = Address {
        host: check_host(host)?,
        port: DEFAULT_PORT,
        user: user.map(|user| check_label(user.to_vec())).transpose()?,
    };
    Ok((address, (!tail.is_empty()).then(|| tail.to_vec())))
}

fn split_url(rest: &[u8]) -> Result<(Address, Option<Vec<u8>>), TargetProblem> {
    let end = rest.iter().position(|&byte| byte == b'/');
    let (authority, path) = rest.split_at(end.unwrap_or(rest.len()));
    let (user, machine) = split_user(authority, None);
    let (host, port) = if machine.starts_with(b"[") {
        bracketed(machine)?
    } else {
        let colon = machine.iter().position(|&byte| byte == b':');
        machine.split_at(colon.unwrap_or(machine.len()))
    };
    if find(port.get(1..).unwrap_or_default(), b":").is_some() {
        return Err(TargetProblem::Brackets);
    }
    let address = Address {
        host: check_host(host)?,
        port: check_port(port)?,
        user: user
            .map(|user| percent_decoded(user).and_then(check_label))
            .transpose()?,
    };
    let path = percent_decoded(path.get(1..).unwrap_or_default())?;
    Ok((address, (!path.is_empty()).then_some(path)))
}

/// `USER@` before `end`, and the rest.
fn split_user(given: &[u8], end: Option<usize>) -> (Option<&[u8]>, &[u8]) {
    let until = end.unwrap_or(given.len());
    match given[..until].iter().rposition(|&byte| byte == b'@') {
        Some(at) => (Some(&given[..at]), &given[at + 1..]),
        None => (None, given),
    }
}

fn bracketed(given: &[u8]) -> Result<(&[u8], &[u8]), TargetProblem> {
    let end = find(given, b"]").ok_or(TargetProblem::Brackets)?;
    let host = &given[1..end];
    match std::str::from_utf8(host).map(str::parse::<IpAddr>) {
        Ok(Ok(IpAddr::V6(_))) => Ok((host, &given[end + 1..])),
        _ => Err(TargetProblem::BadHost),
    }
}

fn check_host(host: &[u8]) -> Result<String, TargetProblem> {
    if host.is_empty() {
        return Err(TargetProblem::EmptyHost);
    }
    let text = std::str::from_utf8(host).map_err(|_| TargetProblem::BadHost)?;
    let is_name = text.len() <= HOST_BYTES_MAX
        && !text.starts_with(['-', '.'])
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if is_name || text.parse::<IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(TargetProblem::BadHost)
}

fn check_port(text: &[u8]) -> Result<NonZeroU16, TargetProblem> {
    if text.is_empty() {
        return Ok(DEFAULT_PORT);
    }
    text.strip_prefix(b":")
        .filter(|digits| digits.iter().all(u8::is_ascii_digit))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .ok_or(TargetProblem::BadPort)
}

fn module_and_path(rest: &[u8]) -> Result<(Vec<u8>, WirePath), TargetProblem> {
    let end = rest.iter().position(|&byte| byte == b'/');
    let (module, path) = rest.split_at(end.unwrap_or(rest.len()));
    if module.is_empty() {
        return Err(TargetProblem::NoModule);
    }
    let module = check_label(module.to_vec())?;
    let below = path
        .iter()
        .position(|&byte| byte != b'/')
        .map_or(&[][..], |start| &path[start..]);
    let sub_path = WirePath::from_relative(Path::new(OsStr::from_bytes(below)))
        .filter(|path| !path.is_reserved())
        .ok_or(TargetProblem::BadSubPath)?;
    Ok((module, sub_path))
}

fn check_label(label: Vec<u8>) -> Result<Vec<u8>, TargetProblem> {
    let valid = !label.is_empty() && label.len() <= LABEL_BYTES_MAX && !label.contains(&0);
    valid.then_some(label).ok_or(TargetProblem::BadName)
}

fn percent_decoded(text: &[u8]) -> Result<Vec<u8>, TargetProblem> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (pair, after) = rest
            .split_first_chunk::<2>()
            .ok_or(TargetProblem::BadEscape)?;
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
            return Err(TargetProblem::BadEscape);
        };
        decoded.push((high * 16 + low) as u8);
        rest = after;
    }
    Ok(decoded)
}

fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|part| part == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &str) -> Result<Target, TargetProblem> {
        Target::parse(given.as_bytes(), None).map_err(|error| error.problem())
    }

    fn target(user: Option<&str>, host: &str, port: u16, module: &str, sub: &str) -> Target {
        Target {
            host: host.into(),
            port: NonZeroU16::new(port).unwrap(),
            user: user.map(|user| user.as_bytes().to_vec()),
            module: module.into(),
            sub_path: WirePath::from_relative(Path::new(sub)).unwrap(),
        }
    }

    #[test]
    fn destinations_as_people_type_them() {
        for (given, wanted) in [
            ("host::www", target(None, "host", 8730, "www", "")),
            (
                "rsync_backup@10.0.0.11::web/sub",
                target(Some("rsync_backup"), "10.0.0.11", 8730, "web", "sub"),
            ),
            (
                "u@h::m/a//b/./c/",
                target(Some("u"), "h", 8730, "m", "a/b/c"),
            ),
            ("h::m/", target(None, "h", 8730, "m", "")),
            ("u@x@h::m", target(Some("u@x"), "h", 8730, "m", "")),
            ("h::m/a@b", target(None, "h", 8730, "m", "a@b")),
            (
                "h::my module/x:y",
                target(None, "h", 8730, "my module", "x:y"),
            ),
            (
                "u@[2001:db8::1]::m",
                target(Some("u"), "2001:db8::1", 8730, "m", ""),
            ),
            ("syncd://h/m", target(None, "h", 8730, "m", "")),
            (
                "syncd://u@h:99/m/s/t",
                target(Some("u"), "h", 99, "m", "s/t"),
            ),
            ("syncd://[::1]:99/m", target(None, "::1", 99, "m", "")),
            (
                "syncd://a%40b@h/m%20x/%ffy",
                Target {
                    sub_path: WirePath::from_relative(Path::new(OsStr::from_bytes(b"\xffy")))
                        .unwrap(),
                    ..target(Some("a@b"), "h", 8730, "m x", "")
                },
            ),
        ] {
            assert_eq!(parse(given), Ok(wanted), "{given}");
        }
    }

    #[test]
    fn what_cannot_work_says_why() {
        use TargetProblem::*;
        for (given, problem) in [
            ("rsync://host/m", RsyncUrl),
            ("host:/path", SshForm),
            ("user@host:path/x", SshForm),
            ("host:a::b", Brackets),
            ("/data/mirror", NoHost),
            ("mirror", NoHost),
            ("a/b::c", BadHost),
            ("::m", EmptyHost),
            ("u@::m", EmptyHost),
            ("@h::m", BadName),
            ("h::", NoModule),
            ("h::/x", NoModule),
            ("syncd://h", NoModule),
            ("syncd://h/", NoModule),
            ("syncd:///m", EmptyHost),
            ("fe80::1::m", Brackets),
            ("syncd://fe80::1/m", Brackets),
            ("[::1::m", Brackets),
            ("[nonsense]::m", BadHost),
            ("[::1]:m", SshForm),
            ("[::1]", NoModule),
            ("ho st::m", BadHost),
            ("-h::m", BadHost),
            ("syncd://h:0/m", BadPort),
            ("syncd://h:99999/m", BadPort),
            ("syncd://h:+1/m", BadPort),
            ("h::m/../x", BadSubPath),
            ("h::m/.syncd", BadSubPath),
            ("syncd://h/m%2", BadEscape),
            ("syncd://h/m%zz", BadEscape),
        ] {
            assert_eq!(parse(given), Err(problem), "{given}");
        }
    }

    #[test]
    fn the_option_overrides_the_port() {
        let port = NonZeroU16::new(7);
        let target = Target::parse(b"syncd://h:99/m", port).unwrap();
        assert_eq!(target.port.get(), 7);
        assert_eq!(target.to_string(), "h::m (port 7)");
    }

    #[test]
    fn an_error_shows_the_destination_escaped_and_the_way_out() {
        let error = Target::parse(b"h\x1b:x", None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "destination \"h\\x1b:x\": this is rsync over ssh, which syncd does not speak"
        );
        assert!(error.hint().contains("HOST::MODULE"));
    }

    #[test]
    fn an_address_alone_needs_no_module() {
        for given in ["u@h", "u@h::", "syncd://u@h", "syncd://u@h/"] {
            let address = Address::parse(given.as_bytes(), None).unwrap();
            assert_eq!(
                (&*address.host, address.user.as_deref()),
                ("h", Some(&b"u"[..]))
            );
        }
        assert_eq!(Address::parse(b"[::1]", None).unwrap().host, "::1");
    }
}
