//! Sends a large file as a delta against the version the receiver has.
//!
//! One pass hashes the new version, whole and in groups; groups that are equal at the same offset are
//! copied by the receiver from its own file. Only what changed is read again and searched, with block
//! sums of the same ranges; where that finds little, it goes as it is.

use syncd_proto::delta::{
    BlockQuery, BlockSignature, Chunk, Chunker, GroupDiff, GroupHasher, GroupList, LiteralMeter,
    Segment,
};
use syncd_proto::message::{
    AgentMessage, Basis, SignatureInfo, SignatureQuery, SignatureWant, StageBegin,
};
use syncd_proto::path::WirePath;

use crate::fs::read::{LargeFile, Piece, ReadFile};
use crate::net::link::{Answer, Link, LinkError};
use crate::pipeline::bulk::{CHUNK_BYTES, Channel, TransferError, send_whole};

/// What is searched at once, in bytes.
const WINDOW_BYTES: usize = 8 << 20;

/// What is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// Sends a file as a delta if the receiver has something to build on, whole otherwise.
///
/// # Errors
/// [`TransferError`].
pub fn send(
    channel: &Channel<'_>,
    path: &WirePath,
    mut file: LargeFile,
) -> Result<ReadFile, TransferError> {
    let Some((info, payload)) = signature(channel.link, path, SignatureWant::Groups)? else {
        return send_whole(channel, path, file);
    };
    let groups = GroupList::from_payload(&payload, info.len);
    let Some(basis) = groups.ok().filter(|groups| !groups.is_empty()) else {
        return send_whole(channel, path, file);
    };
    let diff = compare(&mut file, &basis)?;
    channel.check(&file)?;
    let query = BlockQuery::plan(&diff);
    if query.is_none() && diff.same_bytes() == 0 {
        return send_whole(channel, path, file.rewind());
    }
    let blocks = match query {
        Some(query) => match block_signature(channel.link, path, &info, query)? {
            Some(blocks) => Some(blocks),
            // The basis changed under us.
            None => return send_whole(channel, path, file.rewind()),
        },
        None => None,
    };
    begin(channel, path, &info, file.size())?;
    let mut patch = Patch {
        channel,
        file: &file,
        chunker: Chunker::new(channel.transfer),
        meter: LiteralMeter::default(),
    };
    for segment in diff.segments() {
        if segment.same {
            patch.copy(segment)?;
        } else {
            patch.changed(segment, blocks.as_ref())?;
        }
    }
    patch.finish()?;
    Ok(file.finish_as_read()?)
}

/// Hashes the whole file and compares its groups with the basis'.
fn compare(file: &mut LargeFile, basis: &GroupList) -> Result<GroupDiff, TransferError> {
    let mut hasher = GroupHasher::against(basis);
    while let Some(piece) = file.next_piece(READ_BYTES)? {
        match piece {
            Piece::Data(bytes) => hasher.update(&bytes),
            Piece::Hole(len) => hasher.update_zeros(len),
        }
    }
    Ok(hasher.finish().0.compare(basis))
}

fn block_signature(
    link: &Link,
    path: &WirePath,
    info: &SignatureInfo,
    query: BlockQuery,
) -> Result<Option<BlockSignature>, TransferError> {
    let want = query.want(info.version);
    let answer = match signature(link, path, want) {
        Err(TransferError::Link(LinkError::Rejected(reject))) if reject.code.is_stale() => None,
        other => other?,
    };
    Ok(answer.and_then(|(_, payload)| {
        BlockSignature::from_ranges(&payload, query.block, &query.ranges, info.len).ok()
    }))
}

/// Asks for a signature; `None` if the receiver has no such file.
fn signature(
    link: &Link,
    path: &WirePath,
    want: SignatureWant,
) -> Result<Option<(SignatureInfo, Vec<u8>)>, TransferError> {
    let id = link.issue_id();
    let query = SignatureQuery {
        id,
        path: path.clone(),
        want,
    };
    link.ask(id, &AgentMessage::SignatureQuery(query))?;
    let mut all = Vec::new();
    let mut info = None;
    loop {
        let Answer::Signature(part, payload) = link.answer(id)? else {
            return Ok(None);
        };
        info = info.or(part.info);
        all.extend_from_slice(&payload);
        if part.last {
            return Ok(info.map(|info| (info, all)));
        }
    }
}

fn begin(
    channel: &Channel<'_>,
    path: &WirePath,
    info: &SignatureInfo,
    len: u64,
) -> Result<(), LinkError> {
    let begin = StageBegin {
        transfer: channel.transfer,
        len_hint: len,
        basis: Some(Basis {
            path: path.clone(),
            version: info.version,
            len: info.len,
        }),
        key: None,
        resume_at: 0,
    };
    channel
        .link
        .send(&AgentMessage::StageBegin(begin), Vec::new())
}

/// A delta being sent.
struct Patch<'a> {
    channel: &'a Channel<'a>,
    file: &'a LargeFile,
    chunker: Chunker,
    meter: LiteralMeter,
}

impl Patch<'_> {
    fn copy(&mut self, segment: &Segment) -> Result<(), TransferError> {
        let mut full = Vec::new();
        self.chunker.copy(segment.start, segment.len, &mut full);
        self.send(full)
    }

    fn changed(
        &mut self,
        segment: &Segment,
        blocks: Option<&BlockSignature>,
    ) -> Result<(), TransferError> {
        let end = segment.start + segment.len;
        let mut at = segment.start;
        if let Some(blocks) = blocks {
            at = self.search(at, end, blocks)?;
        }
        while at < end {
            let bytes = self.read(at, end, CHUNK_BYTES)?;
            at += bytes.len() as u64;
            let mut full = Vec::new();
            self.chunker.literal(&bytes, &mut full);
            self.send(full)?;
        }
        Ok(())
    }

    /// Searches until the end, or until searching does not pay any more; returns how far it came.
    fn search(
        &mut self,
        mut at: u64,
        end: u64,
        blocks: &BlockSignature,
    ) -> Result<u64, TransferError> {
        let index = blocks.index();
        while at < end && !self.meter.gives_up() {
            let window = self.read(at, end, WINDOW_BYTES)?;
            let last = at + window.len() as u64 == end;
            let Ok(delta) = index.diff_window(&window, at, last) else {
                return Ok(at);
            };
            if delta.consumed == 0 {
                return Ok(at);
            }
            self.meter.note(&delta);
            let mut full = Vec::new();
            self.chunker.window(&window, &delta, &mut full);
            self.send(full)?;
            at += delta.consumed as u64;
        }
        Ok(at)
    }

    fn finish(&mut self) -> Result<(), TransferError> {
        let rest = self.chunker.flush();
        self.send(rest.into_iter().collect())
    }

    fn read(&self, at: u64, end: u64, max: usize) -> Result<Vec<u8>, TransferError> {
        let len = usize::try_from(end - at).unwrap_or(max).min(max);
        Ok(self.file.read_at(at, len)?)
    }

    fn send(&self, chunks: Vec<Chunk>) -> Result<(), TransferError> {
        for chunk in chunks {
            self.channel
                .chunk(chunk.message.ops, chunk.payload)
                .map_err(TransferError::Link)?;
        }
        Ok(())
    }
}
