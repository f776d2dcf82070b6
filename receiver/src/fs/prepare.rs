//! [`Preparer`]: what a group of commits installs, made under temporary names. It changes nothing that
//! an agent can see, so that it may run while an earlier group is made durable and gets its names.

use std::sync::Arc;

use syncd_proto::exchange::receiver::Verified;
use syncd_proto::message::Durability;
use syncd_proto::op::Op;

use super::apply::{Maker, Prepared};
use super::area::Area;
use super::commit::StagedMap;
use super::meta::Keeper;
use super::nameless::Guess;
use super::nest::Nests;
use super::refusal::Refusal;
use super::root::Root;

/// A group of commits with all that it installs.
#[derive(Debug)]
pub struct PreparedGroup {
    /// The commits, in order.
    pub commits: Vec<Verified>,
    /// For each of them what its operations install, or why one is refused.
    pub prepared: Vec<PreparedCommit>,
    /// What is installed is on the disk, each file synced by itself.
    pub is_safe: bool,
}

/// What the operations of one commit install.
pub type PreparedCommit = Vec<Result<Prepared, Refusal>>;

/// Prepares the commits of one session.
#[derive(Debug)]
pub struct Preparer {
    /// Root of the session.
    pub root: Arc<Root>,
    /// Where things are made.
    pub area: Arc<Area>,
    /// What may be set.
    pub keeper: Arc<Keeper>,
    /// What an acknowledgement is to mean.
    pub durability: Durability,
    /// Complete transfers.
    pub staged: Arc<StagedMap>,
}

impl Preparer {
    /// Makes what the group installs. What is refused is told with its operation; with `alone` no other
    /// group is on its way to the disk, and a few files are synced by themselves.
    #[must_use]
    pub fn prepare(&self, commits: Vec<Verified>, alone: bool) -> PreparedGroup {
        let ops = commits.iter().flat_map(|commit| commit.ops());
        let puts = ops.filter(|(op, _)| matches!(op, Op::Put { .. })).count();
        let is_safe = match self.durability {
            Durability::Files => true,
            Durability::None => false,
            Durability::Batch => alone && puts <= SINGLE_SYNCS_MAX,
        };
        let prepared = self.make(&commits, is_safe);
        PreparedGroup {
            commits,
            prepared,
            is_safe,
        }
    }

    fn make(&self, commits: &[Verified], sync: bool) -> Vec<PreparedCommit> {
        let guess = Guess::default();
        let maker = Maker {
            root: &self.root,
            area: &self.area,
            keeper: &self.keeper,
            guess: Some(&guess),
        };
        let mut nests = Nests::new(&self.root, &self.area);
        let mut later = commits.iter().flat_map(Verified::ops).skip(1);
        let mut one = |(op, inline)| {
            let next = later.next().map(|(next, _)| next);
            // What is synced by itself has a name of its own by then.
            let nest = if sync { None } else { nests.of(op, next) };
            let staged = |id| self.staged.take(id);
            let made = maker.prepare(op, inline, staged, sync, nest.as_ref());
            if let Ok(made) = &made {
                nests.note(made);
            }
            made
        };
        let mut made = Vec::with_capacity(commits.len());
        for commit in commits {
            made.push(commit.ops().map(&mut one).collect());
        }
        made
    }
}

/// Most files of a group synced by themselves; beyond, one sync of the file system is cheaper.
const SINGLE_SYNCS_MAX: usize = 8;
