//! Writers that keep their promise, or do not: what the other tests would find if the receiver forgot something.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use syncd_tests::volume::Kind;

use crate::Scale;
use crate::cuts::{self, Found};
use crate::record::{Mark, Record};
use crate::scene::Disk;

const VERSIONS: usize = 60;
/// So many names get versions in turn.
const NAMES: usize = 7;

/// A way to replace a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writer {
    /// Write, fsync, rename, fsync the directory.
    Good,
    /// Without the fsync of the file.
    NoFileSync,
    /// Without the fsync of the directory.
    NoDirSync,
}

/// Records one, and cuts the power.
pub(crate) fn try_out(kind: Kind, writer: Writer, seed: u64, scale: Scale) -> Found {
    let dir = tempfile::tempdir().expect("directory");
    let disk = Disk::start(kind, dir.path());
    let start = disk.device.len();
    let root = dir.path().join("disk.mnt/mirror");
    for version in 1..=VERSIONS {
        writer.write(&root, version).expect("write a version");
        disk.device.mark(Mark::Durable(version));
    }
    let (before, log) = disk.finish();
    let chosen = cuts::choose(log.records(), start, scale.cuts, seed);
    let judge = |_: &mut Found, cut: usize, root: &Path| {
        judge(&root.join("mirror"), writer, &log.records()[..cut])
    };
    cuts::each(kind, dir.path(), (&log, before), &chosen, seed, judge)
}

impl Writer {
    fn name(self, version: usize) -> String {
        match self {
            // A name that is new is lost with its directory.
            Self::NoDirSync => format!("f{version}"),
            Self::Good | Self::NoFileSync => format!("f{}", version % NAMES),
        }
    }

    fn write(self, root: &Path, version: usize) -> io::Result<()> {
        let beside = root.join("beside");
        let mut file = File::create(&beside)?;
        file.write_all(&content(version))?;
        if self != Self::NoFileSync {
            file.sync_all()?;
        }
        fs::rename(beside, root.join(self.name(version)))?;
        if self != Self::NoDirSync {
            File::open(root)?.sync_all()?;
        }
        Ok(())
    }
}

fn content(version: usize) -> Vec<u8> {
    format!("version {version}\n")
        .into_bytes()
        .repeat(1 + version * 977 % 3000)
}

/// Every version that was promised is there whole, or a newer one.
fn judge(root: &Path, writer: Writer, records: &[Record]) -> Vec<String> {
    let mut promised = BTreeMap::new();
    for record in records {
        if let Record::Mark(Mark::Durable(version)) = record {
            promised.insert(writer.name(*version), *version);
        }
    }
    let mut wrong = Vec::new();
    for (name, version) in promised {
        let found = fs::read(root.join(&name)).unwrap_or_default();
        let newer = (version..=VERSIONS).filter(|newer| writer.name(*newer) == name);
        if !newer.map(content).any(|content| content == found) {
            wrong.push(format!("{name}: version {version} is gone"));
        }
    }
    wrong
}
