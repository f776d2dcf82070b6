//! The transfer threads of a target: large files into staging, whole or as a delta.

use std::sync::Arc;

use syncd_proto::digest::{Digest, Hasher};
use syncd_proto::message::{AgentMessage, PatchOp, StageAbort, StageBegin, StageChunk, StageEnd};
use syncd_proto::op::TransferId;
use syncd_proto::path::WirePath;

use crate::fs::read::{LargeFile, Piece, ReadError, ReadFile, Stability};
use crate::logic::coalesce::{Millis, Remote, Taken};
use crate::logic::plan::Found;
use crate::net::link::{Link, LinkError};
use crate::pipeline::delta;
use crate::pipeline::target::Target;

/// Bytes of one chunk.
pub const CHUNK_BYTES: usize = 512 << 10;

/// How often a transfer looks whether its file has changed, in bytes read.
const CHECK_BYTES: u64 = 8 << 20;

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
}

impl Channel<'_> {
    /// Sends instructions and their literals.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn chunk(&self, ops: Vec<PatchOp>, literals: Vec<u8>) -> Result<(), LinkError> {
        self.link.take_credit(self.transfer, literals.len())?;
        let chunk = StageChunk {
            transfer: self.transfer,
            ops,
            zstd_len: None,
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

/// Runs until the target stops.
pub fn run(target: &Arc<Target>) {
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
                    && let Some(taken) = state.bulk.pop_front()
                {
                    state.staged += 1;
                    break (taken, link);
                }
                state = target.wait(state, resting);
            }
        };
        let result = transfer(target, &link, &taken);
        if result.is_err() {
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
                state.dirty.logged(&taken.path);
                state.dirty.arrived(&taken.path);
                state.dirty.give_back(taken, now);
            }
        }),
        Err(TransferError::Link(LinkError::Rejected(reject))) => target.update(|state, now| {
            tracing::warn!(target = %target.name, code = %reject.code, "transfer refused: {}", reject.text);
            state.dirty.logged(&taken.path);
            state.dirty.arrived(&taken.path);
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
            taken.mark.last = now;
            target.defer(taken, now + target.settle().settle_ms);
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
    let channel = Channel {
        link,
        transfer: link.issue_id(),
        stability: if hold_over {
            Stability::Waived
        } else {
            Stability::Required
        },
    };
    let sent = if wants_delta(taken) {
        delta::send(&channel, &taken.path, file)
    } else {
        send_whole(&channel, &taken.path, file)
    };
    let refused = link.end_transfer(channel.transfer);
    let read = match sent {
        Ok(sent) => sent,
        Err(error) => {
            abort(&channel);
            return Err(error);
        }
    };
    if let Some(reject) = refused {
        return Err(LinkError::Rejected(reject).into());
    }
    if !read.stable && !hold_over {
        abort(&channel);
        return Err(ReadError::Changed.into());
    }
    channel.end(read.len, read.digest)?;
    Ok(Found::Staged {
        meta: read.meta,
        transfer: channel.transfer,
        len: read.len,
        digest: read.digest,
        linked: read.linked.map(|file| (file.dev, file.ino)),
    })
}

fn abort(channel: &Channel<'_>) {
    let abort = StageAbort {
        transfer: channel.transfer,
    };
    // On a lost connection there is nothing to abort.
    let _ = channel
        .link
        .send(&AgentMessage::StageAbort(abort), Vec::new());
}

fn is_held_long_enough(target: &Target, taken: &Taken) -> bool {
    let waited: Millis = target.now().saturating_sub(taken.mark.first);
    waited >= target.settle().hold_max_ms
}

fn wants_delta(taken: &Taken) -> bool {
    // After two refusals the file goes whole.
    taken.mark.remote != Remote::Absent && !taken.mark.born && taken.mark.attempts < 2
}

/// Sends a file whole; continues an interrupted transfer of the same version.
///
/// # Errors
/// [`TransferError`].
pub fn send_whole(
    channel: &Channel<'_>,
    path: &WirePath,
    mut file: LargeFile,
) -> Result<ReadFile, TransferError> {
    let key = (file.size() >= RESUME_BYTES).then(|| version_key(path, &file));
    let resume_at = key
        .and_then(|key| {
            let leftovers = &channel.link.welcome().leftovers;
            leftovers.iter().find(|leftover| leftover.key == key)
        })
        .map_or(0, |leftover| leftover.bytes);
    let begin = StageBegin {
        transfer: channel.transfer,
        len_hint: file.size(),
        basis: None,
        key,
        resume_at,
    };
    channel
        .link
        .send(&AgentMessage::StageBegin(begin), Vec::new())?;
    let mut checked_at = 0;
    while let Some(piece) = file.next_piece(CHUNK_BYTES)? {
        let end = file.position();
        if end - checked_at >= CHECK_BYTES {
            checked_at = end;
            channel.check(&file)?;
        }
        let (op, literals) = match piece {
            Piece::Data(bytes) => {
                let known = known_prefix(end, bytes.len() as u64, resume_at) as usize;
                let rest = bytes.get(known..).unwrap_or_default().to_vec();
                let len = rest.len() as u32;
                (PatchOp::Literal { len }, rest)
            }
            Piece::Hole(len) => {
                let len = len - known_prefix(end, len, resume_at);
                (PatchOp::Hole { len }, Vec::new())
            }
        };
        send_op(channel, op, literals)?;
    }
    Ok(file.finish_as_read()?)
}

/// How much of a piece that ends at `end` lies below `resume_at`.
fn known_prefix(end: u64, len: u64, resume_at: u64) -> u64 {
    resume_at.saturating_sub(end - len).min(len)
}

fn send_op(channel: &Channel<'_>, op: PatchOp, literals: Vec<u8>) -> Result<(), LinkError> {
    let mut left = op.output_len();
    if !matches!(op, PatchOp::Hole { .. }) {
        return if left == 0 {
            Ok(())
        } else {
            channel.chunk(vec![op], literals)
        };
    }
    while left > 0 {
        let len = left.min(syncd_proto::limits::CHUNK_OUTPUT_BYTES_MAX);
        channel.chunk(vec![PatchOp::Hole { len }], Vec::new())?;
        left -= len;
    }
    Ok(())
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
