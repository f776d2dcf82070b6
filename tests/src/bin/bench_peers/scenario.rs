//! The scenarios: which tree, which change, what is waited for.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::args::Scale;
use super::data;
use super::link::{Link, Quality};
use super::meter::{Metrics, mib};
use super::peer::Kind;
use super::place::Place;
use super::special::{idle, killed, latency, log_lag, restart, short_queue};
use super::steps::Run;

const MIB: u64 = 1 << 20;
const PER_DIR: usize = 100;
/// Half a percent.
const LOSS: u64 = 500;
const FAR_FILES: usize = 2_000;
const MILLION: usize = 1_000_000;
const DIRECTORIES: usize = 100_000;
const WATCHES: &str = "/proc/sys/fs/inotify/max_user_watches";

/// What a cell ends with.
pub(crate) struct Outcome {
    /// The values.
    pub(crate) metrics: Metrics,
    /// The differences of the trees, if any.
    pub(crate) differences: Option<String>,
}

/// One scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// One change of 4 KiB in a tree of that many files.
    S1(usize),
    S2,
    S2b,
    S3,
    /// The same with sizes as they are found on disks.
    S3Mix,
    S4,
    S5a,
    S5b,
    S5c,
    S6,
    /// A restart with that many files.
    S7(usize),
    S8,
    S9,
    /// The same with directories alone.
    S9Dirs,
    S10,
    /// Something over a long way, and frames lost there of 100 000.
    S11(Far, u64),
    F2,
    F3,
}

/// What is sent over a long way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Far {
    Change,
    Files,
    Large,
}

const ALL: [(Scenario, &str); 25] = [
    (Scenario::S1(1_000), "S1-1k"),
    (Scenario::S1(10_000), "S1-10k"),
    (Scenario::S1(100_000), "S1-100k"),
    (Scenario::S2, "S2"),
    (Scenario::S2b, "S2b"),
    (Scenario::S3, "S3"),
    (Scenario::S3Mix, "S3-mix"),
    (Scenario::S4, "S4"),
    (Scenario::S5a, "S5a"),
    (Scenario::S5b, "S5b"),
    (Scenario::S5c, "S5c"),
    (Scenario::S6, "S6"),
    (Scenario::S7(100_000), "S7"),
    (Scenario::S7(MILLION), "S7-1M"),
    (Scenario::S8, "S8"),
    (Scenario::S9, "S9"),
    (Scenario::S9Dirs, "S9-dirs"),
    (Scenario::S10, "S10"),
    (Scenario::S11(Far::Change, 0), "S11-change"),
    (Scenario::S11(Far::Files, 0), "S11-files"),
    (Scenario::S11(Far::Large, 0), "S11-large"),
    (Scenario::S11(Far::Files, LOSS), "S11-files-loss"),
    (Scenario::S11(Far::Large, LOSS), "S11-large-loss"),
    (Scenario::F2, "F2"),
    (Scenario::F3, "F3"),
];

impl Scenario {
    /// All of them.
    pub(crate) fn all() -> Vec<Self> {
        ALL.iter().map(|(scenario, _)| *scenario).collect()
    }

    /// Whether it runs at full scale only, unless it is asked for by its whole name.
    pub(crate) fn is_huge(&self) -> bool {
        matches!(self, Self::S7(files) if *files > 100_000)
    }

    /// Those of this name; `S1` means its three sizes.
    pub(crate) fn parse(name: &str) -> Vec<Self> {
        let named = |known: &str| {
            known == name
                || known
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('-'))
        };
        ALL.iter()
            .filter(|(_, known)| named(known))
            .map(|(scenario, _)| *scenario)
            .collect()
    }

    /// The way between the sides, where it is not the loopback.
    pub(crate) fn quality(&self) -> Option<Quality> {
        let Self::S11(_, loss) = self else {
            return None;
        };
        Some(Quality {
            one_way: Duration::from_millis(20),
            bits_per_second: 100_000_000,
            loss: *loss,
        })
    }

    /// Why it cannot be run on this machine.
    pub(crate) fn missing(&self) -> Option<String> {
        let watches = || {
            let limit = fs::read_to_string(WATCHES).unwrap_or_default();
            let few = limit.trim().parse::<usize>().ok()? < DIRECTORIES + DIRECTORIES / PER_DIR + 1;
            few.then(|| format!("{WATCHES} is {}", limit.trim()))
        };
        match self {
            Self::S9Dirs => watches(),
            _ => self.quality().and_then(|quality| Link::up(quality).err()),
        }
    }

    /// As in tables.
    pub(crate) fn name(&self) -> &'static str {
        ALL.iter()
            .find(|(scenario, _)| scenario == self)
            .map_or("?", |(_, name)| name)
    }
}

/// Runs a scenario with one peer on fresh file systems.
pub(crate) fn run(
    scenario: &Scenario,
    scale: Scale,
    kind: &Kind,
    mut place: Place,
) -> Result<Outcome, String> {
    let large = scale.pick(256 * MIB, 2048 * MIB);
    let many = scale.pick(10_000, 100_000);
    let peer = kind.set_up(&mut place, scenario)?;
    // The peer goes before the place, or nothing could be unmounted.
    let mut run = Run::new(kind, &place, peer);
    match scenario {
        Scenario::S1(files) => latency(&mut run, *files, PER_DIR, scale.pick(30, 100)),
        Scenario::S2 => small_files(&mut run),
        Scenario::S2b => replacements(&mut run),
        Scenario::S3 => {
            make(data::tree(&place.source(), many, PER_DIR, 3))?;
            place.rest()?;
            run.first_sync()
        }
        Scenario::S3Mix => {
            make(data::mixed(&place.source(), many, PER_DIR, 3))?;
            place.rest()?;
            run.first_sync()
        }
        Scenario::S4 => new_file(&mut run, large),
        Scenario::S5a | Scenario::S5b | Scenario::S5c => changed_file(&mut run, scenario, large),
        Scenario::S6 | Scenario::S8 => directory(&mut run, scenario),
        Scenario::S7(files) => restart(&mut run, |source| match *files {
            // As many inodes and names; their content would need memory, and is not read.
            MILLION => data::empty(source, MILLION, PER_DIR),
            files => data::tree(source, files, PER_DIR, 1),
        }),
        Scenario::S9 => idle(&mut run, 110_000, scale.pick(10, 30), |source| {
            data::tree(source, 100_000, 10, 1)
        }),
        Scenario::S9Dirs => {
            let entries = DIRECTORIES + DIRECTORIES / PER_DIR;
            idle(&mut run, entries, scale.pick(10, 30), |source| {
                data::directories(source, DIRECTORIES, PER_DIR)
            })
        }
        Scenario::S10 => log_lag(&mut run, scale.pick(64 * MIB, 500 * MIB), scale.pick(5, 15)),
        Scenario::S11(far, _) => far_away(&mut run, scenario, *far),
        Scenario::F2 => killed(&mut run, scale.pick(256 * MIB, 1024 * MIB)),
        Scenario::F3 => short_queue(&mut run, 20_000),
    }
}

/// An error of the harness's own files.
pub(crate) fn make<T>(result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("cannot prepare: {error}"))
}

fn small_files(run: &mut Run<'_>) -> Result<Outcome, String> {
    run.begin(|source| data::tree(source, 1_000, PER_DIR, 1))?;
    let goal = |mirror: &Path| data::count(&mirror.join("burst")) == 10_000;
    run.step(
        |source| data::tree(&source.join("burst"), 10_000, PER_DIR, 2),
        &goal,
    )
}

fn replacements(run: &mut Run<'_>) -> Result<Outcome, String> {
    run.begin(|source| data::tree(source, 10_000, PER_DIR, 1))?;
    let (source, per_dir) = (run.place.source(), PER_DIR);
    let equal = |mirror: &Path, index: usize| {
        let read = |root: &Path| fs::read(data::path_of(root, index, per_dir)).ok();
        read(mirror) == read(&source)
    };
    let goal = |mirror: &Path| {
        [4_999, 2_500, 0].iter().all(|&index| equal(mirror, index))
            && (0..5_000).all(|index| equal(mirror, index))
    };
    run.step(|source| data::replace(source, 5_000, per_dir, 2), &goal)
}

fn new_file(run: &mut Run<'_>, size: u64) -> Result<Outcome, String> {
    run.begin(|source| data::tree(source, 100, PER_DIR, 1))?;
    let goal = move |mirror: &Path| length(&mirror.join("file.bin")) == Some(size);
    run.step(
        |source| data::large(&source.join("file.bin"), size, 2),
        &goal,
    )
}

fn changed_file(run: &mut Run<'_>, scenario: &Scenario, size: u64) -> Result<Outcome, String> {
    run.begin(|source| data::large(&source.join("file.bin"), size, 1))?;
    let file = run.place.source().join("file.bin");
    let outside = run.place.source().with_file_name("new.bin");
    if *scenario == Scenario::S5b {
        make(data::shifted(&file, &outside))?;
        run.place.rest()?;
    }
    let goal = |mirror: &Path| modified(&mirror.join("file.bin")) == modified(&file);
    let change = |source: &Path| {
        let file = source.join("file.bin");
        match scenario {
            Scenario::S5a => data::blocks(&file, 100, 2),
            Scenario::S5b => fs::rename(&outside, &file),
            _ => data::append(&file, MIB as usize, 2),
        }
    };
    let before = run.place.written();
    let mut outcome = run.step(change, &goal)?;
    run.place.rest()?;
    if let (Some(before), Some(after)) = (before, run.place.written()) {
        // Ranges that are shared with the old version take no new place.
        let grown = mib(after.saturating_sub(before));
        outcome.metrics.insert("new_blocks_mib", grown);
    }
    Ok(outcome)
}

/// S11: what is sent appears at once, so that time counts from all of it being there, and was written a while ago: nobody
/// waits for whoever may still be writing.
fn far_away(run: &mut Run<'_>, scenario: &Scenario, far: Far) -> Result<Outcome, String> {
    if far == Far::Change {
        return latency(run, 1_000, PER_DIR, 30);
    }
    run.begin(|source| data::tree(source, 100, PER_DIR, 1))?;
    let outside = run.place.source().with_file_name("new");
    let size = match far {
        Far::Large => 64 * MIB,
        _ => (FAR_FILES * data::SMALL) as u64,
    };
    make(match far {
        Far::Large => data::large(&outside, size, 2),
        _ => data::tree(&outside, FAR_FILES, PER_DIR, 2),
    })?;
    run.place.rest()?;
    run.place.rest()?;
    let goal = move |mirror: &Path| match far {
        Far::Large => length(&mirror.join("new")) == Some(size),
        _ => data::count(&mirror.join("new")) == FAR_FILES,
    };
    let mut outcome = run.step(|source| fs::rename(&outside, source.join("new")), &goal)?;
    let floor = scenario
        .quality()
        .map_or(1.0, |quality| quality.floor(size));
    let seconds = outcome.metrics["s"];
    outcome.metrics.insert("times_bandwidth", seconds / floor);
    Ok(outcome)
}

fn directory(run: &mut Run<'_>, scenario: &Scenario) -> Result<Outcome, String> {
    run.begin(|source| {
        data::tree(&source.join("rest"), 1_000, PER_DIR, 1)?;
        data::tree(&source.join("old"), 10_000, PER_DIR, 2)
    })?;
    let renamed = *scenario == Scenario::S6;
    let goal = move |mirror: &Path| {
        !mirror.join("old").exists() && (!renamed || data::count(&mirror.join("new")) == 10_000)
    };
    let change = |source: &Path| match renamed {
        true => fs::rename(source.join("old"), source.join("new")),
        false => fs::remove_dir_all(source.join("old")),
    };
    run.step(change, &goal)
}

/// The length of a file that is there.
pub(crate) fn length(path: &PathBuf) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.len())
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}
