//! The transfer threads of a target: large files into staging, whole or as a delta.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use syncd_proto::delta::{GroupList, KnownVersion};
use syncd_proto::digest::{Digest, Hasher};
use syncd_proto::message::{
    AgentMessage, Basis, PatchOp, StageAbort, StageBegin, StageChunk, StageEnd,
};
use syncd_proto::meta::Kind;
use syncd_proto::op::TransferId;
use syncd_proto::path::WirePath;

use crate::fs::read::{LargeFile, Piece, ReadError, ReadFile, Stability};
use crate::logic::coalesce::{Millis, SOON_BYTES_MAX, Taken};
use crate::logic::plan::Found;
use crate::logic::uploads::Uploads;
use crate::net::link::{Link, LinkError, Urgency};
use crate::pipeline::delta;
use crate::pipeline::target::Target;
use crate::pipeline::upload::Upload;

/// How often a transfer looks whether its file has changed, in bytes read.
pub const CHECK_BYTES: u64 = 8 << 20;

/// Shortest wait before a file that changes is looked at again, in milliseconds.
const RETRY_MS: Millis = 10;

/// How often it is waited for what happened while a file was transferred, before it is given up.
const HEARINGS_MAX: u32 = 10;

/// Files from this size on can be continued after a cut, in bytes.
const RESUME_BYTES: u64 = 8 << 20;

/// Files staged and not committed, at most: the receiver refuses more than it promised.
const STAGED_MAX: usize = syncd_proto::limits::TRANSFERS_MAX / 2;

/// Why a transfer ended early.
#[derive(Debug)]
pub enum TransferError {
    /// The connection, or the receiver's refusal.
    Link(LinkError),
    /// The file.
    Read(ReadError),
}

impl From<LinkError> for TransferError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<ReadError> for TransferError {
    fn from(error: ReadError) -> Self {
        Self::Read(error)
    }
}

/// A transfer's way to the receiver.
pub struct Channel<'a> {
    /// The session.
    pub link: &'a Link,
    /// Its number.
    pub transfer: TransferId,
    /// Whether a file that changes meanwhile may go all the same.
    pub stability: Stability,
    /// Whether it goes before other transfers.
    pub urgency: Urgency,
}

impl Channel<'_> {
    /// Sends instructions and their literals.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn chunk(&self, ops: Vec<PatchOp>, literals: Vec<u8>) -> Result<(), LinkError> {
        self.link
            .take_credit(self.transfer, literals.len(), self.urgency)?;
        let chunk = StageChunk {
            transfer: self.transfer,
            ops,
        };
        self.link.send(&AgentMessage::StageChunk(chunk), literals)
    }

    /// Gives up early on a version that will not be committed anyway.
    ///
    /// # Errors
    /// [`ReadError::Changed`] if the file changed and may not.
    pub fn check(&self, file: &LargeFile) -> Result<(), ReadError> {
        match self.stability {
            Stability::Required => file.check_unchanged(),
            Stability::Waived => Ok(()),
        }
    }

    fn end(&self, len: u64, digest: Digest) -> Result<(), LinkError> {
        let end = StageEnd {
            transfer: self.transfer,
            len,
            digest,
        };
        self.link.send(&AgentMessage::StageEnd(end), Vec::new())
    }
}

/// What a transfer thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// Every file.
    All,
    /// Files that were heard of and are soon done, so that they never wait for one that takes hours.
    Express,
}

impl Duty {
    fn has_file(self, files: &Uploads) -> bool {
        match self {
            Self::All => !files.is_empty(),
            Self::Express => files.has_express(),
        }
    }

    fn next(self, files: &mut Uploads, now: Millis) -> Option<Taken> {
        match self {
            Self::All => files.pop(now),
            Self::Express => files.pop_express(now),
        }
    }
}

/// Runs until the target stops.
pub fn run(target: &Arc<Target>, duty: Duty) {
    loop {
        let (taken, link) = {
            let mut state = target.lock();
            loop {
                if state.stopping {
                    return;
                }
                let now = target.now();
                let resting = state.resting_until(now);
                let link = state.link.clone().filter(|link| !link.is_closed());
                if let (Some(link), None) = (link, resting)
                    && state.staged < STAGED_MAX
                    && let Some(taken) = duty.next(&mut state.bulk, now)
                {
                    state.staged += 1;
                    break (taken, link);
                }
                let has_file = duty.has_file(&state.bulk);
                state = target.wait_as_transfer(state, resting, has_file);
            }
        };
        let result = transfer(target, &link, &taken);
        if !matches!(result, Ok(Found::Staged { .. })) {
            target.update(|state, _| {
                let same = state
                    .link
                    .as_ref()
                    .is_some_and(|open| Arc::ptr_eq(open, &link));
                // A new session begins with an empty staging area and has counted anew.
                if same {
                    state.staged = state.staged.saturating_sub(1);
                }
            });
        }
        settle(target, &link, taken, result);
    }
}

fn settle(
    target: &Arc<Target>,
    link: &Arc<Link>,
    mut taken: Taken,
    result: Result<Found, TransferError>,
) {
    let now = target.now();
    match result {
        Ok(found) => target.update(|state, now| {
            let current = state.link.as_ref().is_some_and(|open| Arc::ptr_eq(open, link));
            if current {
                state.ready.push((taken, found));
            } else {
                state.dirty.given_up(&taken.path);
                state.dirty.give_back(taken, now);
            }
        }),
        Err(TransferError::Link(LinkError::Rejected(reject))) => target.update(|state, now| {
            tracing::warn!(target = %target.name, code = %reject.code, "transfer refused: {}", reject.text);
            state.dirty.given_up(&taken.path);
            state.path_failed(taken, reject.code, &reject.text, now);
        }),
        Err(TransferError::Link(LinkError::TooLarge(error))) => {
            target.failed(taken, "too large", error.to_string());
        }
        Err(TransferError::Link(LinkError::Closed | LinkError::Timeout)) => {
            target.defer(taken, now);
        }
        Err(TransferError::Read(ReadError::Gone | ReadError::NotAFile)) => {
            target.defer(taken, now + 1);
        }
        Err(TransferError::Read(ReadError::Changed | ReadError::TooLarge)) => {
            // A version that changed under the reader is tried again when the writer rests.
            taken.mark.open = true;
            let settle = target.settle();
            let held_until = taken.mark.held_until(settle).max(now + RETRY_MS);
            target.defer(taken, (now + settle.settle_ms).min(held_until));
        }
        Err(TransferError::Read(ReadError::Denied(error) | ReadError::Io(error))) => {
            let text = format!("cannot read {} at the source: {error}", taken.path);
            target.failed(taken, "unreadable", text);
        }
    }
}

fn transfer(target: &Target, link: &Link, taken: &Taken) -> Result<Found, TransferError> {
    let file = LargeFile::open(&target.root, &taken.path, link.terms().clone())?;
    let hold_over = is_held_long_enough(target, taken);
    if taken.mark.open && !hold_over && is_being_written(target, &file) {
        return Err(ReadError::Changed.into());
    }
    let channel = Channel {
        link,
        transfer: link.issue_id(),
        stability: if hold_over {
            Stability::Waived
        } else {
            Stability::Required
        },
        urgency: match taken.mark.late || file.size() > SOON_BYTES_MAX {
            true => Urgency::Patient,
            false => Urgency::Urgent,
        },
    };
    let mut upload = None;
    let sent = send(target, &channel, taken, file, &mut upload);
    let refused = link.end_transfer(channel.transfer);
    let complete = matches!(sent, Ok(Sent::File(_)));
    if !complete && upload.is_some_and(|upload| upload.has_begun()) {
        abort(link, channel.transfer);
    }
    let read = match sent? {
        Sent::File(read) => read,
        Sent::Nothing(read) => {
            remember(target, taken, read.groups, read.digest);
            return Ok(Found::Metadata {
                kind: Kind::File,
                size: read.len,
                meta: read.meta,
            });
        }
    };
    if let Some(reject) = refused {
        return Err(LinkError::Rejected(reject).into());
    }
    if channel.stability == Stability::Required {
        // It stood still while it was read, perhaps in the middle of being written.
        let heard = (0..HEARINGS_MAX).any(|_| target.hear());
        if !heard || target.lock().dirty.is_rewritten(&taken.path) {
            abort(link, channel.transfer);
            return Err(ReadError::Changed.into());
        }
    }
    channel.end(read.len, read.digest)?;
    let found = Found::Staged {
        meta: read.meta,
        transfer: channel.transfer,
        len: read.len,
        digest: read.digest,
        file: (read.file.dev, read.file.ino),
        linked: read.linked.map(|file| (file.dev, file.ino)),
    };
    remember(target, taken, read.groups, read.digest);
    Ok(found)
}

/// Sends the file, as a delta if it can be.
fn send<'a>(
    target: &Target,
    channel: &'a Channel<'a>,
    taken: &Taken,
    file: LargeFile,
    upload: &mut Option<Upload<'a>>,
) -> Result<Sent, TransferError> {
    let path = &taken.path;
    // After two refusals the file goes whole.
    let basis = match taken.mark.attempts {
        0 | 1 => delta::basis(target, channel.link, taken)?,
        _ => None,
    };
    let begin = begin(channel, path, &file, basis.as_ref());
    let upload = upload.insert(Upload::new(channel, begin, !taken.mark.open));
    let read = match &basis {
        Some(basis) => delta::send(channel, path, basis, file, upload)?,
        None => send_whole(channel, file, upload)?,
    };
    if !read.stable && channel.stability == Stability::Required {
        return Err(ReadError::Changed.into());
    }
    // Several names of a file are another matter, here or there.
    let is_alone = read.linked.is_none() && !target.lock().links.has_name(path);
    let is_there = is_alone && basis.is_some_and(|basis| basis.groups == read.groups);
    if is_there {
        return Ok(Sent::Nothing(read));
    }
    upload.finish()?;
    Ok(Sent::File(read))
}

/// What was sent.
enum Sent {
    /// All of this.
    File(ReadFile),
    /// Nothing that counts: the receiver has this very content.
    Nothing(ReadFile),
}

/// A transfer of this file; continues an interrupted one of the same version.
fn begin(
    channel: &Channel<'_>,
    path: &WirePath,
    file: &LargeFile,
    basis: Option<&delta::KnownBasis>,
) -> StageBegin {
    let key = (file.size() >= RESUME_BYTES).then(|| version_key(path, file));
    let resume_at = key.map_or(0, |key| channel.link.take_leftover(&key));
    StageBegin {
        transfer: channel.transfer,
        len_hint: file.size(),
        basis: basis.map(|basis| Basis {
            path: path.clone(),
            version: basis.version,
            len: basis.groups.len(),
        }),
        key,
        resume_at: resume_at.min(file.size()),
    }
}

/// What was sent is known from here on; if it does not arrive, the receiver will not know its digest.
fn remember(target: &Target, taken: &Taken, groups: GroupList, digest: Digest) {
    let mut known = target.known.lock().unwrap_or_else(PoisonError::into_inner);
    let path = WirePath::clone(&taken.path);
    known.insert(path, Arc::new(KnownVersion { groups, digest }));
}

/// Whether somebody wrote to it a moment ago and has not closed it.
fn is_being_written(target: &Target, file: &LargeFile) -> bool {
    let mtime = file.entry().mtime;
    let Ok(now) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) else {
        return false;
    };
    let Ok(secs) = u64::try_from(mtime.secs()) else {
        return false;
    };
    let age = now.checked_sub(Duration::new(secs, mtime.nanos()));
    age.is_some_and(|age| age < Duration::from_millis(target.settle().settle_ms))
}

/// Tells the receiver that a transfer is of no use any more.
pub(super) fn abort(link: &Link, transfer: TransferId) {
    let abort = StageAbort { transfer };
    // On a lost connection there is nothing to abort.
    let _ = link.send(&AgentMessage::StageAbort(abort), Vec::new());
}

fn is_held_long_enough(target: &Target, taken: &Taken) -> bool {
    target.now() >= taken.mark.held_until(target.settle())
}

/// Sends a file whole.
fn send_whole(
    channel: &Channel<'_>,
    mut file: LargeFile,
    upload: &mut Upload<'_>,
) -> Result<ReadFile, TransferError> {
    let mut checked_at = 0;
    while let Some(piece) = file.next_piece(channel.link.chunk_bytes())? {
        if file.position() - checked_at >= CHECK_BYTES {
            checked_at = file.position();
            channel.check(&file)?;
        }
        match piece {
            Piece::Data(bytes) => upload.data(bytes)?,
            Piece::Hole(len) => upload.hole(len)?,
        }
    }
    Ok(file.finish_as_read()?)
}

/// Names a version of a file, for resumption: an interrupted transfer continues only if neither name
/// nor size nor time changed; the digest of the whole decides in the end.
fn version_key(path: &WirePath, file: &LargeFile) -> Digest {
    let mut hasher = Hasher::for_context("syncd/1 transfer key");
    for name in path.names() {
        hasher.update_sized(name.as_bytes());
    }
    let entry = file.entry();
    hasher
        .update(&entry.size.to_le_bytes())
        .update(&entry.mtime.secs().to_le_bytes())
        .update(&entry.mtime.nanos().to_le_bytes())
        .finish()
}
