//! `transfer logging`: a line for each operation, in rsync's `log format`; and the names of syslog's facilities.

use bincode::{Decode, Encode};
use syncd_proto::meta::{Kind, Meta};
use syncd_proto::op::{Content, Op};
use syncd_proto::path::{WirePath, escaped};

/// The format rsync uses where none is set.
pub const DEFAULT_FORMAT: &[u8] = b"%o %h [%a] %m (%u) %f %l";

/// A line is cut there.
const LINE_BYTES_MAX: usize = 8 << 10;

/// Facilities by number.
const FACILITIES: [(&str, u8); 21] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("security", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

/// The number of a facility, which may be written as one.
#[must_use]
pub fn facility(text: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let named = FACILITIES
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    let number = || text.parse().ok().filter(|number| *number < 24);
    named.map(|(_, number)| *number).or_else(number)
}

/// What the lines of a session say of it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Who {
    /// `log format`.
    pub format: Vec<u8>,
    /// The peer's name.
    pub host: Vec<u8>,
    /// Its address.
    pub address: String,
    /// Who logged in; empty if nobody had to.
    pub user: Vec<u8>,
    /// The module.
    pub module: Vec<u8>,
    /// Its path.
    pub root: Vec<u8>,
}

/// The line of an operation that was done below `base`; none for one that has nothing to show in this format.
/// Everything a peer chose is escaped. `%t` and `%p` are left to whoever writes the line.
#[must_use]
pub fn line(who: &Who, base: &WirePath, op: &Op) -> Option<String> {
    let itemized = who.format.windows(2).any(|two| two == b"%i");
    if matches!(op, Op::SetMeta { .. } | Op::Same { .. }) && !itemized {
        return None;
    }
    let mut line = String::new();
    let mut rest = &who.format[..];
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            line.push_str(&escaped(&[byte]));
            continue;
        }
        let end = rest
            .iter()
            .position(|byte| !b"-0123456789'".contains(byte))
            .unwrap_or(rest.len());
        let (width, letter) = rest.split_at(end);
        let Some((&letter, after)) = letter.split_first() else {
            break;
        };
        rest = after;
        match value(who, base, op, letter) {
            Some(text) => pad(&mut line, &text, width),
            // What means nothing here stays as it is written.
            None => line.push_str(&escaped(&[b"%", width, &[letter]].concat())),
        }
    }
    let mut end = line.len().min(LINE_BYTES_MAX);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    Some(line)
}

fn pad(line: &mut String, text: &str, width: &[u8]) {
    let digits: Vec<u8> = width.iter().copied().filter(u8::is_ascii_digit).collect();
    let wide = std::str::from_utf8(&digits)
        .ok()
        .and_then(|text| text.parse().ok());
    let wide = wide.unwrap_or(0_usize).min(256);
    if width.contains(&b'-') {
        line.push_str(&format!("{text:<wide$}"));
    } else {
        line.push_str(&format!("{text:>wide$}"));
    }
}

fn value(who: &Who, base: &WirePath, op: &Op, letter: u8) -> Option<String> {
    let meta = meta_of(op);
    Some(match letter {
        b'%' => "%".to_owned(),
        b'a' => who.address.clone(),
        b'h' => escaped(&who.host),
        b'm' => escaped(&who.module),
        b'P' => escaped(&who.root),
        b'u' => escaped(&who.user),
        b'o' => verb(op).to_owned(),
        b'f' => below(base, op.path()),
        b'n' if kind_of(op) == Some(Kind::Dir) => format!("{}/", shown(op.path())),
        b'n' => shown(op.path()),
        b'l' | b'b' => length(op).to_string(),
        b'c' => "0".to_owned(),
        b'L' => target(op),
        b'U' => meta.map_or_else(String::new, |meta| meta.uid.to_string()),
        b'G' => meta.map_or_else(String::new, |meta| meta.gid.to_string()),
        b'B' => meta.map_or_else(String::new, |meta| permissions(meta.mode)),
        b'M' => meta.map_or_else(String::new, |meta| meta.mtime.secs().to_string()),
        b'i' => item(op),
        _ => return None,
    })
}

fn verb(op: &Op) -> &'static str {
    match op {
        Op::Remove { .. } => "del.",
        Op::Rename { .. } => "move",
        Op::Exchange { .. } => "swap",
        _ => "recv",
    }
}

fn kind_of(op: &Op) -> Option<Kind> {
    Some(match op {
        Op::Put { .. } | Op::Same { .. } => Kind::File,
        Op::Mkdir { .. } => Kind::Dir,
        Op::Symlink { .. } => Kind::Symlink,
        Op::Special { kind, .. } | Op::SetMeta { kind, .. } => *kind,
        Op::Link { .. } | Op::Rename { .. } | Op::Exchange { .. } | Op::Remove { .. } => {
            return None;
        }
    })
}

fn meta_of(op: &Op) -> Option<&Meta> {
    match op {
        Op::Put { meta, .. }
        | Op::Mkdir { meta, .. }
        | Op::Symlink { meta, .. }
        | Op::Special { meta, .. }
        | Op::SetMeta { meta, .. }
        | Op::Same { meta, .. } => Some(meta),
        Op::Link { .. } | Op::Rename { .. } | Op::Exchange { .. } | Op::Remove { .. } => None,
    }
}

fn length(op: &Op) -> u64 {
    match op {
        Op::Put { content, .. } => Content::len(content),
        _ => 0,
    }
}

fn target(op: &Op) -> String {
    match op {
        Op::Symlink { target, .. } => format!(" -> {}", escaped(target)),
        Op::Link { to, .. } => format!(" => {}", shown(to)),
        Op::Rename { from, .. } => format!(" <- {}", shown(from)),
        Op::Exchange { b, .. } => format!(" <> {}", shown(b)),
        _ => String::new(),
    }
}

/// rsync's eleven letters, as far as they are known without looking at what was there.
fn item(op: &Op) -> String {
    let done = match op {
        Op::Remove { .. } => return "*deleting  ".to_owned(),
        Op::Put { .. } => '>',
        Op::Link { .. } => 'h',
        Op::SetMeta { .. } | Op::Same { .. } => '.',
        _ => 'c',
    };
    let kind = match kind_of(op) {
        Some(Kind::Dir) => 'd',
        Some(Kind::Symlink) => 'L',
        Some(Kind::Fifo | Kind::Socket) => 'S',
        Some(Kind::CharDevice | Kind::BlockDevice) => 'D',
        Some(Kind::File) | None => 'f',
    };
    format!("{done}{kind}.........")
}

fn permissions(mode: u16) -> String {
    let bit = |shift: u16, letter| if mode >> shift & 1 == 1 { letter } else { '-' };
    (0..9_u16)
        .rev()
        .map(|shift| bit(shift, ['x', 'w', 'r'][usize::from(shift % 3)]))
        .collect()
}

fn shown(path: &WirePath) -> String {
    path.to_string()
}

fn below(base: &WirePath, path: &WirePath) -> String {
    if base.is_root() {
        shown(path)
    } else {
        format!("{base}/{path}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use syncd_proto::digest::Digest;
    use syncd_proto::meta::Mtime;

    use super::*;

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn who(format: &[u8]) -> Who {
        Who {
            format: format.to_vec(),
            host: b"web01".to_vec(),
            address: "10.0.0.9".to_owned(),
            user: b"alice".to_vec(),
            module: b"m".to_vec(),
            root: b"/srv/m".to_vec(),
        }
    }

    fn put() -> Op {
        let meta = Meta {
            mode: 0o640,
            uid: 7,
            gid: 8,
            mtime: Mtime::new(5, 0).unwrap(),
            xattrs: None,
        };
        Op::Put {
            path: path("d/f\n"),
            meta,
            content: Content::Inline {
                len: 12,
                digest: Digest::of(b""),
            },
        }
    }

    #[test]
    fn lines_are_rsyncs() {
        let remove = Op::Remove {
            path: path("x"),
            recursive: true,
        };
        let link = Op::Link {
            path: path("x"),
            to: path("y"),
        };
        for (format, op, expected) in [
            (
                DEFAULT_FORMAT,
                put(),
                "recv web01 [10.0.0.9] m (alice) sub/d/f\\x0a 12",
            ),
            (b"%o %n%L", link, "recv x => y"),
            (b"%i %f", remove.clone(), "*deleting   sub/x"),
            (b"%o|%5l|%-5l|%'l", put(), "recv|   12|12   |12"),
            (
                b"%B %U:%G %M %P 100%% %q %",
                put(),
                "rw-r----- 7:8 5 /srv/m 100% %q ",
            ),
            (b"%i", put(), ">f........."),
        ] {
            assert_eq!(line(&who(format), &path("sub"), &op).unwrap(), expected);
        }
        let set = Op::SetMeta {
            path: path("x"),
            kind: Kind::Dir,
            size: 0,
            meta: meta_of(&put()).unwrap().clone(),
        };
        assert_eq!(line(&who(b"%o %f"), &path("."), &set), None);
        assert_eq!(
            line(&who(b"%i %n"), &path("."), &set).unwrap(),
            ".d......... x/"
        );
    }

    #[test]
    fn facilities_have_names_and_numbers() {
        assert_eq!(facility(b"local5"), Some(21));
        assert_eq!(facility(b"DAEMON"), Some(3));
        assert_eq!(facility(b"21"), Some(21));
        assert_eq!(facility(b"24"), None);
        assert_eq!(facility(b"nowhere"), None);
    }

    proptest! {
        #[test]
        fn no_line_is_two(format: Vec<u8>, host: Vec<u8>) {
            let who = Who { host, ..who(&format) };
            let line = line(&who, &path("."), &put()).unwrap();
            prop_assert!(line.len() <= LINE_BYTES_MAX && !line.contains(char::is_control));
        }
    }
}
