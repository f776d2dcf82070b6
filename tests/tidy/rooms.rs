//! What each room may not do: `proto/` and `logic/` are pure, `net/` does not touch the file system.

use crate::source::{code, line_of, lines_with, without_tests};

/// Nothing that reads a disk, a socket, a clock or chance, that waits, or that logs.
const PURE: [&str; 15] = [
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::io::stdin",
    "tokio",
    "rustix",
    "Instant::now",
    "SystemTime::now",
    "now_utc",
    "getrandom",
    "tracing",
    "async",
    "await",
    "println!",
];
const NET: [&str; 4] = ["std::fs", "tokio::fs", "rustix::fs", "tempfile"];
const LEFTOVERS: [&str; 4] = ["todo!(", "unimplemented!(", "dbg!(", "#[ignore"];
/// The part of `std::net` that is only a way to write addresses down.
const ADDRESS_TYPES: [&str; 7] = [
    "AddrParseError",
    "IpAddr",
    "Ipv4Addr",
    "Ipv6Addr",
    "SocketAddr",
    "SocketAddrV4",
    "SocketAddrV6",
];
const STD_NET: &str = "std::net";

/// Uses of what the room of this file may not use.
pub(crate) fn violations(path: &str, source: &str) -> Vec<String> {
    let text = || without_tests(&code(source));
    let tell = |line, what: &str, room| format!("{path}:{line}: {what} in {room}");
    if path.ends_with("/tests.rs") {
        Vec::new()
    } else if path.starts_with("proto/src/") || path.contains("/src/logic/") {
        let text = text();
        let mut found = all(&text, &PURE);
        found.extend(sockets(&text));
        found
            .into_iter()
            .map(|(line, what)| tell(line, &what, "a pure room"))
            .collect()
    } else if path.contains("/src/net/") {
        all(&text(), &NET)
            .into_iter()
            .map(|(line, what)| tell(line, &what, "net/"))
            .collect()
    } else {
        Vec::new()
    }
}

/// Macros that stand for code not written yet, and tests that do not run.
pub(crate) fn leftovers(path: &str, source: &str) -> Vec<String> {
    let found = all(&code(source), &LEFTOVERS);
    found
        .into_iter()
        .map(|(line, what)| format!("{path}:{line}: {what}"))
        .collect()
}

/// A file that does not start with `//!`.
pub(crate) fn missing_headline(path: &str, source: &str) -> Vec<String> {
    let shebangless = source
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    let good = shebangless.starts_with("//!") && shebangless.len() > "//! ".len();
    if good {
        Vec::new()
    } else {
        vec![format!("{path}:1: no //! line says what this file is")]
    }
}

fn all(text: &str, words: &[&str]) -> Vec<(usize, String)> {
    let found = words.iter().flat_map(|word| {
        lines_with(text, word)
            .into_iter()
            .map(move |line| (line, *word))
    });
    found.map(|(line, word)| (line, word.to_owned())).collect()
}

/// Uses of `std::net` for more than addresses.
fn sockets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(STD_NET) {
        let rest = &text[at + STD_NET.len()..];
        let names = rest
            .strip_prefix("::")
            .map_or("", |rest| match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or_default(),
                None => rest
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or_default(),
            });
        let mut names = names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .peekable();
        if names.peek().is_none() {
            found.push((line_of(text, at), STD_NET.to_owned()));
        }
        for name in names.filter(|name| !ADDRESS_TYPES.contains(name)) {
            found.push((line_of(text, at), format!("{STD_NET}::{name}")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pure_room_is_kept_pure() {
        let source = "//! std::fs in words.\nuse std::fs;\nfn f() { Instant::now() }\n#[cfg(test)]\nmod tests { use std::fs; }";
        for path in [
            "proto/src/frame.rs",
            "agent/src/logic/plan.rs",
            "receiver/src/logic/rsyncd_conf/lexer.rs",
        ] {
            let found = violations(path, source);
            assert_eq!(found.len(), 2, "{found:?}");
            assert_eq!(found[0], format!("{path}:2: std::fs in a pure room"));
        }
        assert_eq!(violations("agent/src/fs/read.rs", source).len(), 0);
        assert_eq!(violations("agent/src/net/tls.rs", source).len(), 1);
        assert_eq!(violations("proto/src/frame/tests.rs", source).len(), 0);
    }

    #[test]
    fn addresses_are_not_sockets() {
        let found = |line| violations("receiver/src/logic/hosts.rs", line).len();
        assert_eq!(
            found("use std::net::{IpAddr, Ipv4Addr};\nfn f(x: std::net::SocketAddr) {}"),
            0
        );
        for line in [
            "use std::net::TcpStream;",
            "use std::net::{IpAddr, ToSocketAddrs};",
            "use std::net;",
            "use std::net::*;",
        ] {
            assert_eq!(found(line), 1, "{line}");
        }
    }

    #[test]
    fn unfinished_code_is_found_and_words_about_it_are_not() {
        assert_eq!(
            leftovers("a.rs", "fn f() {\n    todo!()\n}"),
            ["a.rs:2: todo!("]
        );
        assert_eq!(
            leftovers("a.rs", "#[ignore = \"slow\"]\nfn f() {}").len(),
            1
        );
        assert!(leftovers("a.rs", "// todo!()\nlet x = \"unimplemented!(\";").is_empty());
    }

    #[test]
    fn a_headline_is_missed() {
        assert!(missing_headline("a.rs", "//! What it is.\n").is_empty());
        assert_eq!(missing_headline("a.rs", "use std::io;\n").len(), 1);
        assert_eq!(missing_headline("a.rs", "//!\nuse std::io;\n").len(), 1);
    }
}
