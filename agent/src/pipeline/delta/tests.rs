//! Large files against a receiver that signs what it is asked for, and carries out what it is sent.

use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use syncd_proto::delta::{BlockSize, GroupHasher, apply, sign_range};
use syncd_proto::digest::Digest;
use syncd_proto::frame::{Frame, FrameLimits};
use syncd_proto::message::{Credit, PatchOp, ReceiverMessage, Signature, StageBegin};
use syncd_proto::meta::Mtime;
use syncd_proto::op::TransferId;

use super::*;
use crate::fs::read::Stability;
use crate::fs::root::SourceRoot;
use crate::net::framing::{FrameReader, FrameWriter};
use crate::net::link::Urgency;
use crate::pipeline::reconcile::tests::{frame, link_with};

const MIB: usize = 1 << 20;

/// Bytes that look random and are the same every time.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

/// A transfer of its own.
pub(super) fn channel(link: &Link) -> Channel<'_> {
    Channel {
        link,
        transfer: link.issue_id(),
        stability: Stability::Required,
        urgency: Urgency::Patient,
    }
}

/// Begins a file of unknown length, without a key.
pub(super) fn begin(transfer: TransferId) -> StageBegin {
    StageBegin {
        transfer,
        len_hint: 0,
        basis: None,
        key: None,
        resume_at: 0,
    }
}

/// What the receiver has.
pub(super) fn known(basis: &[u8]) -> KnownBasis {
    let mut hasher = GroupHasher::for_len(basis.len() as u64);
    hasher.update(basis);
    KnownBasis {
        version: [7; 16],
        groups: hasher.finish().0,
    }
}

/// What a delta took.
#[derive(Debug, Default)]
struct Cost {
    literals: usize,
    /// Bytes of the basis that sums were asked for, question by question.
    signed: Vec<u64>,
}

/// Sends `new`, in which `holes` (offset, length) take no room, to a receiver that has `basis`.
fn sent(basis: &[u8], new: &[u8], holes: &[(usize, usize)]) -> Cost {
    let dir = tempfile::tempdir().unwrap();
    let on_disk = File::create(dir.path().join("f")).unwrap();
    let mut at = 0;
    for &(start, len) in holes.iter().chain([&(new.len(), 0)]) {
        on_disk.write_all_at(&new[at..start], at as u64).unwrap();
        at = start + len;
    }
    on_disk.set_len(new.len() as u64).unwrap();

    let link = link_with(0);
    let credit = ReceiverMessage::Credit(Credit { bytes: 1 << 40 });
    link.handle(frame(1, &credit)).unwrap();
    let known = known(basis);
    let sending = {
        let link = link.clone();
        let root = dir.path().to_owned();
        move || {
            let path = WirePath::from_relative("f".as_ref()).unwrap();
            let root = SourceRoot::open(&root).unwrap();
            let file = LargeFile::open(&root, &path, Arc::default()).unwrap();
            let channel = channel(&link);
            let mut upload = Upload::new(&channel, begin(channel.transfer), true);
            let read = send(&channel, &path, &known, file, &mut upload).unwrap();
            upload.finish().unwrap();
            link.close();
            read.digest
        }
    };
    let (near, far) = tokio::io::duplex(1 << 20);
    let mut reader = FrameReader::new(far, FrameLimits::SESSION);
    let mut cost = Cost::default();
    let mut built = Vec::new();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let digest = runtime.unwrap().block_on(async {
        let thread = std::thread::spawn(sending);
        let answering = async {
            let mut seq = 1;
            while let Ok(Some(asked)) = reader.next().await {
                match AgentMessage::from_frame(&asked).unwrap() {
                    AgentMessage::SignatureQuery(query) => {
                        seq += 1;
                        link.handle(signed(basis, &query, seq, &mut cost)).unwrap();
                    }
                    AgentMessage::StageChunk(chunk) => {
                        let output = chunk.ops.iter().map(PatchOp::output_len).sum::<u64>();
                        let made = apply(basis, &chunk.ops, &asked.payload, output as usize);
                        built.extend_from_slice(&made.unwrap());
                        cost.literals += asked.payload.len();
                    }
                    _ => {}
                }
            }
        };
        let (written, ()) = tokio::join!(link.write_all(FrameWriter::new(near)), answering);
        written.unwrap();
        thread.join().unwrap()
    });
    assert!(built == new, "another file was built");
    assert_eq!(digest, Digest::of(new));
    cost
}

/// The sums that were asked for.
fn signed(basis: &[u8], query: &SignatureQuery, seq: u64, cost: &mut Cost) -> Frame {
    let SignatureWant::Blocks {
        version,
        block_bytes,
        ranges,
    } = &query.want
    else {
        panic!("{query:?}")
    };
    let mut payload = Vec::new();
    for &(start, len) in ranges {
        let range = &basis[start as usize..(start + len) as usize];
        sign_range(range, BlockSize::new(*block_bytes).unwrap(), &mut payload);
    }
    cost.signed.push(ranges.iter().map(|(_, len)| len).sum());
    let signature = Signature {
        id: query.id,
        info: Some(SignatureInfo {
            version: *version,
            len: basis.len() as u64,
            mtime: Mtime::default(),
            content: None,
        }),
        last: true,
    };
    Frame {
        payload,
        ..frame(seq, &ReceiverMessage::Signature(signature))
    }
}

const BASIS: usize = 24 * MIB;

#[test]
fn what_moved_a_little_is_found_nearby_and_goes_on_by_groups() {
    let basis = noise(1, BASIS);
    let inserted = |new: &[u8]| [new, &basis].concat();
    let twice = [&b"x"[..], &basis[..15 * MIB], b"yy", &basis[15 * MIB..]].concat();
    let cut = [&basis[..2 * MIB], &basis[3 * MIB + 1..20 * MIB + 7]].concat();
    let longer = [b"x", &basis[..], &noise(2, 6 * MIB)].concat();
    // Literals beyond what is new, and how often sums were asked for.
    let cases = [
        ("one byte", inserted(b"x"), 1, 1),
        ("3 MiB", inserted(&noise(3, 3 * MIB)), 3 * MIB, 1),
        ("two places", twice, 3, 2),
        ("cut out", cut, 0, 1),
        ("and appended", longer, 6 * MIB + 1, 1),
    ];
    for (what, new, news, asked) in cases {
        let cost = sent(&basis, &new, &[]);
        assert!(cost.literals < news + 128 * 1024, "{what}: {cost:?}");
        assert_eq!(cost.signed.len(), asked, "{what}: {cost:?}");
        assert!(
            cost.signed.iter().all(|len| *len < 8 * MIB as u64),
            "{what}: {cost:?}"
        );
    }
}

#[test]
fn what_moved_far_is_found_in_the_whole_basis() {
    let basis = noise(1, BASIS);
    let far = [&noise(3, 9 * MIB), &basis[..]].concat();
    let swapped = [&basis[BASIS / 2..], &basis[..BASIS / 2]].concat();
    for (what, new, news) in [("9 MiB", far, 9 * MIB), ("halves", swapped, 0)] {
        let cost = sent(&basis, &new, &[]);
        assert!(cost.literals < news + 128 * 1024, "{what}: {cost:?}");
        assert_eq!(
            cost.signed.last(),
            Some(&(BASIS as u64)),
            "{what}: {cost:?}"
        );
    }
    let cost = sent(&basis, &noise(4, BASIS), &[]);
    assert_eq!((cost.literals, cost.signed.len()), (BASIS, 2), "{cost:?}");
}

#[derive(Debug, Clone)]
enum Edit {
    Insert(usize, usize),
    Cut(usize, usize),
    Change(usize, usize),
    Move(usize, usize, usize),
    Zero(usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = 0..12 * MIB;
    let len = prop_oneof![1..300usize, 1..200_000usize, 1..7 * MIB];
    prop_oneof![
        3 => (at.clone(), len.clone()).prop_map(|(at, len)| Edit::Insert(at, len)),
        3 => (at.clone(), len.clone()).prop_map(|(at, len)| Edit::Cut(at, len)),
        1 => (at.clone(), len.clone()).prop_map(|(at, len)| Edit::Change(at, len)),
        1 => (at.clone(), at.clone(), len.clone()).prop_map(|(a, b, len)| Edit::Move(a, b, len)),
        1 => (at, len).prop_map(|(at, len)| Edit::Zero(at, len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn whatever_was_edited_the_new_file_is_built(edits in prop::collection::vec(edit(), 1..5)) {
        let basis = noise(1, 12 * MIB);
        let mut new = basis.clone();
        let mut holes = Vec::new();
        for (seed, edit) in edits.into_iter().enumerate() {
            holes.clear();
            let len = new.len();
            let span = |at: usize, size: usize| at.min(len)..at.saturating_add(size).min(len);
            match edit {
                Edit::Insert(at, size) => {
                    let at = at.min(len);
                    new.splice(at..at, noise(seed as u64 + 9, size));
                }
                Edit::Cut(at, size) => drop(new.drain(span(at, size))),
                Edit::Change(at, size) => {
                    let span = span(at, size);
                    let fresh = noise(seed as u64 + 99, span.len());
                    new[span].copy_from_slice(&fresh);
                }
                Edit::Move(from, to, size) => {
                    let moved: Vec<u8> = new.drain(span(from, size)).collect();
                    let to = to.min(new.len());
                    new.splice(to..to, moved);
                }
                Edit::Zero(at, size) => {
                    let span = span(at, size);
                    new[span.clone()].fill(0);
                    holes.push((span.start, span.len()));
                }
            }
        }
        new.push(1);
        sent(&basis, &new, &holes);
    }
}
