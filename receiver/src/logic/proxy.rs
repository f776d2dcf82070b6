//! The PROXY header, versions 1 and 2: where a connection comes from, said by a proxy before its first byte.
//!
//! As strict as rsync: no port 0, no names, nothing behind the addresses. [`Header::push`] takes a byte at a time and
//! never more than the header has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a header of version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What one of version 1 begins with.
const PREFIX: &[u8] = b"PROXY ";

/// The longest line of version 1, its end included.
const LINE_BYTES_MAX: usize = 107;

/// Signature, version and command, family, length.
const FIXED_BYTES: usize = 16;

/// Most bytes behind a `LOCAL` that are skipped.
const SKIPPED_BYTES_MAX: usize = 216;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From the proxy itself, or it does not know.
    Socket,
    /// From here.
    Address(IpAddr, u16),
}

/// Not a header, or not one that says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoHeader;

impl std::fmt::Display for NoHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no PROXY header, or not a valid one")
    }
}

impl std::error::Error for NoHeader {}

/// A header as it comes in.
#[derive(Debug, Default)]
pub struct Header(Vec<u8>);

impl Header {
    /// Takes the next byte; the origin once the header is complete.
    ///
    /// # Errors
    /// [`NoHeader`] as soon as it cannot become one.
    pub fn push(&mut self, byte: u8) -> Result<Option<Origin>, NoHeader> {
        self.0.push(byte);
        let bytes = &self.0[..];
        match bytes[0] {
            b'P' => version_1(bytes),
            b'\r' => version_2(bytes),
            _ => Err(NoHeader),
        }
    }
}

fn version_1(bytes: &[u8]) -> Result<Option<Origin>, NoHeader> {
    let start = bytes.len().min(PREFIX.len());
    if bytes[..start] != PREFIX[..start] || bytes.len() > LINE_BYTES_MAX {
        return Err(NoHeader);
    }
    if !bytes.ends_with(b"\n") {
        return Ok(None);
    }
    let line = bytes.strip_suffix(b"\r\n").ok_or(NoHeader)?;
    let rest = line.get(PREFIX.len()..).unwrap_or_default();
    let text = std::str::from_utf8(rest).map_err(|_| NoHeader)?;
    let mut words = text.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Some(Origin::Socket));
    }
    let mut address = || {
        let word = words.next().ok_or(NoHeader)?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().map(IpAddr::from),
            "TCP6" => word.parse::<Ipv6Addr>().map(IpAddr::from),
            _ => return Err(NoHeader),
        }
        .map_err(|_| NoHeader)
    };
    let (source, _) = (address()?, address()?);
    let mut port = || number(words.next().ok_or(NoHeader)?);
    let (source_port, _) = (port()?, port()?);
    match words.next() {
        None => Ok(Some(Origin::Address(source, source_port))),
        Some(_) => Err(NoHeader),
    }
}

fn number(word: &str) -> Result<u16, NoHeader> {
    let is_number = word.len() <= 5 && word.bytes().all(|byte| byte.is_ascii_digit());
    let port = word.parse().map_err(|_| NoHeader)?;
    if is_number && port > 0 {
        Ok(port)
    } else {
        Err(NoHeader)
    }
}

fn version_2(bytes: &[u8]) -> Result<Option<Origin>, NoHeader> {
    let start = bytes.len().min(SIGNATURE.len());
    if bytes[..start] != SIGNATURE[..start] {
        return Err(NoHeader);
    }
    let Some((&fixed, body)) = bytes.split_first_chunk::<FIXED_BYTES>() else {
        return Ok(None);
    };
    let [.., command, family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let wanted = match (command, family) {
        (0x20, _) if length <= SKIPPED_BYTES_MAX => length,
        (0x21, 0x11) => 12,
        (0x21, 0x21) => 36,
        _ => return Err(NoHeader),
    };
    if length != wanted {
        return Err(NoHeader);
    }
    if body.len() < wanted {
        return Ok(None);
    }
    if command == 0x20 {
        return Ok(Some(Origin::Socket));
    }
    let (address, port) = if family == 0x11 {
        let (address, _) = body.split_first_chunk::<4>().ok_or(NoHeader)?;
        (IpAddr::from(*address), &body[8..10])
    } else {
        let (address, _) = body.split_first_chunk::<16>().ok_or(NoHeader)?;
        (IpAddr::from(*address), &body[32..34])
    };
    match u16::from_be_bytes([port[0], port[1]]) {
        0 => Err(NoHeader),
        port => Ok(Some(Origin::Address(address, port))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a header says, and how many bytes of it there are.
    fn read(bytes: &[u8]) -> Result<Option<(Origin, usize)>, NoHeader> {
        let mut header = Header::default();
        for (at, &byte) in bytes.iter().enumerate() {
            if let Some(origin) = header.push(byte)? {
                return Ok(Some((origin, at + 1)));
            }
        }
        Ok(None)
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, body].concat()
    }

    #[test]
    fn addresses_are_read_and_not_one_byte_more() {
        let from = |ip: &str, port| Origin::Address(ip.parse().unwrap(), port);
        for (line, origin) in [
            (
                "PROXY TCP4 192.0.2.7 198.51.100.1 40000 873\r\n",
                from("192.0.2.7", 40_000),
            ),
            (
                "PROXY TCP6 2001:DB8::7 ::1 1 65535\r\n",
                from("2001:db8::7", 1),
            ),
            ("PROXY UNKNOWN\r\n", Origin::Socket),
            ("PROXY UNKNOWN any words\r\n", Origin::Socket),
        ] {
            let sent = [line.as_bytes(), b"\x16\x03"].concat();
            assert_eq!(read(&sent), Ok(Some((origin, line.len()))), "{line}");
        }
        let body = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 3, 0x69];
        let sent = v2(0x21, 0x11, &body);
        assert_eq!(
            read(&sent),
            Ok(Some((from("192.0.2.7", 40_000), sent.len())))
        );
        assert_eq!(read(&v2(0x20, 0, b"")), Ok(Some((Origin::Socket, 16))));
    }

    #[test]
    fn everything_else_is_none() {
        for line in [
            "PROXY TCP4 192.0.2.777 198.51.100.1 40000 873\r\n",
            "PROXY TCP4 localhost 198.51.100.1 40000 873\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 x 873\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 873\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 0 873\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 40000 873\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 40000 873 \r\n",
            "PROXY TCP4 ::1 ::1 40000 873\r\n",
            "proxy TCP4 192.0.2.7 198.51.100.1 40000 873\r\n",
            "PROXY  TCP4 192.0.2.7 198.51.100.1 40000 873\r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            assert_eq!(read(line.as_bytes()), Err(NoHeader), "{line}");
        }
        let body = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 3, 0x69];
        assert_eq!(read(&v2(0x11, 0x11, &body)), Err(NoHeader));
        assert_eq!(read(&v2(0x21, 0x12, &body)), Err(NoHeader));
        assert_eq!(
            read(&v2(0x21, 0x11, &[&body[..], &[4, 0, 1, 0]].concat())),
            Err(NoHeader)
        );
        assert_eq!(read(&[b'P'; 200]), Err(NoHeader));
        assert_eq!(read(&[PREFIX, &[b'x'; 200]].concat()), Err(NoHeader));
    }

    proptest! {
        #[test]
        fn any_bytes_end_soon(bytes in proptest::collection::vec(any::<u8>(), 0..600), v1: bool) {
            let start = if v1 { PREFIX } else { SIGNATURE };
            let sent = [start, &bytes].concat();
            if let Ok(None) = read(&sent) {
                prop_assert!(sent.len() < FIXED_BYTES + SKIPPED_BYTES_MAX);
            }
            let _ = read(&bytes);
        }
    }
}
