//! Properties of both tiers: what the instructions give is the new file, whatever was edited; what a
//! peer sends as a signature never does worse than fail.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::frame::{Frame, FrameLimits};
use crate::limits::{CHUNK_OPS_MAX, CHUNK_OUTPUT_BYTES_MAX, GROUP_BYTES, GROUPS_MAX};
use crate::message::{AgentMessage, PatchOp};

const BLOCK: usize = BLOCK_BYTES_MIN as usize;
const GROUP: usize = GROUP_BYTES as usize;

/// Bytes that look random and are the same every time.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

fn groups(bytes: &[u8]) -> (GroupList, Digest) {
    let mut hasher = GroupHasher::for_len(bytes.len() as u64);
    hasher.update(bytes);
    hasher.finish()
}

fn sign(basis: &[u8], query: &BlockQuery) -> Vec<u8> {
    let mut out = Vec::new();
    for &(start, len) in &query.ranges {
        let range = &basis[start as usize..(start + len) as usize];
        for window in range.chunks(7 * query.block.bytes() as usize) {
            sign_range(window, query.block, &mut out);
        }
    }
    out
}

/// Searches `new` in windows, with the carry, as an agent does.
fn search(index: &BlockIndex<'_>, new: &[u8], window: usize) -> (Vec<PatchOp>, Vec<u8>) {
    let (mut ops, mut literals, mut at) = (Vec::new(), Vec::new(), 0);
    loop {
        let end = (at + window).min(new.len());
        let last = end == new.len();
        let found = index.diff_window(&new[at..end], at as u64, last).unwrap();
        for range in &found.literals {
            literals.extend_from_slice(&new[at..end][range.clone()]);
        }
        ops.extend_from_slice(&found.ops);
        at += found.consumed;
        if last {
            assert_eq!(at, new.len());
            return (ops, literals);
        }
        assert!(found.consumed > 0);
    }
}

fn whole(basis: &[u8]) -> (BlockQuery, Vec<u8>) {
    let block = block_bytes_for(basis.len() as u64);
    let query = BlockQuery {
        block,
        ranges: vec![(0, basis.len() as u64)],
    };
    let sums = sign(basis, &query);
    (query, sums)
}

/// Both tiers, as agent and receiver would; literal bytes and instructions.
fn two_tiers(basis: &[u8], new: &[u8]) -> (Vec<PatchOp>, Vec<u8>) {
    let (list, _) = groups(basis);
    let list = GroupList::from_payload(&list.to_payload(), basis.len() as u64).unwrap();
    let mut hasher = GroupHasher::against(&list);
    hasher.update(new);
    let diff = hasher.finish().0.compare(&list);
    let query = BlockQuery::plan(&diff);
    let signature = query.as_ref().map(|query| {
        let sums = sign(basis, query);
        let len = basis.len() as u64;
        BlockSignature::from_ranges(&sums, query.block, &query.ranges, len).unwrap()
    });
    let index = signature.as_ref().map(BlockSignature::index);
    let (mut ops, mut literals) = (Vec::new(), Vec::new());
    for segment in diff.segments() {
        let range = segment.start as usize..(segment.start + segment.len) as usize;
        match &index {
            _ if segment.same => ops.push(PatchOp::Copy {
                from: segment.start,
                len: segment.len,
            }),
            Some(index) => {
                let (found, bytes) = search(index, &new[range], 64 * BLOCK);
                ops.extend(found);
                literals.extend(bytes);
            }
            None => {
                ops.push(PatchOp::Literal {
                    len: segment.len as u32,
                });
                literals.extend_from_slice(&new[range]);
            }
        }
    }
    (ops, literals)
}

#[derive(Debug, Clone)]
enum Edit {
    Overwrite(usize, u64, usize),
    Insert(usize, u64, usize),
    Remove(usize, usize),
    Truncate(usize),
    Zeros(usize, usize),
    Move(usize, usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = || 0..300_000usize;
    let len = || prop_oneof![0..40usize, 1_000..9_000usize, Just(BLOCK), Just(GROUP)];
    prop_oneof![
        (at(), any::<u64>(), len()).prop_map(|(at, seed, len)| Edit::Overwrite(at, seed, len)),
        (at(), any::<u64>(), len()).prop_map(|(at, seed, len)| Edit::Insert(at, seed, len)),
        (at(), len()).prop_map(|(at, len)| Edit::Remove(at, len)),
        at().prop_map(Edit::Truncate),
        (at(), len()).prop_map(|(at, len)| Edit::Zeros(at, len)),
        (at(), at(), len()).prop_map(|(from, to, len)| Edit::Move(from, to, len)),
    ]
}

fn edited(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let clip = |at: usize| at.min(bytes.len());
        match *edit {
            Edit::Overwrite(at, seed, len) => {
                let (start, end) = (clip(at), clip(at + len));
                bytes[start..end].copy_from_slice(&noise(seed, end - start));
            }
            Edit::Insert(at, seed, len) => {
                let at = clip(at);
                bytes.splice(at..at, noise(seed, len));
            }
            Edit::Remove(at, len) => {
                let (start, end) = (clip(at), clip(at + len));
                bytes.drain(start..end);
            }
            Edit::Truncate(at) => bytes.truncate(at),
            Edit::Zeros(at, len) => {
                let (start, end) = (clip(at), clip(at + len));
                bytes[start..end].fill(0);
            }
            Edit::Move(from, to, len) => {
                let moved: Vec<u8> = bytes[clip(from)..clip(from + len)].to_vec();
                let to = clip(to);
                bytes.splice(to..to, moved);
            }
        }
    }
    bytes
}

fn file() -> impl Strategy<Value = Vec<u8>> {
    let sizes = prop_oneof![
        0..5_000usize,
        0..300_000usize,
        (0..4usize, 0..3usize).prop_map(|(n, d)| (n * GROUP + d).saturating_sub(1)),
        (0..9usize, 0..3usize).prop_map(|(n, d)| (n * BLOCK + d).saturating_sub(1)),
    ];
    (sizes, any::<u64>(), any::<bool>()).prop_map(|(len, seed, zeros)| {
        let mut bytes = noise(seed, len);
        if zeros {
            bytes[len / 3..len / 3 * 2].fill(0);
        }
        bytes
    })
}

fn pair() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    prop_oneof![
        4 => (file(), vec(edit(), 0..6)).prop_map(|(basis, edits)| {
            let new = edited(basis.clone(), &edits);
            (basis, new)
        }),
        1 => (file(), file()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn two_tiers_give_the_new_file((basis, new) in pair()) {
        let (ops, literals) = two_tiers(&basis, &new);
        prop_assert_eq!(apply(&basis, &ops, &literals, new.len()).unwrap(), new);
    }

    #[test]
    fn a_shifted_search_gives_the_new_file((basis, new) in pair(), window in 2 * BLOCK..200_000) {
        let (query, sums) = whole(&basis);
        let signature = BlockSignature::from_peer(&sums, query.block, basis.len() as u64).unwrap();
        let (ops, literals) = search(&signature.index(), &new, window);
        prop_assert_eq!(apply(&basis, &ops, &literals, new.len()).unwrap(), new);
    }

    #[test]
    fn our_instructions_mean_what_fast_rsync_meant((basis, new) in pair()) {
        let (query, sums) = whole(&basis);
        let signature = BlockSignature::from_peer(&sums, query.block, basis.len() as u64).unwrap();
        let index = signature.index();
        let ours = index.diff_window(&new, 0, true).unwrap();
        let literals: Vec<u8> = ours.literals.iter().flat_map(|r| new[r.clone()].to_vec()).collect();
        let mut raw = Vec::new();
        fast_rsync::diff(&index.inner, &new, &mut raw).unwrap();
        let mut theirs = Vec::new();
        fast_rsync::apply_limited(&basis, &raw, &mut theirs, new.len()).unwrap();
        prop_assert_eq!(apply(&basis, &ours.ops, &literals, new.len()).unwrap(), theirs);
    }

    #[test]
    fn the_group_hasher_gives_the_digest_of_the_file(bytes in file(), cut in 1..100_000usize) {
        let mut hasher = GroupHasher::for_len(bytes.len() as u64);
        bytes.chunks(cut).for_each(|piece| hasher.update(piece));
        let (list, digest) = hasher.finish();
        prop_assert_eq!(digest, Digest::of(&bytes));
        prop_assert!(list.is_canonical());
        prop_assert_eq!(list, groups(&bytes).0);
    }

    #[test]
    fn segments_cover_the_new_file((basis, new) in pair()) {
        let (list, _) = groups(&basis);
        let mut hasher = GroupHasher::against(&list);
        hasher.update(&new);
        let diff = hasher.finish().0.compare(&list);
        let mut at = 0;
        for pair in diff.segments().windows(2) {
            prop_assert_ne!(pair[0].same, pair[1].same);
        }
        for segment in diff.segments() {
            prop_assert_eq!(segment.start, at);
            prop_assert!(segment.len > 0);
            let range = at as usize..(at + segment.len) as usize;
            if segment.same {
                prop_assert_eq!(&new[range.clone()], &basis[range]);
            }
            at += segment.len;
        }
        prop_assert_eq!(at, new.len() as u64);
        prop_assert_eq!(diff.is_same(), basis == new);
    }

    #[test]
    fn a_hostile_signature_fails_or_finds_nothing_beyond_the_basis(
        payload in vec(any::<u8>(), 0..400),
        block in any::<u32>(),
        ranges in vec((any::<u64>(), any::<u64>()), 0..4),
        len in prop_oneof![0..100_000u64, any::<u64>()],
        new in file(),
    ) {
        let _ = GroupList::from_payload(&payload, len);
        let block = BlockSize::new(block).unwrap_or(BlockSize::MIN);
        let _ = BlockSignature::from_ranges(&payload, block, &ranges, len);
        let blocks = (payload.len() / SUM_BYTES) as u64;
        let len = blocks * u64::from(block.bytes()) + len % u64::from(block.bytes());
        let payload = &payload[..blocks as usize * SUM_BYTES];
        let signature = BlockSignature::from_peer(payload, block, len).unwrap();
        let found = signature.index().diff_window(&new, 0, true).unwrap();
        prop_assert_eq!(found.consumed, new.len());
    }

    /// True sums under false indices: every copy must still stay within the file.
    #[test]
    fn shuffled_sums_never_lead_beyond_the_basis(order in vec(0..8usize, 0..40), tail in 0..2048u64) {
        let basis = noise(5, 8 * BLOCK);
        let mut sums = Vec::new();
        sign_range(&basis, BlockSize::MIN, &mut sums);
        let shuffled: Vec<u8> = order.iter().flat_map(|&i| sums[i * SUM_BYTES..][..SUM_BYTES].to_vec()).collect();
        let len = order.len() as u64 * BLOCK as u64 + tail;
        let signature = BlockSignature::from_peer(&shuffled, BlockSize::MIN, len).unwrap();
        let found = signature.index().diff_window(&basis, 0, true).unwrap();
        for op in found.ops {
            if let PatchOp::Copy { from, len: copied } = op {
                prop_assert!(from + copied <= len);
            }
        }
    }

    #[test]
    fn chunks_keep_every_limit(
        steps in vec((0..3u8, 0..3_000_000_000u64), 0..24),
        small in 0..20_000usize,
    ) {
        let mut chunker = Chunker::new(7);
        let mut chunks = Vec::new();
        let mut expected = 0u64;
        for &(kind, len) in &steps {
            match kind {
                0 => {
                    let len = len % 3_000_000;
                    chunker.literal(&vec![1; len as usize], &mut chunks);
                    expected += len;
                }
                1 => { chunker.copy(len / 2, len, &mut chunks); expected += len; }
                _ => { chunker.hole(len, &mut chunks); expected += len; }
            }
        }
        for at in 0..small as u64 {
            chunker.copy(at * 10, 1, &mut chunks);
        }
        expected += small as u64;
        chunks.extend(chunker.flush());
        let mut produced = 0;
        for chunk in chunks {
            let output: u64 = chunk.message.ops.iter().map(PatchOp::output_len).sum();
            prop_assert!(output <= CHUNK_OUTPUT_BYTES_MAX);
            prop_assert!(chunk.message.ops.len() <= CHUNK_OPS_MAX);
            prop_assert!(chunk.payload.len() <= CHUNK_LITERAL_BYTES);
            produced += output;
            let message = AgentMessage::from(chunk.message);
            let mut body = Vec::new();
            message.encode_body(&mut body).unwrap();
            let frame = Frame { seq: 0, kind: message.kind(), body, payload: chunk.payload, packed: false, };
            prop_assert!(frame.payload.len() <= FrameLimits::SESSION.payload);
            prop_assert_eq!(AgentMessage::from_frame(&frame).unwrap(), message);
        }
        prop_assert_eq!(produced, expected);
    }

    #[test]
    fn apply_never_exceeds_its_limit(
        ops in vec(prop_oneof![
            any::<u32>().prop_map(|len| PatchOp::Literal { len }),
            (0..40u32).prop_map(|len| PatchOp::Literal { len }),
            (0..200u64, 0..200u64).prop_map(|(from, len)| PatchOp::Copy { from, len }),
            any::<(u64, u64)>().prop_map(|(from, len)| PatchOp::Copy { from, len }),
            (0..200u64).prop_map(|len| PatchOp::Hole { len }),
        ], 0..6),
        literals in vec(any::<u8>(), 0..80),
    ) {
        let basis = noise(1, 150);
        if let Ok(out) = apply(&basis, &ops, &literals, 300) {
            prop_assert!(out.len() <= 300);
        }
    }
}

#[test]
fn the_group_size_keeps_the_list_within_its_limit() {
    let edge = GROUP_BYTES * GROUPS_MAX;
    assert_eq!(group_bytes(0), GROUP_BYTES);
    assert_eq!(group_bytes(edge), GROUP_BYTES);
    assert_eq!(group_bytes(edge + 1), 2 * GROUP_BYTES);
    assert!(u64::MAX.div_ceil(group_bytes(u64::MAX)) <= GROUPS_MAX);
}

#[test]
fn many_groups_make_the_same_digest() {
    let bytes = noise(3, 37 * GROUP + 5);
    for count in [1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 37] {
        for len in [count * GROUP - 1, count * GROUP, count * GROUP + 1] {
            let (list, digest) = groups(&bytes[..len]);
            assert_eq!(digest, Digest::of(&bytes[..len]), "{len}");
            assert_eq!(list.digests().len(), len.div_ceil(GROUP));
        }
    }
}

#[test]
fn holes_hash_as_zeros() {
    let mut hasher = GroupHasher::for_len(0);
    hasher.update(b"head");
    hasher.update_zeros(200_000);
    let mut bytes = b"head".to_vec();
    bytes.resize(200_004, 0);
    assert_eq!(hasher.finish(), groups(&bytes));
}

#[test]
fn a_group_may_be_added_by_its_digest() {
    let bytes = noise(5, 9 * GROUP + 300);
    for len in [2 * GROUP, 2 * GROUP + 1, 4 * GROUP, 9 * GROUP, bytes.len()] {
        let bytes = &bytes[..len];
        let (list, digest) = groups(bytes);
        for known in 0..1 << 9 {
            let mut hasher = GroupHasher::for_len(len as u64);
            for (index, group) in bytes.chunks(GROUP).enumerate() {
                let by_digest = known >> index & 1 == 1 && group.len() == GROUP;
                let added = by_digest && hasher.add_known(&list.digests()[index]);
                assert_eq!(added, by_digest && index > 0);
                if !added {
                    hasher.update(group);
                }
            }
            assert!(hasher.finish() == (list.clone(), digest), "{len} {known:b}");
        }
    }
    let mut hasher = GroupHasher::for_len(0);
    hasher.update(&bytes[..GROUP + 1]);
    assert!(!hasher.add_known(&[0; 32]), "within a group");
}

/// What a [`Matcher`] says of a new version: the ranges that are the same.
fn same_ranges(basis: &[u8], new: &[u8], piece: usize) -> Vec<(usize, usize)> {
    let (list, _) = groups(basis);
    let mut matcher = Matcher::new(&list);
    let (mut same, mut at, mut start) = (Vec::new(), 0, 0);
    while at < new.len() {
        let stretch = (matcher.stretch_end() as usize).min(new.len());
        let end = stretch.min(at + piece);
        matcher.update(&new[at..end]);
        at = end;
        if at == stretch {
            if matcher.is_same() {
                assert!(basis.get(start..at) == Some(&new[start..at]));
                same.push((start, at));
            }
            start = at;
        }
    }
    let mut expected = GroupHasher::like(&list);
    expected.update(new);
    assert!(matcher.finish() == expected.finish());
    same
}

#[test]
fn a_matcher_takes_groups_that_were_hashed_apart() {
    let basis = noise(6, 3 * GROUP + 100);
    let mut new = basis.clone();
    new.extend(noise(7, 2 * GROUP));
    new[GROUP + 5] ^= 1;
    let (list, _) = groups(&basis);
    let mut matcher = Matcher::new(&list);
    let mut added = Vec::new();
    for (index, group) in new.chunks(GROUP).enumerate() {
        let digests = group_digests((index * GROUP) as u64, group, GROUP as u64);
        assert_eq!(digests.len(), group.len() / GROUP);
        if digests
            .first()
            .is_some_and(|digest| matcher.add_known(digest))
        {
            added.push((index, matcher.is_same()));
            continue;
        }
        let end = (matcher.stretch_end() as usize - index * GROUP).min(group.len());
        let (head, tail) = group.split_at(end);
        matcher.update(head);
        assert_eq!(matcher.is_same(), matches!(index, 0 | 3), "{index}");
        matcher.update(tail);
    }
    // Not the first, nor the one in which the basis ends.
    assert_eq!(added, [(1, false), (2, true), (4, false)]);
    assert!(matcher.finish() == groups(&new));
    assert!(group_digests(1, &new, GROUP as u64).is_empty());
}

#[test]
fn a_matcher_sees_what_is_at_its_place_and_where_the_basis_ends() {
    let basis = noise(6, 3 * GROUP + 100);
    let tail = noise(7, 2 * GROUP);
    let whole = [(0, GROUP), (GROUP, 2 * GROUP), (2 * GROUP, 3 * GROUP)];
    let longer = [&basis[..], &tail].concat();
    for piece in [1000, GROUP, 1 << 20] {
        let mut same = whole.to_vec();
        same.push((3 * GROUP, basis.len()));
        assert_eq!(same_ranges(&basis, &basis, piece), same);
        assert_eq!(same_ranges(&basis, &longer, piece), same, "appended");
        assert_eq!(same_ranges(&basis, &basis[..basis.len() - 1], piece), whole);
        assert_eq!(same_ranges(&basis, &basis[..2 * GROUP], piece), whole[..2]);
        let mut changed = basis.clone();
        changed[GROUP + 7] ^= 1;
        assert_eq!(same_ranges(&basis, &changed, piece)[1], whole[2]);
        assert_eq!(same_ranges(&basis, &tail, piece), []);
        assert_eq!(same_ranges(&[], &tail, piece), []);
    }
}

#[test]
fn an_appended_tail_and_a_truncation_are_seen() {
    let basis = noise(9, 3 * GROUP);
    let (list, _) = groups(&basis);
    let longer = [basis.clone(), noise(10, 10)].concat();
    for (new, same) in [(&longer[..], 3 * GROUP), (&basis[..2 * GROUP], 2 * GROUP)] {
        let mut hasher = GroupHasher::against(&list);
        hasher.update(new);
        let diff = hasher.finish().0.compare(&list);
        assert_eq!(diff.same_bytes(), same as u64);
        assert!(!diff.is_same());
        assert_eq!(BlockQuery::plan(&diff), None);
    }
}

#[test]
fn a_list_of_the_wrong_length_is_refused() {
    for (count, len) in [(0, 1), (1, 0), (2, GROUP_BYTES), (1, GROUP_BYTES + 1)] {
        assert!(GroupList::from_payload(&vec![0; count * 32], len).is_err());
    }
    assert!(GroupList::from_payload(&[0; 33], 1).is_err());
    assert!(GroupList::from_payload(&[0; 32], u64::MAX).is_err());
}

#[test]
fn sums_of_windows_are_the_sums_of_the_file_without_a_header() {
    let basis = noise(2, 40 * BLOCK + 77);
    let options = fast_rsync::SignatureOptions {
        block_size: BLOCK_BYTES_MIN,
        crypto_hash_size: 8,
    };
    let reference = fast_rsync::Signature::calculate(&basis, options);
    let query = BlockQuery {
        block: BlockSize::MIN,
        ranges: vec![(0, basis.len() as u64)],
    };
    let sums = sign(&basis, &query);
    assert_eq!(sums, reference.serialized()[12..][..40 * SUM_BYTES]);
}

#[test]
fn block_sizes_grow_with_the_root_and_stay_within_their_limits() {
    assert_eq!(block_bytes_for(0), BlockSize::MIN);
    assert_eq!(block_bytes_for(4 << 20), BlockSize::MIN);
    let block = block_bytes_for(2 << 30).bytes();
    assert!((46_000..48_000).contains(&block), "{block}");
    for shift in 0..63 {
        let query = BlockQuery::whole(1 << shift);
        assert_eq!(query.is_some(), (11..=40).contains(&shift), "{shift}");
    }
    assert_eq!(block_bytes_for(u64::MAX).bytes(), BLOCK_BYTES_MAX);
    for bytes in [0, 1, BLOCK_BYTES_MIN - 1, BLOCK_BYTES_MAX + 1, u32::MAX] {
        assert_eq!(BlockSize::new(bytes), None);
    }
}

#[test]
fn one_byte_in_front_costs_one_block_whatever_the_windows() {
    let basis = noise(4, 4 << 20);
    let new = [&b"x"[..], &basis].concat();
    let (query, sums) = whole(&basis);
    let signature = BlockSignature::from_peer(&sums, query.block, basis.len() as u64).unwrap();
    for window in [2 * BLOCK, 10_000, 1 << 20, 8 << 20] {
        let (ops, literals) = search(&signature.index(), &new, window);
        assert_eq!(literals, b"x", "window {window}");
        assert!(window < new.len() || ops.len() == 2);
    }
}

#[test]
fn equal_blocks_become_one_copy_at_the_same_offset() {
    let basis = vec![0; 64 * BLOCK];
    let (query, sums) = whole(&basis);
    let signature = BlockSignature::from_peer(&sums, query.block, basis.len() as u64).unwrap();
    let found = signature.index().diff_window(&basis, 0, true).unwrap();
    let all = PatchOp::Copy {
        from: 0,
        len: basis.len() as u64,
    };
    assert_eq!(found.ops, [all]);
}

#[test]
fn changed_groups_are_asked_for_in_the_finest_blocks_and_limited_ranges() {
    let basis = noise(6, 3000 * GROUP);
    let mut new = basis.clone();
    for group in (0..3000)
        .step_by(2)
        .filter(|group| group % 3 != 0 || *group < 2400)
    {
        new[group * GROUP + 9] ^= 1;
    }
    let (list, _) = groups(&basis);
    let diff = groups(&new).0.compare(&list);
    let query = BlockQuery::plan(&diff).unwrap();
    assert_eq!(query.block, BlockSize::MIN);
    assert_eq!(query.ranges.len(), crate::limits::SIGNATURE_RANGES_MAX);
    for changed in diff.changed_in_basis() {
        let covered =
            |&(start, len): &(u64, u64)| start <= changed.0 && changed.0 + changed.1 <= start + len;
        assert!(query.ranges.iter().any(covered));
    }
    let sums = sign(&basis, &query);
    assert!(BlockSignature::from_ranges(&sums, query.block, &query.ranges, list.len()).is_ok());
}

#[test]
fn bad_ranges_are_refused() {
    let block = BlockSize::MIN;
    let size = u64::from(block.bytes());
    for ranges in [
        &[(1, size)][..],
        &[(0, size + 1), (size, size)],
        &[(size, size), (0, size)],
        &[(0, 11 * size)],
        &[(size, u64::MAX)],
        &[(0, 0); crate::limits::SIGNATURE_RANGES_MAX + 1],
    ] {
        let found = BlockSignature::from_ranges(&[], block, ranges, 10 * size);
        assert_eq!(
            found.err(),
            Some(DeltaError::BadRanges),
            "{:?}",
            &ranges[..1]
        );
    }
    let blocks = crate::limits::BLOCKS_MAX + 1;
    let found = BlockSignature::from_peer(&[], block, blocks * size);
    assert_eq!(found.err(), Some(DeltaError::TooManyBlocks(blocks)));
}

#[test]
fn the_meter_gives_up_after_a_few_poor_windows_in_a_row() {
    let window = |literal: usize| WindowDelta {
        ops: Vec::new(),
        literals: std::iter::once(0..literal).collect(),
        consumed: 100,
    };
    let mut meter = LiteralMeter::default();
    for literal in [51, 51, 50, 51, 51] {
        meter.note(&window(literal));
        assert!(!meter.gives_up());
    }
    meter.note(&window(51));
    assert!(meter.gives_up());
    meter.note(&window(0));
    assert!(meter.gives_up());
}

#[test]
fn apply_refuses_what_does_not_add_up() {
    let basis = [1, 2, 3];
    let copy = |from, len| PatchOp::Copy { from, len };
    for (from, len) in [(0, 4), (3, 1), (u64::MAX, 1)] {
        assert_eq!(
            apply(&basis, &[copy(from, len)], &[], 100),
            Err(DeltaError::CopyBeyondBasis { from, len })
        );
    }
    let literal = [PatchOp::Literal { len: 2 }];
    for bytes in [&b"a"[..], b"abc"] {
        assert_eq!(
            apply(&basis, &literal, bytes, 100),
            Err(DeltaError::LiteralsDiffer)
        );
    }
    assert_eq!(
        apply(&basis, &[copy(0, 3), copy(0, 3)], &[], 5),
        Err(DeltaError::OutputLimit(5))
    );
    let overflow = [PatchOp::Hole { len: u64::MAX }, PatchOp::Hole { len: 1 }];
    assert!(apply(&basis, &overflow, &[], usize::MAX).is_err());
}

#[test]
fn a_copy_goes_on_by_groups_where_there_are_no_sums() {
    let basis = noise(1, 9 * GROUP + 100);
    let (list, _) = groups(&basis);
    let new = [&b"inserted"[..], &basis].concat();
    let query = BlockQuery::onward(&list, 5).unwrap();
    assert!(query.is_whole(list.len()), "it reaches to the end");
    let query = BlockQuery {
        block: BlockSize::MIN,
        ranges: vec![(0, 2 * GROUP_BYTES)],
    };
    let sums = sign(&basis, &query);
    let sums = BlockSignature::from_ranges(&sums, query.block, &query.ranges, list.len()).unwrap();
    let index = sums.index().with_groups(&list);
    let (mut at, mut before, mut ops, mut literals) = (0, None, Vec::new(), 0);
    let mut ends = Vec::new();
    while at < new.len() {
        let end = (at + 3 * GROUP).min(new.len());
        let last = end == new.len();
        let window = &new[at..end];
        let mut found = index.diff_onward(window, at as u64, last, before).unwrap();
        if !last {
            found.give_back_literal();
        }
        before = found.goes_on_at(before);
        at += found.consumed;
        literals += found.literal_bytes();
        ops.extend(found.ops);
        ends.push(before.unwrap());
    }
    // A group of which there is a part waits for the rest.
    let whole = |groups: u64| groups * GROUP_BYTES;
    assert_eq!(ends, [whole(2), whole(5), whole(8), list.len()]);
    assert_eq!(apply(&basis, &ops, b"inserted", new.len()).unwrap(), new);
    assert_eq!(literals, 8);
    // Without them nothing is found beyond the sums.
    let alone = sums.index().diff_window(&new, 0, true).unwrap();
    assert!(alone.literal_bytes() as usize > 7 * GROUP);
    // Of a list that is wrong nothing is taken over.
    let wrong = GroupList::from_payload(&[7; 10 * GROUP_DIGEST_BYTES], list.len()).unwrap();
    assert_eq!(wrong.followed_by(whole(1), &basis[GROUP..]), 0);
    assert_eq!(
        list.followed_by(whole(1), &basis[GROUP..]),
        list.len() - whole(1)
    );
    assert_eq!(list.followed_by(whole(1) + 1, &basis[GROUP + 1..]), 0);
    assert_eq!(list.followed_by(list.len(), b"more"), 0);
}
