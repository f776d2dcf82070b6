//! [`DirtySet`]: what one target has not got yet.
//!
//! Events and scans only mark paths; marks on one path merge. A path is looked at when it is due: at
//! once after a close or a delete, after a quiet time while it is open for writing, after a backoff when
//! it failed. Renames keep their order and carry the marks below them along. Directories that must be
//! compared with the target are kept beside. The set is bounded: above its limit the marks of a
//! directory collapse into "compare this directory".
//!
//! Pure: time comes in as milliseconds of any monotonic clock.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use syncd_proto::path::WirePath;

mod ahead;
mod aside;
mod fence;
mod hear;
mod mark;
mod progress;
mod queue;
mod rename;
#[cfg(test)]
mod tests;

pub use ahead::SOON_BYTES_MAX;
use mark::Place;
pub use mark::{Failed, Failure, Leave, Look, Mark, Remote, Settle, Taken};
pub use rename::Rename;

use ahead::Ahead;
use fence::Fence;
use hear::Burst;
pub use queue::FEW;
use queue::Queue;
use rename::Move;

/// Milliseconds of a monotonic clock.
pub type Millis = u64;

/// Names that went after they were written to: so many wait for renames that are on their way to the log.
const STRANDED_MAX: usize = 4_096;

/// A directory to be compared with the target, taken out of the set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Its place in the order of everything seen.
    pub seq: u64,
    /// When it was seen.
    pub first: Millis,
    /// When it may begin.
    pub due: Millis,
    /// How often it failed in a row.
    pub attempts: u32,
    /// By content: other files of the same names may be there, of the same sizes and times.
    pub content: bool,
    /// Why it failed last.
    pub failure: Option<Failure>,
}

/// What is known of a path that is worked on.
#[derive(Debug, Clone, Copy)]
struct InWork {
    /// It was written to before it was taken.
    wrote: bool,
    /// The target had nothing under its name when it was taken, as far as is known.
    born: bool,
    /// Something else was renamed to its name, or to that of a directory above it, since it was taken.
    replaced: bool,
    /// It takes long, and so does what it has become since, most likely.
    long: bool,
}

/// Paths a target has not got yet, with the renames in front of them.
#[derive(Debug)]
pub struct DirtySet {
    settle: Settle,
    marks: BTreeMap<Arc<WirePath>, Mark>,
    comparisons: BTreeMap<Arc<WirePath>, Comparison>,
    /// One that failed and is being done again: it has failed until it is done.
    retried: Option<(Arc<WirePath>, Comparison)>,
    /// Paths that failed and are being tried again, by number: they have failed until they are durable.
    tried: BTreeMap<u64, (Arc<WirePath>, Mark)>,
    /// The one that is being done, and its number.
    under_way: Option<(Arc<WirePath>, u64)>,
    queue: Queue,
    by_seq: HashMap<u64, Arc<WirePath>>,
    in_flight: HashMap<Arc<WirePath>, u32>,
    /// Those on their way that are not in the commit log yet.
    in_work: BTreeMap<Arc<WirePath>, InWork>,
    /// Files among them that have other names by now, of which the target has nothing, and of whose old names nothing was
    /// heard since.
    left: HashSet<Arc<WirePath>>,
    /// Directories that are on their way as something else, and the numbers of what is below them and waits.
    below_in_flight: HashMap<Arc<WirePath>, HashSet<u64>>,
    renames: VecDeque<Rename>,
    /// Renames were taken and may not be in the commit log yet.
    renames_in_hand: bool,
    /// The rename that waits for what was seen before it, if the first one does.
    rename_behind: Option<Place>,
    /// Renames that were pushed, oldest first: what was sent before them under an old name may be
    /// refused after them.
    moves: VecDeque<Move>,
    /// Number of the newest move that was dropped from `moves`.
    moves_forgotten: u64,
    /// Everything not yet durable: seq -> when it was seen.
    outstanding: BTreeMap<u64, Millis>,
    /// Names that were written to and went before that was sent: the file may have others.
    stranded: Vec<WirePath>,
    /// Directories that appeared, and hold back what came after them; oldest first.
    fences: Vec<Fence>,
    /// Names that appeared, were not looked at, and may be links, of which no close tells: by the number they got, when.
    births: BTreeMap<u64, Millis>,
    /// What holds back what came after it, and what waits.
    ahead: Ahead,
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
            retried: None,
            tried: BTreeMap::new(),
            under_way: None,
            queue: Queue::default(),
            by_seq: HashMap::new(),
            in_flight: HashMap::new(),
            in_work: BTreeMap::new(),
            left: HashSet::new(),
            below_in_flight: HashMap::new(),
            renames: VecDeque::new(),
            renames_in_hand: false,
            rename_behind: None,
            moves: VecDeque::new(),
            moves_forgotten: 0,
            outstanding: BTreeMap::new(),
            stranded: Vec::new(),
            fences: Vec::new(),
            births: BTreeMap::new(),
            ahead: Ahead::default(),
            bursts: HashMap::new(),
            listings: 0,
            listings_heard: 0,
            next_seq: 1,
            collapsed: 0,
            respawned: 0,
        }
    }

    /// Paths that are due, in the order in which they came to be, but parents first: at most `max`, and the marked
    /// directories above them. What comparisons found only if nothing is due that was heard of, or a few after many
    /// others. Paths on their way are left until they have arrived.
    pub fn take(&mut self, now: Millis, max: usize) -> Vec<Taken> {
        let mut chosen = Vec::new();
        let (heard, max) = self.queue.choose(now, max);
        while !self.is_enough(&chosen, now, heard, max)
            && let Some(seq) = self.queue.pop_due(now, heard)
        {
            self.take_next(seq, now, &mut chosen);
        }
        chosen
    }

    /// Whether no more is taken. Of what comparisons found, which is sorted by directories, it ends where one does if it can.
    fn is_enough(&self, chosen: &[Taken], now: Millis, heard: bool, max: usize) -> bool {
        let (few, many) = match heard || max <= FEW {
            true => (max, max),
            false => (max - max / 4, 2 * max),
        };
        if chosen.len() < few || chosen.len() >= many {
            return chosen.len() >= many;
        }
        let next = self.queue.next(now, heard);
        let next = next.and_then(|seq| self.by_seq.get(&seq));
        let last = chosen.last();
        !matches!((next, last), (Some(next), Some(last)) if next.is_beside_or_in(&last.path))
    }

    /// The same of what was heard of before the first rename that is due, and has nothing to do with it: a name in the
    /// place of another one may refer to what came before. Nothing if renames come first.
    pub fn take_before_rename(&mut self, now: Millis, max: usize) -> Vec<Taken> {
        let first = self.renames.front().filter(|rename| rename.due <= now);
        let Some(first) = first.filter(|_| !self.renames_come_first()) else {
            return Vec::new();
        };
        let is_before = |seq: &u64| {
            let path = self.by_seq.get(seq);
            let mark = path.and_then(|path| Some((path, self.marks.get(path)?)));
            mark.is_some_and(|(path, mark)| {
                let is_before = !mark.late && mark.place() < first.place();
                is_before && self.rename_due(path).is_none()
            })
        };
        let due = self.queue.due(now).filter(is_before).take(max).collect();
        self.take_these(due, now)
    }

    /// The same of names that were seen to go, and of nothing else.
    pub fn take_gone(&mut self, now: Millis, max: usize) -> Vec<Taken> {
        let is_gone = |seq: &u64| {
            let mark = self.by_seq.get(seq).and_then(|path| self.marks.get(path));
            mark.is_some_and(|mark| mark.gone)
        };
        let due = self.queue.due(now).filter(is_gone).take(max).collect();
        self.take_these(due, now)
    }

    fn take_these(&mut self, seqs: Vec<u64>, now: Millis) -> Vec<Taken> {
        let mut chosen = Vec::new();
        let mut seqs = VecDeque::from(seqs);
        while let Some(seq) = seqs.pop_front() {
            let mark = self.by_seq.get(&seq).and_then(|path| self.marks.get(path));
            // It may have been taken with what is below it.
            if mark.is_some_and(|mark| self.queue.remove(mark)) {
                self.take_next(seq, now, &mut chosen);
                let mark = self.by_seq.get(&seq).and_then(|path| self.marks.get(path));
                if mark.is_some_and(|mark| mark.due <= now) {
                    // It goes after something else that is due.
                    seqs.push_back(seq);
                }
            }
        }
        chosen
    }

    /// Takes what has come out of the queue, unless it has to wait.
    fn take_next(&mut self, seq: u64, now: Millis, chosen: &mut Vec<Taken>) {
        let Some(path) = self.by_seq.get(&seq).cloned() else {
            return;
        };
        if self.in_flight.contains_key(&path) {
            self.waits_for_flight(&path, now);
            return;
        }
        if self.put_off(&path, now) {
            return;
        }
        match self.marked_above(&path) {
            Ok(parents) => {
                for path in parents.iter().rev().chain([&path]) {
                    self.take_one(path, now, chosen);
                }
            }
            Err(above) => {
                self.waits_for_flight(&path, now);
                self.below_in_flight.entry(above).or_default().insert(seq);
            }
        }
    }

    /// What is on its way under this name goes first. What came after it waits, unless somebody writes to it: it may be a
    /// link as well that nobody has looked at.
    fn waits_for_flight(&mut self, path: &WirePath, now: Millis) {
        if self.in_work.get(path).is_some_and(|work| work.long) {
            return;
        }
        let is_whole = |mark: &&Mark| !mark.open || self.births.contains_key(&mark.turn);
        if let Some(mark) = self.marks.get(path).filter(is_whole) {
            self.ahead.add(mark, now);
        }
    }

    /// The next directory to compare, if one is due.
    pub fn take_comparison(&mut self, now: Millis) -> Option<(Arc<WirePath>, Comparison)> {
        let (path, _) = self
            .comparisons
            .iter()
            .find(|(_, comparison)| comparison.due <= now)?;
        let path = path.clone();
        let taken = self.comparisons.remove_entry(&path);
        self.under_way = taken.as_ref().map(|(path, it)| (path.clone(), it.seq));
        let failed = |(_, comparison): &&(_, Comparison)| comparison.failure.is_some();
        self.retried = taken.as_ref().filter(failed).cloned();
        taken
    }

    /// How many directories wait to be compared.
    #[must_use]
    pub fn comparisons(&self) -> usize {
        self.comparisons.len()
    }

    /// Whether a directory waits to be compared.
    #[must_use]
    pub fn is_compared(&self, path: &WirePath) -> bool {
        self.comparisons.contains_key(path)
    }

    /// Puts a comparison back that could not be finished.
    pub fn give_back_comparison(
        &mut self,
        path: Arc<WirePath>,
        mut comparison: Comparison,
        due: Millis,
    ) {
        comparison.due = due;
        (self.retried, self.under_way) = (None, None);
        if let Some(other) = self.comparisons.get(&path) {
            comparison.content |= other.content;
            comparison.due = due.min(other.due);
        }
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
    pub fn begun(&mut self, taken: &Taken) {
        self.sent(&taken.path);
        let work = InWork {
            wrote: taken.mark.wrote,
            born: taken.mark.never_sent(),
            replaced: false,
            long: false,
        };
        self.in_work.insert(taken.path.clone(), work);
    }

    /// Whether it was taken, and is neither in the commit log nor given up.
    #[must_use]
    pub fn is_in_work(&self, path: &WirePath) -> bool {
        self.in_work.contains_key(path)
    }

    /// Whether it was taken, and something else has come to its name by a rename since then: the rename may be in the
    /// commit log already, and what was taken must not come after it.
    #[must_use]
    pub fn is_replaced(&self, path: &WirePath) -> bool {
        self.in_work.get(path).is_some_and(|work| work.replaced)
    }

    /// Whether it was taken and is a file that has another name since then, while the target has nothing under this one:
    /// nothing is to be done here, now or later.
    pub fn has_left(&mut self, path: &WirePath) -> bool {
        let has_left = self.left.contains(path) && self.marks.contains_key(path);
        if has_left {
            self.forget(path);
        }
        has_left
    }

    /// Until when a regular file of this size that was marked again waits for its close, if it does.
    #[must_use]
    pub fn waits_until(&self, path: &WirePath, size: u64) -> Option<Millis> {
        self.marks.get(path)?.waits_until(size, self.settle)
    }

    /// Whether something was written to it since it was taken; the writer may have closed it again.
    #[must_use]
    pub fn is_rewritten(&self, path: &WirePath) -> bool {
        self.marks.get(path).is_some_and(|mark| mark.rewritten)
    }

    /// Notes that it is in the commit log now, or given up.
    pub fn logged(&mut self, path: &Arc<WirePath>) {
        self.in_work.remove(path);
        self.left.remove(path);
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
        let below = self.below_in_flight.remove(path).unwrap_or_default();
        let below = below.iter().filter_map(|seq| self.by_seq.get(seq));
        for path in below.chain([path]) {
            if let Some(mark) = self.marks.get(path) {
                self.queue.insert(mark);
            }
        }
    }

    /// Notes that nothing of what was taken goes on its way.
    pub fn given_up(&mut self, path: &Arc<WirePath>) {
        self.logged(path);
        self.arrived(path);
    }

    /// The directories above a path that are to be taken with it, the nearest first.
    ///
    /// # Errors
    /// One that is on its way as what it was, and has to be sent as what it is by now before anything in it: a file that
    /// arrives where the target has a directory already would take all that is in there away.
    fn marked_above(&self, path: &WirePath) -> Result<Vec<Arc<WirePath>>, Arc<WirePath>> {
        let mut parents = Vec::new();
        for above in above(path) {
            if let Some((above, mark)) = self.marks.get_key_value(&above) {
                match self.in_flight.contains_key(above) {
                    true if mark.look != Look::Meta => return Err(above.clone()),
                    true => {}
                    false => parents.push(above.clone()),
                }
            }
        }
        Ok(parents)
    }

    /// Puts a path back: not stable yet, refused, or lost with the connection.
    pub fn give_back(&mut self, taken: Taken, due: Millis) {
        let Taken { path, mut mark } = taken;
        self.tried.remove(&mark.seq);
        if mark.failure.is_some() {
            self.passed(mark.seq);
        }
        mark.due = due;
        self.adopt(path, mark);
    }

    /// Something seen as `seq` is durable at the target, or of no interest any more.
    pub fn settle_seq(&mut self, seq: u64) {
        self.retried
            .take_if(|(_, comparison)| comparison.seq == seq);
        self.under_way.take_if(|(_, under_way)| *under_way == seq);
        self.tried.remove(&seq);
        self.outstanding.remove(&seq);
        self.passed(seq);
    }

    /// When [`DirtySet::take`] or [`DirtySet::take_renames`] may have something, if ever.
    #[must_use]
    pub fn next_due(&self) -> Option<Millis> {
        let path = self.queue.next_due();
        let rename = self.renames.front().map(|rename| rename.due);
        let path = path.filter(|_| !self.renames_come_first());
        path.into_iter().chain(rename).min()
    }

    /// When the next path will be due that is not yet.
    #[must_use]
    pub fn next_due_after(&self, now: Millis) -> Option<Millis> {
        self.queue.next_due_after(now)
    }

    /// Whether something that was heard of is due.
    #[must_use]
    pub fn has_heard(&self, now: Millis) -> bool {
        self.queue.has_heard(now)
    }

    /// Puts a removal off while its neighbours go, whatever a rename that waits concerns, and what came after that rename
    /// or after a directory that nobody has looked into yet.
    fn put_off(&mut self, path: &Arc<WirePath>, now: Millis) -> bool {
        let Some(mark) = self.marks.get(path) else {
            return false;
        };
        let fence = self.fenced_until(path, mark.last, now);
        let burst = mark.gone.then(|| self.burst_until(path, now)).flatten();
        let rename = self.rename_due(path).map(|due| due.max(now + 1));
        let after = self.after_renames(mark, now);
        // Also where both are due by now: then they go in their order.
        let birth = (!mark.late).then(|| self.born_until(mark.turn)).flatten();
        let after = after.max(birth.filter(|until| *until > mark.due));
        let Some(until) = burst.max(rename).max(fence).max(after) else {
            return false;
        };
        if fence == Some(until) {
            self.is_behind(mark.place());
        }
        if let Some(mark) = self.marks.get_mut(path) {
            mark.due = until;
            mark.hold_from = mark.hold_from.max(until);
            self.queue.insert(mark);
        }
        true
    }

    fn take_one(&mut self, path: &WirePath, now: Millis, chosen: &mut Vec<Taken>) {
        if let Some((path, mut mark)) = self.remove(path) {
            mark.was_overdue(now);
            self.births.remove(&mark.turn);
            if mark.failure.is_some() {
                self.tried.insert(mark.seq, (path.clone(), mark.clone()));
            }
            chosen.push(Taken { path, mark });
        }
    }

    /// Makes or changes the mark of a path; `change` returns when it is due.
    fn mark(
        &mut self,
        path: WirePath,
        now: Millis,
        change: impl FnOnce(&mut Mark, Settle, bool) -> Millis,
    ) {
        self.left.remove(&path);
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
        mark.was_overdue(now);
        mark.last = now;
        if !fresh {
            let turn = self.next_seq;
            self.next_seq += 1;
            if let Some(birth) = self.births.remove(&mark.turn) {
                self.births.insert(turn, birth);
            }
            mark.turn = turn;
        }
        (mark.late, mark.saw_file) = (false, false);
        mark.due = change(&mut mark, self.settle, fresh);
        self.insert(path, mark);
    }

    /// Takes a mark as it is; merges with one that is already there.
    fn adopt(&mut self, path: Arc<WirePath>, mut mark: Mark) {
        if let Some((_, newer)) = self.remove(&path) {
            let merged = mark.seq.max(newer.seq);
            self.outstanding.remove(&merged);
            self.ahead.merge(merged, mark.seq.min(newer.seq));
            let (last, turn) = (mark.last, mark.turn).max((newer.last, newer.turn));
            mark = Mark {
                seq: mark.seq.min(newer.seq),
                first: mark.first.min(newer.first),
                last,
                turn,
                due: newer.due,
                hold_from: mark.hold_from,
                look: mark.look.max(newer.look),
                open: newer.open,
                heard_open: newer.heard_open,
                wrote: mark.wrote || newer.wrote,
                rewritten: mark.rewritten || newer.rewritten,
                born: mark.born && newer.born,
                gone: newer.gone,
                cleared: newer.cleared,
                was_dir: mark.was_dir || newer.was_dir,
                went: mark.went || newer.went,
                quiet_at: newer.quiet_at,
                weight: mark.weight.max(newer.weight),
                witnessed: mark.witnessed || newer.witnessed,
                leave: mark.leave,
                late: mark.late && newer.late,
                saw_file: false,
                remote: newer.remote,
                attempts: mark.attempts,
                failure: mark.failure,
            };
        }
        self.insert(path, mark);
    }

    fn insert(&mut self, path: Arc<WirePath>, mark: Mark) {
        self.by_seq.insert(mark.seq, path.clone());
        self.queue.insert(&mark);
        let moved = self.ahead.moved(&mark);
        self.marks.insert(path, mark);
        if moved {
            self.free_behind();
        }
    }

    fn remove(&mut self, path: &WirePath) -> Option<(Arc<WirePath>, Mark)> {
        let (path, mark) = self.marks.remove_entry(path)?;
        self.queue.remove(&mark);
        self.by_seq.remove(&mark.seq);
        Some((path, mark))
    }

    fn forget(&mut self, path: &WirePath) {
        if let Some((_, mark)) = self.remove(path) {
            self.settle_seq(mark.seq);
            if mark.wrote {
                self.stranded.push(path.clone());
            }
        }
    }

    /// Names that were written to and went before that was sent. Events tell of a file by the name that was used: what it
    /// is called elsewhere is to be looked at. None while renames are on their way to the log, and names unsure.
    pub fn take_stranded(&mut self) -> Vec<WirePath> {
        match self.renames_in_hand && self.stranded.len() < STRANDED_MAX {
            true => Vec::new(),
            false => std::mem::take(&mut self.stranded),
        }
    }

    /// What the target calls so is to be looked at, also if it has another name by now.
    pub fn look_at(&mut self, path: &WirePath, now: Millis) {
        self.unclear(path.clone(), now);
        self.look_at_later_names(path, now);
    }

    /// What the target calls so has another name by now, if renames wait that tell so: that one is to be looked at.
    pub fn look_at_later_names(&mut self, path: &WirePath, now: Millis) {
        if let Some(first) = self.first_rename() {
            self.look_where_it_went(path, first.saturating_sub(1), now);
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

    /// What is worked on at and below a path, and was written to, has not got there as what it is now.
    fn strand_in_work(&mut self, path: &WirePath) {
        let written = range_below(&self.in_work, path).filter(|(_, work)| work.wrote);
        let written = written.map(|(path, _)| WirePath::clone(path));
        self.stranded.extend(written);
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

    fn issue_seq(&mut self, first: Millis) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.outstanding.insert(seq, first);
        seq
    }
}

/// The directories above a path, the nearest first, up to the root.
fn above(path: &WirePath) -> impl Iterator<Item = WirePath> {
    std::iter::successors(path.parent(), WirePath::parent)
}

/// Entries at and below a path: a range, since a directory sorts right before what it holds.
fn range_below<'a, V>(
    map: &'a BTreeMap<Arc<WirePath>, V>,
    path: &'a WirePath,
) -> impl Iterator<Item = (&'a Arc<WirePath>, &'a V)> {
    map.range::<WirePath, _>((Bound::Included(path), Bound::Unbounded))
        .take_while(move |(other, _)| other.starts_with(path))
}
