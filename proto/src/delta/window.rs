//! Searches one window of the new file: fast_rsync's delta, translated into our instructions.

use std::ops::Range;

use crate::delta::{BlockIndex, BlockSignature, DeltaError, GroupList};
use crate::message::PatchOp;

/// Largest window, in bytes. Windows of 8 to 16 MiB are best.
pub const WINDOW_BYTES_MAX: usize = 64 << 20;

/// Largest group whose rest is waited for, in bytes.
const WAITED_BYTES_MAX: u64 = 16 << 20;

/// What is searched at once where nothing is known of the place, in bytes, and at least eight blocks.
const SLICE_BYTES: usize = 256 << 10;

const DELTA_MAGIC: [u8; 4] = 0x7273_0236_u32.to_be_bytes();
const END: u8 = 0;
const LITERAL_SHORT_MAX: u8 = 0x40;
const LITERAL_1: u8 = 0x41;
const LITERAL_8: u8 = 0x44;
const COPY_1_1: u8 = 0x45;
const COPY_8_8: u8 = 0x54;

/// What was found of a window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WindowDelta {
    /// Copies and literals, in order.
    pub ops: Vec<PatchOp>,
    /// Where in the window the literals are, one range for each `Literal`.
    pub literals: Vec<Range<usize>>,
    /// Bytes of the window that the instructions cover. The rest may still match together with what
    /// follows it: it belongs in front of the next window. Always everything if the window was the last.
    pub consumed: usize,
}

impl WindowDelta {
    /// Bytes of all literals.
    #[must_use]
    pub fn literal_bytes(&self) -> u64 {
        self.literals.iter().map(|range| range.len() as u64).sum()
    }

    fn literal(&mut self, len: usize) {
        let start = self.consumed;
        self.consumed += len;
        if let (Some(PatchOp::Literal { len: last }), Some(range)) =
            (self.ops.last_mut(), self.literals.last_mut())
        {
            *last += len as u32;
            range.end += len;
            return;
        }
        self.ops.push(PatchOp::Literal { len: len as u32 });
        self.literals.push(start..start + len);
    }

    fn copy(&mut self, offset: u64, size: u64) {
        self.consumed += size as usize;
        match self.ops.last_mut() {
            Some(PatchOp::Copy { from, len }) if *from + *len == offset => *len += size,
            _ => self.ops.push(PatchOp::Copy {
                from: offset,
                len: size,
            }),
        }
    }

    /// Where the basis goes on after the last copy; `before` if nothing has come yet, and that ended there.
    #[must_use]
    pub fn goes_on_at(&self, before: Option<u64>) -> Option<u64> {
        match self.ops.last() {
            None => before,
            Some(PatchOp::Copy { from, len }) => Some(from + len),
            Some(_) => None,
        }
    }

    /// Goes on where the last copy ended, as long as whole groups or blocks are those that follow in the basis. Sums of many
    /// blocks at known places are made several times faster than blocks are searched, digests of groups faster still.
    fn follow(&mut self, index: &BlockIndex<'_>, window: &[u8], before: Option<u64>) {
        while let Some(next) = self.goes_on_at(before) {
            let rest = window.get(self.consumed..).unwrap_or_default();
            let groups = index.groups.map_or(0, |it| it.followed_by(next, rest));
            let followed = match groups {
                0 => index.signature.followed_by(next, rest),
                groups => groups,
            };
            if followed == 0 {
                return;
            }
            self.copy(next, followed);
        }
    }

    /// Takes back a literal at the end: it may be found elsewhere.
    pub fn give_back_literal(&mut self) {
        self.give_back(usize::MAX);
    }

    /// Takes back the end of a trailing literal.
    fn give_back(&mut self, most: usize) {
        let (Some(PatchOp::Literal { len }), Some(range)) =
            (self.ops.last_mut(), self.literals.last_mut())
        else {
            return;
        };
        let back = range.len().min(most);
        *len -= back as u32;
        range.end -= back;
        self.consumed -= back;
        if range.start == range.end {
            self.ops.pop();
            self.literals.pop();
        }
    }
}

impl<'a> BlockIndex<'a> {
    /// The same, which also goes on by these groups of the basis where a copy ends at the beginning of one.
    #[must_use]
    pub fn with_groups(self, groups: &'a GroupList) -> Self {
        Self {
            groups: Some(groups),
            ..self
        }
    }

    /// Searches a window of the new file that begins at `offset` there. Unless it is the `last`, give at
    /// least two blocks, and put what was not consumed in front of the next window.
    ///
    /// # Errors
    /// [`DeltaError::WindowTooLarge`]; [`DeltaError::Search`] never in practice.
    pub fn diff_window(
        &self,
        window: &[u8],
        offset: u64,
        last: bool,
    ) -> Result<WindowDelta, DeltaError> {
        self.diff_onward(window, offset, last, None)
    }

    /// The same after a window whose last copy ended at `before` in the basis, see [`WindowDelta::goes_on_at`].
    ///
    /// # Errors
    /// As [`BlockIndex::diff_window`].
    pub fn diff_onward(
        &self,
        window: &[u8],
        offset: u64,
        last: bool,
        before: Option<u64>,
    ) -> Result<WindowDelta, DeltaError> {
        if window.len() > WINDOW_BYTES_MAX {
            return Err(DeltaError::WindowTooLarge(window.len()));
        }
        let block = self.signature.block().bytes() as usize;
        let shortest = SLICE_BYTES.max(8 * block);
        let (mut delta, mut slice) = (WindowDelta::default(), shortest);
        while delta.consumed < window.len() {
            delta.follow(self, window, before);
            let rest = window.len() - delta.consumed;
            let waits = |next: u64| !last && self.waits_for_group(next, rest);
            if rest == 0 || delta.goes_on_at(before).is_some_and(waits) {
                return Ok(delta);
            }
            let end = delta.consumed.saturating_add(slice).min(window.len());
            self.search(window, end, offset, &mut delta)?;
            let found = matches!(delta.ops.last(), Some(PatchOp::Copy { .. }));
            if end < window.len() {
                delta.give_back(block - 1);
            }
            slice = if found { shortest } else { slice * 2 };
        }
        if !last {
            delta.give_back(block - 1);
        }
        Ok(delta)
    }

    /// Whether these bytes are less than the group that begins at this offset, of which there are no other sums.
    fn waits_for_group(&self, offset: u64, bytes: usize) -> bool {
        let size = self.groups.and_then(|groups| groups.size_at(offset));
        let is_less = size.is_some_and(|size| size <= WAITED_BYTES_MAX && (bytes as u64) < size);
        is_less && self.signature.index_at(offset).is_none()
    }

    /// Searches on to `end`.
    fn search(
        &self,
        window: &[u8],
        end: usize,
        offset: u64,
        delta: &mut WindowDelta,
    ) -> Result<(), DeltaError> {
        let mut raw = Vec::new();
        let part = window.get(delta.consumed..end).unwrap_or_default();
        fast_rsync::diff(&self.inner, part, &mut raw)
            .map_err(|_| DeltaError::Search("signature not usable"))?;
        let window = window.get(..end).unwrap_or_default();
        translate(&raw, self.signature, window, offset, delta)
    }
}

fn translate(
    raw: &[u8],
    signature: &BlockSignature,
    window: &[u8],
    offset: u64,
    delta: &mut WindowDelta,
) -> Result<(), DeltaError> {
    let mut reader = Reader(raw);
    if reader.take(4)? != DELTA_MAGIC {
        return Err(DeltaError::Search("wrong magic"));
    }
    loop {
        let command = reader.integer(1)?;
        match command as u8 {
            END => break,
            short @ 1..=LITERAL_SHORT_MAX => reader.literal(u64::from(short), delta, window)?,
            long @ LITERAL_1..=LITERAL_8 => {
                let len = reader.integer(1 << (long - LITERAL_1))?;
                reader.literal(len, delta, window)?;
            }
            copy @ COPY_1_1..=COPY_8_8 => {
                let mode = copy - COPY_1_1;
                let from = reader.integer(1 << (mode / 4))?;
                let len = reader.integer(1 << (mode % 4))?;
                copy_blocks(signature, from, len, offset, window.len(), delta)?;
            }
            _ => return Err(DeltaError::Search("unknown command")),
        }
    }
    if !reader.0.is_empty() || delta.consumed != window.len() {
        return Err(DeltaError::Search("not the whole window"));
    }
    Ok(())
}

/// Translates a copy block by block: neighbours in the signature need not be neighbours in the basis.
/// Of blocks with equal sums (zeros, say) the index knows only one; the one that continues the last
/// copy, or else the one at the same offset, makes fewer and better instructions.
fn copy_blocks(
    signature: &BlockSignature,
    from: u64,
    len: u64,
    window_offset: u64,
    window_len: usize,
    delta: &mut WindowDelta,
) -> Result<(), DeltaError> {
    const BAD: DeltaError = DeltaError::Search("copy of no block");
    let size = u64::from(signature.block().bytes());
    let room = window_len.saturating_sub(delta.consumed) as u64;
    if len == 0 || len > room || !from.is_multiple_of(size) || !len.is_multiple_of(size) {
        return Err(BAD);
    }
    for index in from / size..(from / size + len / size) {
        let sums = signature.sums(index).ok_or(BAD)?;
        let found = signature.offset_of(index).ok_or(BAD)?;
        let equal = |offset: &u64| {
            let other = signature.index_at(*offset);
            other.and_then(|other| signature.sums(other)) == Some(sums)
        };
        let next = match delta.ops.last() {
            Some(PatchOp::Copy { from, len }) => Some(from + len),
            _ => None,
        };
        let here = window_offset.checked_add(delta.consumed as u64);
        let best = next.filter(equal).or_else(|| here.filter(equal));
        delta.copy(best.unwrap_or(found), size);
    }
    Ok(())
}

/// Reads fast_rsync's delta format (librsync's, big-endian).
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DeltaError> {
        let (head, tail) = self
            .0
            .split_at_checked(count)
            .ok_or(DeltaError::Search("delta ends early"))?;
        self.0 = tail;
        Ok(head)
    }

    fn integer(&mut self, width: usize) -> Result<u64, DeltaError> {
        let bytes = self.take(width)?;
        Ok(bytes
            .iter()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// A literal must be the window's own next bytes: then it need not be copied.
    fn literal(
        &mut self,
        len: u64,
        delta: &mut WindowDelta,
        window: &[u8],
    ) -> Result<(), DeltaError> {
        const BAD: DeltaError = DeltaError::Search("literal is not of the window");
        let len = usize::try_from(len).map_err(|_| BAD)?;
        let bytes = self.take(len)?;
        let rest = window.get(delta.consumed..).unwrap_or_default();
        if len == 0 || rest.get(..len) != Some(bytes) {
            return Err(BAD);
        }
        delta.literal(len);
        Ok(())
    }
}
