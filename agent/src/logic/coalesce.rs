//! [`DirtySet`]: what one target has not got yet.
//!
//! Events and scans only mark paths; marks on one path merge. A path is looked at when it is due: at
//! once after a close or a delete, after a quiet time while it is open for writing, after a backoff when
//! it failed. Renames keep their order and carry the marks below them along. Directories that must be
//! compared with the target are kept beside. The set is bounded: above its limit the marks of a
//! directory collapse into "compare this directory".
//!
//! Pure: time comes in as milliseconds of any monotonic clock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use syncd_proto::path::WirePath;

mod aside;

/// Milliseconds of a monotonic clock.
pub type Millis = u64;

/// How thoroughly a path is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Only its metadata changed.
    Meta,
    /// Its content may have changed.
    Content,
}

/// What is known of the path at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// Nothing.
    Unknown,
    /// It was not there when the trees were compared.
    Absent,
    /// Something is there.
    Present,
}

/// What a person has to say about a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// Nothing so far.
    NotAsked,
    /// It is held.
    Held,
    /// It may go.
    Given,
}

/// Why a path failed last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A word for programs.
    pub code: String,
    /// What, where and why.
    pub text: String,
}

/// What is pending for a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Its place in the order of everything seen; the oldest of what merged into it.
    pub seq: u64,
    /// When the oldest change was seen.
    pub first: Millis,
    /// When the newest change was seen.
    pub last: Millis,
    /// When it may be looked at.
    pub due: Millis,
    /// How to look.
    pub look: Look,
    /// Written, and not closed since.
    pub open: bool,
    /// An event told that it is open, so that another one will tell of its close.
    pub heard_open: bool,
    /// An event told of new content or metadata, not only of a name.
    pub wrote: bool,
    /// It came into being here and was never sent.
    pub born: bool,
    /// It was seen to be gone; absence without that is looked at twice, since a rename may be on its
    /// way to us.
    pub gone: bool,
    /// A comparison found that nothing there is protected: it may go with all that is in it.
    pub cleared: bool,
    /// Until when a regular file that is open waits, at least.
    pub quiet_at: Millis,
    /// How many names were seen to go with it.
    pub weight: u64,
    /// An event told that it went, so that its absence is no accident of a mount.
    pub witnessed: bool,
    /// Its removal waits for a person, or has one's leave.
    pub leave: Leave,
    /// What the target has there.
    pub remote: Remote,
    /// How often it failed in a row.
    pub attempts: u32,
    /// Why it failed last.
    pub failure: Option<Failure>,
}

/// A path and what was pending for it, taken out of the set to be worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The path.
    pub path: Arc<WirePath>,
    /// What was pending.
    pub mark: Mark,
}

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
    /// Whether it is a directory.
    pub dir: bool,
    /// Two directories whose names were swapped, or one that went there and back.
    pub swap: bool,
}

/// A directory to be compared with the target, taken out of the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// Its place in the order of everything seen.
    pub seq: u64,
    /// When it was seen.
    pub first: Millis,
    /// When it may begin.
    pub due: Millis,
    /// How often it failed in a row.
    pub attempts: u32,
}

/// Delays and bounds of a [`DirtySet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settle {
    /// Quiet time after which a file that was not closed is sent, in milliseconds.
    pub settle_ms: Millis,
    /// Longest time a file that is written all the time waits, in milliseconds.
    pub hold_max_ms: Millis,
    /// Most marks; above, directories collapse.
    pub marks_max: usize,
    /// Whether names that are gone here are removed there; without it renames become copies.
    pub delete: bool,
}

/// Removals from one directory in quick succession: the directory itself often follows.
#[derive(Debug, Clone, Copy)]
struct Burst {
    first: Millis,
    last: Millis,
    count: u32,
}

/// Removals from one directory that make a burst.
const BURST_COUNT: u32 = 8;

/// Quiet time that ends a burst, in milliseconds.
const BURST_QUIET_MS: Millis = 30;

/// Longest time that a burst holds its removals back, in milliseconds.
const BURST_MAX_MS: Millis = 500;

/// Directories remembered for bursts; above, the memory starts anew.
const BURSTS_MAX: usize = 1_024;

/// How long a new name waits for the close that usually follows at once, in milliseconds.
const BIRTH_MS: Millis = 5;

/// How long a file waits that a listing found and that was written just now, in milliseconds.
const RECENT_MS: Millis = 100;

/// How long an empty file waits that a listing found and that was written just now, in milliseconds.
const EMPTY_MS: Millis = 500;

/// Renames of files beside which paths are taken that they do not concern.
const RENAMES_BESIDE_MAX: usize = 64;

/// Renames that are remembered for what is refused later; beyond them everything is compared.
const MOVES_MAX: usize = 1_024;

/// A rename that was pushed.
#[derive(Debug, Clone)]
struct Move {
    seq: u64,
    from: WirePath,
    to: WirePath,
}

/// Paths a target has not got yet, with the renames in front of them.
#[derive(Debug)]
pub struct DirtySet {
    settle: Settle,
    marks: BTreeMap<Arc<WirePath>, Mark>,
    comparisons: BTreeMap<Arc<WirePath>, Comparison>,
    /// (due, seq) of every mark that does not wait for an earlier version to arrive.
    queue: BTreeSet<(Millis, u64)>,
    by_seq: HashMap<u64, Arc<WirePath>>,
    in_flight: HashMap<Arc<WirePath>, u32>,
    /// Those on their way that are not in the commit log yet.
    in_work: BTreeMap<Arc<WirePath>, ()>,
    renames: VecDeque<Rename>,
    /// Renames that were pushed, oldest first: what was sent before them under an old name may be
    /// refused after them.
    moves: VecDeque<Move>,
    /// Number of the newest move that was dropped from `moves`.
    moves_forgotten: u64,
    /// Everything not yet durable: seq -> when it was seen.
    outstanding: BTreeMap<u64, Millis>,
    /// Directories from which several names went just now.
    bursts: HashMap<WirePath, Burst>,
    /// How often a listing told of a name. Events about the same names may still be on their way, and a
    /// name that seems to be born then may have been sent already.
    listings: u64,
    /// As many of them as all older events have been heard of.
    listings_heard: u64,
    next_seq: u64,
    collapsed: u64,
    respawned: u64,
}

impl DirtySet {
    /// An empty set.
    #[must_use]
    pub fn new(settle: Settle) -> Self {
        Self {
            settle,
            marks: BTreeMap::new(),
            comparisons: BTreeMap::new(),
            queue: BTreeSet::new(),
            by_seq: HashMap::new(),
            in_flight: HashMap::new(),
            in_work: BTreeMap::new(),
            renames: VecDeque::new(),
            moves: VecDeque::new(),
            moves_forgotten: 0,
            outstanding: BTreeMap::new(),
            bursts: HashMap::new(),
            listings: 0,
            listings_heard: 0,
            next_seq: 1,
            collapsed: 0,
            respawned: 0,
        }
    }

    /// A name appeared. A regular file waits for its close.
    pub fn created(&mut self, path: WirePath, now: Millis) {
        let first_heard = self.is_first_heard();
        self.is_back(&path, now);
        self.mark(path, now, |mark, settle, fresh| {
            mark.look = Look::Content;
            mark.gone = false;
            mark.born |= fresh && first_heard;
            (mark.open, mark.heard_open) = (true, true);
            mark.due_if_open(settle, now);
            now + BIRTH_MS
        });
    }

    /// A directory appeared.
    pub fn created_dir(&mut self, path: WirePath, now: Millis) {
        self.is_there_again(&path, now);
        let first_heard = self.is_first_heard();
        self.mark(path, now, |mark, _, fresh| {
            mark.look = Look::Content;
            mark.gone = false;
            mark.open = false;
            mark.born |= fresh && first_heard;
            now
        });
    }

    /// How often a listing told of a name: to be given to [`DirtySet::heard`] once every event that is
    /// older than this question has been told.
    #[must_use]
    pub fn listings(&self) -> u64 {
        self.listings
    }

    /// Every event that is older than the first `listings` names told by listings has been told.
    pub fn heard(&mut self, listings: u64) {
        self.listings_heard = self.listings_heard.max(listings);
    }

    /// Whether events may still tell of what listings told.
    #[must_use]
    pub fn is_listed_ahead(&self) -> bool {
        !self.is_first_heard()
    }

    /// A directory stands where one was seen to go: what the target has in the old one must go too, and
    /// only a comparison knows what that is.
    pub fn is_there_again(&mut self, path: &WirePath, now: Millis) {
        if self.marks.get(path).is_some_and(|mark| mark.gone) {
            self.compare(path.clone(), now);
        }
    }

    /// A listing of a new directory shows the name. `recent`: a file that may still be written, by
    /// somebody who had opened it before it was watched.
    pub fn listed(&mut self, path: WirePath, recent: bool, now: Millis) {
        self.listings += 1;
        self.mark(path, now, |mark, _, fresh| {
            mark.look = Look::Content;
            mark.gone = false;
            if !fresh {
                return mark.due;
            }
            mark.open = recent;
            mark.quiet_at = now + if recent { RECENT_MS } else { 0 };
            mark.quiet_at
        });
    }

    /// A file was written and is still open.
    pub fn modified(&mut self, path: WirePath, now: Millis) {
        self.mark(path, now, |mark, settle, _| {
            mark.look = Look::Content;
            (mark.open, mark.heard_open) = (true, true);
            mark.wrote = true;
            mark.due_if_open(settle, now)
        });
    }

    /// A file was closed after writing: look now.
    pub fn closed(&mut self, path: WirePath, now: Millis) {
        self.mark(path, now, |mark, _, _| {
            mark.look = Look::Content;
            (mark.open, mark.heard_open) = (false, false);
            mark.wrote = true;
            mark.gone = false;
            now
        });
    }

    /// A name is to be linked to another name of its file, which the target has.
    pub fn relink(&mut self, path: WirePath, now: Millis) {
        self.mark(path, now, |mark, _, fresh| {
            mark.look = Look::Content;
            if fresh {
                mark.remote = Remote::Present;
            }
            if fresh || !mark.open { now } else { mark.due }
        });
    }

    /// A name came from elsewhere: look now.
    pub fn written(&mut self, path: WirePath, now: Millis) {
        self.is_back(&path, now);
        self.mark(path, now, |mark, _, _| {
            mark.look = Look::Content;
            (mark.open, mark.heard_open) = (false, false);
            mark.gone = false;
            now
        });
    }

    /// Nobody knows what became of a name: look again, now or once whoever writes to it is done.
    pub fn unclear(&mut self, path: WirePath, now: Millis) {
        self.mark(path, now, |mark, _, _| {
            mark.look = Look::Content;
            mark.gone = false;
            // The target may have something there after all.
            mark.born = false;
            if mark.open { mark.due } else { now }
        });
    }

    /// Metadata changed.
    pub fn attrib(&mut self, path: WirePath, now: Millis) {
        self.mark(path, now, |mark, settle, _| {
            mark.wrote = true;
            mark.due_if_open(settle, now)
        });
    }

    /// A name is gone, with everything below it. One that was never sent is forgotten.
    pub fn gone(&mut self, path: WirePath, now: Millis) {
        let below = self.absorb_below(&path);
        if self.was_never_sent(&path) {
            self.forget(&path);
            self.times_of_parent(&path, now);
            return;
        }
        self.mark(path, now, |mark, _, _| {
            mark.look = Look::Content;
            (mark.open, mark.heard_open) = (false, false);
            mark.gone = true;
            mark.weight += below;
            now
        });
    }

    /// An event says that a name is gone; more may follow at once, and then the directory itself.
    pub fn removed(&mut self, path: WirePath, now: Millis) {
        if let Some(parent) = path.parent() {
            if self.bursts.len() >= BURSTS_MAX {
                self.bursts.clear();
            }
            let burst = self.bursts.entry(parent).or_insert(Burst {
                first: now,
                last: now,
                count: 0,
            });
            if now - burst.last > BURST_QUIET_MS {
                (burst.first, burst.count) = (now, 0);
            }
            burst.last = now;
            burst.count += 1;
        }
        self.bursts.remove(&path);
        self.gone(path.clone(), now);
        if let Some(mark) = self.marks.get_mut(&path) {
            mark.witnessed = true;
        }
    }

    /// Until when a removal waits because its neighbours are being removed as well.
    fn burst_until(&self, path: &WirePath, now: Millis) -> Option<Millis> {
        let burst = self.bursts.get(&path.parent()?)?;
        let until = (burst.last + BURST_QUIET_MS).min(burst.first + BURST_MAX_MS);
        (burst.count >= BURST_COUNT && now < until).then_some(until)
    }

    /// A comparison found a name that is gone, and nothing at the target that would have to stay. `sure`:
    /// it has been gone for a while; otherwise it may be about to come again, and is looked at twice.
    pub fn only_there(&mut self, path: WirePath, sure: bool, now: Millis) {
        self.gone(path.clone(), now);
        if let Some(mark) = self.marks.get_mut(&path) {
            mark.cleared = true;
            mark.gone = sure;
        }
    }

    /// A scan or a comparison found the path to differ.
    pub fn found(&mut self, path: WirePath, look: Look, remote: Remote, now: Millis) {
        self.respawned += 1;
        self.listings += 1;
        self.mark(path, now, |mark, _, fresh| {
            mark.look = mark.look.max(look);
            mark.remote = remote;
            if fresh || !mark.open { now } else { mark.due }
        });
    }

    /// A dirty file was written just now, perhaps by somebody who is not done: it waits for the close, or
    /// for a moment.
    pub fn recent(&mut self, path: WirePath, now: Millis) {
        if self.marks.contains_key(&path) {
            self.mark(path, now, |mark, _, _| {
                mark.open = true;
                mark.quiet_at = mark.quiet_at.max(now + RECENT_MS);
                mark.quiet_at
            });
        }
    }

    /// Everything below a directory is to be compared with the target.
    pub fn compare(&mut self, path: WirePath, now: Millis) {
        let covered = self
            .comparisons
            .keys()
            .any(|above| path.starts_with(above) && **above != path);
        if covered || self.comparisons.contains_key(&path) {
            return;
        }
        let below: Vec<_> = range_below(&self.comparisons, &path)
            .map(|(path, comparison)| (path.clone(), comparison.seq))
            .collect();
        for (path, seq) in below {
            self.comparisons.remove(&path);
            self.settle_seq(seq);
        }
        self.respawned += 1;
        let comparison = Comparison {
            seq: self.issue_seq(now),
            first: now,
            due: now,
            attempts: 0,
        };
        self.comparisons.insert(Arc::new(path), comparison);
    }

    /// A name moved within the tree. Returns whether the new name must be scanned as if it were new:
    /// its old name was never sent, or renames are not replayed.
    pub fn renamed(&mut self, from: WirePath, to: WirePath, dir: bool, now: Millis) -> bool {
        // A file with anything pending is looked at under its new name: renaming what the target has
        // would show a state that the new name never had.
        let unsent = match self.marks.get(&from) {
            Some(mark) => !dir || mark.is_unsent(dir),
            None => !dir && self.in_work.contains_key(&from),
        };
        let replay = self.settle.delete && !unsent;
        let in_work = |path| -> Vec<Arc<WirePath>> {
            range_below(&self.in_work, path)
                .map(|(path, ())| path.clone())
                .collect()
        };
        let (moving, replaced) = (in_work(&from), in_work(&to));
        self.respawned += 1;
        let never_sent = self.was_never_sent(&from);
        // Renamed before it is closed: the close will be told under the new name.
        let open = self
            .marks
            .get(&from)
            .is_some_and(|mark| !dir && mark.open && mark.heard_open);
        let moved = self.extract(&from);
        if dir && !replay {
            self.is_there_again(&to, now);
        }
        self.absorb_below(&to);
        self.forget(&to);
        for (tail, mark) in moved {
            let keep = replay || !tail.is_root();
            match to.join_path(&tail).filter(|_| keep) {
                Some(path) => self.adopt(Arc::new(path), mark),
                None => self.settle_seq(mark.seq),
            }
        }
        // What is being worked on will be committed under the name it had: look again afterwards, and
        // at the new name as well.
        for path in replaced {
            self.unclear(WirePath::clone(&path), now);
        }
        for path in moving {
            let tail = path.strip_prefix(&from);
            self.unclear(WirePath::clone(&path), now);
            if let Some(moved) = tail.and_then(|tail| to.join_path(&tail)) {
                self.unclear(moved, now);
            }
        }
        if replay {
            self.remember_move(&from, &to);
            self.push_rename(from, to, dir, now);
        } else {
            if !never_sent {
                self.written(from, now);
            } else if from.parent() != to.parent() {
                self.times_of_parent(&from, now);
            }
            self.written(to.clone(), now);
            if open {
                self.modified(to, now);
            }
        }
        !replay
    }

    /// Renames to be sent before anything they concern, oldest first, as far as they are due.
    pub fn take_renames(&mut self, now: Millis, max: usize) -> Vec<Rename> {
        let due = self.renames.iter().take_while(|rename| rename.due <= now);
        let count = due.count().min(max);
        self.renames.drain(..count).collect()
    }

    /// Whether renames wait that must go before any path: of directories, or too many to tell which path
    /// they concern.
    #[must_use]
    pub fn renames_come_first(&self) -> bool {
        self.renames.len() > RENAMES_BESIDE_MAX || self.renames.iter().any(|rename| rename.dir)
    }

    /// Until when a path waits for the rename of a file at or below it.
    fn rename_due(&self, path: &WirePath) -> Option<Millis> {
        let concerned = self
            .renames
            .iter()
            .filter(|rename| rename.from.starts_with(path) || rename.to.starts_with(path));
        concerned.map(|rename| rename.due).max()
    }

    /// The old name of a rename that waits is there again: nothing is to be waited for.
    fn is_back(&mut self, path: &WirePath, now: Millis) {
        for rename in &mut self.renames {
            if rename.from == *path {
                rename.due = rename.due.min(now);
            }
        }
    }

    /// Paths that are due, parents first: at most `max`, and the marked directories above them. Paths
    /// on their way are left until they have arrived.
    pub fn take(&mut self, now: Millis, max: usize) -> Vec<Taken> {
        let mut chosen: BTreeMap<Arc<WirePath>, Mark> = BTreeMap::new();
        while chosen.len() < max {
            let Some(&(due, seq)) = self.queue.first().filter(|(due, _)| *due <= now) else {
                break;
            };
            self.queue.remove(&(due, seq));
            let Some(path) = self.by_seq.get(&seq).cloned() else {
                continue;
            };
            if self.in_flight.contains_key(&path) {
                continue;
            }
            if self.put_off(&path, now) {
                continue;
            }
            self.take_with_parents(path, &mut chosen);
        }
        chosen
            .into_iter()
            .map(|(path, mark)| Taken { path, mark })
            .collect()
    }

    /// The next directory to compare, if one is due.
    pub fn take_comparison(&mut self, now: Millis) -> Option<(Arc<WirePath>, Comparison)> {
        let (path, _) = self
            .comparisons
            .iter()
            .find(|(_, comparison)| comparison.due <= now)?;
        let path = path.clone();
        self.comparisons.remove_entry(&path)
    }

    /// How many directories wait to be compared.
    #[must_use]
    pub fn comparisons(&self) -> usize {
        self.comparisons.len()
    }

    /// Puts a comparison back that could not be finished.
    pub fn give_back_comparison(
        &mut self,
        path: Arc<WirePath>,
        mut comparison: Comparison,
        due: Millis,
    ) {
        comparison.due = due;
        comparison.attempts += 1;
        if let Some(other) = self.comparisons.insert(path, comparison) {
            self.settle_seq(other.seq);
        }
    }

    /// When [`DirtySet::take_comparison`] may have something, if ever.
    #[must_use]
    pub fn next_comparison_due(&self) -> Option<Millis> {
        self.comparisons
            .values()
            .map(|comparison| comparison.due)
            .min()
    }

    /// Notes that a path is on its way to the target.
    fn sent(&mut self, path: &Arc<WirePath>) {
        *self.in_flight.entry(path.clone()).or_default() += 1;
    }

    /// Notes that a path is worked on: taken, and not in the commit log yet.
    pub fn begun(&mut self, path: &Arc<WirePath>) {
        self.sent(path);
        self.in_work.insert(path.clone(), ());
    }

    /// Whether it was taken, and is neither in the commit log nor given up.
    #[must_use]
    pub fn is_in_work(&self, path: &WirePath) -> bool {
        self.in_work.contains_key(path)
    }

    /// Until when a regular file of this size that was marked again waits for its close, if it does.
    #[must_use]
    pub fn waits_until(&self, path: &WirePath, size: u64) -> Option<Millis> {
        self.marks.get(path)?.waits_until(size, self.settle)
    }

    /// Whether something is pending for exactly this path, or on its way.
    #[must_use]
    pub fn is_pending(&self, path: &WirePath) -> bool {
        self.marks.contains_key(path) || self.in_flight.contains_key(path)
    }

    /// Whether what the target has under this name is, as far as is known, what is here: nothing is
    /// pending for it, for a directory above it, or for a name it came from.
    #[must_use]
    pub fn is_settled(&self, path: &WirePath) -> bool {
        let mut above = Some(path.clone());
        while let Some(name) = above {
            let mark = self.marks.get(&name);
            if mark.is_some_and(|mark| name == *path || mark.gone) {
                return false;
            }
            above = name.parent();
        }
        !self.in_work.contains_key(path)
            && !self.comparisons.keys().any(|above| path.starts_with(above))
            && self.renames.is_empty()
    }

    /// Notes that it is in the commit log now, or given up.
    pub fn logged(&mut self, path: &Arc<WirePath>) {
        self.in_work.remove(path);
    }

    /// Notes that a path on its way has arrived, or will not.
    pub fn arrived(&mut self, path: &Arc<WirePath>) {
        let Some(count) = self.in_flight.get_mut(path) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.in_flight.remove(path);
        if let Some(mark) = self.marks.get(path) {
            self.queue.insert((mark.due, mark.seq));
        }
    }

    /// Puts a path back: not stable yet, refused, or lost with the connection.
    pub fn give_back(&mut self, taken: Taken, due: Millis) {
        let Taken { path, mut mark } = taken;
        mark.due = due;
        self.adopt(path, mark);
    }

    /// Puts a rename back that was lost with the connection: what became of it is found by looking.
    pub fn give_back_rename(&mut self, rename: &Rename, now: Millis) {
        self.respawned += 1;
        self.look_where_it_went(&rename.from, rename.seq, now);
        self.look_where_it_went(&rename.to, rename.seq, now);
        self.unclear(rename.from.clone(), now);
        if rename.dir {
            self.compare(rename.to.clone(), now);
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
        for name in names {
            self.unclear(name, now);
        }
    }

    /// Something seen as `seq` is durable at the target, or of no interest any more.
    pub fn settle_seq(&mut self, seq: u64) {
        self.outstanding.remove(&seq);
    }

    /// Number that the next thing seen will get; everything below it has been seen.
    #[must_use]
    pub fn horizon(&self) -> u64 {
        self.next_seq
    }

    /// The oldest thing that is not durable: its number and when it was seen.
    #[must_use]
    pub fn oldest(&self) -> Option<(u64, Millis)> {
        self.outstanding
            .first_key_value()
            .map(|(seq, first)| (*seq, *first))
    }

    /// Whether nothing at, below or above `path` is pending that concerns it.
    #[must_use]
    pub fn is_clean(&self, path: &WirePath) -> bool {
        let related = |other: &WirePath| path.starts_with(other) || other.starts_with(path);
        range_below(&self.marks, path).next().is_none()
            && !self.comparisons.keys().any(|other| related(other))
            && !self.in_flight.keys().any(|other| other.starts_with(path))
            && !self
                .renames
                .iter()
                .any(|rename| related(&rename.to) || related(&rename.from))
    }

    /// When [`DirtySet::take`] or [`DirtySet::take_renames`] may have something, if ever.
    #[must_use]
    pub fn next_due(&self) -> Option<Millis> {
        let path = self.queue.first().map(|(due, _)| *due);
        let rename = self.renames.front().map(|rename| rename.due);
        let path = path.filter(|_| !self.renames_come_first());
        path.into_iter().chain(rename).min()
    }

    /// How many paths are marked and renames waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.marks.len() + self.renames.len()
    }

    /// Whether nothing waits to be sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty() && self.renames.is_empty()
    }

    /// Whether renames wait to be sent.
    #[must_use]
    pub fn has_renames(&self) -> bool {
        !self.renames.is_empty()
    }

    /// How many things seen are not durable yet, those on their way included.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// How often marks collapsed because there were too many.
    #[must_use]
    pub fn collapsed(&self) -> u64 {
        self.collapsed
    }

    /// How often something that had been seen before became new work under a new number: whoever waits for
    /// the old number waits for that too.
    #[must_use]
    pub fn respawned(&self) -> u64 {
        self.respawned
    }

    /// Paths that failed, with what is pending for them.
    pub fn failed(&self) -> impl Iterator<Item = (&WirePath, &Mark)> {
        self.marks
            .iter()
            .filter(|(_, mark)| mark.failure.is_some())
            .map(|(path, mark)| (&**path, mark))
    }

    /// Removals that are held, with what is pending for them.
    pub fn held(&self) -> impl Iterator<Item = (&WirePath, &Mark)> {
        self.marks
            .iter()
            .filter(|(_, mark)| mark.leave == Leave::Held)
            .map(|(path, mark)| (&**path, mark))
    }

    /// Gives every removal that is held leave to go.
    pub fn release_held(&mut self, now: Millis) {
        let queue = &mut self.queue;
        for mark in self
            .marks
            .values_mut()
            .filter(|mark| mark.leave == Leave::Held)
        {
            mark.leave = Leave::Given;
            if queue.remove(&(mark.due, mark.seq)) {
                queue.insert((now, mark.seq));
            }
            mark.due = now;
        }
    }

    /// Makes everything that waits after a failure due now: somebody made room, or asked.
    pub fn retry_all(&mut self, now: Millis) {
        let queue = &mut self.queue;
        for mark in self
            .marks
            .values_mut()
            .filter(|mark| mark.failure.is_some())
        {
            if queue.remove(&(mark.due, mark.seq)) {
                queue.insert((now, mark.seq));
            }
            mark.due = now;
        }
    }

    /// A name came and went without the target ever hearing of it: only its directory's times tell.
    fn times_of_parent(&mut self, path: &WirePath, now: Millis) {
        if let Some(parent) = path.parent() {
            self.attrib(parent, now);
        }
    }

    fn remember_move(&mut self, from: &WirePath, to: &WirePath) {
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

    fn push_rename(&mut self, from: WirePath, to: WirePath, dir: bool, now: Millis) {
        let back = self
            .renames
            .back_mut()
            .filter(|last| !last.swap && last.from == to && last.to == from);
        match back {
            Some(last) if dir => {
                self.respawned += 1;
                last.swap = true;
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
                });
            }
        }
    }

    /// Puts a removal off while its neighbours go, and whatever a rename that waits concerns.
    fn put_off(&mut self, path: &Arc<WirePath>, now: Millis) -> bool {
        let gone = self.marks.get(path).is_some_and(|mark| mark.gone);
        let burst = self.burst_until(path, now).filter(|_| gone);
        let rename = self.rename_due(path).map(|due| due.max(now + 1));
        let Some(until) = burst.max(rename) else {
            return false;
        };
        if let Some(mark) = self.marks.get_mut(path) {
            mark.due = until;
            self.queue.insert((until, mark.seq));
        }
        true
    }

    fn take_with_parents(
        &mut self,
        path: Arc<WirePath>,
        chosen: &mut BTreeMap<Arc<WirePath>, Mark>,
    ) {
        let mut above = path.parent();
        while let Some(parent) = above {
            if let Some((key, mark)) = self.remove(&parent) {
                chosen.insert(key, mark);
            }
            above = parent.parent();
        }
        if let Some((key, mark)) = self.remove(&path) {
            chosen.insert(key, mark);
        }
    }

    /// Makes or changes the mark of a path; `change` returns when it is due.
    fn mark(
        &mut self,
        path: WirePath,
        now: Millis,
        change: impl FnOnce(&mut Mark, Settle, bool) -> Millis,
    ) {
        let fresh = !self.marks.contains_key(&path);
        if fresh && self.marks.len() >= self.settle.marks_max {
            self.collapse(&path, now);
            return;
        }
        let (path, mut mark) = if fresh {
            let seq = self.issue_seq(now);
            (Arc::new(path), Mark::new(seq, now))
        } else {
            match self.remove(&path) {
                Some(found) => found,
                None => return,
            }
        };
        mark.last = now;
        mark.due = change(&mut mark, self.settle, fresh);
        self.insert(path, mark);
    }

    /// Takes a mark as it is; merges with one that is already there.
    fn adopt(&mut self, path: Arc<WirePath>, mut mark: Mark) {
        if let Some((_, newer)) = self.remove(&path) {
            let merged = mark.seq.max(newer.seq);
            self.outstanding.remove(&merged);
            mark = Mark {
                seq: mark.seq.min(newer.seq),
                first: mark.first.min(newer.first),
                last: mark.last.max(newer.last),
                due: newer.due,
                look: mark.look.max(newer.look),
                open: newer.open,
                heard_open: newer.heard_open,
                wrote: mark.wrote || newer.wrote,
                born: mark.born && newer.born,
                gone: newer.gone,
                cleared: newer.cleared,
                quiet_at: newer.quiet_at,
                weight: mark.weight.max(newer.weight),
                witnessed: mark.witnessed || newer.witnessed,
                leave: mark.leave,
                remote: newer.remote,
                attempts: mark.attempts,
                failure: mark.failure,
            };
        }
        self.insert(path, mark);
    }

    fn insert(&mut self, path: Arc<WirePath>, mark: Mark) {
        self.by_seq.insert(mark.seq, path.clone());
        self.queue.insert((mark.due, mark.seq));
        self.marks.insert(path, mark);
    }

    fn remove(&mut self, path: &WirePath) -> Option<(Arc<WirePath>, Mark)> {
        let (path, mark) = self.marks.remove_entry(path)?;
        self.queue.remove(&(mark.due, mark.seq));
        self.by_seq.remove(&mark.seq);
        Some((path, mark))
    }

    fn forget(&mut self, path: &WirePath) {
        if let Some((_, mark)) = self.remove(path) {
            self.settle_seq(mark.seq);
        }
    }

    /// Marks below a path vanish: a delete, a rename or a comparison covers them.
    /// Returns how many names they stood for.
    fn absorb_below(&mut self, path: &WirePath) -> u64 {
        let below: Vec<_> = range_below(&self.marks, path)
            .filter(|(other, _)| ***other != *path)
            .map(|(other, mark)| (other.clone(), mark.weight))
            .collect();
        let mut weight = 0;
        for (path, names) in below {
            weight += names;
            self.forget(&path);
        }
        weight
    }

    /// Takes out the marks at and below a path, as tails from there.
    fn extract(&mut self, path: &WirePath) -> Vec<(WirePath, Mark)> {
        let below: Vec<_> = range_below(&self.marks, path)
            .map(|(other, _)| other.clone())
            .collect();
        below
            .into_iter()
            .filter_map(|other| {
                let (other, mark) = self.remove(&other)?;
                Some((other.strip_prefix(path)?, mark))
            })
            .collect()
    }

    fn collapse(&mut self, path: &WirePath, now: Millis) {
        self.collapsed += 1;
        self.respawned += 1;
        let dir = path.parent().unwrap_or_default();
        let first = range_below(&self.marks, &dir)
            .map(|(_, mark)| mark.first)
            .min()
            .unwrap_or(now);
        self.absorb_below(&dir);
        self.compare(dir, first);
    }

    /// Whether the event that tells of a name now is the first that was heard of it.
    fn is_first_heard(&self) -> bool {
        self.listings == self.listings_heard
    }

    fn was_never_sent(&self, path: &WirePath) -> bool {
        !self.in_flight.contains_key(path)
            && self
                .marks
                .get(path)
                .is_some_and(|mark| mark.born && mark.remote != Remote::Present)
    }

    fn issue_seq(&mut self, first: Millis) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.outstanding.insert(seq, first);
        seq
    }
}

impl Mark {
    fn new(seq: u64, now: Millis) -> Self {
        Self {
            seq,
            first: now,
            last: now,
            due: now,
            look: Look::Meta,
            open: false,
            heard_open: false,
            wrote: false,
            born: false,
            gone: false,
            cleared: false,
            quiet_at: now,
            weight: 1,
            witnessed: false,
            leave: Leave::NotAsked,
            remote: Remote::Unknown,
            attempts: 0,
            failure: None,
        }
    }

    /// Until when a regular file of this size waits for its close, if it does.
    #[must_use]
    pub fn waits_until(&self, size: u64, settle: Settle) -> Option<Millis> {
        if !self.open {
            return None;
        }
        Some(match (size, self.heard_open) {
            // Made or cut to nothing just now: what it is to hold is still to be written.
            (0, true) => self.first + settle.hold_max_ms,
            (0, false) => self.quiet_at.max(self.first + EMPTY_MS),
            _ => self.quiet_at,
        })
    }

    /// Whether the target cannot have what is under this name.
    fn is_unsent(&self, dir: bool) -> bool {
        self.born || self.remote == Remote::Absent || (!dir && self.look == Look::Content)
    }

    fn due_if_open(&mut self, settle: Settle, now: Millis) -> Millis {
        if !self.open {
            return now;
        }
        self.quiet_at = (now + settle.settle_ms).min(self.first + settle.hold_max_ms);
        self.quiet_at
    }
}

/// Entries at and below a path: a range, since a directory sorts right before what it holds.
fn range_below<'a, V>(
    map: &'a BTreeMap<Arc<WirePath>, V>,
    path: &'a WirePath,
) -> impl Iterator<Item = (&'a Arc<WirePath>, &'a V)> {
    map.range::<WirePath, _>((Bound::Included(path), Bound::Unbounded))
        .take_while(move |(other, _)| other.starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Settle = Settle {
        settle_ms: 100,
        hold_max_ms: 1_000,
        marks_max: 1_000,
        delete: true,
    };

    fn path(text: &str) -> WirePath {
        WirePath::from_relative(text.as_ref()).unwrap()
    }

    fn taken(set: &mut DirtySet, now: Millis) -> Vec<String> {
        set.take(now, 100)
            .iter()
            .map(|taken| taken.path.to_string())
            .collect()
    }

    fn renames(set: &mut DirtySet) -> Vec<String> {
        set.take_renames(Millis::MAX, 100)
            .iter()
            .map(|rename| format!("{}->{}", rename.from, rename.to))
            .collect()
    }

    #[test]
    fn a_file_is_sent_when_closed_not_when_created() {
        let mut set = DirtySet::new(SETTLE);
        set.created(path("f"), 0);
        set.modified(path("f"), 1);
        assert!(taken(&mut set, 50).is_empty());
        set.written(path("f"), 60);
        assert_eq!(taken(&mut set, 60), ["f"]);
        assert_eq!(set.outstanding(), 1);
    }

    #[test]
    fn a_file_that_is_never_closed_goes_when_quiet_and_at_the_latest_after_the_hold() {
        let mut set = DirtySet::new(SETTLE);
        set.modified(path("quiet"), 0);
        assert!(taken(&mut set, 99).is_empty());
        assert_eq!(taken(&mut set, 100), ["quiet"]);
        for now in (0..1_000).step_by(50) {
            set.modified(path("log"), now);
            assert!(taken(&mut set, now).is_empty());
        }
        assert_eq!(taken(&mut set, 1_000), ["log"]);
    }

    #[test]
    fn an_empty_file_waits_for_the_close_of_who_made_it() {
        let mut set = DirtySet::new(SETTLE);
        set.created(path("f"), 0);
        let mark = set.take(100, 1).remove(0).mark;
        assert_eq!(mark.waits_until(0, SETTLE), Some(1_000));
        assert_eq!(mark.waits_until(1, SETTLE), Some(100));
        set.created(path("g"), 0);
        set.closed(path("g"), 1);
        let mark = set.take(1, 1).remove(0).mark;
        assert_eq!(mark.waits_until(0, SETTLE), None);
    }

    #[test]
    fn who_has_a_file_open_has_it_open_under_its_new_name() {
        let mut set = DirtySet::new(SETTLE);
        set.created(path("tmp"), 0);
        set.modified(path("tmp"), 0);
        set.renamed(path("tmp"), path("f"), false, 1);
        assert!(taken(&mut set, 1).is_empty());
        set.closed(path("f"), 2);
        assert_eq!(taken(&mut set, 2), ["f"]);
    }

    #[test]
    fn a_name_that_was_put_aside_and_made_anew_is_at_the_target() {
        let mut set = DirtySet::new(SETTLE);
        set.renamed(path("f"), path("f~"), false, 0);
        assert!(set.take_renames(9, 9).is_empty());
        set.created(path("f"), 9);
        let rename = set.take_renames(9, 9).remove(0);
        set.give_back_rename(&rename, 9);
        set.closed(path("f"), 9);
        set.renamed(path("f"), path("g"), false, 10);
        assert_eq!(taken(&mut set, 10), ["f", "f~", "g"]);
    }

    #[test]
    fn a_thousand_writes_in_flight_make_one_more_send() {
        let mut set = DirtySet::new(SETTLE);
        set.written(path("f"), 0);
        let first = set.take(0, 1).remove(0);
        set.begun(&first.path);
        for now in 1..1_000 {
            set.written(path("f"), now);
            assert!(taken(&mut set, now).is_empty());
        }
        set.arrived(&first.path);
        assert_eq!(taken(&mut set, 1_000), ["f"]);
        assert!(set.is_empty());
    }

    #[test]
    fn a_temporary_name_that_came_and_went_is_never_sent() {
        let mut set = DirtySet::new(SETTLE);
        set.created(path("4913"), 0);
        set.written(path("4913"), 1);
        set.gone(path("4913"), 2);
        // The directory's times have changed all the same.
        assert_eq!(taken(&mut set, 2), ["."]);
        assert!(set.is_empty());
    }

    #[test]
    fn what_a_listing_may_have_told_before_is_removed_there_as_well() {
        let mut set = DirtySet::new(SETTLE);
        set.listed(path("d/f"), false, 0);
        let listings = set.listings();
        assert_eq!(taken(&mut set, 0), ["d/f"]);
        // Sent and arrived; only now its event comes, and the next one.
        set.created(path("d/f"), 5_000);
        set.removed(path("d/f"), 5_000);
        assert_eq!(taken(&mut set, 5_000), ["d/f"]);
        set.heard(listings);
        assert!(!set.is_listed_ahead());
        set.created(path("d/g"), 5_001);
        set.removed(path("d/g"), 5_001);
        assert_eq!(taken(&mut set, 5_001), ["d"]);
    }

    #[test]
    fn saving_by_a_temporary_file_is_one_change_of_the_target_name() {
        let mut set = DirtySet::new(SETTLE);
        set.created(path("f.tmp"), 0);
        set.written(path("f.tmp"), 1);
        assert!(set.renamed(path("f.tmp"), path("f"), false, 2));
        assert!(renames(&mut set).is_empty());
        assert_eq!(taken(&mut set, 2), ["f"]);
        assert!(set.is_empty());
    }

    #[test]
    fn a_rename_carries_what_is_dirty_below_it() {
        let mut set = DirtySet::new(SETTLE);
        set.written(path("a/x"), 0);
        set.written(path("b/old"), 0);
        assert!(!set.renamed(path("a"), path("b"), true, 1));
        assert_eq!(renames(&mut set), ["a->b"]);
        assert_eq!(taken(&mut set, 1), ["b/x"]);
    }

    #[test]
    fn a_file_renamed_while_it_is_transferred_is_looked_at_under_both_names() {
        let mut set = DirtySet::new(SETTLE);
        set.written(path("d/big"), 0);
        let big = set.take(0, 1).remove(0);
        set.begun(&big.path);
        set.renamed(path("d"), path("e"), true, 1);
        assert_eq!(renames(&mut set), ["d->e"]);
        assert_eq!(taken(&mut set, 1), ["e/big"]);
        set.logged(&big.path);
        set.arrived(&big.path);
        assert_eq!(taken(&mut set, 1), ["d/big"]);
    }

    #[test]
    fn a_file_renamed_over_one_that_is_worked_on_is_looked_at_again() {
        let mut set = DirtySet::new(SETTLE);
        set.written(path("f"), 0);
        let old = set.take(0, 1).remove(0);
        set.begun(&old.path);
        set.renamed(path("g"), path("f"), false, 1);
        assert_eq!(renames(&mut set), ["g->f"]);
        set.logged(&old.path);
        set.arrived(&old.path);
        assert_eq!(taken(&mut set, 1), ["f"]);
    }

    #[test]
    fn renames_keep_their_order() {
        let mut set = DirtySet::new(SETTLE);
        for (from, to) in [("a", "t"), ("b", "a"), ("t", "b")] {
            set.renamed(path(from), path(to), false, 0);
        }
        assert_eq!(renames(&mut set), ["a->t", "b->a", "t->b"]);
    }

    #[test]
    fn swapped_files_are_looked_at_and_swapped_directories_compared() {
        let mut set = DirtySet::new(SETTLE);
        set.renamed(path("a"), path("b"), false, 0);
        set.renamed(path("b"), path("a"), false, 0);
        assert!(renames(&mut set).is_empty());
        assert_eq!(taken(&mut set, 0), ["a", "b"]);

        set.renamed(path("c"), path("d"), true, 0);
        set.renamed(path("d"), path("c"), true, 0);
        let swap = set.take_renames(Millis::MAX, 9);
        assert!(swap.len() == 1 && swap[0].swap);
        assert!(set.take_comparison(0).is_some() && set.take_comparison(0).is_some());
    }

    #[test]
    fn without_deletes_a_rename_is_a_copy() {
        let mut set = DirtySet::new(Settle {
            delete: false,
            ..SETTLE
        });
        assert!(set.renamed(path("a"), path("b"), true, 0));
        assert!(renames(&mut set).is_empty());
        assert_eq!(taken(&mut set, 0), ["a", "b"]);
    }

    #[test]
    fn removing_a_directory_with_much_in_it_is_one_change() {
        let mut set = DirtySet::new(SETTLE);
        for index in 0..300 {
            set.removed(path(&format!("d/{index}")), index);
            if index > 20 {
                assert!(taken(&mut set, index).is_empty());
            }
        }
        set.removed(path("d"), 300);
        let gone = set.take(300, 9);
        assert_eq!(gone.len(), 1);
        assert!(gone[0].mark.weight > 200);
    }

    #[test]
    fn a_directory_that_went_and_came_again_is_compared() {
        let mut set = DirtySet::new(SETTLE);
        set.removed(path("d/f"), 0);
        set.removed(path("d"), 0);
        set.created_dir(path("d"), 1);
        assert_eq!(taken(&mut set, 1), ["d"]);
        assert!(
            set.take_comparison(1)
                .is_some_and(|(dir, _)| *dir == path("d"))
        );
        set.created_dir(path("new"), 2);
        assert!(set.take_comparison(2).is_none());
    }

    #[test]
    fn removals_that_are_not_followed_by_their_directory_go_when_they_end() {
        let mut set = DirtySet::new(SETTLE);
        (0..20).for_each(|index| set.removed(path(&format!("d/{index}")), 0));
        assert!(taken(&mut set, BURST_QUIET_MS - 1).is_empty());
        assert_eq!(taken(&mut set, BURST_QUIET_MS).len(), 20);
        set.removed(path("e/one"), 100);
        assert_eq!(taken(&mut set, 100), ["e/one"]);
    }

    #[test]
    fn held_removals_go_when_they_have_leave() {
        let mut set = DirtySet::new(SETTLE);
        set.gone(path("f"), 0);
        let mut held = set.take(0, 1).remove(0);
        held.mark.leave = Leave::Held;
        set.give_back(held, 1_000);
        assert_eq!(set.held().count(), 1);
        assert!(taken(&mut set, 1).is_empty());
        set.release_held(1);
        assert_eq!(set.take(1, 1)[0].mark.leave, Leave::Given);
    }

    #[test]
    fn a_delete_absorbs_what_was_queued_below() {
        let mut set = DirtySet::new(SETTLE);
        for name in ["d/a", "d/b/c", "dx"] {
            set.written(path(name), 0);
        }
        set.gone(path("d"), 1);
        assert_eq!(taken(&mut set, 1), ["d", "dx"]);
        assert_eq!(set.outstanding(), 2);
    }

    #[test]
    fn parents_come_along_and_first() {
        let mut set = DirtySet::new(SETTLE);
        set.created(path("new"), 0);
        set.created(path("new/sub"), 0);
        set.written(path("new/sub/f"), 0);
        assert_eq!(taken(&mut set, 0), ["new", "new/sub", "new/sub/f"]);
    }

    #[test]
    fn too_many_marks_collapse_into_a_comparison() {
        let mut set = DirtySet::new(Settle {
            marks_max: 10,
            ..SETTLE
        });
        for index in 0..11 {
            set.written(path(&format!("d/{index:02}")), 5);
        }
        assert_eq!(set.len(), 0);
        let (dir, comparison) = set.take_comparison(5).unwrap();
        assert_eq!(dir.to_string(), "d");
        assert_eq!(set.oldest(), Some((comparison.seq, 5)));
        set.settle_seq(comparison.seq);
        assert_eq!(set.outstanding(), 0);
    }

    #[test]
    fn a_wider_comparison_covers_narrower_ones() {
        let mut set = DirtySet::new(SETTLE);
        set.compare(path("a/b"), 0);
        set.compare(WirePath::root(), 0);
        set.compare(path("c"), 0);
        assert!(
            set.take_comparison(0)
                .is_some_and(|(path, _)| path.is_root())
        );
        assert_eq!(set.take_comparison(0), None);
        assert_eq!(set.outstanding(), 1);
    }

    #[test]
    fn what_is_given_back_keeps_its_place_and_merges() {
        let mut set = DirtySet::new(SETTLE);
        set.written(path("f"), 0);
        let taken = set.take(0, 1).remove(0);
        let seq = taken.mark.seq;
        set.written(path("f"), 3);
        set.give_back(taken, 500);
        assert_eq!(set.oldest().map(|(seq, _)| seq), Some(seq));
        assert_eq!(set.outstanding(), 1);
        assert_eq!(set.take(3, 1).len(), 1);
    }
}
