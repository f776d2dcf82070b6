//! [`Rounds`]: what has been read and not been put out yet, because sums are awaited that it will be
//! searched with. Bounded: few rounds, each of few bytes.

use std::collections::VecDeque;

use syncd_proto::delta::{
    BlockIndex, BlockQuery, BlockSignature, IN_PLACE_RUN_BYTES_MAX, LiteralMeter,
};
use syncd_proto::path::WirePath;

use super::{KnownBasis, ask, blocks};
use crate::net::link::{Link, LinkError};
use crate::pipeline::upload::Upload;

/// Changed bytes of a round: more than what is taken for a change in place.
const ROUND_BYTES: u64 = IN_PLACE_RUN_BYTES_MAX + (1 << 20);

/// How far a round with something changed in it reaches, in bytes: what follows waits for it.
const ROUND_SPAN: u64 = 16 << 20;

/// Changed bytes whose sums are awaited.
const AWAITED_BYTES_MAX: u64 = 2 * ROUND_BYTES;

/// Rounds whose sums are awaited.
const AWAITED_MAX: usize = 32;

/// Windows below this say nothing about the file, in bytes.
const METERED_BYTES_MIN: usize = 1 << 20;

/// Bytes at the end that are not where content moved from, and are looked for elsewhere in the basis.
const LOST_BYTES_MIN: usize = 64 << 10;

/// The same before the end: what follows may be where it was looked for.
const LOST_BYTES_MAX: usize = IN_PLACE_RUN_BYTES_MAX as usize;

/// Places of the basis that are looked at one after the other, before the sums of all of it are asked for.
const PLACES_MAX: u32 = 8;

/// What is to be done after a part of the pass.
pub(super) enum Outcome {
    /// Nothing.
    Done,
    /// Content seems to have moved: these sums are needed for the rest.
    Moved(BlockQuery),
}

/// What everything is searched with from here on, if it could be had.
#[derive(Clone, Copy)]
pub(super) struct Sums<'a> {
    /// Sums of blocks, and the groups of the basis.
    pub(super) index: Option<&'a BlockIndex<'a>>,
    /// Whether they are of the whole basis: else what is not found there may be elsewhere.
    pub(super) whole: bool,
}

/// What was read.
#[derive(Clone, Copy)]
pub(super) enum Slice<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// So many zeros that take no room.
    Hole(u64),
}

impl Slice<'_> {
    /// Bytes that it stands for.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Hole(len) => *len,
        }
    }
}

/// A part of the output.
enum Part {
    /// The basis has it at the same offset.
    Copy { start: u64, len: u64 },
    /// It has not.
    Data { start: u64, bytes: Vec<u8> },
    /// Zeros.
    Hole { len: u64 },
}

impl Part {
    /// Bytes that it stands for.
    fn len(&self) -> u64 {
        match self {
            Self::Data { bytes, .. } => bytes.len() as u64,
            Self::Copy { len, .. } | Self::Hole { len } => *len,
        }
    }
}

#[derive(Default)]
struct Round {
    parts: Vec<Part>,
    /// Bytes of all of it.
    span: u64,
    /// Changed bytes.
    bytes: u64,
    /// Changed ranges of the basis (offset, length).
    ranges: Vec<(u64, u64)>,
}

/// What is needed for a round.
enum Wanted {
    /// These sums for it alone, if any.
    InPlace(Option<BlockQuery>),
    /// These for it and what follows.
    Moved(BlockQuery),
}

/// A round, and the question about its sums.
type Awaited = (Round, Option<(u64, BlockQuery)>);

/// See the module.
pub(super) struct Rounds<'a, 'u> {
    link: &'a Link,
    path: &'a WirePath,
    basis: &'a KnownBasis,
    upload: &'a mut Upload<'u>,
    /// The stretch being read, where more than one piece makes it.
    stretch: Round,
    /// Where it begins.
    stretch_start: Option<u64>,
    round: Round,
    awaited: VecDeque<Awaited>,
    meter: LiteralMeter,
    /// Changed bytes of the basis so far.
    changed: u64,
    /// Unsearched end of the last window, and where it begins.
    tail: (u64, Vec<u8>),
    /// Where the basis goes on before the tail, if a copy ended there.
    goes_on_at: Option<u64>,
    /// How many places content was looked for at.
    places: u32,
}

impl<'a, 'u> Rounds<'a, 'u> {
    pub(super) fn new(
        link: &'a Link,
        path: &'a WirePath,
        basis: &'a KnownBasis,
        upload: &'a mut Upload<'u>,
    ) -> Self {
        Self {
            link,
            path,
            basis,
            upload,
            stretch: Round::default(),
            stretch_start: None,
            round: Round::default(),
            awaited: VecDeque::new(),
            meter: LiteralMeter::default(),
            changed: 0,
            tail: (0, Vec::new()),
            goes_on_at: None,
            places: 0,
        }
    }

    /// Takes what was read of a stretch; with its end comes the word whether it is the same.
    pub(super) fn take(&mut self, start: u64, slice: Slice<'_>, same: Option<bool>) {
        let stretch_start = *self.stretch_start.get_or_insert(start);
        match same {
            Some(same) if stretch_start == start => {
                self.round.push(start, slice, same);
                self.note(start, start + slice.len(), same);
            }
            _ => self.stretch.push(start, slice, false),
        }
        if let Some(same) = same {
            self.end_stretch(same);
        }
    }

    /// The stretch has been read.
    pub(super) fn end_stretch(&mut self, same: bool) {
        let Some(start) = self.stretch_start.take() else {
            return;
        };
        let mut end = start;
        for part in std::mem::take(&mut self.stretch.parts) {
            let slice = match &part {
                Part::Data { bytes, .. } => Slice::Data(bytes),
                Part::Hole { len } | Part::Copy { len, .. } => Slice::Hole(*len),
            };
            self.round.push(end, slice, same);
            end += slice.len();
        }
        self.note(start, end, same);
    }

    /// Notes what changed of the basis.
    fn note(&mut self, start: u64, end: u64, same: bool) {
        let end = end.min(self.basis.groups.len());
        if same || end <= start {
            return;
        }
        self.changed += end - start;
        match self.round.ranges.last_mut() {
            Some((begin, len)) if *begin + *len == start => *len = end - *begin,
            _ => self.round.ranges.push((start, end - start)),
        }
    }

    /// Puts out what can be, and asks for what is needed for the rest.
    pub(super) fn advance(&mut self, moved: Option<Sums<'_>>) -> Result<Outcome, LinkError> {
        let full = match self.round.bytes {
            0 => self.awaited.is_empty(),
            ROUND_BYTES.. => true,
            _ => self.round.span >= ROUND_SPAN,
        };
        if full && let moved @ Outcome::Moved(_) = self.close_round(moved)? {
            return Ok(moved);
        }
        self.put_out_answered()?;
        Ok(Outcome::Done)
    }

    /// Everything has been read: puts out all of it.
    pub(super) fn finish(&mut self, moved: Option<Sums<'_>>) -> Result<Outcome, LinkError> {
        if let moved @ Outcome::Moved(_) = self.close_round(moved)? {
            return Ok(moved);
        }
        self.put_out_awaited(0, 0)?;
        self.end_search(moved)
    }

    fn close_round(&mut self, moved: Option<Sums<'_>>) -> Result<Outcome, LinkError> {
        if self.round.parts.is_empty() {
            return Ok(Outcome::Done);
        }
        if moved.is_some() {
            let round = std::mem::take(&mut self.round);
            return self.put_out(round, moved);
        }
        let ranges = std::mem::take(&mut self.round.ranges);
        let query = match self.query(ranges) {
            Wanted::Moved(query) => {
                // What was read before this round is searched as it was meant to be.
                self.put_out_awaited(0, 0)?;
                return Ok(Outcome::Moved(query));
            }
            Wanted::InPlace(query) => query,
        };
        let round = std::mem::take(&mut self.round);
        if query.is_none() && self.awaited.is_empty() {
            return self.put_out(round, None);
        }
        let asked = match query {
            Some(query) => Some((ask(self.link, self.path, self.basis, &query)?, query)),
            None => None,
        };
        self.awaited.push_back((round, asked));
        self.put_out_awaited(AWAITED_MAX, AWAITED_BYTES_MAX)?;
        Ok(Outcome::Done)
    }

    /// What to ask for a round in which these ranges of the basis changed.
    fn query(&mut self, ranges: Vec<(u64, u64)>) -> Wanted {
        let basis_len = self.basis.groups.len();
        let Some(longest) = ranges.iter().map(|(_, len)| *len).max() else {
            return Wanted::InPlace(None);
        };
        let is_long = longest > IN_PLACE_RUN_BYTES_MAX;
        let query = match self.changed > basis_len / 2 {
            true => BlockQuery::whole(basis_len),
            false => BlockQuery::for_ranges(ranges, basis_len),
        };
        match query {
            Some(query) if is_long || query.is_whole(basis_len) => Wanted::Moved(query),
            query => Wanted::InPlace(query),
        }
    }

    /// Where to look for what is not where content moved from: further on, or everywhere.
    fn elsewhere(&mut self) -> Option<BlockQuery> {
        let basis = &self.basis.groups;
        self.places += 1;
        let onward = self.goes_on_at.filter(|_| self.places < PLACES_MAX);
        let onward = onward.and_then(|at| BlockQuery::onward(basis, at));
        onward.or_else(|| BlockQuery::whole(basis.len()))
    }

    /// Puts out the oldest rounds whose sums have come, so that the receiver copies while the rest is read.
    fn put_out_answered(&mut self) -> Result<(), LinkError> {
        let is_answered = |(_, asked): &Awaited| match asked {
            Some((id, _)) => self.link.is_answered(*id),
            None => true,
        };
        let ready = self.awaited.iter().take_while(|round| is_answered(round));
        match ready.count() {
            0 => Ok(()),
            ready => self.put_out_awaited(self.awaited.len() - ready, u64::MAX),
        }
    }

    /// Puts out the oldest rounds until at most so many, of so many bytes, are left.
    fn put_out_awaited(&mut self, count: usize, bytes: u64) -> Result<(), LinkError> {
        let sum = |rounds: &VecDeque<Awaited>| rounds.iter().map(|(round, _)| round.bytes).sum();
        while self.awaited.len() > count || bytes < sum(&self.awaited) {
            let Some((round, asked)) = self.awaited.pop_front() else {
                break;
            };
            let sums = match asked {
                Some((id, query)) => blocks(self.link, self.basis, id, &query)?,
                None => None,
            };
            let index = sums.as_ref().map(BlockSignature::index);
            let sums = index.as_ref().map(|index| Sums {
                index: Some(index),
                whole: true,
            });
            self.put_out(round, sums)?;
            self.end_search(sums)?;
        }
        Ok(())
    }

    /// Puts out a round, searched with these sums. What is left of it unsearched may go on in the next. What comes after
    /// something that has to be looked for elsewhere is kept.
    fn put_out(&mut self, round: Round, sums: Option<Sums<'_>>) -> Result<Outcome, LinkError> {
        let mut parts = round.parts.into_iter();
        while let Some(part) = parts.next() {
            if !matches!(part, Part::Data { .. })
                && let moved @ Outcome::Moved(_) = self.end_search(sums)?
            {
                self.round.put_back([part].into_iter().chain(parts));
                return Ok(moved);
            }
            match part {
                Part::Copy { start, len } => self.upload.copy(start, len)?,
                Part::Hole { len } => self.upload.hole(len)?,
                Part::Data { start, bytes } => {
                    if let moved @ Outcome::Moved(_) = self.data(start, bytes, sums)? {
                        self.round.put_back(parts);
                        return Ok(moved);
                    }
                }
            }
        }
        Ok(Outcome::Done)
    }

    fn data(
        &mut self,
        start: u64,
        bytes: Vec<u8>,
        sums: Option<Sums<'_>>,
    ) -> Result<Outcome, LinkError> {
        let is_searched = sums.is_some_and(|sums| sums.index.is_some()) && !self.meter.gives_up();
        if !is_searched {
            self.end_search(None)?;
            self.upload.literal(&bytes)?;
            return Ok(Outcome::Done);
        }
        if self.tail.1.is_empty() {
            self.tail = (start, bytes);
        } else {
            self.tail.1.extend_from_slice(&bytes);
        }
        self.search(sums, false)
    }

    /// Nothing that follows belongs to the unsearched end.
    fn end_search(&mut self, sums: Option<Sums<'_>>) -> Result<Outcome, LinkError> {
        if !self.tail.1.is_empty()
            && let moved @ Outcome::Moved(_) = self.search(sums, true)?
        {
            return Ok(moved);
        }
        self.goes_on_at = None;
        Ok(Outcome::Done)
    }

    fn search(&mut self, sums: Option<Sums<'_>>, last: bool) -> Result<Outcome, LinkError> {
        let (start, mut window) = std::mem::take(&mut self.tail);
        let sums = sums.and_then(|sums| Some((sums.index?, sums.whole)));
        let found = sums.map(|(index, whole)| {
            let found = index.diff_onward(&window, start, last, self.goes_on_at);
            found.map(|delta| (delta, whole))
        });
        let Some(Ok((mut delta, whole))) = found else {
            self.goes_on_at = None;
            self.upload.literal(&window)?;
            return Ok(Outcome::Done);
        };
        if whole && window.len() >= METERED_BYTES_MIN {
            self.meter.note(&delta);
        }
        if !whole {
            delta.give_back_literal();
        }
        self.goes_on_at = delta.goes_on_at(self.goes_on_at);
        self.upload.window(&window, &delta)?;
        window.drain(..delta.consumed);
        self.tail = (start + delta.consumed as u64, window);
        if whole {
            return Ok(Outcome::Done);
        }
        self.look_elsewhere(last)
    }

    /// What was not found where content moved from is looked for elsewhere, as soon as there is enough of it; what follows
    /// the end of the basis is new.
    fn look_elsewhere(&mut self, last: bool) -> Result<Outcome, LinkError> {
        let is_new = self.goes_on_at == Some(self.basis.groups.len());
        let most = if last { LOST_BYTES_MIN } else { LOST_BYTES_MAX };
        if self.tail.1.len() >= most
            && !is_new
            && let Some(query) = self.elsewhere()
        {
            return Ok(Outcome::Moved(query));
        }
        if last || is_new || self.tail.1.len() >= most {
            let (_, bytes) = std::mem::take(&mut self.tail);
            self.upload.literal(&bytes)?;
        }
        Ok(Outcome::Done)
    }
}

impl Round {
    /// What is left of a round comes first in the next.
    fn put_back(&mut self, parts: impl Iterator<Item = Part>) {
        let behind = std::mem::take(&mut self.parts);
        self.parts = parts.chain(behind).collect();
        let is_data = |part: &&Part| matches!(part, Part::Data { .. });
        self.bytes = self.parts.iter().filter(is_data).map(Part::len).sum();
        self.span = self.parts.iter().map(Part::len).sum();
    }

    fn push(&mut self, start: u64, slice: Slice<'_>, same: bool) {
        self.span += slice.len();
        match (slice, self.parts.last_mut()) {
            (Slice::Hole(more), Some(Part::Hole { len })) => *len += more,
            (Slice::Hole(len), _) => self.parts.push(Part::Hole { len }),
            (Slice::Data(more), Some(Part::Copy { start: from, len }))
                if same && *from + *len == start =>
            {
                *len += more.len() as u64;
            }
            (Slice::Data(more), _) if same => self.parts.push(Part::Copy {
                start,
                len: more.len() as u64,
            }),
            (Slice::Data(more), Some(Part::Data { bytes, .. })) => {
                self.bytes += more.len() as u64;
                bytes.extend_from_slice(more);
            }
            (Slice::Data(bytes), _) => {
                self.bytes += bytes.len() as u64;
                let bytes = bytes.to_vec();
                self.parts.push(Part::Data { start, bytes });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use syncd_proto::message::{Credit, ReceiverMessage, Signature, SignatureInfo};
    use syncd_proto::meta::Mtime;

    use super::*;
    use crate::pipeline::delta::tests::{begin, channel, known};
    use crate::pipeline::reconcile::tests::{frame, link_with};

    #[test]
    fn a_round_is_put_out_when_its_sums_have_come() {
        let link = link_with(0);
        let channel = channel(&link);
        let transfer = channel.transfer;
        let basis = known(&[1; 200_000]);
        let mut upload = Upload::new(&channel, begin(transfer), true);
        let path = WirePath::from_relative("f".as_ref()).unwrap();
        let mut rounds = Rounds::new(&link, &path, &basis, &mut upload);
        let group = basis.groups.group_bytes();
        rounds.take(0, Slice::Data(&vec![2; group as usize]), Some(false));
        rounds.take(group, Slice::Hole(ROUND_SPAN), Some(true));
        let advanced = |rounds: &mut Rounds<'_, '_>| {
            assert!(matches!(rounds.advance(None), Ok(Outcome::Done)));
            (rounds.awaited.len(), rounds.upload.has_begun())
        };
        assert_eq!(advanced(&mut rounds), (1, false));
        let credit = ReceiverMessage::Credit(Credit { bytes: 1 << 20 });
        link.handle(frame(1, &credit)).unwrap();
        let part = |info, last| {
            let id = transfer + 1;
            ReceiverMessage::Signature(Signature { id, info, last })
        };
        let info = SignatureInfo {
            version: basis.version,
            len: basis.groups.len(),
            mtime: Mtime::default(),
            content: None,
        };
        link.handle(frame(2, &part(Some(info), false))).unwrap();
        assert_eq!(advanced(&mut rounds), (1, false));
        link.handle(frame(3, &part(None, true))).unwrap();
        assert_eq!(advanced(&mut rounds).0, 0);
        assert!(matches!(rounds.finish(None), Ok(Outcome::Done)));
        upload.finish().unwrap();
        assert!(upload.has_begun());
    }
}
