//! What digests of directories cost per entry. `cargo bench -p syncd-proto`.

use std::convert::Infallible;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use syncd_proto::merkle::DirHasher;
use syncd_proto::meta::{Compare, EntryMeta, Kind, Mtime};
use syncd_proto::path::{Name, WirePath};
use syncd_proto::tree::{DigestTree, TreeReader};

fn meta(kind: Kind) -> EntryMeta {
    EntryMeta {
        kind,
        mode: 0o644,
        uid: 33,
        gid: 33,
        mtime: Mtime::new(1_700_000_000, 123_456_789).expect("in range"),
        size: 4_096,
        rdev: (0, 0),
        content: None,
        xattrs: None,
    }
}

fn entries(kind: Kind, count: usize) -> Vec<(Name, EntryMeta)> {
    let name = |index| Name::new(format!("photo-{index:06}.jpg").as_bytes()).expect("a name");
    (0..count).map(|index| (name(index), meta(kind))).collect()
}

/// So many directories with so many files each, without a disk.
struct Shelf {
    dirs: Vec<(Name, EntryMeta)>,
    files: Vec<(Name, EntryMeta)>,
}

impl TreeReader for Shelf {
    type Dir = bool;
    type Error = Infallible;

    fn entries(
        &mut self,
        is_root: &bool,
        _: &WirePath,
    ) -> Result<Option<Vec<(Name, EntryMeta)>>, Infallible> {
        let entries = if *is_root { &self.dirs } else { &self.files };
        Ok(Some(entries.clone()))
    }

    fn open(&mut self, _: &bool, _: &Name, _: &WirePath) -> Result<Option<bool>, Infallible> {
        Ok(Some(false))
    }
}

fn directory(c: &mut Criterion) {
    let mut group = c.benchmark_group("directory");
    for count in [100, 10_000] {
        let files = entries(Kind::File, count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let mut hasher = DirHasher::new(Compare::ALL, &meta(Kind::Dir));
                for (name, meta) in black_box(&files) {
                    hasher.file(name, meta).expect("in order");
                }
                hasher.finish()
            });
        });
    }
    group.finish();
}

fn tree(c: &mut Criterion) {
    let mut group = c.benchmark_group("tree");
    group.sample_size(10);
    for (dirs, files) in [(1_000, 100), (10_000, 10)] {
        let mut shelf = Shelf {
            dirs: entries(Kind::Dir, dirs),
            files: entries(Kind::File, files),
        };
        let name = format!("{dirs} directories of {files}");
        group.throughput(Throughput::Elements((dirs * files) as u64));
        group.bench_function(&name, |b| {
            b.iter(|| {
                let root = WirePath::root();
                DigestTree::build(&mut shelf, true, &root, &meta(Kind::Dir), Compare::ALL)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, directory, tree);
criterion_main!(benches);
