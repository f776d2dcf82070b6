//! What floor-tls sends: a list of directories, then blocks of whole small files of one directory, or pieces of a large one, in
//! lanes: what one thread packs one thread unpacks, in order.

use std::ffi::{OsStr, OsString};
use std::io::{self, Error};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use blake3::Hasher;
use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, AtFlags, CWD, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::copy::{DIRECTORY, Part, list, make_directory};

/// What a block holds besides its header, unless it is an outline.
pub(super) const BLOCK_BYTES: usize = 256 << 10;
/// Length, kind, lane.
pub(super) const HEADER_BYTES: usize = 8;
/// Threads that pack and threads that unpack.
pub(super) const LANES: usize = 2;
const BODY_BYTES_MAX: usize = 64 << 20;
/// Above this a file goes in pieces.
const SMALL_BYTES: usize = 128 << 10;
/// After so much of a large file the kernel is asked to write it.
const BEHIND_BYTES: u64 = 16 << 20;

/// What is in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Directories with their attributes.
    Outline,
    /// A directory, then name, attributes, digest and content of files in it.
    Files,
    /// A directory, then name and attributes of a large file.
    Begin,
    /// The next piece of it.
    Piece,
    /// Its digest.
    Finish,
    /// There is no more.
    End,
}

/// The beginning of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) len: usize,
    pub(super) kind: Kind,
    pub(super) lane: usize,
}

impl Header {
    /// Of a block that has it.
    pub(super) fn of(block: &[u8]) -> io::Result<Self> {
        let mut fields = Fields(block);
        let len = fields.size()?;
        let [kind, lane, ..] = fields.take::<4>()?;
        let kinds = [
            Kind::Outline,
            Kind::Files,
            Kind::Begin,
            Kind::Piece,
            Kind::Finish,
            Kind::End,
        ];
        match kinds.get(usize::from(kind)) {
            Some(&kind) if len <= BODY_BYTES_MAX && usize::from(lane) < LANES => Ok(Self {
                len,
                kind,
                lane: lane.into(),
            }),
            _ => Err(Error::other("no block")),
        }
    }

    /// Over what the block holds now.
    fn put(block: &mut [u8], kind: Kind, lane: usize) {
        let len = (block.len() - HEADER_BYTES) as u32;
        block[..4].copy_from_slice(&len.to_le_bytes());
        block[4..HEADER_BYTES].copy_from_slice(&[kind as u8, lane as u8, 0, 0]);
    }
}

/// The last block.
pub(super) fn end() -> Vec<u8> {
    let mut block = vec![0; HEADER_BYTES];
    Header::put(&mut block, Kind::End, 0);
    block
}

/// Fields one after the other.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> io::Result<&'a [u8]> {
        let (now, rest) = self.0.split_at_checked(len).ok_or(Errno::BADMSG)?;
        self.0 = rest;
        Ok(now)
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        self.bytes(N)?.try_into().map_err(Error::other)
    }

    fn size(&mut self) -> io::Result<usize> {
        Ok(u32::from_le_bytes(self.take()?) as usize)
    }

    fn name(&mut self) -> io::Result<&'a OsStr> {
        let len = self.size()?;
        Ok(OsStr::from_bytes(self.bytes(len)?))
    }

    fn attributes(&mut self) -> io::Result<(Mode, Timestamps)> {
        let mode = Mode::from_raw_mode(u32::from_le_bytes(self.take()?));
        let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        let modified = time(
            i64::from_le_bytes(self.take()?),
            i64::from_le_bytes(self.take()?),
        );
        let times = Timestamps {
            last_access: time(0, UTIME_OMIT),
            last_modification: modified,
        };
        Ok((mode, times))
    }
}

fn put_name(block: &mut Vec<u8>, name: &OsStr) {
    block.extend((name.len() as u32).to_le_bytes());
    block.extend(name.as_bytes());
}

fn put_attributes(block: &mut Vec<u8>, stat: &Stat) {
    block.extend((stat.st_mode & 0o7777).to_le_bytes());
    block.extend(stat.st_mtime.to_le_bytes());
    block.extend((stat.st_mtime_nsec as i64).to_le_bytes());
}

/// What is sent: directories, and the files in each.
pub(super) struct Outline {
    parts: Vec<Part>,
    next: AtomicUsize,
}

impl Outline {
    pub(super) fn of(source: &Path, names: &[&str]) -> io::Result<Self> {
        let mut parts = Vec::new();
        for name in names {
            list(source, Path::new(name), &mut parts)?;
        }
        let next = AtomicUsize::new(0);
        Ok(Self { parts, next })
    }

    /// The directories as a block.
    pub(super) fn block(&self, source: &Path) -> io::Result<Vec<u8>> {
        let mut block = vec![0; HEADER_BYTES];
        for part in &self.parts {
            put_name(&mut block, part.path.as_os_str());
            put_attributes(&mut block, &rustix::fs::stat(source.join(&part.path))?);
        }
        Header::put(&mut block, Kind::Outline, 0);
        Ok(block)
    }
}

/// Makes the directories of an outline, and says which times they are to get.
pub(super) fn make_directories(
    mirror: &Path,
    block: &[u8],
) -> io::Result<Vec<(PathBuf, Timestamps)>> {
    let mut fields = Fields(&block[HEADER_BYTES..]);
    let mut made = Vec::new();
    while !fields.0.is_empty() {
        let path = mirror.join(fields.name()?);
        let (mode, times) = fields.attributes()?;
        make_directory(&path)?;
        rustix::fs::chmod(&path, mode)?;
        made.push((path, times));
    }
    Ok(made)
}

/// Gives them these times.
pub(super) fn set_times(made: &[(PathBuf, Timestamps)]) -> io::Result<()> {
    made.iter().try_for_each(|(path, times)| {
        Ok(rustix::fs::utimensat(CWD, path, times, AtFlags::empty())?)
    })
}

/// Reads and hashes files into blocks of its lane.
pub(super) struct Packer<'a> {
    lane: usize,
    block: Vec<u8>,
    empty: &'a Mutex<Receiver<Vec<u8>>>,
    full: SyncSender<Vec<u8>>,
}

impl<'a> Packer<'a> {
    pub(super) fn new(
        lane: usize,
        empty: &'a Mutex<Receiver<Vec<u8>>>,
        full: SyncSender<Vec<u8>>,
    ) -> Self {
        let block = Vec::new();
        Self {
            lane,
            block,
            empty,
            full,
        }
    }

    /// Until nothing is left that no other has taken.
    pub(super) fn run(mut self, source: &Path, outline: &Outline) -> io::Result<()> {
        let next = || outline.next.fetch_add(1, Ordering::Relaxed);
        while let Some(part) = outline.parts.get(next()) {
            let from = rustix::fs::open(source.join(&part.path), DIRECTORY, Mode::empty())?;
            for name in &part.files {
                self.file(&from, part.path.as_os_str(), name)?;
            }
            self.flush(Kind::Files)?;
        }
        Ok(())
    }

    fn file(&mut self, from: &OwnedFd, directory: &OsStr, name: &OsStr) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(from, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        let size = usize::try_from(stat.st_size).map_err(Error::other)?;
        if size > SMALL_BYTES {
            return self.large(&file, &stat, directory, name);
        }
        if self.block.len() + name.len() + 64 + size > BLOCK_BYTES {
            self.flush(Kind::Files)?;
        }
        if self.block.is_empty() {
            self.begin()?;
            put_name(&mut self.block, directory);
        }
        put_name(&mut self.block, name);
        put_attributes(&mut self.block, &stat);
        self.block.extend((size as u32).to_le_bytes());
        let place = self.block.len();
        self.block.extend([0; blake3::OUT_LEN]);
        let start = self.block.len();
        if size > 0 && rustix::io::read(&file, spare_capacity(&mut self.block))? != size {
            return Err(Error::other("a file has changed"));
        }
        let digest = blake3::hash(&self.block[start..]);
        self.block[place..start].copy_from_slice(digest.as_bytes());
        Ok(())
    }

    fn large(
        &mut self,
        file: &OwnedFd,
        stat: &Stat,
        directory: &OsStr,
        name: &OsStr,
    ) -> io::Result<()> {
        self.flush(Kind::Files)?;
        self.begin()?;
        put_name(&mut self.block, directory);
        put_name(&mut self.block, name);
        put_attributes(&mut self.block, stat);
        self.flush(Kind::Begin)?;
        let mut hasher = Hasher::new();
        loop {
            self.begin()?;
            if rustix::io::read(file, spare_capacity(&mut self.block))? == 0 {
                break;
            }
            hasher.update(&self.block[HEADER_BYTES..]);
            self.flush(Kind::Piece)?;
        }
        self.block.extend(hasher.finalize().as_bytes());
        self.flush(Kind::Finish)
    }

    fn begin(&mut self) -> io::Result<()> {
        let empty = self.empty.lock();
        let empty = empty.map_err(|_| Error::other("a thread panicked"))?;
        self.block = empty.recv().map_err(Error::other)?;
        self.block.clear();
        self.block.extend([0; HEADER_BYTES]);
        Ok(())
    }

    fn flush(&mut self, kind: Kind) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        let mut block = std::mem::take(&mut self.block);
        Header::put(&mut block, kind, self.lane);
        self.full.send(block).map_err(Error::other)
    }
}

/// Writes, checks and publishes the files of a lane.
pub(super) struct Lane<'a> {
    mirror: &'a Path,
    large: Option<Large>,
}

struct Large {
    to: OwnedFd,
    name: Vec<u8>,
    times: Timestamps,
    file: OwnedFd,
    hasher: Hasher,
    len: u64,
    asked: u64,
}

impl<'a> Lane<'a> {
    pub(super) fn new(mirror: &'a Path) -> Self {
        Self {
            mirror,
            large: None,
        }
    }

    /// Takes one block after the other and gives them back. After an error nothing more is done with them.
    pub(super) fn run(
        mut self,
        full: &Receiver<Vec<u8>>,
        empty: &SyncSender<Vec<u8>>,
    ) -> io::Result<()> {
        let mut result = Ok(());
        for block in full {
            result = result.and_then(|()| self.take(&block));
            // Nobody may be left to fill it.
            let _ = empty.send(block);
        }
        result
    }

    /// The next block.
    pub(super) fn take(&mut self, block: &[u8]) -> io::Result<()> {
        let body = &block[HEADER_BYTES..];
        match (Header::of(block)?.kind, &mut self.large) {
            (Kind::Files, None) => self.files(Fields(body)),
            (Kind::Begin, None) => {
                let mut fields = Fields(body);
                let to = self.directory(fields.name()?)?;
                let name = fields.name()?.as_bytes().to_vec();
                let (mode, times) = fields.attributes()?;
                self.large = Some(Large {
                    file: create(&to, mode)?,
                    to,
                    name,
                    times,
                    hasher: Hasher::new(),
                    len: 0,
                    asked: 0,
                });
                Ok(())
            }
            (Kind::Piece, Some(large)) => large.piece(body),
            (Kind::Finish, large @ Some(_)) => large.take().map_or(Ok(()), |it| it.finish(body)),
            _ => Err(Error::other("a block out of place")),
        }
    }

    fn directory(&self, path: &OsStr) -> io::Result<OwnedFd> {
        let path = self.mirror.join(path);
        Ok(rustix::fs::open(path, DIRECTORY, Mode::empty())?)
    }

    fn files(&self, mut fields: Fields<'_>) -> io::Result<()> {
        let to = self.directory(fields.name()?)?;
        while !fields.0.is_empty() {
            let name = fields.name()?;
            let (mode, times) = fields.attributes()?;
            let len = fields.size()?;
            let digest = fields.bytes(blake3::OUT_LEN)?;
            let content = fields.bytes(len)?;
            check(&blake3::hash(content), digest)?;
            let file = create(&to, mode)?;
            write(&file, content)?;
            publish(&file, &to, name, &times)?;
        }
        Ok(())
    }
}

impl Large {
    fn piece(&mut self, piece: &[u8]) -> io::Result<()> {
        write(&self.file, piece)?;
        self.hasher.update(piece);
        self.len += piece.len() as u64;
        if self.len >= self.asked + BEHIND_BYTES {
            let len = NonZeroU64::new(self.len - self.asked);
            rustix::fs::fadvise(&self.file, self.asked, len, Advice::DontNeed)?;
            self.asked = self.len;
        }
        Ok(())
    }

    fn finish(self, digest: &[u8]) -> io::Result<()> {
        check(&self.hasher.finalize(), digest)?;
        let name = OsStr::from_bytes(&self.name);
        publish(&self.file, &self.to, name, &self.times)
    }
}

fn check(found: &blake3::Hash, said: &[u8]) -> io::Result<()> {
    match found.as_bytes() == said {
        true => Ok(()),
        false => Err(Error::other("content without its digest")),
    }
}

/// A file without a name.
fn create(directory: &OwnedFd, mode: Mode) -> io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, ".", flags, mode)?)
}

fn write(file: &OwnedFd, mut content: &[u8]) -> io::Result<()> {
    while !content.is_empty() {
        let written = rustix::io::write(file.as_fd(), content)?;
        content = &content[written..];
    }
    Ok(())
}

/// Gives it its times, then its name.
fn publish(file: &OwnedFd, to: &OwnedFd, name: &OsStr, times: &Timestamps) -> io::Result<()> {
    rustix::fs::futimens(file, times)?;
    match rustix::fs::linkat(file, "", to, name, AtFlags::EMPTY_PATH) {
        Err(Errno::EXIST) => {
            let mut hidden = OsString::from(".floor-");
            hidden.push(name);
            rustix::fs::linkat(file, "", to, &hidden, AtFlags::EMPTY_PATH)?;
            Ok(rustix::fs::renameat(to, &hidden, to, name)?)
        }
        result => Ok(result?),
    }
}
