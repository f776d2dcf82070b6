//! Signatures of files the receiver has: what a delta is made against.
//!
//! A signature names the version it describes; blocks of a version that is no longer there are refused,
//! and so is a transfer that builds on it. None of this proves anything: the digest of the result does.

use std::os::fd::OwnedFd;

use rustix::fs::Statx;
use rustix::io::Errno;

use syncd_proto::delta::{BlockSize, GroupDigest, GroupHasher, SUM_BYTES, sign_range};
use syncd_proto::digest::Hasher;
use syncd_proto::limits::BLOCKS_MAX;
use syncd_proto::message::{Signature, SignatureInfo, SignatureQuery, SignatureWant};
use syncd_proto::meta::Kind;
use syncd_proto::reject::RejectCode;

use super::known::Known;
use super::meta::{kind_of, mtime_of, statx_fd};
use super::refusal::Refusal;
use super::root::Root;

/// What takes the frames of an answer, one by one.
pub trait Frames {
    /// Sends one; `false` if nobody wants more.
    fn send(&mut self, signature: Signature, payload: Vec<u8>) -> bool;
}

/// Answers a question about a file.
///
/// # Errors
/// [`RejectCode::NoBasis`] if the version asked for is not there (any more), or what the system says.
pub fn answer(
    root: &Root,
    known: &Known,
    query: &SignatureQuery,
    out: &mut impl Frames,
) -> Result<(), Refusal> {
    let mut sender = Sender {
        id: query.id,
        info: None,
        pending: Vec::new(),
        out,
    };
    let Some((file, stat)) = open(root, query)? else {
        sender.finish();
        return Ok(());
    };
    let version = version_of(&stat);
    let known = known.find(&version);
    sender.info = Some(SignatureInfo {
        version,
        len: stat.stx_size,
        mtime: mtime_of(&stat),
        content: known.as_ref().map(|known| known.digest),
    });
    match &query.want {
        SignatureWant::Version => {}
        SignatureWant::Groups => match known {
            Some(known) => sender.take(known.groups.digests()),
            None => groups(&file, stat.stx_size, &mut sender)?,
        },
        SignatureWant::Blocks {
            version: wanted,
            block_bytes,
            ranges,
        } => {
            if *wanted != version {
                return Err(changed(query));
            }
            blocks(&file, stat.stx_size, *block_bytes, ranges, &mut sender)?;
        }
    }
    let after = statx_fd(&file).map_err(|errno| cannot_read(query, errno))?;
    if version_of(&after) != version {
        return Err(changed(query));
    }
    sender.finish();
    Ok(())
}

/// Names the version of a file: it changes when anything writes to it.
#[must_use]
pub fn version_of(stat: &Statx) -> [u8; 16] {
    let mut hasher = Hasher::new();
    for number in [
        rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        stat.stx_ino,
        stat.stx_size,
        stat.stx_mtime.tv_sec.cast_unsigned(),
        stat.stx_mtime.tv_nsec.into(),
        stat.stx_ctime.tv_sec.cast_unsigned(),
        stat.stx_ctime.tv_nsec.into(),
    ] {
        hasher.update(&number.to_le_bytes());
    }
    let mut version = [0; 16];
    version.copy_from_slice(&hasher.finish().as_bytes()[..16]);
    version
}

struct Sender<'a, F> {
    id: u64,
    info: Option<SignatureInfo>,
    pending: Vec<u8>,
    out: &'a mut F,
}

impl<F: Frames> Sender<'_, F> {
    /// Sends what has come together; `false` if nobody wants more.
    fn flush_full(&mut self) -> bool {
        if self.pending.len() < FRAME_BYTES {
            return true;
        }
        let rest = self.pending.split_off(FRAME_BYTES);
        let full = std::mem::replace(&mut self.pending, rest);
        self.send(full, false)
    }

    /// The last frame says so, even if it is empty.
    fn finish(&mut self) {
        while self.pending.len() > FRAME_BYTES {
            if !self.flush_full() {
                return;
            }
        }
        let rest = std::mem::take(&mut self.pending);
        self.send(rest, true);
    }

    fn take(&mut self, digests: &[GroupDigest]) {
        self.pending.extend_from_slice(digests.as_flattened());
    }

    fn send(&mut self, payload: Vec<u8>, last: bool) -> bool {
        let signature = Signature {
            id: self.id,
            info: self.info.clone(),
            last,
        };
        self.out.send(signature, payload)
    }
}

fn open(root: &Root, query: &SignatureQuery) -> Result<Option<(OwnedFd, Statx)>, Refusal> {
    if query.path.is_reserved() {
        return Ok(None);
    }
    let file = match root.open_file(&query.path) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => {
            return Ok(None);
        }
        Err(errno) => return Err(cannot_read(query, errno)),
    };
    let stat = statx_fd(&file).map_err(|errno| cannot_read(query, errno))?;
    Ok((kind_of(&stat) == Some(Kind::File)).then_some((file, stat)))
}

/// Groups of a file as its own BLAKE3 tree has them; they go as they are found.
fn groups<F: Frames>(file: &OwnedFd, len: u64, sender: &mut Sender<'_, F>) -> Result<(), Refusal> {
    let mut hasher = GroupHasher::for_len(len);
    let mut buffer = vec![0; len.min(WINDOW_BYTES) as usize];
    let (mut at, mut sent) = (0, 0);
    while at < len {
        let want = (len - at).min(WINDOW_BYTES) as usize;
        read_whole(file, &mut buffer[..want], at)?;
        hasher.update(&buffer[..want]);
        at += want as u64;
        let closed = hasher.closed();
        sender.take(&closed[sent..]);
        sent = closed.len();
        if !sender.flush_full() {
            return Ok(());
        }
    }
    sender.take(&hasher.finish().0.digests()[sent..]);
    Ok(())
}

fn blocks<F: Frames>(
    file: &OwnedFd,
    len: u64,
    block_bytes: u32,
    ranges: &[(u64, u64)],
    sender: &mut Sender<'_, F>,
) -> Result<(), Refusal> {
    let block = BlockSize::new(block_bytes).ok_or_else(|| bad_query("block size"))?;
    check_ranges(len, block, ranges)?;
    let window = (WINDOW_BYTES / u64::from(block.bytes())).max(1) * u64::from(block.bytes());
    let mut buffer = Vec::new();
    for &(start, length) in ranges {
        let mut at = start;
        while at < start + length {
            let want = (start + length - at).min(window);
            buffer.resize(want as usize, 0);
            read_whole(file, &mut buffer, at)?;
            sign_range(&buffer, block, &mut sender.pending);
            if !sender.flush_full() {
                return Ok(());
            }
            at += want;
        }
    }
    Ok(())
}

fn check_ranges(len: u64, block: BlockSize, ranges: &[(u64, u64)]) -> Result<(), Refusal> {
    let mut blocks = 0;
    let mut last_end = 0;
    for &(start, length) in ranges {
        let end = start.checked_add(length).filter(|&end| end <= len);
        let end = end.ok_or_else(|| bad_query("range beyond the file"))?;
        if start % u64::from(block.bytes()) != 0 || start < last_end {
            return Err(bad_query("range out of order"));
        }
        last_end = end;
        blocks += length / u64::from(block.bytes());
    }
    if blocks > BLOCKS_MAX {
        return Err(bad_query("too many blocks"));
    }
    Ok(())
}

fn read_whole(file: &OwnedFd, mut buffer: &mut [u8], mut at: u64) -> Result<(), Refusal> {
    while !buffer.is_empty() {
        match rustix::io::pread(file, &mut *buffer, at) {
            Ok(0) => return Err(Refusal::new(RejectCode::NoBasis, "file was cut short")),
            Ok(count) => {
                buffer = &mut buffer[count..];
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Refusal::staging("read the basis of", errno)),
        }
    }
    Ok(())
}

fn bad_query(what: &str) -> Refusal {
    Refusal::new(RejectCode::Protocol, format!("signature query: {what}"))
}

fn changed(query: &SignatureQuery) -> Refusal {
    Refusal::new(RejectCode::NoBasis, format!("{} has changed", query.path))
}

fn cannot_read(query: &SignatureQuery, errno: Errno) -> Refusal {
    Refusal::system("read", &query.path, errno)
}

/// Payload of one frame: a multiple of both kinds of sums.
const FRAME_BYTES: usize = (1 << 20) / (32 * SUM_BYTES) * (32 * SUM_BYTES);

/// Bytes read at once.
const WINDOW_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use syncd_proto::delta::{BlockSignature, GroupList};
    use syncd_proto::path::WirePath;

    use super::super::root::HANDLE;
    use super::*;

    #[derive(Default)]
    struct Collected(Vec<(Signature, Vec<u8>)>);

    impl Frames for Collected {
        fn send(&mut self, signature: Signature, payload: Vec<u8>) -> bool {
            self.0.push((signature, payload));
            true
        }
    }

    impl Collected {
        fn payload(&self) -> Vec<u8> {
            self.0
                .iter()
                .flat_map(|(_, payload)| payload.clone())
                .collect()
        }

        fn info(&self) -> SignatureInfo {
            self.0[0].0.info.clone().unwrap()
        }
    }

    fn ask(dir: &Path, want: SignatureWant) -> Result<Collected, Refusal> {
        let fd = rustix::fs::open(dir, HANDLE, rustix::fs::Mode::empty()).unwrap();
        let mut out = Collected::default();
        let query = SignatureQuery {
            id: 3,
            path: WirePath::from_relative(Path::new("f")).unwrap(),
            want,
        };
        answer(
            &Root::new(fd, false).unwrap(),
            &Known::default(),
            &query,
            &mut out,
        )
        .map(|()| out)
    }

    #[test]
    fn groups_and_blocks_are_what_the_agent_expects() {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..3_000_017_u64).map(|n| (n * n / 7) as u8).collect();
        fs::write(dir.path().join("f"), &content).unwrap();
        let found = ask(dir.path(), SignatureWant::Groups).unwrap();
        let info = found.info();
        assert_eq!(info.len, content.len() as u64);
        let list = GroupList::from_payload(&found.payload(), info.len).unwrap();
        let mut hasher = GroupHasher::for_len(info.len);
        hasher.update(&content);
        assert_eq!(list, hasher.finish().0);

        let block = BlockSize::new(4096).unwrap();
        let ranges = vec![(0, 65_536), (131_072, info.len - 131_072)];
        let want = |version| SignatureWant::Blocks {
            version,
            block_bytes: block.bytes(),
            ranges: ranges.clone(),
        };
        let found = ask(dir.path(), want(info.version)).unwrap();
        assert!(found.0.last().unwrap().0.last);
        BlockSignature::from_ranges(&found.payload(), block, &ranges, info.len).unwrap();

        fs::write(dir.path().join("f"), b"another").unwrap();
        let refused = ask(dir.path(), want(info.version)).err().unwrap();
        assert_eq!(refused.code, RejectCode::NoBasis);
    }

    #[test]
    fn what_is_no_file_has_no_signature() {
        let dir = tempfile::tempdir().unwrap();
        for make in [(|_: &Path| {}) as fn(&Path), |path| {
            fs::create_dir(path).unwrap()
        }] {
            make(&dir.path().join("f"));
            let found = ask(dir.path(), SignatureWant::Groups).unwrap();
            assert!(matches!(
                &found.0[..],
                [(
                    Signature {
                        info: None,
                        last: true,
                        ..
                    },
                    _
                )]
            ));
        }
    }
}
