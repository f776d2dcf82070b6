//! [`Transfer`]: content on its way into a temporary file; [`Staged`]: content that is there whole.
//!
//! A `Staged` cannot exist unless the bytes in its file have the length and the digest that were
//! announced. What copies or resumes proves nothing by itself: every byte is hashed as it is written,
//! read back where the kernel copied it, and read again where an earlier session wrote it. Only whole
//! groups that the kernel copied from a version that [`Known`] vouches for, before and after, are not
//! read: their part of the digest is known.

use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, Mode, SeekFrom};
use rustix::io::Errno;

use syncd_proto::delta::{GroupHasher, GroupList, KnownVersion};
use syncd_proto::digest::Digest;
use syncd_proto::message::{Basis, PatchOp, StageBegin};
use syncd_proto::meta::Kind;
use syncd_proto::op::{Content, TransferId};
use syncd_proto::reject::RejectCode;

use super::area::{Area, OWN, Temp};
use super::known::Known;
use super::meta::{identity_of, kind_of, statx_fd};
use super::nest::Nest;
use super::refusal::Refusal;
use super::root::Root;
use super::signature::version_of;

/// How a small file is made.
#[derive(Debug, Clone, Copy)]
pub enum Birth<'a> {
    /// In the staging directory.
    Named,
    /// Without a name.
    Nameless,
    /// In a directory that is made with it, by the name that it will have there.
    Nest(&'a Arc<Nest>, &'a str),
}

/// Content that is complete, with its length and digest checked.
#[derive(Debug)]
pub struct Staged {
    temp: Temp,
    file: OwnedFd,
    len: u64,
    digest: Digest,
}

impl Staged {
    /// Stages content that is at hand, in a file with these permissions, which is made like this if it can be.
    ///
    /// # Errors
    /// It does not have this digest, or cannot be written.
    pub fn inline(
        area: &Arc<Area>,
        content: &[u8],
        digest: &Digest,
        mode: Mode,
        birth: Birth<'_>,
    ) -> Result<Self, Refusal> {
        if Digest::of(content) != *digest {
            return Err(bad_content("inline content does not have its digest"));
        }
        let made = match birth {
            Birth::Named => None,
            Birth::Nameless => area.create_nameless(mode),
            Birth::Nest(nest, name) => area.create_in(nest, name, mode),
        };
        let (temp, file) = match made {
            Some(made) => made,
            None => area.create(mode).map_err(cannot_write)?,
        };
        write_at(&file, content, 0).map_err(cannot_write)?;
        Ok(Self {
            temp,
            file,
            len: content.len() as u64,
            digest: *digest,
        })
    }

    /// The same content in another area: copied, and checked once more. Holes stay holes.
    ///
    /// # Errors
    /// It does not have its digest any more, or cannot be read or written.
    pub fn copied(
        area: &Arc<Area>,
        from: &Temp,
        content: &Content,
        mode: Mode,
    ) -> Result<Self, Refusal> {
        let source = from.open().map_err(cannot_write)?;
        let (temp, file) = area.create(mode).map_err(cannot_write)?;
        let len = Content::len(content);
        let mut hasher = GroupHasher::for_len(len);
        let mut at = 0;
        let mut buffer = vec![0; buffer_len(len)];
        while at < len {
            let data = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
                Ok(data) => data.min(len),
                Err(Errno::NXIO) => len,
                // Without holes everything is data.
                Err(_) => at,
            };
            hasher.update_zeros(data - at);
            at = data;
            let want = buffer_len(len - at);
            match rustix::io::pread(&source, &mut buffer[..want], at).map_err(cannot_write)? {
                0 if at < len => return Err(bad_content("staged file was cut short")),
                count => {
                    write_at(&file, &buffer[..count], at).map_err(cannot_write)?;
                    hasher.update(&buffer[..count]);
                    at += count as u64;
                }
            }
        }
        rustix::fs::ftruncate(&file, len).map_err(cannot_write)?;
        let (_, digest) = hasher.finish();
        if digest != *content.digest() {
            return Err(bad_content("staged file has another digest now"));
        }
        Ok(Self {
            temp,
            file,
            len,
            digest,
        })
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its open file.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Closes the file and leaves its name; a file without one stays open.
    #[must_use]
    pub fn into_temp(self) -> Temp {
        self.temp.holding(self.file)
    }
}

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    id: TransferId,
    key: Option<Digest>,
    temp: Temp,
    file: OwnedFd,
    basis: Option<OpenBasis>,
    len: u64,
    /// Whether the file is shorter than that.
    ends_in_hole: bool,
    hasher: GroupHasher,
    /// Whether groups were taken on the word of [`Known`].
    trusting: bool,
    /// Whether the kernel is still worth asking to copy.
    kernel_copies: bool,
    /// Up to where the kernel has been asked to write; `None` if nothing is to be made durable.
    behind: Option<u64>,
}

impl Transfer {
    /// Begins, or continues, a transfer. What `is_synced` at its end is written to the disk on the way.
    ///
    /// # Errors
    /// The basis is not what it was, there is nothing to continue, or no file can be made.
    pub fn begin(
        area: &Arc<Area>,
        root: &Root,
        known: &Known,
        begin: &StageBegin,
        is_synced: bool,
    ) -> Result<Self, Refusal> {
        let basis = match &begin.basis {
            Some(basis) => Some(open_basis(root, known, basis)?),
            None => None,
        };
        let (temp, file) = open_target(area, begin)?;
        let mut transfer = Self {
            id: begin.transfer,
            key: begin.key,
            temp,
            file,
            basis,
            len: 0,
            ends_in_hole: false,
            hasher: GroupHasher::for_len(begin.len_hint),
            trusting: false,
            kernel_copies: true,
            behind: is_synced.then_some(begin.resume_at),
        };
        transfer.resume(begin.resume_at)?;
        Ok(transfer)
    }

    /// What names the version that is sent, if it can be continued.
    #[must_use]
    pub fn version(&self) -> Option<Digest> {
        self.key
    }

    /// Bytes that it takes on the disk so far.
    #[must_use]
    pub fn taken_bytes(&self) -> u64 {
        statx_fd(&self.file).map_or(0, |stat| stat.stx_blocks * 512)
    }

    /// Whether there is room, and quota, for so many bytes: takes it for a moment, where the file system can do that.
    ///
    /// # Errors
    /// There is none; the transfer is to be aborted.
    pub fn try_room(&self, bytes: u64) -> Result<(), Refusal> {
        // Who knows of no blocks says nothing; some of the free ones may not be for everybody.
        let stat = rustix::fs::fstatvfs(&self.file).map_err(cannot_write)?;
        if stat.f_blocks > 0 && stat.f_bfree.saturating_mul(stat.f_frsize) < bytes {
            return Err(cannot_write(Errno::NOSPC));
        }
        let taken = rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, bytes);
        if let Err(errno @ (Errno::NOSPC | Errno::DQUOT)) = taken {
            return Err(cannot_write(errno));
        }
        rustix::fs::ftruncate(&self.file, self.len).map_err(cannot_write)
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> TransferId {
        self.id
    }

    /// Appends what these instructions make; `payload` is their literals.
    ///
    /// # Errors
    /// Instructions that do not fit payload or basis, or the file cannot be written; the transfer is
    /// over then.
    pub fn chunk(&mut self, ops: &[PatchOp], mut payload: &[u8]) -> Result<(), Refusal> {
        for op in ops {
            let end = self.len.checked_add(op.output_len());
            let end = end.filter(|&end| end <= FILE_BYTES_MAX);
            let end = end.ok_or_else(|| {
                Refusal::new(RejectCode::TooLarge, "file is longer than files can be")
            })?;
            match *op {
                PatchOp::Literal { len } => {
                    let (literal, rest) = payload
                        .split_at_checked(len as usize)
                        .ok_or_else(|| bad_content("literals are missing"))?;
                    payload = rest;
                    write_at(&self.file, literal, self.len).map_err(cannot_write)?;
                    self.hasher.update(literal);
                }
                PatchOp::Copy { from, len } => self.copy(from, len)?,
                PatchOp::Hole { len } => self.hasher.update_zeros(len),
            }
            self.ends_in_hole = matches!(op, PatchOp::Hole { .. });
            self.len = end;
            self.write_behind(end);
        }
        Ok(())
    }

    /// Has the kernel begin to write what is there up to `end`, so that the sync at the end finds little
    /// to do. Advice, since that neither waits nor takes an error away from that sync; what is dirty stays in
    /// memory meanwhile.
    fn write_behind(&mut self, end: u64) {
        let Some(from) = self.behind.filter(|from| end >= from + BEHIND_BYTES) else {
            return;
        };
        let len = NonZeroU64::new(end - from);
        let _ = rustix::fs::fadvise(&self.file, from, len, Advice::DontNeed);
        self.behind = Some(end);
    }

    /// Ends the transfer; `known` remembers it.
    ///
    /// # Errors
    /// [`RejectCode::BadContent`] unless length and digest are these; the file is gone then.
    pub fn end(mut self, len: u64, digest: Digest, known: &Known) -> Result<Staged, Refusal> {
        match self.check(len, digest) {
            Ok(groups) => {
                self.remember(known, groups, digest);
                Ok(Staged {
                    temp: self.temp,
                    file: self.file,
                    len,
                    digest,
                })
            }
            Err(refusal) => {
                self.temp.remove();
                Err(refusal)
            }
        }
    }

    fn check(&mut self, len: u64, digest: Digest) -> Result<GroupList, Refusal> {
        let end = self.len;
        if self.ends_in_hole {
            rustix::fs::ftruncate(&self.file, end).map_err(cannot_write)?;
        }
        if self.trusting && !self.basis.as_ref().is_some_and(OpenBasis::is_unchanged) {
            (self.len, self.hasher) = (0, GroupHasher::for_len(end));
            self.rehash(end)?;
        }
        let fresh = GroupHasher::for_len(0);
        let (groups, found) = std::mem::replace(&mut self.hasher, fresh).finish();
        if end != len || found != digest {
            let text = format!("transfer of {end} bytes has another digest or length");
            return Err(bad_content(&text));
        }
        Ok(groups)
    }

    fn remember(&self, known: &Known, groups: GroupList, digest: Digest) {
        if groups.is_canonical()
            && let Ok(stat) = statx_fd(&self.file)
        {
            known.staged(identity_of(&stat), KnownVersion { groups, digest });
        }
    }

    /// Gives the transfer up: nothing of it stays.
    pub fn abort(self) {
        self.temp.remove();
    }

    /// The session ends before the transfer: what has a key stays as long as it is.
    pub fn suspend(self) {
        let _ = rustix::fs::ftruncate(&self.file, self.len);
    }

    fn resume(&mut self, at: u64) -> Result<(), Refusal> {
        let stat = statx_fd(&self.file).map_err(cannot_write)?;
        if kind_of(&stat) != Some(Kind::File) || stat.stx_nlink != 1 || stat.stx_size < at {
            return Err(bad_content("there is less to continue than that"));
        }
        if stat.stx_size > at {
            // What lies behind would show through holes. Not where there is nothing: a file that was cut to nothing is written
            // out by ext4 when it is closed.
            rustix::fs::ftruncate(&self.file, at).map_err(cannot_write)?;
        }
        self.rehash(at)
    }

    /// Hashes what is in the file from where we are to `end`.
    fn rehash(&mut self, end: u64) -> Result<(), Refusal> {
        let mut buffer = vec![0; buffer_len(end.saturating_sub(self.len))];
        while self.len < end {
            let want = buffer_len(end - self.len);
            let read = rustix::io::pread(&self.file, &mut buffer[..want], self.len);
            match read.map_err(cannot_write)? {
                0 => return Err(bad_content("staged file was cut short")),
                count => {
                    self.hasher.update(&buffer[..count]);
                    self.len += count as u64;
                }
            }
        }
        Ok(())
    }

    fn copy(&mut self, from: u64, len: u64) -> Result<(), Refusal> {
        let basis_len = self.basis.as_ref().map_or(0, |basis| basis.len);
        let end = from.checked_add(len);
        if self.basis.is_none() || end.is_none_or(|end| end > basis_len) {
            return Err(bad_content("copy from beyond the basis"));
        }
        let start = self.len;
        let copied = self.kernel_copy(from, len)?;
        if from == start {
            self.hash_same(start + copied)?;
        }
        self.rehash(start + copied)?;
        self.plain_copy(from + copied, len - copied)?;
        // The caller moves on by the whole instruction.
        self.len = start;
        Ok(())
    }

    /// Hashes what the kernel copied to the same offset, without reading the groups that are known; stops
    /// at `end`, or at the first group that is not known there.
    fn hash_same(&mut self, end: u64) -> Result<(), Refusal> {
        let Some(known) = self.basis.as_ref().and_then(|basis| basis.known.clone()) else {
            return Ok(());
        };
        let size = known.groups.group_bytes();
        if size != self.hasher.group_bytes() {
            return Ok(());
        }
        while self.len < end {
            let next = (self.len / size + 1) * size;
            let digest = known.groups.digests().get((self.len / size) as usize);
            let digest = digest.filter(|_| self.len.is_multiple_of(size) && next <= end);
            if digest.is_some_and(|digest| self.hasher.add_known(digest)) {
                self.trusting = true;
                self.len = next;
            } else {
                self.rehash(next.min(end))?;
            }
        }
        Ok(())
    }

    /// Lets the kernel copy, sharing blocks where it can; bytes that it took. None where blocks cannot be
    /// shared because they lie otherwise: what would have to be read back is rather copied by hand.
    fn kernel_copy(&mut self, from: u64, len: u64) -> Result<u64, Refusal> {
        let mut copied = 0;
        if from % BLOCK_BYTES != self.len % BLOCK_BYTES {
            return Ok(0);
        }
        while self.kernel_copies && len - copied >= KERNEL_COPY_BYTES_MIN {
            let Some(basis) = &self.basis else { break };
            let (mut source, mut target) = (from + copied, self.len + copied);
            let want = usize::try_from(len - copied).unwrap_or(usize::MAX);
            let done = rustix::fs::copy_file_range(
                &basis.file,
                Some(&mut source),
                &self.file,
                Some(&mut target),
                want.min(KERNEL_COPY_BYTES_MAX),
            );
            match done {
                Ok(0) => break,
                Ok(count) => {
                    copied += count as u64;
                    self.write_behind(self.len + copied);
                }
                Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => {
                    return Err(cannot_write(error));
                }
                Err(_) => self.kernel_copies = false,
            }
        }
        Ok(copied)
    }

    fn plain_copy(&mut self, mut from: u64, mut len: u64) -> Result<(), Refusal> {
        let mut buffer = vec![0; buffer_len(len)];
        while len > 0 {
            let Some(basis) = &self.basis else { break };
            let want = buffer_len(len);
            let read = rustix::io::pread(&basis.file, &mut buffer[..want], from);
            let count = match read {
                Ok(0) | Err(_) => return Err(no_basis("it could not be read to its end")),
                Ok(count) => count,
            };
            write_at(&self.file, &buffer[..count], self.len).map_err(cannot_write)?;
            self.hasher.update(&buffer[..count]);
            self.len += count as u64;
            from += count as u64;
            len -= count as u64;
            self.write_behind(self.len);
        }
        Ok(())
    }
}

/// What copies are taken from.
#[derive(Debug)]
struct OpenBasis {
    file: OwnedFd,
    len: u64,
    version: [u8; 16],
    known: Option<Arc<KnownVersion>>,
}

impl OpenBasis {
    fn is_unchanged(&self) -> bool {
        statx_fd(&self.file).is_ok_and(|stat| version_of(&stat) == self.version)
    }
}

fn open_basis(root: &Root, known: &Known, basis: &Basis) -> Result<OpenBasis, Refusal> {
    let file = root
        .open_file(&basis.path)
        .map_err(|_| no_basis("it is not there"))?;
    let stat = statx_fd(&file).map_err(|_| no_basis("it cannot be examined"))?;
    let same = kind_of(&stat) == Some(Kind::File)
        && stat.stx_size == basis.len
        && version_of(&stat) == basis.version;
    if !same {
        return Err(no_basis("it has changed"));
    }
    let known = known.find(&basis.version);
    Ok(OpenBasis {
        file,
        len: basis.len,
        version: basis.version,
        known: known.filter(|known| known.groups.len() == basis.len),
    })
}

fn open_target(area: &Arc<Area>, begin: &StageBegin) -> Result<(Temp, OwnedFd), Refusal> {
    let resume = begin.resume_at > 0;
    let keyed = match begin.key {
        Some(key) => area.keyed(key, resume),
        None => Ok(None),
    };
    match keyed {
        Ok(Some(opened)) => Ok(opened),
        Ok(None) if resume => Err(bad_content("there is nothing to continue")),
        // Another session sends the same version: this one is not kept if it is interrupted.
        Ok(None) => area.create(OWN).map_err(cannot_write),
        Err(Errno::NOENT | Errno::LOOP | Errno::ACCESS) if resume => {
            Err(bad_content("there is nothing to continue"))
        }
        Err(error) => Err(cannot_write(error)),
    }
}

fn write_at(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, at) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => {
                bytes = &bytes[count..];
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn buffer_len(bytes: u64) -> usize {
    bytes.min(BUFFER_BYTES) as usize
}

fn cannot_write(error: Errno) -> Refusal {
    Refusal::staging("write", error)
}

fn bad_content(text: &str) -> Refusal {
    Refusal::new(RejectCode::BadContent, text)
}

fn no_basis(why: &str) -> Refusal {
    Refusal::new(
        RejectCode::NoBasis,
        format!("the basis cannot be used: {why}"),
    )
}

/// Bytes read at once.
const BUFFER_BYTES: u64 = 512 << 10;

/// The kernel is asked to write whenever this much has come.
const BEHIND_BYTES: u64 = 16 << 20;

/// Block size of file systems that share blocks.
const BLOCK_BYTES: u64 = 4 << 10;

/// Shorter copies are cheaper by hand.
const KERNEL_COPY_BYTES_MIN: u64 = 64 << 10;

/// Longest copy asked of the kernel at once, so that a session that ends does not wait for it.
const KERNEL_COPY_BYTES_MAX: usize = 16 << 20;

/// Longest file, in bytes (`off_t`).
const FILE_BYTES_MAX: u64 = i64::MAX as u64;
