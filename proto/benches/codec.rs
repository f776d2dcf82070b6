//! Frames per second, and what both tiers of a delta cost. `cargo bench -p syncd-proto`.
//!
//! Before the timings it prints what an insertion in front of a file costs on the wire, since that
//! depends on window and block size and not on the machine.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use syncd_proto::delta::{
    BlockIndex, BlockQuery, BlockSignature, Chunker, GroupHasher, GroupList, block_bytes_for,
    sign_range,
};
use syncd_proto::digest::Digest;
use syncd_proto::frame::{Deframer, Frame, FrameLimits};
use syncd_proto::message::AgentMessage;
use syncd_proto::meta::{Meta, Mtime};
use syncd_proto::op::{Content, Op};
use syncd_proto::path::WirePath;

const MIB: usize = 1 << 20;
const WINDOW: usize = 16 * MIB;

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn groups(bytes: &[u8]) -> GroupList {
    let mut hasher = GroupHasher::for_len(bytes.len() as u64);
    bytes.chunks(MIB).for_each(|piece| hasher.update(piece));
    hasher.finish().0
}

fn sign(basis: &[u8], query: &BlockQuery) -> Vec<u8> {
    let mut sums = Vec::new();
    for &(start, len) in &query.ranges {
        let range = &basis[start as usize..(start + len) as usize];
        sign_range(range, query.block, &mut sums);
    }
    sums
}

/// Wire bytes of bodies and payloads of the chunks that make `new`.
fn search(index: &BlockIndex<'_>, new: &[u8], offset: u64, window: usize) -> usize {
    let (mut chunker, mut chunks, mut at) = (Chunker::new(1), Vec::new(), 0);
    while at < new.len() {
        let end = (at + window).min(new.len());
        let found = index
            .diff_window(&new[at..end], offset + at as u64, end == new.len())
            .expect("a window within its limit");
        chunker.window(&new[at..end], &found, &mut chunks);
        at += found.consumed;
    }
    chunks.extend(chunker.flush());
    let size = |message: AgentMessage| {
        let mut body = Vec::new();
        message
            .encode_body(&mut body)
            .expect("a chunk within its limits");
        body.len()
    };
    chunks
        .into_iter()
        .map(|chunk| chunk.payload.len() + size(chunk.message.into()))
        .sum()
}

fn commit(ops: usize) -> AgentMessage {
    let path = WirePath::from_relative("var/www/site/assets/img/2026/11/photo-000123.jpg".as_ref());
    let op = Op::Put {
        path: path.expect("a relative path"),
        meta: Meta {
            mode: 0o644,
            uid: 33,
            gid: 33,
            mtime: Mtime::new(1_700_000_000, 123_456_789).expect("in range"),
            xattrs: None,
        },
        content: Content::Inline {
            len: 0,
            digest: Digest::empty(),
        },
    };
    syncd_proto::message::Commit {
        module: b"www".to_vec(),
        session: [1; 32],
        seq: 1,
        ops: vec![op; ops],
    }
    .into()
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frames");
    for ops in [1, 1_000] {
        let message = commit(ops);
        let mut body = Vec::new();
        message.encode_body(&mut body).expect("below the limit");
        let kind = message.kind();
        let frame = Frame {
            seq: 0,
            kind,
            body,
            payload: Vec::new(),
            packed: false,
        };
        let mut wire = Vec::new();
        frame.write_to(&mut wire);
        group.throughput(Throughput::Elements(ops as u64));
        group.bench_function(BenchmarkId::new("encode", ops), |b| {
            let mut out = Vec::new();
            b.iter(|| {
                out.clear();
                black_box(&message).encode_body(&mut out)
            });
        });
        group.bench_function(BenchmarkId::new("deframe and decode", ops), |b| {
            b.iter(|| {
                let mut deframer = Deframer::new(FrameLimits::SESSION, 0);
                deframer.feed(black_box(&wire));
                let frame = deframer.next_frame().expect("whole").expect("a frame");
                AgentMessage::from_frame(&frame)
            });
        });
    }
    group.finish();
}

fn first_tier(c: &mut Criterion) {
    let bytes = noise(64 * MIB);
    let mut group = c.benchmark_group("64 MiB");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("groups and digest", |b| {
        b.iter(|| groups(black_box(&bytes)))
    });
    group.bench_function("digest alone", |b| b.iter(|| Digest::of(black_box(&bytes))));
    let query = BlockQuery::whole(bytes.len() as u64).expect("few enough blocks");
    group.bench_function("sign blocks", |b| {
        b.iter(|| sign(black_box(&bytes), &query))
    });
    group.finish();
}

fn second_tier(c: &mut Criterion) {
    let basis = noise(64 * MIB);
    let query = BlockQuery::whole(basis.len() as u64).expect("few enough blocks");
    let sums = sign(&basis, &query);
    let signature = BlockSignature::from_peer(&sums, query.block, basis.len() as u64)
        .expect("our own signature");
    let index = signature.index();
    let shifted = [&b"x"[..], &basis].concat();
    let mut other = noise(8 * MIB + 1);
    other.reverse();
    let mut group = c.benchmark_group("search");
    group.sample_size(10);
    for (name, new) in [
        ("shifted by a byte", &shifted),
        ("nothing in common", &other),
    ] {
        group.throughput(Throughput::Bytes(new.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| search(&index, black_box(new), 0, WINDOW))
        });
    }
    group.bench_function("index", |b| b.iter(|| signature.index()));
    group.finish();
}

fn wire_sizes(_: &mut Criterion) {
    let basis = noise(256 * MIB);
    let shifted = [&b"x"[..], &basis].concat();
    let query = BlockQuery::whole(basis.len() as u64).expect("few enough blocks");
    let sums = sign(&basis, &query);
    let signature = BlockSignature::from_peer(&sums, query.block, basis.len() as u64)
        .expect("our own signature");
    let index = signature.index();
    for window in [4 * MIB, 8 * MIB, WINDOW] {
        let chunks = search(&index, &shifted, 0, window);
        // What it would be if each window stood alone.
        let alone: usize = shifted
            .chunks(window)
            .enumerate()
            .map(|(at, piece)| search(&index, piece, (at * window) as u64, window))
            .sum();
        println!(
            "1 byte in front of 256 MiB, windows of {} MiB: first tier {} bytes, sums {} bytes, chunks {chunks} bytes (without carry {alone})",
            window / MIB,
            groups(&basis).to_payload().len(),
            sums.len(),
        );
    }
    let len = 2u64 << 30;
    let block = block_bytes_for(len).bytes();
    println!(
        "2 GiB: blocks of {block} bytes, sums {} bytes",
        len / u64::from(block) * syncd_proto::delta::SUM_BYTES as u64
    );
}

criterion_group!(benches, wire_sizes, frames, first_tier, second_tier);
criterion_main!(benches);
