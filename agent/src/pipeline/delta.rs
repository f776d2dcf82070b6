//! Sends a large file as a delta against the version the receiver has.
//!
//! The new version is read and hashed once, in groups, by two threads where that pays. Those that the
//! basis has at the same offset are copied by the receiver from its own file. What changed is kept, a
//! round at a time, until the sums of those places have come, and searched; the next round is read
//! meanwhile. A long run of changes looks like content that moved: it is looked for nearby, and where it is found goes on
//! by the groups, which are known. Only what is not there is searched for with sums of the whole basis; where that finds
//! little, the bytes go as they are.

mod rounds;
#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError};

use syncd_proto::delta::{BlockQuery, BlockSignature, GroupList, KnownVersion, Matcher};
use syncd_proto::message::{AgentMessage, SignatureInfo, SignatureQuery, SignatureWant};
use syncd_proto::path::WirePath;

use crate::fs::ahead::Ahead;
use crate::fs::read::{LargeFile, ReadError, ReadFile, Span};
use crate::logic::coalesce::Taken;
use crate::net::link::{Answer, Link, LinkError};
use crate::pipeline::bulk::{CHECK_BYTES, Channel, TransferError};
use crate::pipeline::target::Target;
use crate::pipeline::upload::Upload;
use rounds::{Outcome, Rounds, Slice, Sums};

/// What is read at once, in bytes.
const READ_BYTES: usize = 1 << 20;

/// The receiver's version, and its groups.
#[derive(Debug)]
pub struct KnownBasis {
    /// Names it.
    pub version: [u8; 16],
    /// Its groups.
    pub groups: GroupList,
}

/// What the receiver has to build on. If it still has what was sent last, nothing but its version
/// travels; otherwise the groups do.
///
/// # Errors
/// [`TransferError`].
pub fn basis(
    target: &Target,
    link: &Link,
    taken: &Taken,
) -> Result<Option<KnownBasis>, TransferError> {
    let path = &taken.path;
    if let Some(known) = remembered(target, path).filter(|_| taken.mark.attempts == 0) {
        let Some((info, _)) = signature(link, path, SignatureWant::Version)? else {
            return Ok(None);
        };
        if info.content == Some(known.digest) && info.len == known.groups.len() {
            return Ok(Some(KnownBasis {
                version: info.version,
                groups: known.groups.clone(),
            }));
        }
    }
    if taken.mark.is_absent_there() {
        return Ok(None);
    }
    let Some((info, payload)) = signature(link, path, SignatureWant::Groups)? else {
        return Ok(None);
    };
    let groups = GroupList::from_payload(&payload, info.len).ok();
    Ok(groups
        .filter(|groups| !groups.is_empty())
        .map(|groups| KnownBasis {
            version: info.version,
            groups,
        }))
}

fn remembered(target: &Target, path: &WirePath) -> Option<Arc<KnownVersion>> {
    let mut known = target.known.lock().unwrap_or_else(PoisonError::into_inner);
    known.find(path)
}

/// Sends the file as copies of the basis and what is not in it.
///
/// # Errors
/// [`TransferError`].
pub fn send(
    channel: &Channel<'_>,
    path: &WirePath,
    basis: &KnownBasis,
    file: LargeFile,
    upload: &mut Upload<'_>,
) -> Result<ReadFile, TransferError> {
    if file.size() == basis.groups.len() {
        upload.wait_for_a_difference();
    }
    let mut pass = Pass {
        channel,
        ahead: file.ahead(basis.groups.group_bytes()),
        file: file.without_hashing(),
        group_bytes: basis.groups.group_bytes(),
        buffer: Vec::new(),
        matcher: Matcher::new(&basis.groups),
        at: 0,
        checked_at: 0,
        rounds: Rounds::new(channel.link, path, basis, upload),
    };
    let mut outcome = pass.run(None)?;
    while let Outcome::Moved(query) = outcome {
        let id = ask(channel.link, path, basis, &query)?;
        let sums = blocks(channel.link, basis, id, &query)?;
        let index = sums.as_ref().map(BlockSignature::index);
        let index = index.map(|index| index.with_groups(&basis.groups));
        outcome = pass.run(Some(Sums {
            index: index.as_ref(),
            whole: query.is_whole(basis.groups.len()),
        }))?;
    }
    let (groups, digest) = pass.matcher.finish();
    Ok(pass.file.finish_hashed(groups, digest)?)
}

/// One pass over the new version.
struct Pass<'a, 'u> {
    channel: &'a Channel<'a>,
    file: LargeFile,
    /// Reads and hashes every other stretch, if there is one.
    ahead: Option<Ahead>,
    group_bytes: u64,
    /// Of what is read here.
    buffer: Vec<u8>,
    matcher: Matcher<'a>,
    at: u64,
    checked_at: u64,
    rounds: Rounds<'a, 'u>,
}

impl Pass<'_, '_> {
    /// Reads on, to the end or to where content seems to have moved.
    fn run(&mut self, moved: Option<Sums<'_>>) -> Result<Outcome, TransferError> {
        loop {
            if let Outcome::Moved(query) = self.rounds.advance(moved)? {
                return Ok(Outcome::Moved(query));
            }
            if self.file.position() - self.checked_at >= CHECK_BYTES {
                self.checked_at = self.file.position();
                self.channel.check(&self.file)?;
            }
            let Some(span) = self.next_span()? else {
                break;
            };
            let next = match &self.ahead {
                Some(_) => self.next_span()?,
                None => None,
            };
            let is_asked = match (&mut self.ahead, next) {
                (Some(ahead), Some(Span::Data { start, len })) => ahead.ask(start, len),
                _ => false,
            };
            self.span(span)?;
            match next {
                Some(_) if is_asked => self.hashed()?,
                Some(next) => self.span(next)?,
                None => {}
            }
        }
        self.rounds.end_stretch(self.matcher.is_same());
        Ok(self.rounds.finish(moved)?)
    }

    /// The next stretch; each ends with a group, unless data or file end before.
    fn next_span(&mut self) -> Result<Option<Span>, ReadError> {
        let done = self.file.position() % READ_BYTES as u64;
        self.file.next_span(READ_BYTES - done as usize)
    }

    /// Reads and hashes a stretch.
    fn span(&mut self, span: Span) -> Result<(), ReadError> {
        match span {
            Span::Data { start, len } => {
                let mut bytes = std::mem::take(&mut self.buffer);
                self.file.read_span(start, len, &mut bytes)?;
                self.data(&bytes);
                self.buffer = bytes;
            }
            Span::Hole(len) => self.hole(len),
        }
        Ok(())
    }

    /// Takes the stretch that the other thread has read.
    fn hashed(&mut self) -> Result<(), ReadError> {
        let Some(ahead) = &self.ahead else {
            return Ok(());
        };
        let hashed = ahead.wait()?;
        let mut rest = &hashed.bytes[..];
        for digest in &hashed.groups {
            let (group, tail) = rest.split_at(self.group_bytes as usize);
            if self.matcher.add_known(digest) {
                self.take(Slice::Data(group), true);
            } else {
                self.data(group);
            }
            rest = tail;
        }
        self.data(rest);
        if let Some(ahead) = &mut self.ahead {
            ahead.give(hashed);
        }
        Ok(())
    }

    fn data(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (len, ends) = self.step(bytes.len() as u64);
            let (head, tail) = bytes.split_at(len as usize);
            self.matcher.update(head);
            self.take(Slice::Data(head), ends);
            bytes = tail;
        }
    }

    fn hole(&mut self, mut left: u64) {
        while left > 0 {
            let (len, ends) = self.step(left);
            self.matcher.update_zeros(len);
            self.take(Slice::Hole(len), ends);
            left -= len;
        }
    }

    /// How much of what comes next belongs to this stretch, and whether that completes it.
    fn step(&self, available: u64) -> (u64, bool) {
        let stretch = self.matcher.stretch_end() - self.at;
        (stretch.min(available), stretch <= available)
    }

    fn take(&mut self, slice: Slice<'_>, ends: bool) {
        let start = self.at;
        self.at += slice.len();
        let same = ends.then(|| self.matcher.is_same());
        self.rounds.take(start, slice, same);
    }
}

/// Asks for sums of the basis; the answer is to be waited for with [`blocks`].
fn ask(
    link: &Link,
    path: &WirePath,
    basis: &KnownBasis,
    query: &BlockQuery,
) -> Result<u64, LinkError> {
    let id = link.issue_id();
    let query = SignatureQuery {
        id,
        path: path.clone(),
        want: query.want(basis.version),
    };
    link.ask(id, &AgentMessage::SignatureQuery(query))?;
    Ok(id)
}

/// Waits for the sums.
fn blocks(
    link: &Link,
    basis: &KnownBasis,
    id: u64,
    query: &BlockQuery,
) -> Result<Option<BlockSignature>, LinkError> {
    let Some((_, payload)) = collect(link, id)? else {
        return Ok(None);
    };
    let len = basis.groups.len();
    Ok(BlockSignature::from_ranges(&payload, query.block, &query.ranges, len).ok())
}

/// Questions for versions that are on their way at once.
const VERSIONS_AT_ONCE: usize = 16;

/// Which versions the receiver has of these files; `None` where it has no such file, or does not say.
///
/// # Errors
/// The connection is gone.
pub fn versions(link: &Link, paths: &[WirePath]) -> Result<Vec<Option<SignatureInfo>>, LinkError> {
    let mut found = Vec::with_capacity(paths.len());
    for paths in paths.chunks(VERSIONS_AT_ONCE) {
        let asked = paths.iter();
        let asked: Result<Vec<_>, _> = asked
            .map(|path| ask_signature(link, path, SignatureWant::Version))
            .collect();
        for id in asked? {
            found.push(match collect(link, id) {
                Ok(info) => info.map(|(info, _)| info),
                Err(LinkError::Rejected(_)) => None,
                Err(error) => return Err(error),
            });
        }
    }
    Ok(found)
}

/// Asks for a signature and waits for it; `None` if the receiver has no such file.
fn signature(
    link: &Link,
    path: &WirePath,
    want: SignatureWant,
) -> Result<Option<(SignatureInfo, Vec<u8>)>, LinkError> {
    collect(link, ask_signature(link, path, want)?)
}

fn ask_signature(link: &Link, path: &WirePath, want: SignatureWant) -> Result<u64, LinkError> {
    let id = link.issue_id();
    let query = SignatureQuery {
        id,
        path: path.clone(),
        want,
    };
    link.ask(id, &AgentMessage::SignatureQuery(query))?;
    Ok(id)
}

fn collect(link: &Link, id: u64) -> Result<Option<(SignatureInfo, Vec<u8>)>, LinkError> {
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
