//! Changes to a directory tree: random ones that a seed repeats, and the habits of known programs.
//!
//! The same seed gives the same operations in the same order; only the times the kernel writes are its own.

mod habits;
mod op;
mod rng;

use std::fmt::Write;
use std::io;
use std::path::{Path, PathBuf};

pub use habits::{
    atomic_save, emacs_save, libreoffice_save, many_small, nano_save, rewrite_random_blocks, sed_i,
    vim_save,
};
pub use op::Op;
pub use rng::Rng;

use op::{Model, Node};

/// Names a program must take without a second thought.
const NAMES: [&[u8]; 12] = [
    b"a",
    b"b.txt",
    b"with space",
    b"-dash",
    b"new\nline",
    b"bytes-\xff\xfe",
    "uml\u{e4}ut".as_bytes(),
    b".hidden",
    b"*star?",
    b"quote'\"",
    b"back\\slash",
    b"tilde~",
];
const SIZES: [u64; 6] = [0, 1, 100, 4096, 70_000, 300_000];
const MODES_FILE: [u32; 7] = [0o644, 0o600, 0o755, 0o640, 0o664, 0o4755, 0o2755];
const MODES_DIRECTORY: [u32; 5] = [0o755, 0o700, 0o775, 0o1777, 0o2755];
const DEPTH_MAX: usize = 6;
/// Beyond this many entries more is removed than made.
const ENTRIES_MAX: usize = 400;
/// 2001 to 2033, so that no time is special.
const TIME_RANGE_S: (u64, u64) = (1_000_000_000, 1_000_000_000);
const LOG_LINES_SHOWN: usize = 60;

/// A random sequence of operations on the tree below a root that nobody else changes.
#[derive(Debug)]
pub struct Workload {
    root: PathBuf,
    seed: u64,
    rng: Rng,
    model: Model,
    log: Vec<Op>,
    count: u64,
    hard_links: bool,
}

impl Workload {
    /// Starts on an empty directory, or goes on with one as it is now.
    pub fn new(root: impl AsRef<Path>, seed: u64) -> io::Result<Self> {
        let root = root.as_ref().to_owned();
        let model = Model::look(&root)?;
        Ok(Self {
            root,
            seed,
            rng: Rng::new(seed),
            model,
            log: Vec::new(),
            count: 0,
            hard_links: true,
        })
    }

    /// Makes no second names: each file has one.
    #[must_use]
    pub fn without_hard_links(mut self) -> Self {
        self.hard_links = false;
        self
    }

    /// Does `steps` operations.
    pub fn run(&mut self, steps: usize) -> io::Result<()> {
        (0..steps).try_for_each(|_| self.step().map(drop))
    }

    /// Does one operation and says which.
    pub fn step(&mut self) -> io::Result<&Op> {
        let op = self.choose();
        self.log.push(op);
        let op = &self.log[self.log.len() - 1];
        let failed = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("seed {} step {}: {op}: {error}", self.seed, self.log.len()),
            )
        };
        op.apply(&self.root).map_err(failed)?;
        self.model.apply(op);
        Ok(op)
    }

    /// Everything done so far.
    pub fn log(&self) -> &[Op] {
        &self.log
    }

    /// The seed and the last operations, for a failure's message.
    pub fn story(&self) -> String {
        let skipped = self.log.len().saturating_sub(LOG_LINES_SHOWN);
        let mut text = format!("seed {}, {} operations", self.seed, self.log.len());
        for (index, op) in self.log.iter().enumerate().skip(skipped) {
            let _ = write!(text, "\n{:5} {op}", index + 1);
        }
        text
    }

    fn choose(&mut self) -> Op {
        if self.model.len() > ENTRIES_MAX
            && let Some(path) = self.directory()
        {
            return Op::RemoveTree { path };
        }
        loop {
            let choice = self.rng.below(100);
            if let Some(op) = self.candidate(choice) {
                return op;
            }
        }
    }

    /// The operation a number from 0 to 99 stands for, if the tree has something to do it on; creation always works.
    fn candidate(&mut self, choice: u64) -> Option<Op> {
        let seed = self.rng.next();
        let size = self.size();
        Some(match choice {
            0..20 => Op::Create {
                path: self.new_path()?,
                size,
                seed,
            },
            20..28 => Op::Overwrite {
                path: self.file()?,
                size,
                seed,
            },
            28..31 => Op::Again {
                path: self.file()?,
                beside: choice == 30,
            },
            31..34 => Op::Append {
                path: self.file()?,
                size,
                seed,
            },
            34..38 => Op::Truncate {
                path: self.file()?,
                size,
            },
            38..46 => Op::Save {
                path: self.file()?,
                size,
                seed,
            },
            46..53 => Op::Rename {
                from: self.leaf()?,
                to: self.new_path()?,
            },
            53..58 => Op::Rename {
                from: self.file()?,
                to: self.file()?,
            },
            58..63 => self.rename_directory()?,
            63..73 => Op::MakeDirectory {
                path: self.new_path()?,
            },
            73..76 => Op::RemoveDirectory {
                path: self.empty_directory()?,
            },
            76..78 => Op::RemoveTree {
                path: self.directory()?,
            },
            78..83 => Op::Remove { path: self.leaf()? },
            83..87 => Op::Symlink {
                target: self.target(),
                path: self.new_path()?,
            },
            87..91 if !self.hard_links => return None,
            87..91 => Op::HardLink {
                from: self.leaf()?,
                to: self.new_path()?,
            },
            91..94 => Op::Mode {
                path: self.file()?,
                mode: *self.rng.pick(&MODES_FILE)?,
            },
            94..96 => Op::Mode {
                path: self.directory()?,
                mode: *self.rng.pick(&MODES_DIRECTORY)?,
            },
            96..98 => Op::Attribute {
                path: if choice == 96 {
                    self.file()?
                } else {
                    self.directory()?
                },
                value: (!seed.is_multiple_of(3)).then_some(seed),
            },
            _ => {
                let seconds = TIME_RANGE_S.0 + self.rng.below(TIME_RANGE_S.1);
                let nanoseconds = self.rng.below(1_000_000_000);
                Op::Times {
                    path: self.model.pick(&mut self.rng, |_| true)?,
                    seconds,
                    nanoseconds,
                }
            }
        })
        .filter(|op| !op.is_idle())
    }

    fn rename_directory(&mut self) -> Option<Op> {
        let from = self.directory()?;
        let to = self.new_path().filter(|to| !to.starts_with(&from))?;
        Some(Op::Rename { from, to })
    }

    fn size(&mut self) -> u64 {
        let most = self.rng.pick(&SIZES).copied().unwrap_or(0);
        if self.rng.below(2) == 0 {
            most
        } else {
            self.rng.below(most + 1)
        }
    }

    fn file(&mut self) -> Option<PathBuf> {
        self.model.pick(&mut self.rng, |node| node == Node::File)
    }

    fn leaf(&mut self) -> Option<PathBuf> {
        self.model
            .pick(&mut self.rng, |node| node != Node::Directory)
    }

    fn directory(&mut self) -> Option<PathBuf> {
        self.model
            .pick(&mut self.rng, |node| node == Node::Directory)
    }

    fn empty_directory(&mut self) -> Option<PathBuf> {
        let path = self.directory()?;
        self.model.is_empty_directory(&path).then_some(path)
    }

    /// A path that is free, in a directory that exists.
    fn new_path(&mut self) -> Option<PathBuf> {
        let parent = match self.rng.below(4) {
            0 => PathBuf::new(),
            _ => self.directory().unwrap_or_default(),
        };
        if parent.components().count() >= DEPTH_MAX {
            return None;
        }
        let mut name = self.rng.pick(&NAMES)?.to_vec();
        if self.rng.below(3) > 0 {
            self.count += 1;
            name.extend_from_slice(format!("{}", self.count).as_bytes());
        }
        let path = parent.join(op::os_name(&name));
        (!self.model.contains(&path)).then_some(path)
    }

    /// What a new symlink says: something that is there, that is not, or that is far away.
    fn target(&mut self) -> PathBuf {
        match self.rng.below(3) {
            0 => self
                .model
                .pick(&mut self.rng, |_| true)
                .unwrap_or_else(|| "a".into()),
            1 => "../nowhere".into(),
            _ => "/nonexistent/far away".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tree::{Aspect, Options, Tree, diff};

    #[test]
    fn the_same_seed_gives_the_same_operations_and_the_same_tree() {
        let [a, b] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut logs = Vec::new();
        for dir in [&a, &b] {
            let mut workload = Workload::new(dir.path(), 7).unwrap();
            workload.run(600).unwrap();
            logs.push(
                workload
                    .log()
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(logs[0], logs[1]);
        let [left, right] =
            [&a, &b].map(|dir| Tree::scan(dir.path(), &Options::default()).unwrap());
        let differences: Vec<_> = diff(&left, &right)
            .into_iter()
            .filter(|found| found.aspect != Aspect::Mtime)
            .collect();
        assert_eq!(differences, []);
        assert!(left.len() > 50, "{} entries", left.len());
    }

    #[test]
    fn every_kind_of_operation_occurs_and_none_fails() {
        let mut seen = BTreeSet::new();
        for seed in 0..10 {
            let dir = tempfile::tempdir().unwrap();
            let mut workload = Workload::new(dir.path(), seed).unwrap();
            workload.run(400).unwrap();
            let word = |op: &Op| op.to_string().split(' ').next().unwrap().to_owned();
            seen.extend(workload.log().iter().map(word));
            assert!(
                workload
                    .story()
                    .starts_with(&format!("seed {seed}, 400 operations\n"))
            );
        }
        let all = "again append attribute chmod create link mkdir overwrite remove remove-tree rename rmdir save symlink times truncate";
        assert_eq!(seen.into_iter().collect::<Vec<_>>().join(" "), all);
    }

    #[test]
    fn the_model_is_what_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut workload = Workload::new(dir.path(), 99).unwrap();
        for _ in 0..300 {
            let op = workload.step().unwrap().to_string();
            assert_eq!(
                workload.model,
                Model::look(dir.path()).unwrap(),
                "after {op}"
            );
        }
    }
}
