//! What happens at the source: random changes, a large file that is replaced, patched and moved, directories full of files
//! that come and leave at once, and names that come and go by the dozen. Each is one system call on a name that is visible, so that there is nothing in between.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use syncd_tests::workload::{Op, Rng, Workload};

use crate::history::{Change, rel};

/// Beyond what the receiver syncs as soon as it is complete.
const LARGE_BYTES: usize = 9 << 20;
const PATCH_BYTES: usize = 200_000;
const TREES: u64 = 3;
const TREE_FILES: usize = 24;
const TREE_FILE_BYTES: u64 = 9_000;

/// A source that changes.
#[derive(Debug)]
pub(crate) struct Changes {
    root: PathBuf,
    /// On the same file system, and not mirrored.
    spare: PathBuf,
    work: Workload,
    rng: Rng,
    large_dir: &'static str,
    large_seed: u64,
}

impl Changes {
    /// Of an empty source.
    pub(crate) fn begin(root: &Path, spare: &Path, seed: u64) -> io::Result<Self> {
        fs::create_dir_all(spare)?;
        Ok(Self {
            root: root.to_owned(),
            spare: spare.to_owned(),
            work: Workload::new(root, seed)?,
            rng: Rng::new(seed ^ 0x5eed),
            large_dir: "large",
            large_seed: 0,
        })
    }

    /// Does one change.
    pub(crate) fn step(&mut self) -> io::Result<Change> {
        match self.rng.below(40) {
            0 => self.replace_large(),
            1 => self.patch_large(),
            2 => self.move_large(),
            3..6 => self.move_tree(),
            _ => self.work.step().map(described),
        }
    }

    /// A directory with more small files than are synced one by one comes from elsewhere, or leaves.
    pub(crate) fn move_tree(&mut self) -> io::Result<Change> {
        let name = format!("tree{}", self.rng.below(TREES));
        let (there, away) = (self.root.join(&name), self.spare.join("tree"));
        if there.is_dir() {
            fs::rename(there, &away)?;
            fs::remove_dir_all(away)?;
            return Ok(said(&format!("{name} leaves")));
        }
        fs::create_dir(&away)?;
        for number in 0..TREE_FILES {
            let len = self.rng.below(TREE_FILE_BYTES) as usize;
            fs::write(away.join(format!("f{number}")), self.rng.bytes(len))?;
        }
        fs::rename(away, there)?;
        Ok(said(&format!("{name} comes")))
    }

    /// Makes the large file, or replaces it.
    pub(crate) fn replace_large(&mut self) -> io::Result<Change> {
        self.large_seed += 1;
        let dir = self.root.join(self.large_dir);
        let content = Rng::new(self.large_seed).bytes(LARGE_BYTES);
        if dir.is_dir() {
            let spare = self.spare.join("image");
            fs::write(&spare, content)?;
            fs::rename(spare, dir.join("image"))?;
        } else {
            let spare = self.spare.join("dir");
            fs::create_dir(&spare)?;
            fs::write(spare.join("image"), content)?;
            fs::rename(spare, dir)?;
        }
        Ok(said("the large file is replaced"))
    }

    fn patch_large(&mut self) -> io::Result<Change> {
        let path = self.root.join(self.large_dir).join("image");
        if !path.is_file() {
            return self.replace_large();
        }
        let offset = self.rng.below(LARGE_BYTES as u64);
        let file = File::options().write(true).open(path)?;
        file.write_all_at(&self.rng.bytes(PATCH_BYTES), offset)?;
        Ok(said("the large file is written to"))
    }

    fn move_large(&mut self) -> io::Result<Change> {
        let to = if self.large_dir == "large" {
            "larger"
        } else {
            "large"
        };
        if !self.root.join(self.large_dir).is_dir() {
            return self.replace_large();
        }
        fs::rename(self.root.join(self.large_dir), self.root.join(to))?;
        let from = std::mem::replace(&mut self.large_dir, to);
        Ok(Change {
            what: format!("rename {from} -> {to}"),
            moved: vec![rel(from.as_ref()), rel(to.as_ref())],
            passing: None,
        })
    }
}

fn described(op: &Op) -> Change {
    let moved = match op {
        Op::Rename { from, to } => vec![rel(from), rel(to)],
        _ => Vec::new(),
    };
    Change {
        what: op.to_string(),
        moved,
        passing: op.passing().map(|path| rel(&path)),
    }
}

fn said(what: &str) -> Change {
    Change {
        what: what.to_owned(),
        ..Change::default()
    }
}
