//! [`Committer`]: groups of verified commits become names, and then durable.
//!
//! For each group: content and metadata go into temporary files ([`Preparer`],
//! for one group while the one before is committed); one sync makes them safe; the
//! operations change names, in order; another sync makes the names safe. Under load the second one is
//! left to the first one of the next group. What may be said about it is a [`Committed`], made in one
//! place, and [`ack_of`] is the only thing that turns one into an `Ack`.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use syncd_proto::digest::Digest;
use syncd_proto::exchange::receiver::Verified;
use syncd_proto::message::{Ack, Durability, Reject, Rejected};
use syncd_proto::op::{Content, Op, TransferId};
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;

use super::apply::{Applier, Prepared};
use super::area::Area;
use super::known::Known;
use super::meta::{Identity, Keeper, identity_of, kind_of, statx_fd};
use super::prepare::{PreparedGroup, Preparer};
use super::refusal::{Refusal, code_of, describe};
use super::root::Root;
use super::stage::Staged;
use super::touched::Touched;

/// How far the log of a session has come. Made by [`Committer`] only, after what it says is true.
#[derive(Debug)]
pub struct Committed {
    applied: u64,
    durable: u64,
    root: Digest,
}

impl Committed {
    /// Number of the last commit that is visible.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }
}

/// What the agent is told of it.
#[must_use]
pub fn ack_of(committed: Committed) -> Ack {
    Ack {
        applied: committed.applied,
        durable: committed.durable,
        root: committed.root,
    }
}

/// Complete transfers of a session, until a commit takes them; and why others failed, since their commit
/// may be under way already.
#[derive(Debug)]
pub struct StagedMap {
    entries: Mutex<HashMap<TransferId, Result<Staged, Refusal>>>,
    known: Arc<Known>,
}

impl StagedMap {
    /// An empty one of a session; `known` is for all of them.
    #[must_use]
    pub fn new(known: Arc<Known>) -> Self {
        Self {
            entries: Mutex::default(),
            known,
        }
    }

    /// What is known of versions.
    #[must_use]
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Takes one in; `false` if there are too many that nobody committed.
    #[must_use]
    pub fn insert(&self, id: TransferId, staged: Staged, most: usize) -> bool {
        self.put(id, Ok(staged), most)
    }

    /// Notes why one failed, if there is room.
    pub fn refuse(&self, id: TransferId, refusal: Refusal, most: usize) {
        self.put(id, Err(refusal), most);
    }

    /// Gives one away, once.
    #[must_use]
    pub fn take(&self, id: TransferId) -> Option<Result<Staged, Refusal>> {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id)
    }

    fn put(&self, id: TransferId, result: Result<Staged, Refusal>, most: usize) -> bool {
        let mut map = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= most {
            // What failed is only remembered for a better word.
            map.retain(|_, known| known.is_ok());
        }
        let fits = map.len() < most;
        if fits {
            map.insert(id, result);
        }
        fits
    }
}

/// What ties a session's root to the module as configured: checked before each group.
#[derive(Debug)]
pub struct Anchor {
    /// Root of the module.
    pub module: Arc<Root>,
    /// Path the module was opened by, if it can still be looked up.
    pub path: Option<PathBuf>,
    /// Root of the session in it.
    pub sub_path: WirePath,
}

/// Whether a module's root is still what its path leads to, as far as that can be looked up.
#[must_use]
pub fn is_in_place(module: &Root, path: Option<&Path>) -> bool {
    let Some(path) = path else {
        return true;
    };
    match rustix::fs::stat(path) {
        Ok(stat) => {
            let (dev, ino) = (stat.st_dev, stat.st_ino);
            module.identity() == Identity { dev, ino }
        }
        // With fewer rights than at start the path may be out of sight: that says nothing.
        Err(errno) => !matches!(errno, Errno::NOENT | Errno::NOTDIR),
    }
}

/// The refusal where something else stands in the place of what was served.
#[must_use]
pub fn gone(what: &str) -> Refusal {
    let text = format!("{what} was unmounted, moved or replaced at the receiver");
    Refusal::new(RejectCode::ModuleUnavailable, text)
}

impl Anchor {
    fn check(&self, root: &Root) -> Result<(), Refusal> {
        if !is_in_place(&self.module, self.path.as_deref()) {
            return Err(gone("the module"));
        }
        let found = self.module.open_dir(&self.sub_path);
        let found = found.and_then(statx_fd);
        match found {
            Ok(stat) if kind_of(&stat).is_some() && identity_of(&stat) == root.identity() => Ok(()),
            _ => Err(gone("the root of the mirror")),
        }
    }
}

/// Makes everything durable that is visible in the module of this area, whoever made it so.
///
/// # Errors
/// The disk failed: nothing that is there may be believed.
pub fn settle(area: &Area) -> Result<(), Refusal> {
    rustix::fs::syncfs(area.stage()).map_err(lost)
}

/// What a group has come to.
#[derive(Debug)]
pub struct Outcome {
    /// The commits.
    pub commits: Vec<Verified>,
    /// Operations that were refused by themselves.
    pub rejects: Vec<Reject>,
    /// How far the log has come.
    pub committed: Committed,
}

/// What a session has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Operations applied.
    pub ops: u64,
    /// Bytes of content installed.
    pub content_bytes: u64,
}

/// Applies the commits of one session.
#[derive(Debug)]
pub struct Committer {
    root: Arc<Root>,
    anchor: Anchor,
    area: Arc<Area>,
    keeper: Arc<Keeper>,
    durability: Durability,
    staged: Arc<StagedMap>,
    touched: Touched,
    applied: u64,
    durable: u64,
    chain: Digest,
    totals: Totals,
    spares: bool,
    /// Whether versions that are replaced are held, see [`Self::replaced`].
    holds: bool,
    replaced: Vec<OwnedFd>,
}

impl Committer {
    /// A committer of what this one prepares; the session's chain begins with `first_root`. `spares`: renames take no
    /// place of a directory in which something is.
    #[must_use]
    pub fn new(preparer: &Preparer, anchor: Anchor, first_root: Digest, spares: bool) -> Self {
        let home = anchor.module.identity().dev;
        Self {
            root: Arc::clone(&preparer.root),
            anchor,
            area: Arc::clone(&preparer.area),
            keeper: Arc::clone(&preparer.keeper),
            durability: preparer.durability,
            staged: Arc::clone(&preparer.staged),
            touched: Touched::new(preparer.durability, home),
            applied: 0,
            durable: 0,
            chain: first_root,
            totals: Totals::default(),
            spares,
            holds: is_slow_to_drop(&preparer.area),
            replaced: Vec::new(),
        }
    }

    /// Makes a group of commits visible, in order.
    ///
    /// # Errors
    /// The session cannot go on: a sync failed, or the root is no longer what it was. Nothing that was
    /// not acknowledged may be believed.
    pub fn apply(&mut self, group: PreparedGroup) -> Result<Outcome, Refusal> {
        let PreparedGroup {
            commits,
            prepared,
            is_safe,
        } = group;
        let Some(last) = commits.last() else {
            return Ok(self.outcome(commits, Vec::new()));
        };
        self.anchor.check(&self.root)?;
        self.root.forget_all();
        if self.durability == Durability::Batch && !is_safe {
            rustix::fs::syncfs(self.area.stage()).map_err(lost)?;
            // It made the names of the groups before this one safe too.
            self.touched.all_synced().map_err(lost)?;
            self.durable = self.applied;
        }
        let mut rejects = Vec::new();
        for (commit, prepared) in commits.iter().zip(prepared) {
            for ((index, (op, _)), prepared) in (0..).zip(commit.ops()).zip(prepared) {
                if let Err(refusal) = self.perform(op, prepared) {
                    rejects.push(rejection(commit.seq(), index, refusal));
                }
            }
        }
        self.applied = last.seq();
        self.chain = last.root();
        if self.durability == Durability::None {
            self.durable = self.applied;
        }
        Ok(self.outcome(commits, rejects))
    }

    /// Makes everything applied so far durable.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn flush(&mut self) -> Result<Committed, Refusal> {
        if self.durability != Durability::None {
            self.touched.sync(self.area.stage()).map_err(lost)?;
        }
        self.durable = self.applied;
        Ok(self.committed())
    }

    /// Whether there is something that [`Self::flush`] would make durable.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.durable < self.applied
    }

    /// What has been done.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Handles of large versions that were replaced. The kernel drops what is cached of a version, and frees its blocks,
    /// in whatever takes its last name or handle: not in the rename, if these are closed after it was acknowledged.
    #[must_use]
    pub fn replaced(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.replaced)
    }

    fn hold(&mut self, op: &Op) {
        let Op::Put {
            path,
            content: Content::Staged { len, .. },
            ..
        } = op
        else {
            return;
        };
        if self.holds && *len >= HELD_BYTES_MIN && self.replaced.len() < HELD_MAX {
            self.replaced.extend(self.root.handle(path));
        }
    }

    fn perform(&mut self, op: &Op, prepared: Result<Prepared, Refusal>) -> Result<(), Refusal> {
        self.hold(op);
        let done = self.applier().perform(op, prepared?);
        // Without an attribute it is done all the same.
        if !matches!(&done, Err(refusal) if refusal.code != RejectCode::Attributes) {
            self.totals.ops += 1;
            if let Op::Put { content, .. } = op {
                self.totals.content_bytes += Content::len(content);
                self.remember(op);
            }
        }
        done
    }

    /// A staged file has its name now: its content is known by its version from here on.
    fn remember(&self, op: &Op) {
        let Op::Put {
            path,
            meta,
            content: Content::Staged { digest, .. },
        } = op
        else {
            return;
        };
        if let Ok(stat) = self.root.open_file(path).and_then(statx_fd) {
            let mtime = (meta.mtime, self.keeper.times);
            self.staged.known().installed(&stat, digest, mtime);
        }
    }

    fn applier(&mut self) -> Applier<'_> {
        Applier {
            root: &self.root,
            area: &self.area,
            base: &self.anchor.sub_path,
            keeper: &self.keeper,
            touched: &mut self.touched,
            spares: self.spares,
        }
    }

    fn outcome(&self, commits: Vec<Verified>, rejects: Vec<Reject>) -> Outcome {
        Outcome {
            commits,
            rejects,
            committed: self.committed(),
        }
    }

    /// The only place that makes a [`Committed`]: `durable` moves only behind a sync.
    fn committed(&self) -> Committed {
        Committed {
            applied: self.applied,
            durable: self.durable,
            root: self.chain,
        }
    }
}

/// Whether a version with much in the page cache takes long to drop. Network file systems, which show a name for what has lost its
/// own and is open, are none of these.
fn is_slow_to_drop(area: &Area) -> bool {
    const SLOW: [rustix::fs::FsWord; 2] = [EXT4_SUPER_MAGIC, BTRFS_SUPER_MAGIC];
    rustix::fs::fstatfs(area.stage()).is_ok_and(|on| SLOW.contains(&on.f_type))
}

/// statfs(2): ext2 to ext4.
const EXT4_SUPER_MAGIC: rustix::fs::FsWord = 0xef53;

/// statfs(2).
const BTRFS_SUPER_MAGIC: rustix::fs::FsWord = 0x9123_683e;

/// Versions replaced by smaller files are not held, in bytes.
const HELD_BYTES_MIN: u64 = 8 << 20;

/// Most versions held at once.
const HELD_MAX: usize = 64;

fn rejection(seq: u64, index: u32, refusal: Refusal) -> Reject {
    Reject {
        what: Rejected::Op { seq, index },
        code: refusal.code,
        text: refusal.text,
    }
}

fn lost(errno: Errno) -> Refusal {
    let text = format!(
        "the receiver's disk failed to make changes durable: {}",
        describe(errno)
    );
    let code = code_of(errno);
    let code = match code.pauses_transfers() {
        true => code,
        false => RejectCode::Io,
    };
    Refusal::new(code, text)
}
