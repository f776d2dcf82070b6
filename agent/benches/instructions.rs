//! Instructions per operation of the pure pieces, which do not change with load, clock or neighbours.
//! `cargo bench -p syncd-agent --bench instructions [NAME]`.
//!
//! Runs itself under `valgrind --tool=callgrind` once for every piece; only what happens in [`measured`] is counted, not
//! what prepares it. Numbers compare between builds on one machine: valgrind shows programs a processor of its own, and
//! BLAKE3 chooses its code by the processor. Without valgrind it says so and succeeds; without `--bench`, as under
//! `cargo test`, every piece runs once and nothing is counted.

use std::convert::Infallible;
use std::env;
use std::hint::black_box;
use std::process::{Command, ExitCode};

use syncd_agent::logic::coalesce::{DirtySet, Settle, Taken};
use syncd_agent::logic::plan::{Found, Planner};
use syncd_proto::delta::{BlockQuery, BlockSignature, GroupHasher, sign_range};
use syncd_proto::digest::Digest;
use syncd_proto::frame::{Deframer, Frame, FrameLimits};
use syncd_proto::merkle::DirHasher;
use syncd_proto::message::{AgentMessage, Commit};
use syncd_proto::meta::{Compare, EntryMeta, Kind, Meta, Mtime};
use syncd_proto::op::{Content, Op};
use syncd_proto::path::{Name, WirePath};
use syncd_proto::tree::{DigestTree, TreeReader};

const ONE: &str = "--one";
const MIB: usize = 1 << 20;
const PATHS: usize = 10_000;
const OPS: usize = 1_000;
const TAKE: usize = 512;

/// A piece: its name, what one operation is, how many there are, and what does them.
type Piece = (&'static str, &'static str, usize, fn());

const PIECES: [Piece; 11] = [
    ("encode", "operation of a commit", OPS, encode),
    ("decode", "operation of a commit", OPS, decode),
    ("mark", "file created, written, closed", PATHS, mark),
    ("take", "file taken and acknowledged", PATHS, take),
    ("rename", "file below a renamed directory", PATHS, rename),
    ("plan", "file of 4 KiB planned", TAKE, plan),
    ("groups", "byte hashed in groups and whole", 4 * MIB, groups),
    ("sign", "byte of a basis signed", 4 * MIB, sign),
    ("search", "byte searched, shifted by one", 4 * MIB, search),
    (
        "directory",
        "entry of a directory digested",
        PATHS,
        directory,
    ),
    ("tree", "file of a tree digested", 1_000 * 10, tree),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let named = |name: &str| PIECES.iter().find(|(known, ..)| *known == name);
    if let [option, name, ..] = &arguments[..]
        && option == ONE
    {
        named(name).expect("a known piece").3();
        return ExitCode::SUCCESS;
    }
    let wanted = |name: &str| {
        let mut filters = arguments.iter().filter(|word| !word.starts_with('-'));
        filters.clone().next().is_none() || filters.any(|filter| name.contains(filter.as_str()))
    };
    let pieces = PIECES.iter().filter(|(name, ..)| wanted(name));
    if !arguments.iter().any(|word| word == "--bench") {
        pieces.for_each(|(.., run)| run());
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("missing: valgrind is not installed, no instructions are counted");
        return ExitCode::SUCCESS;
    }
    for &(name, unit, count, _) in pieces {
        match instructions(name) {
            Ok(total) => println!("{name:<10} {:>10.1} per {unit}", total / count as f64),
            Err(text) => {
                eprintln!("{name}: {text}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// What callgrind counts in one run of a piece.
fn instructions(name: &str) -> Result<f64, String> {
    let own = env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*instructions::measured*")
        .arg(own)
        .args([ONE, name]);
    let output = command.output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stderr);
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.split_once("Collected : "));
    let total = line.and_then(|(_, total)| total.trim().parse::<f64>().ok());
    match total.filter(|&total| total > 0.0 && output.status.success()) {
        Some(total) => Ok(total),
        None => Err(format!("valgrind counted nothing: {text}")),
    }
}

/// What is counted. Never part of its caller, or there would be nothing to switch the counter.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) {
    black_box(work());
}

fn file_meta() -> Meta {
    Meta {
        mode: 0o644,
        uid: 33,
        gid: 33,
        mtime: Mtime::new(1_700_000_000, 123_456_789).expect("in range"),
        xattrs: None,
    }
}

fn commit() -> AgentMessage {
    let op = Op::Put {
        path: path(123),
        meta: file_meta(),
        content: Content::Inline {
            len: 0,
            digest: Digest::empty(),
        },
    };
    let commit = Commit {
        module: b"www".to_vec(),
        session: [1; 32],
        seq: 1,
        ops: vec![op; OPS],
    };
    commit.into()
}

fn encode() {
    let message = commit();
    let mut out = Vec::with_capacity(MIB);
    measured(|| message.encode_body(&mut out));
}

fn decode() {
    let message = commit();
    let mut body = Vec::new();
    message.encode_body(&mut body).expect("below the limit");
    let frame = Frame {
        seq: 0,
        kind: message.kind(),
        body,
        payload: Vec::new(),
        packed: false,
    };
    let mut wire = Vec::new();
    frame.write_to(&mut wire);
    measured(|| {
        let mut deframer = Deframer::new(FrameLimits::SESSION, 0);
        deframer.feed(&wire);
        let frame = deframer.next_frame().expect("whole").expect("a frame");
        AgentMessage::from_frame(&frame)
    });
}

fn path(index: usize) -> WirePath {
    let text = format!("var/www/site/{:04}/photo-{index:06}.jpg", index / 100);
    WirePath::from_relative(text.as_ref()).expect("a relative path")
}

fn written(paths: &[WirePath]) -> DirtySet {
    let mut set = DirtySet::new(Settle {
        settle_ms: 100,
        hold_max_ms: 1_000,
        marks_max: 1_000_000,
        delete: true,
    });
    for path in paths {
        set.created(path.clone(), 0);
        set.modified(path.clone(), 0);
        set.closed(path.clone(), 0);
    }
    set
}

fn paths() -> Vec<WirePath> {
    (0..PATHS).map(path).collect()
}

fn mark() {
    let paths = paths();
    measured(|| written(&paths));
}

fn take() {
    let mut set = written(&paths());
    measured(|| {
        loop {
            let taken = set.take(1_000, TAKE);
            if taken.is_empty() {
                return;
            }
            for taken in &taken {
                let Taken { path, mark } = taken;
                set.begun(taken);
                set.logged(path);
                set.arrived(path);
                set.settle_seq(mark.seq);
            }
        }
    });
}

fn rename() {
    let mut set = written(&paths());
    let whole = |text: &str| WirePath::from_relative(text.as_ref()).expect("a relative path");
    let (from, to) = (whole("var/www/site"), whole("var/www/old"));
    measured(|| set.renamed(from, to, true, 1));
}

fn plan() {
    let taken = written(&paths()).take(1_000, TAKE);
    let found = |_: &Taken| Found::Small {
        meta: file_meta(),
        bytes: vec![7; 4_096],
        digest: Digest::empty(),
        linked: None,
        place: None,
    };
    let looked: Vec<_> = taken.iter().map(found).collect();
    measured(|| {
        let mut planner = Planner::new();
        for (taken, found) in taken.into_iter().zip(looked) {
            planner.found(taken, found);
        }
        let dirs = planner.touched();
        let dirs = dirs.into_iter().map(|dir| (dir, file_meta()));
        planner.finish(dirs.collect())
    });
}

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn groups() {
    let bytes = noise(4 * MIB);
    measured(|| {
        let mut hasher = GroupHasher::for_len(bytes.len() as u64);
        bytes.chunks(MIB).for_each(|piece| hasher.update(piece));
        hasher.finish()
    });
}

fn sums(basis: &[u8], query: &BlockQuery) -> Vec<u8> {
    let mut sums = Vec::new();
    for &(start, len) in &query.ranges {
        let range = &basis[start as usize..(start + len) as usize];
        sign_range(range, query.block, &mut sums);
    }
    sums
}

fn sign() {
    let basis = noise(4 * MIB);
    let query = BlockQuery::whole(basis.len() as u64).expect("few enough blocks");
    measured(|| sums(&basis, &query));
}

fn search() {
    let basis = noise(4 * MIB);
    let query = BlockQuery::whole(basis.len() as u64).expect("few enough blocks");
    let signature =
        BlockSignature::from_peer(&sums(&basis, &query), query.block, basis.len() as u64)
            .expect("our own signature");
    let index = signature.index();
    let shifted = [&b"x"[..], &basis].concat();
    measured(|| index.diff_window(&shifted, 0, true));
}

fn entry_meta(kind: Kind) -> EntryMeta {
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
    (0..count)
        .map(|index| (name(index), entry_meta(kind)))
        .collect()
}

fn directory() {
    let files = entries(Kind::File, PATHS);
    measured(|| {
        let mut hasher = DirHasher::new(Compare::ALL, &entry_meta(Kind::Dir));
        for (name, meta) in &files {
            hasher.file(name, meta).expect("in order");
        }
        hasher.finish()
    });
}

/// A thousand directories of ten files, without a disk.
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

fn tree() {
    let mut shelf = Shelf {
        dirs: entries(Kind::Dir, 1_000),
        files: entries(Kind::File, 10),
    };
    let (root, meta) = (WirePath::root(), entry_meta(Kind::Dir));
    measured(|| DigestTree::build(&mut shelf, true, &root, &meta, Compare::ALL));
}
