//! What marking and planning cost per path. `cargo bench -p syncd-agent`.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use syncd_agent::logic::coalesce::{DirtySet, Settle, Taken};
use syncd_agent::logic::plan::{Batch, Found, Planner};
use syncd_proto::digest::Digest;
use syncd_proto::meta::{Meta, Mtime};
use syncd_proto::path::WirePath;

const SETTLE: Settle = Settle {
    settle_ms: 100,
    hold_max_ms: 1_000,
    marks_max: 1_000_000,
    delete: true,
};
/// As many as the planner takes at once.
const TAKE: usize = 512;
const SMALL: usize = 4_096;

fn path(index: usize) -> WirePath {
    let text = format!("var/www/site/{:04}/photo-{index:06}.jpg", index / 100);
    WirePath::from_relative(text.as_ref()).expect("a relative path")
}

fn paths(count: usize) -> Vec<WirePath> {
    (0..count).map(path).collect()
}

/// What `close` after writing tells of each path.
fn written(paths: &[WirePath]) -> DirtySet {
    let mut set = DirtySet::new(SETTLE);
    for path in paths {
        set.created(path.clone(), 0);
        set.modified(path.clone(), 0);
        set.closed(path.clone(), 0);
    }
    set
}

/// Takes everything and acknowledges it.
fn drain(set: &mut DirtySet) -> usize {
    let mut done = 0;
    loop {
        let taken = set.take(1_000, TAKE);
        if taken.is_empty() {
            return done;
        }
        done += taken.len();
        for taken in &taken {
            let Taken { path, mark } = taken;
            set.begun(taken);
            set.logged(path);
            set.arrived(path);
            set.settle_seq(mark.seq);
        }
    }
}

fn coalesce(c: &mut Criterion) {
    let mut group = c.benchmark_group("coalesce");
    for count in [1_000, 100_000] {
        let paths = paths(count);
        group.throughput(Throughput::Elements(count as u64));
        group.sample_size(10);
        group.bench_function(BenchmarkId::new("files written", count), |b| {
            b.iter(|| written(black_box(&paths)));
        });
        group.bench_function(BenchmarkId::new("taken and acknowledged", count), |b| {
            let set = || written(&paths);
            b.iter_batched_ref(set, drain, BatchSize::LargeInput);
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("one file again and again among 100000", |b| {
        let mut set = written(&paths(100_000));
        let log = path(50_000);
        b.iter(|| set.modified(black_box(&log).clone(), 1));
    });
    group.bench_function("a directory of 10000 renamed", |b| {
        let paths = paths(10_000);
        let whole = |text: &str| WirePath::from_relative(text.as_ref()).expect("a relative path");
        let (from, to) = (whole("var/www/site"), whole("var/www/old"));
        b.iter_batched_ref(
            || written(&paths),
            |set| set.renamed(from.clone(), to.clone(), true, 1),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn found(content: &[u8]) -> Found {
    Found::Small {
        meta: meta(),
        bytes: content.to_vec(),
        digest: Digest::empty(),
        linked: None,
        place: None,
    }
}

fn meta() -> Meta {
    Meta {
        mode: 0o644,
        uid: 33,
        gid: 33,
        mtime: Mtime::new(1_700_000_000, 123_456_789).expect("in range"),
        xattrs: None,
    }
}

fn batch(looked: Vec<(Taken, Found)>) -> Batch {
    let mut planner = Planner::new();
    for (taken, found) in looked {
        planner.found(taken, found);
    }
    let dirs = planner.touched();
    planner.finish(dirs.into_iter().map(|dir| (dir, meta())).collect())
}

fn plan(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    let taken = written(&paths(TAKE)).take(1_000, TAKE);
    let small = vec![7; SMALL];
    let pair = |what: Found| {
        let taken = taken.iter().cloned();
        taken.map(|taken| (taken, what.clone())).collect::<Vec<_>>()
    };
    for (name, what) in [
        ("files of 4 KiB", found(&small)),
        ("removals", Found::Absent),
    ] {
        group.throughput(Throughput::Elements(TAKE as u64));
        group.bench_function(name, |b| {
            b.iter_batched(|| pair(what.clone()), batch, BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group!(benches, coalesce, plan);
criterion_main!(benches);
