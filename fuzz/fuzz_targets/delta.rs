//! A file, and the same file edited: both tiers give instructions that make the new file, in our patcher
//! and in a naive one; arbitrary instructions do in both the same or fail in both.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use syncd_proto::delta::{BlockSignature, BlockSize, GroupHasher, GroupList, apply, sign_range};
use syncd_proto::digest::Digest;
use syncd_proto::message::PatchOp;

const OUT_MAX: usize = 1 << 20;

#[derive(Debug, Arbitrary)]
enum Step {
    Keep(u16),
    Skip(u16),
    Insert(Vec<u8>),
    Zeros(u16),
    Back(u16),
}

#[derive(Debug, Arbitrary)]
enum Instruction {
    Literal(u8),
    Copy(u32, u32),
    Far(u64, u64),
    Hole(u16),
}

#[derive(Debug, Arbitrary)]
struct Input {
    seed: u8,
    blocks: u8,
    tail: u16,
    steps: Vec<Step>,
    window: u16,
    instructions: Vec<Instruction>,
    literals: Vec<u8>,
}

fn basis(input: &Input) -> Vec<u8> {
    let len = usize::from(input.blocks) * 2_048 + usize::from(input.tail);
    let mut state = u32::from(input.seed) | 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // A few distinct values per block, so that equal blocks occur.
        (state >> 24) as u8 & input.seed
    };
    (0..len).map(next).collect()
}

fn edited(basis: &[u8], steps: &[Step]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0usize);
    for step in steps.iter().take(64) {
        match step {
            Step::Keep(len) => {
                let end = (at + usize::from(*len)).min(basis.len());
                out.extend_from_slice(&basis[at..end]);
                at = end;
            }
            Step::Skip(len) => at = (at + usize::from(*len)).min(basis.len()),
            Step::Insert(bytes) => out.extend_from_slice(bytes),
            Step::Zeros(len) => out.resize(out.len() + usize::from(*len), 0),
            Step::Back(len) => at = at.saturating_sub(usize::from(*len)),
        }
    }
    out.truncate(OUT_MAX);
    out
}

/// One byte at a time, with 128-bit arithmetic and no cleverness.
fn naive(basis: &[u8], ops: &[PatchOp], literals: &[u8], limit: usize) -> Option<Vec<u8>> {
    let total: u128 = ops.iter().map(|op| u128::from(op.output_len())).sum();
    if total > limit as u128 {
        return None;
    }
    let (mut out, mut literals) = (Vec::new(), literals.iter());
    for op in ops {
        // Even a copy of nothing must lie within the basis.
        if let PatchOp::Copy { from, len } = op
            && u128::from(*from) + u128::from(*len) > basis.len() as u128
        {
            return None;
        }
        for at in 0..op.output_len() {
            out.push(match op {
                PatchOp::Literal { .. } => *literals.next()?,
                PatchOp::Copy { from, .. } => {
                    let at = u128::from(*from) + u128::from(at);
                    *basis.get(usize::try_from(at).ok()?)?
                }
                PatchOp::Hole { .. } => 0,
            });
        }
    }
    literals.next().is_none().then_some(out)
}

fn groups(mut hasher: GroupHasher, bytes: &[u8]) -> GroupList {
    bytes.chunks(7_001).for_each(|piece| hasher.update(piece));
    let (list, digest) = hasher.finish();
    assert_eq!(digest, Digest::of(bytes));
    list
}

fn delta(basis: &[u8], new: &[u8], window: usize) {
    let list = groups(GroupHasher::for_len(basis.len() as u64), basis);
    let diff = groups(GroupHasher::against(&list), new).compare(&list);
    for segment in diff.segments().iter().filter(|segment| segment.same) {
        let range = segment.start as usize..(segment.start + segment.len) as usize;
        assert_eq!(new[range.clone()], basis[range]);
    }
    let mut sums = Vec::new();
    sign_range(basis, BlockSize::MIN, &mut sums);
    let signature = BlockSignature::from_peer(&sums, BlockSize::MIN, basis.len() as u64)
        .expect("our own signature");
    let index = signature.index();
    let (mut ops, mut literals, mut at) = (Vec::new(), Vec::new(), 0);
    while at < new.len() {
        let end = (at + 4_096 + window).min(new.len());
        let found = index
            .diff_window(&new[at..end], at as u64, end == new.len())
            .expect("a small window");
        for range in found.literals {
            literals.extend_from_slice(&new[at..end][range]);
        }
        ops.extend(found.ops);
        at += found.consumed;
    }
    let out = apply(basis, &ops, &literals, new.len()).expect("our own instructions");
    assert_eq!(out, new);
    assert_eq!(naive(basis, &ops, &literals, new.len()), Some(out));
}

fuzz_target!(|input: Input| {
    let basis = basis(&input);
    let new = edited(&basis, &input.steps);
    delta(&basis, &new, usize::from(input.window));
    let ops: Vec<PatchOp> = input
        .instructions
        .iter()
        .map(|instruction| match *instruction {
            Instruction::Literal(len) => PatchOp::Literal { len: len.into() },
            Instruction::Copy(from, len) => PatchOp::Copy {
                from: from.into(),
                len: len.into(),
            },
            Instruction::Far(from, len) => PatchOp::Copy { from, len },
            Instruction::Hole(len) => PatchOp::Hole { len: len.into() },
        })
        .collect();
    let ours = apply(&basis, &ops, &input.literals, OUT_MAX).ok();
    assert_eq!(ours, naive(&basis, &ops, &input.literals, OUT_MAX));
});
