//! What a message must be beyond its types: every limit it can hit, and no payload where none belongs.

use crate::delta::{self, BlockSize};
use crate::error::DecodeError;
use crate::limits;
use crate::message::{
    AgentMessage, Commit, Listing, Modules, PatchOp, ReceiverMessage, SignatureWant, StageChunk,
    Welcome,
};
use crate::meta::{Kind, Meta};
use crate::op::Op;

fn at_most(what: &'static str, size: usize, limit: usize) -> Result<(), DecodeError> {
    if size <= limit {
        return Ok(());
    }
    Err(DecodeError::TooLarge {
        what,
        size: size as u64,
        limit: limit as u64,
    })
}

fn no_payload(payload_len: usize) -> Result<(), DecodeError> {
    at_most("payload", payload_len, 0)
}

impl AgentMessage {
    pub(super) fn check(&self, payload_len: usize) -> Result<(), DecodeError> {
        match self {
            Self::StageChunk(chunk) => return chunk.check(payload_len),
            Self::Commit(commit) => return commit.check(payload_len),
            Self::Hello(hello) => {
                at_most("module name", hello.module.len(), limits::LABEL_BYTES_MAX)?;
                at_most("agent name", hello.agent.len(), limits::TEXT_BYTES_MAX)?;
                let user = hello.user.as_ref().map_or(0, Vec::len);
                at_most("user name", user, limits::LABEL_BYTES_MAX)?;
            }
            Self::StageBegin(begin) if begin.key.is_none() && begin.resume_at > 0 => {
                return Err(DecodeError::Invalid("stage: resumed without a key"));
            }
            Self::DigestQuery(query) => {
                at_most("digest query", query.paths.len(), limits::DIGEST_PATHS_MAX)?;
            }
            Self::SignatureQuery(query) => query.want.check()?,
            Self::IdQuery(query) => {
                at_most("id names", query.names.len(), limits::ID_NAMES_MAX)?;
                for name in &query.names {
                    at_most("id name", name.name.len(), limits::LABEL_BYTES_MAX)?;
                }
            }
            Self::Bye(bye) => at_most("text", bye.text.len(), limits::TEXT_BYTES_MAX)?,
            _ => {}
        }
        no_payload(payload_len)
    }
}

impl SignatureWant {
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        let Self::Blocks {
            block_bytes,
            ranges,
            ..
        } = self
        else {
            return Ok(());
        };
        at_most("range list", ranges.len(), limits::SIGNATURE_RANGES_MAX)?;
        let block = BlockSize::new(*block_bytes).ok_or(DecodeError::Invalid("block size"))?;
        let blocks =
            delta::blocks_of(block, ranges).ok_or(DecodeError::Invalid("signature ranges"))?;
        if blocks > limits::BLOCKS_MAX {
            return Err(DecodeError::TooLarge {
                what: "signature",
                size: blocks,
                limit: limits::BLOCKS_MAX,
            });
        }
        Ok(())
    }
}

impl StageChunk {
    pub(super) fn check(&self, payload_len: usize) -> Result<(), DecodeError> {
        at_most("chunk", self.ops.len(), limits::CHUNK_OPS_MAX)?;
        let mut literal: u64 = 0;
        let mut output: u64 = 0;
        for op in &self.ops {
            match op {
                PatchOp::Literal { len } => literal += u64::from(*len),
                PatchOp::Copy { from, len } if from.checked_add(*len).is_none() => {
                    return Err(DecodeError::Invalid("chunk: copy range"));
                }
                PatchOp::Copy { .. } | PatchOp::Hole { .. } => {}
            }
            if op.output_len() == 0 {
                return Err(DecodeError::Invalid("chunk: empty instruction"));
            }
            output = output.saturating_add(op.output_len());
        }
        if output > limits::CHUNK_OUTPUT_BYTES_MAX {
            return Err(DecodeError::TooLarge {
                what: "chunk output",
                size: output,
                limit: limits::CHUNK_OUTPUT_BYTES_MAX,
            });
        }
        at_most("literals", payload_len, limits::PAYLOAD_BYTES_MAX)?;
        if literal != payload_len as u64 {
            return Err(DecodeError::Invalid("chunk: literals and payload differ"));
        }
        Ok(())
    }
}

impl Commit {
    pub(super) fn check(&self, payload_len: usize) -> Result<(), DecodeError> {
        at_most("module name", self.module.len(), limits::LABEL_BYTES_MAX)?;
        at_most("commit", self.ops.len(), limits::COMMIT_OPS_MAX)?;
        at_most("commit payload", payload_len, limits::PAYLOAD_BYTES_MAX)?;
        self.ops.iter().try_for_each(check_op)?;
        let inline = self.ops.iter().map(Op::inline_len).sum::<u64>();
        at_most(
            "inline content",
            inline as usize,
            limits::COMMIT_INLINE_BYTES_MAX,
        )
    }
}

fn check_op(op: &Op) -> Result<(), DecodeError> {
    if op.inline_len() > limits::INLINE_FILE_BYTES_MAX {
        return Err(DecodeError::TooLarge {
            what: "inline file",
            size: op.inline_len(),
            limit: limits::INLINE_FILE_BYTES_MAX,
        });
    }
    match op {
        Op::Same { len, names, .. } => {
            at_most(
                "file to be compared",
                *len as usize,
                limits::INLINE_FILE_BYTES_MAX as usize,
            )?;
            at_most("other names", names.len(), limits::SAME_NAMES_MAX)?;
        }
        Op::Symlink { target, .. } => {
            at_most("link target", target.len(), limits::LINK_TARGET_BYTES_MAX)?;
            if target.is_empty() || target.contains(&0) {
                return Err(DecodeError::Invalid("link target"));
            }
        }
        Op::Special {
            kind: Kind::File | Kind::Dir | Kind::Symlink,
            ..
        } => {
            return Err(DecodeError::Invalid("special file type"));
        }
        _ => {}
    }
    op.meta().map_or(Ok(()), check_meta)
}

fn check_meta(meta: &Meta) -> Result<(), DecodeError> {
    if meta.mode > 0o7777 {
        return Err(DecodeError::Invalid("mode"));
    }
    let Some(xattrs) = &meta.xattrs else {
        return Ok(());
    };
    at_most("attribute list", xattrs.len(), limits::XATTRS_MAX)?;
    let bytes = xattrs.iter().map(|xattr| xattr.value.len()).sum();
    at_most("attributes", bytes, limits::XATTR_VALUE_BYTES_MAX)?;
    for xattr in xattrs {
        at_most(
            "attribute name",
            xattr.name.len(),
            limits::XATTR_NAME_BYTES_MAX,
        )?;
        if xattr.name.is_empty() || xattr.name.contains(&0) {
            return Err(DecodeError::Invalid("attribute name"));
        }
    }
    match xattrs.is_sorted_by(|a, b| a.name < b.name) {
        true => Ok(()),
        false => Err(DecodeError::Invalid("attributes out of order")),
    }
}

impl ReceiverMessage {
    pub(super) fn check(&self, payload_len: usize) -> Result<(), DecodeError> {
        match self {
            Self::Refused(refused) => at_most("text", refused.text.len(), limits::TEXT_BYTES_MAX)?,
            Self::Reject(reject) => at_most("text", reject.text.len(), limits::TEXT_BYTES_MAX)?,
            Self::Draining(notice) => at_most("text", notice.text.len(), limits::TEXT_BYTES_MAX)?,
            Self::Modules(list) => list.check()?,
            Self::Welcome(welcome) => welcome.check()?,
            Self::Digests(answer) => {
                at_most("digests", answer.digests.len(), limits::DIGEST_PATHS_MAX)?;
            }
            Self::Ids(answer) => at_most("ids", answer.numbers.len(), limits::ID_NAMES_MAX)?,
            Self::Listing(listing) => listing.check()?,
            Self::Ack(ack) if ack.durable > ack.applied => {
                return Err(DecodeError::Invalid("ack: durable before applied"));
            }
            Self::Signature(signature) => {
                if signature.info.is_none() && !(signature.last && payload_len == 0) {
                    return Err(DecodeError::Invalid("signature of no file"));
                }
                return at_most("payload", payload_len, limits::PAYLOAD_BYTES_MAX);
            }
            _ => {}
        }
        no_payload(payload_len)
    }
}

impl Modules {
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        at_most("module list", self.modules.len(), limits::MODULES_MAX)?;
        self.modules.iter().try_for_each(|line| {
            at_most("module name", line.name.len(), limits::LABEL_BYTES_MAX)?;
            at_most("module comment", line.comment.len(), limits::TEXT_BYTES_MAX)
        })
    }
}

impl Welcome {
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        at_most("leftovers", self.leftovers.len(), limits::LEFTOVERS_MAX)?;
        at_most("receiver name", self.receiver.len(), limits::TEXT_BYTES_MAX)?;
        at_most(
            "commit window",
            self.window_commits as usize,
            limits::COMMITS_IN_FLIGHT_MAX as usize,
        )?;
        match self.compare.mode_mask > 0o7777 {
            true => Err(DecodeError::Invalid("mode mask")),
            false => Ok(()),
        }
    }
}

impl Listing {
    pub(super) fn check(&self) -> Result<(), DecodeError> {
        at_most("listing", self.entries.len(), limits::LISTING_ENTRIES_MAX)?;
        if self.dir.is_none() && !(self.entries.is_empty() && self.last) {
            return Err(DecodeError::Invalid("listing of no directory"));
        }
        let metas = self.entries.iter().map(|entry| &entry.meta);
        if metas.chain(&self.dir).any(|meta| meta.mode > 0o7777) {
            return Err(DecodeError::Invalid("mode"));
        }
        match self.entries.is_sorted_by(|a, b| a.name < b.name) {
            true => Ok(()),
            false => Err(DecodeError::Invalid("listing out of order")),
        }
    }
}
