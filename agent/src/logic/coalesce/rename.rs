//! Renames: kept in their order, and what they do to the marks below them.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncd_proto::path::WirePath;

use super::mark::{Look, Mark, Place, Remote, Taken};
use super::{DirtySet, Millis, above, aside, range_below};

/// A rename to be replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rename {
    /// Its place in the order of everything seen.
    pub seq: u64,
    /// When it was seen.
    pub first: Millis,
    /// When it may be sent.
    pub due: Millis,
    /// Old name.
    pub from: WirePath,
    /// New name.
    pub to: WirePath,
    /// Whether it is a directory, or a swap with one.
    pub dir: bool,
    /// A directory whose name was swapped with that of anything, or that went there and back.
    pub swap: bool,
    /// Nothing is put at the new name until it has arrived, or will not.
    pub awaited: bool,
}

impl Rename {
    pub(super) const fn place(&self) -> Place {
        (self.first, self.seq, self.seq)
    }
}

/// A rename that was pushed.
#[derive(Debug, Clone)]
pub(super) struct Move {
    pub(super) seq: u64,
    pub(super) from: WirePath,
    pub(super) to: WirePath,
}

/// Renames of files beside which paths are taken that they do not concern.
pub(super) const RENAMES_BESIDE_MAX: usize = 64;

/// How long what comes after the rename of a file waits for it, in milliseconds.
const AFTER_MS: Millis = 20;

/// Renames that are remembered for what is refused later; beyond them everything is compared.
pub(super) const MOVES_MAX: usize = 1_024;

impl DirtySet {
    /// A name moved within the tree. Returns whether the new name must be scanned as if it were new:
    /// its old name was never sent, or renames are not replayed.
    pub fn renamed(&mut self, from: WirePath, to: WirePath, dir: bool, now: Millis) -> bool {
        // A file with anything pending is looked at under its new name: renaming what the target has
        // would show a state that the new name never had.
        let unsent = match self.marks.get(&from) {
            Some(mark) => !dir || mark.is_unsent(dir),
            None => !dir && self.in_work.contains_key(&from),
        };
        // What was pending in a directory that went has been forgotten.
        let replay = self.settle.delete && !unsent && !self.is_below_gone(&from);
        let in_work = |path| -> Vec<(Arc<WirePath>, bool)> {
            range_below(&self.in_work, path)
                .map(|(path, work)| (path.clone(), work.wrote))
                .collect()
        };
        let (moving, replaced) = (in_work(&from), in_work(&to));
        self.strand_in_work(&to);
        self.respawned += 1;
        let never_sent = self.was_never_sent(&from);
        // Renamed before it is closed: the close will be told under the new name.
        let open = self
            .marks
            .get(&from)
            .filter(|mark| !dir && mark.open && mark.heard_open);
        let (open, written_to) = (open.is_some(), open.is_some_and(|mark| mark.rewritten));
        self.is_no_birth(&from);
        let moved = self.extract(&from);
        let own = moved.iter().find(|(tail, _)| tail.is_root());
        let own = own.map(|(_, mark)| mark.clone());
        let wrote = own.as_ref().is_some_and(|mark| mark.wrote);
        let leaves = !dir && self.leaves_nothing(&from, own.as_ref());
        if dir && !replay {
            self.is_there_again(&to, now);
        }
        let was_dir = self.marks.get(&to).is_some_and(|mark| mark.was_dir);
        let absorbed = self.absorb_below(&to);
        self.forget(&to);
        if dir && !replay && absorbed > 0 {
            // What was pending in the directory that it took the place of is at the target still.
            self.compare(to.clone(), now);
        }
        for (tail, mark) in moved {
            let keep = replay || !tail.is_root();
            match to.join_path(&tail).filter(|_| keep) {
                Some(path) => self.adopt(Arc::new(path), mark),
                None => self.settle_seq(mark.seq),
            }
        }
        // What is being worked on will be committed under the name it had: look again afterwards, and
        // at the new name as well.
        for (path, _) in replaced {
            if let Some(work) = self.in_work.get_mut(&path) {
                work.replaced = true;
            }
            self.unclear(WirePath::clone(&path), now);
        }
        for (path, wrote) in moving {
            let tail = path.strip_prefix(&from);
            self.unclear(WirePath::clone(&path), now);
            if let Some(moved) = tail.and_then(|tail| to.join_path(&tail)) {
                self.unclear(moved.clone(), now);
                self.was_written(&moved, wrote);
            }
        }
        if dir {
            self.fences_move(&from, &to);
            self.comparisons_move(&from, &to, now);
        }
        if replay {
            self.remember_move(&from, &to);
            self.push_rename(from, to, dir, now);
        } else {
            if !never_sent {
                self.written(from.clone(), now);
                self.went(&from, own);
            }
            if (never_sent || leaves) && from.parent() != to.parent() {
                self.times_of_parent(&from, now);
            }
            if leaves && let Some((path, _)) = self.in_work.get_key_value(&from) {
                self.left.insert(path.clone());
            }
            self.written(to.clone(), now);
            self.was_written(&to, wrote);
            if was_dir {
                self.was_dir(&to);
            }
            if open && written_to {
                self.modified(to, now);
            } else if open {
                // A link, perhaps.
                self.created(to, now);
            }
        }
        !replay
    }

    /// Whether what is worked on under a name leaves nothing at the target when it goes from there, if it does not get
    /// into the commit log before. `own`: what was heard of the name since it was taken.
    fn leaves_nothing(&self, path: &WirePath, own: Option<&Mark>) -> bool {
        let is_there = |mark: &Mark| mark.concerns_below() || mark.remote != Remote::Unknown;
        let is_born = self.in_work.get(path).is_some_and(|work| work.born);
        is_born && !own.is_some_and(is_there)
    }

    /// Somebody wrote to what has this name now: its other names are linked to it, and not the other way round.
    fn was_written(&mut self, path: &WirePath, wrote: bool) {
        if let Some(mark) = self.marks.get_mut(path) {
            mark.wrote |= wrote;
        }
    }

    /// Whether a directory above a path is known to be gone.
    pub(super) fn is_below_gone(&self, path: &WirePath) -> bool {
        let mut marks = above(path).filter_map(|above| self.marks.get(&above));
        marks.any(|mark| mark.gone)
    }

    /// What a name stood for before went elsewhere: the target may still have what was there then, or before that.
    fn went(&mut self, path: &WirePath, before: Option<Mark>) {
        let Some(mark) = self.marks.get_mut(path) else {
            return;
        };
        mark.went = true;
        if let Some(before) = before {
            mark.was_dir |= before.was_dir;
            mark.weight = mark.weight.max(before.weight);
        }
    }

    /// Renames to be sent before anything they concern, oldest first, as far as they are due.
    ///
    /// Ends before one into a directory that the target may not have: see [`DirtySet::take_new_parents`].
    pub fn take_renames(&mut self, now: Millis, max: usize) -> Vec<Rename> {
        self.first_rename_waits_behind(now);
        let count = (0..self.renames.len().min(max))
            .take_while(|&at| self.renames[at].due <= now)
            .take_while(|&at| self.new_parents(at, now).is_empty())
            .count();
        self.renames_in_hand |= count > 0;
        self.renames.drain(..count).collect()
    }

    /// A rename that was taken may be refused because of what stands at its new name: until that is known nothing else
    /// takes that place, nor that of a directory which may still be there under its old name.
    pub fn await_rename(&mut self, rename: &mut Rename) {
        rename.awaited = true;
        for name in places(rename) {
            self.sent(&name);
        }
    }

    /// A rename has arrived, or will not.
    pub fn rename_arrived(&mut self, rename: &Rename) {
        if rename.awaited {
            for name in places(rename) {
                self.arrived(&name);
            }
        }
    }

    /// What a rename takes along, or comes after, may be on its way into staging, or in a directory that nobody has
    /// looked into yet.
    fn first_rename_waits_behind(&mut self, now: Millis) {
        let Some(rename) = self.renames.front().filter(|rename| rename.due <= now) else {
            return;
        };
        let place = rename.place();
        let fence = match rename.dir {
            // What is in those has other names until it goes.
            true => None,
            false => self.fenced_until(&rename.to, rename.first, now),
        };
        let birth = self.born_until(rename.seq).filter(|until| *until > now);
        if let Some(until) = self.place_free_at(place, now).max(fence).max(birth) {
            self.rename_behind = Some(place);
            self.renames[0].due = until;
        }
    }

    /// What is being staged and was seen before `first` waits no more: neither does the rename that came after it.
    pub(super) fn first_rename_is_free(&mut self, first: Option<Place>) {
        let is_free = |place: &mut Place| first.is_none_or(|first| *place < first);
        let free = self.rename_behind.take_if(is_free);
        let rename = self.renames.front_mut();
        if let Some(rename) = rename.filter(|rename| Some(rename.place()) == free) {
            rename.due = rename.first;
        }
    }

    /// The number of the first rename that waits.
    #[must_use]
    pub fn first_rename(&self) -> Option<u64> {
        self.renames.front().map(|rename| rename.seq)
    }

    /// Directories that the first rename goes into and that have to be sent before it, parents first.
    pub fn take_new_parents(&mut self, now: Millis) -> Vec<Taken> {
        if self.renames.front().is_none_or(|rename| rename.due > now) {
            return Vec::new();
        }
        let parents = self.new_parents(0, now);
        let marks = parents.iter().filter_map(|path| self.remove(path));
        marks.map(|(path, mark)| Taken { path, mark }).collect()
    }

    /// Marked directories above the new name of a rename, as far as they have their names from before the
    /// renames after it.
    fn new_parents(&self, at: usize, now: Millis) -> Vec<WirePath> {
        let to = &self.renames[at].to;
        let mut parents = Vec::new();
        for parent in above(to).take_while(|parent| !parent.is_root()) {
            let mark = self.marks.get(&parent);
            if mark.is_some_and(|mark| mark.look != Look::Meta && !mark.gone && mark.due <= now)
                && !self.in_flight.contains_key(&parent)
            {
                parents.push(parent);
            }
        }
        let moves = |rename: &Rename| to.starts_with(&rename.from) || to.starts_with(&rename.to);
        if !parents.is_empty() && self.renames.iter().skip(at + 1).any(moves) {
            parents.clear();
        }
        parents.reverse();
        parents
    }

    /// Whether renames wait that must go before any path: of directories, or too many to tell which path
    /// they concern.
    #[must_use]
    pub fn renames_come_first(&self) -> bool {
        self.renames.len() > RENAMES_BESIDE_MAX || self.renames.iter().any(|rename| rename.dir)
    }

    /// Until when something waits for the renames of files that were seen before it: not as long as for one that
    /// concerns it, which may be an editor's and wait for long.
    pub(super) fn after_renames(&self, mark: &Mark, now: Millis) -> Option<Millis> {
        let before = |rename: &&Rename| rename.place() < mark.place();
        let until = |rename: &Rename| rename.due.min(rename.first + AFTER_MS);
        let before = self.renames.iter().filter(before);
        let until = before.filter(|_| !mark.late).map(until).max();
        until.filter(|until| *until > now)
    }

    /// Until when a path waits for the rename of a file at or below it.
    pub(super) fn rename_due(&self, path: &WirePath) -> Option<Millis> {
        let concerned = self
            .renames
            .iter()
            .filter(|rename| rename.from.starts_with(path) || rename.to.starts_with(path));
        concerned.map(|rename| rename.due).max()
    }

    /// The old name of a rename that waits is there again: nothing is to be waited for.
    pub(super) fn is_back(&mut self, path: &WirePath, now: Millis) {
        for rename in &mut self.renames {
            if rename.from == *path {
                rename.due = rename.due.min(now);
            }
        }
    }

    /// Puts a rename back that was lost with the connection: what became of it is found by looking.
    pub fn give_back_rename(&mut self, rename: &Rename, now: Millis) {
        self.respawned += 1;
        self.look_where_it_went(&rename.from, rename.seq, now);
        self.look_where_it_went(&rename.to, rename.seq, now);
        self.unclear(rename.from.clone(), now);
        if rename.dir {
            // Other directories may have these names there, and what came of it may look alike.
            for name in self.later_names(&rename.to, rename.seq) {
                self.compare_content(name, now);
            }
            self.compare_content(rename.to.clone(), now);
            self.compare_content(rename.from.clone(), now);
        }
        self.unclear(rename.to.clone(), now);
        self.settle_seq(rename.seq);
    }

    /// A directory whose times were to follow a change, seen after `seq`, is not under its name any more:
    /// its times are looked at where it is, or is found to be gone.
    pub fn lost_parent(&mut self, path: WirePath, seq: u64, now: Millis) {
        self.respawned += 1;
        self.look_where_it_went(&path, seq, now);
        self.found(path, Look::Meta, Remote::Unknown, now);
    }

    /// Something seen as `seq` under this name was refused or lost. If the name has moved meanwhile, what
    /// it is called now is looked at as well.
    pub fn look_where_it_went(&mut self, path: &WirePath, seq: u64, now: Millis) {
        self.respawned += 1;
        if seq < self.moves_forgotten {
            self.compare(WirePath::root(), now);
            return;
        }
        for name in self.later_names(path, seq) {
            self.unclear(name, now);
        }
    }

    /// Whether something was renamed from or to this name, or one above it, after `seq`.
    #[must_use]
    pub fn has_moved(&self, path: &WirePath, seq: u64) -> bool {
        let later = self.moves.iter().rev();
        let mut later = later.take_while(|moved| moved.seq > seq);
        let concerns = |moved: &Move| path.starts_with(&moved.from) || path.starts_with(&moved.to);
        seq < self.moves_forgotten || later.any(concerns)
    }

    /// What something may be called now that was seen as `seq` under this name.
    #[must_use]
    pub fn later_names(&self, path: &WirePath, seq: u64) -> BTreeSet<WirePath> {
        // Which of the moves came first for this name is not known: each may have.
        let later = self.moves.iter().skip_while(|moved| moved.seq <= seq);
        let later: Vec<_> = later.collect();
        let mut names = BTreeSet::new();
        for start in 0..later.len() {
            let mut name = path.clone();
            for moved in later.iter().skip(start) {
                let tail = name.strip_prefix(&moved.from);
                if let Some(next) = tail.and_then(|tail| moved.to.join_path(&tail)) {
                    name = next;
                } else if name == *path {
                    break;
                }
            }
            names.insert(name);
        }
        names.remove(path);
        names
    }

    /// Whether renames wait to be sent, or were taken and are not in the commit log yet.
    #[must_use]
    pub fn has_renames(&self) -> bool {
        !self.renames.is_empty() || self.renames_in_hand
    }

    /// Renames that were taken are in the commit log now, or given back. Returns whether there were any.
    pub fn renames_logged(&mut self) -> bool {
        std::mem::take(&mut self.renames_in_hand)
    }

    /// What was to be compared under the old name of a directory is to be compared under the new one.
    fn comparisons_move(&mut self, from: &WirePath, to: &WirePath, now: Millis) {
        let above = self.comparisons.iter();
        let above = above.filter(|(path, _)| from.starts_with(path));
        let above = above.map(|(_, comparison)| comparison.content).max();
        let below = range_below(&self.comparisons, from);
        let mut moved: Vec<_> = below
            .filter_map(|(path, comparison)| {
                let path = to.join_path(&path.strip_prefix(from)?)?;
                Some((path, comparison.content))
            })
            .collect();
        moved.extend(above.map(|content| (to.clone(), content)));
        for (path, content) in moved {
            self.compare_by(path, content, now);
        }
    }

    pub(super) fn remember_move(&mut self, from: &WirePath, to: &WirePath) {
        if self.moves.len() >= MOVES_MAX
            && let Some(oldest) = self.moves.pop_front()
        {
            self.moves_forgotten = oldest.seq;
        }
        self.moves.push_back(Move {
            seq: self.next_seq,
            from: from.clone(),
            to: to.clone(),
        });
    }

    pub(super) fn push_rename(&mut self, from: WirePath, to: WirePath, dir: bool, now: Millis) {
        let is_back = |last: &Rename| !last.swap && last.from == to && last.to == from;
        if self.renames.back().is_some_and(is_back) {
            // There may be nothing left to send: the times of the directories changed all the same.
            self.times_of_parent(&from, now);
            self.times_of_parent(&to, now);
        }
        match self.renames.back_mut().filter(|last| is_back(last)) {
            // Also a directory that was swapped with something else.
            Some(last) if dir || last.dir => {
                self.respawned += 1;
                (last.swap, last.dir) = (true, true);
                self.compare(from, now);
                self.compare(to, now);
            }
            Some(_) => {
                if let Some(last) = self.renames.pop_back() {
                    self.settle_seq(last.seq);
                }
                self.unclear(from, now);
                self.unclear(to, now);
            }
            None => {
                let seq = self.issue_seq(now);
                let wait = if dir { 0 } else { aside::patience(&from, &to) };
                self.is_back(&to, now);
                self.renames.push_back(Rename {
                    seq,
                    first: now,
                    due: now + wait,
                    from,
                    to,
                    dir,
                    swap: false,
                    awaited: false,
                });
            }
        }
    }
}

/// Where nothing else may come while nobody knows what became of a rename.
fn places(rename: &Rename) -> impl Iterator<Item = Arc<WirePath>> {
    let from = rename.dir.then_some(&rename.from);
    let names = std::iter::once(&rename.to).chain(from);
    names.map(|name| Arc::new(name.clone()))
}
