//! As much of the kernel's FUSE protocol (version 7) as a file system needs that is a single file.
//!
//! Only bytes in and bytes out; [`crate::device`] reads and writes them. Numbers are in the machine's own order.

use rustix::io::Errno;

/// Longest write asked for at once.
pub(crate) const WRITE_BYTES_MAX: u32 = 1 << 20;

/// Longest request: a write with its header.
pub(crate) const REQUEST_BYTES_MAX: usize = WRITE_BYTES_MAX as usize + 4096;

const HEADER_BYTES: usize = 40;
const PAGE_BYTES: u32 = 4096;
const MAJOR: u32 = 7;
const MINOR: u32 = 31;
/// Asynchronous reads, writes beyond a page, more than 32 pages a request.
const FLAGS: u32 = 1 | 1 << 5 | 1 << 22;
const DIRECT_IO: u32 = 1;
const MODE: u32 = 0o100_600;
const VALID_S: u64 = 3600;

/// What the kernel asks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ask<'a> {
    Init {
        minor: u32,
        readahead: u32,
        flags: u32,
    },
    Attributes,
    Open,
    Read {
        offset: u64,
        length: u32,
    },
    Write {
        offset: u64,
        bytes: &'a [u8],
    },
    Sync,
    Statistics,
    /// Something that is done by saying so.
    Nothing,
    /// Something that wants no answer.
    Note,
    Unknown,
}

/// A request and its number.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    pub(crate) number: u64,
    pub(crate) ask: Ask<'a>,
}

impl<'a> Request<'a> {
    /// Reads one; `None` if it is cut short.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let body = bytes.get(HEADER_BYTES..)?;
        let number = u64_at(bytes, 8)?;
        let ask = match u32_at(bytes, 4)? {
            26 => Ask::Init {
                minor: u32_at(body, 4)?,
                readahead: u32_at(body, 8)?,
                flags: u32_at(body, 12)?,
            },
            3 | 4 => Ask::Attributes,
            14 => Ask::Open,
            15 => Ask::Read {
                offset: u64_at(body, 8)?,
                length: u32_at(body, 16)?,
            },
            16 => {
                let length = u32_at(body, 16)? as usize;
                Ask::Write {
                    offset: u64_at(body, 8)?,
                    bytes: body.get(HEADER_BYTES..)?.get(..length)?,
                }
            }
            20 => Ask::Sync,
            17 => Ask::Statistics,
            // release, flush, access, destroy
            18 | 25 | 34 | 38 => Ask::Nothing,
            // forget, interrupt, batch forget
            2 | 36 | 42 => Ask::Note,
            _ => Ask::Unknown,
        };
        Some(Self { number, ask })
    }
}

/// An answer with this body.
pub(crate) fn answer(number: u64, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(0_i32.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// The answer that it failed.
pub(crate) fn failure(number: u64, errno: Errno) -> Vec<u8> {
    let mut bytes = answer(number, &[]);
    bytes[4..8].copy_from_slice(&(-errno.raw_os_error()).to_ne_bytes());
    bytes
}

pub(crate) fn init_body(minor: u32, readahead: u32, flags: u32) -> Vec<u8> {
    let mut body = Vec::new();
    for number in [MAJOR, minor.min(MINOR), readahead, flags & FLAGS] {
        body.extend(number.to_ne_bytes());
    }
    // Requests in the background, and when that is a jam.
    for number in [64_u16, 48] {
        body.extend(number.to_ne_bytes());
    }
    for number in [WRITE_BYTES_MAX, 1] {
        body.extend(number.to_ne_bytes());
    }
    body.extend(((WRITE_BYTES_MAX / PAGE_BYTES) as u16).to_ne_bytes());
    body.resize(64, 0);
    body
}

pub(crate) fn attributes_body(size_bytes: u64) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(VALID_S.to_ne_bytes());
    body.extend(0_u64.to_ne_bytes());
    for number in [1, size_bytes, size_bytes / 512, 0, 0, 0] {
        body.extend(number.to_ne_bytes());
    }
    for number in [0, 0, 0, MODE, 1, 0, 0, 0, PAGE_BYTES, 0] {
        body.extend(number.to_ne_bytes());
    }
    body
}

/// Each write and flush is to come here at once, in order.
pub(crate) fn open_body() -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend(DIRECT_IO.to_ne_bytes());
    body.resize(16, 0);
    body
}

pub(crate) fn written_body(length: usize) -> Vec<u8> {
    let mut body = u32::try_from(length).unwrap_or(0).to_ne_bytes().to_vec();
    body.resize(8, 0);
    body
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(code: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..8].copy_from_slice(&code.to_ne_bytes());
        bytes[8..16].copy_from_slice(&77_u64.to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_write_is_read_whole_or_not_at_all() {
        let mut body = vec![0; 40];
        body[8..16].copy_from_slice(&4096_u64.to_ne_bytes());
        body[16..20].copy_from_slice(&3_u32.to_ne_bytes());
        body.extend(b"abc");
        let bytes = request(16, &body);
        let expected = Request {
            number: 77,
            ask: Ask::Write {
                offset: 4096,
                bytes: b"abc",
            },
        };
        assert_eq!(Request::parse(&bytes), Some(expected));
        assert_eq!(Request::parse(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Request::parse(&bytes[..20]), None);
    }

    #[test]
    fn answers_have_the_lengths_the_kernel_knows() {
        assert_eq!(init_body(40, 0, u32::MAX).len(), 64);
        assert_eq!(attributes_body(1).len(), 16 + 88);
        assert_eq!(open_body().len(), 16);
        assert_eq!(written_body(3).len(), 8);
        let failed = failure(5, Errno::NOSYS);
        assert_eq!(failed.len(), 16);
        assert_eq!(failed[4..8], (-38_i32).to_ne_bytes());
    }
}
