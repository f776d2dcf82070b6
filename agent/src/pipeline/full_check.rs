//! The checks of a target: on a schedule everything is compared once more, and when nothing changes any more both roots
//! are. What differs although nobody said so is mended.
//!
//! With contents it goes directory by directory, reads slowly if it is told to, and lets changes and other
//! comparisons pass; it goes on where it was when the connection was lost. Without, it is one comparison of digests.
//! A difference counts only if it is still there at a second look, and no event has told of it meanwhile.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Zoned;
use syncd_proto::limits::INLINE_FILE_BYTES_MAX;
use syncd_proto::merkle;
use syncd_proto::meta::{EntryMeta, Kind};
use syncd_proto::path::{Name, WirePath};
use syncd_proto::tree::TreeReader;

use crate::fs::scan::{ScanProblem, SourceReader, Unscanned};
use crate::logic::bucket::Bucket;
use crate::logic::coalesce::Millis;
use crate::logic::config::FullCheck;
use crate::logic::unread::{ATTEMPTS_MAX, Unread, What};
use crate::net::link::{Link, LinkError};
use crate::pipeline::reconcile::reading::{Problems, stat, unread};
use crate::pipeline::reconcile::{
    self, CompareError, Difference, Differences, ask, check_open, mark, put_off, receive,
    settle_commits,
};
use crate::pipeline::sweep::{is_clear, sweep};
use crate::pipeline::target::{State, Target};

/// The clock is looked at this often: it may be set.
const LOOK_MS: Millis = 30_000;

/// How often it is looked whether nothing changes.
const IDLE_LOOK_MIN_MS: Millis = 100;
const IDLE_LOOK_MAX_MS: Millis = 5_000;

/// How often it is looked whether it can go on.
const POLL_MS: Millis = 100;

/// How long a directory waits for changes to be sent first.
const YIELD_MS: Millis = 1_000;

/// How long an attempt that failed waits.
const RETRY_MS: Millis = 1_000;

/// Paths that are shown.
const EXAMPLES_MAX: usize = 5;

/// What a full check came to.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// When it ended; while it runs, when it began.
    pub at: Option<Zoned>,
    /// Whether it is over.
    pub done: bool,
    /// Whether contents were compared.
    pub content: bool,
    /// How long it took.
    pub took: Duration,
    /// When it began, by the target's clock.
    pub begun: Millis,
    /// Entries compared so far; of digests alone those of the source, once it is over.
    pub entries: u64,
    /// Bytes of contents read here.
    pub bytes: u64,
    /// What differed, and is mended now or soon.
    pub found: u64,
    /// Some of that.
    pub examples: Vec<String>,
    /// What could not be read, and is compared by itself later.
    pub unread: u64,
}

/// When a target is checked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// On a schedule, and how.
    pub full: Option<FullCheck>,
    /// After so long without a change both roots are compared, if there was one.
    pub idle: Option<Duration>,
}

/// Runs until the target stops.
pub fn run(target: &Arc<Target>, plan: &Plan) {
    let mut rest = Rest::default();
    while let Some(due) = wait_for_its_time(target, plan, &mut rest) {
        let started = target.now();
        let mut checked = Checked {
            at: Some(Zoned::now()),
            begun: started,
            ..Checked::default()
        };
        let whole = match &due {
            Due::Full(full) if full.content => {
                checked.content = true;
                tell(target, &checked);
                contents(target, full, &mut checked)
            }
            Due::Full(_) => {
                tell(target, &checked);
                digests(target, &mut checked)
            }
            Due::Idle => digests(target, &mut checked),
        };
        target.update(|state, _| state.checking = false);
        if whole.is_none() {
            return;
        }
        checked.done = true;
        checked.at = Some(Zoned::now());
        let took_ms = target.now().saturating_sub(started);
        checked.took = Duration::from_millis(took_ms);
        rest.done(target, plan, took_ms);
        // That nothing was found while idle is told by the root alone.
        if matches!(due, Due::Full(_)) || checked.found > 0 {
            log(target, &checked);
            tell(target, &checked);
        }
    }
}

/// What it is time for.
#[derive(Debug)]
enum Due {
    Full(FullCheck),
    Idle,
}

/// How long nothing has changed.
#[derive(Debug, Default)]
struct Rest {
    /// Operations seen so far, and since when no more.
    ops: u64,
    since: Millis,
    /// Operations there were when the roots were last compared.
    proved: u64,
    /// Comparing takes at most one hundredth of the time.
    not_before: Millis,
}

impl Rest {
    fn done(&mut self, target: &Target, plan: &Plan, took_ms: Millis) {
        let pause = plan.idle.map_or(0, |idle| idle.as_millis() as Millis);
        self.proved = self.ops;
        self.not_before = target.now() + pause.max(took_ms.saturating_mul(100));
    }

    /// When the roots are to be compared, as far as can be told now.
    fn due(&mut self, state: &State, idle: Duration, now: Millis) -> Option<Millis> {
        let is_idle = state.link.as_ref().is_some_and(|link| !link.is_closed())
            && state.counts.comparisons > 0
            && !state.comparing
            && state.dirty.outstanding() == 0;
        if !is_idle || state.counts.ops != self.ops {
            (self.ops, self.since) = (state.counts.ops, now);
        }
        let due = (self.since + idle.as_millis() as Millis).max(self.not_before);
        (is_idle && self.ops != self.proved).then_some(due)
    }
}

fn tell(target: &Target, checked: &Checked) {
    target.update(|state, _| state.checked = Some(checked.clone()));
}

fn log(target: &Target, checked: &Checked) {
    let Checked {
        entries,
        bytes,
        found,
        unread,
        ..
    } = checked;
    let took_ms = checked.took.as_millis() as u64;
    if *unread > 0 {
        tracing::warn!(target = %target.name, "full check: {unread} could not be read");
    }
    if *found == 0 {
        tracing::info!(target = %target.name, entries, bytes, took_ms, "full check: no differences");
    } else {
        let examples = checked.examples.join(", ");
        tracing::warn!(target = %target.name, entries, bytes, took_ms, "full check: {found} differences are mended, such as {examples}");
    }
}

/// `None` if the target stops.
fn wait_for_its_time(target: &Target, plan: &Plan, rest: &mut Rest) -> Option<Due> {
    let next = |full: &FullCheck| full.at.next_after(&Zoned::now());
    let scheduled = plan.full.as_ref().and_then(next);
    let mut state = target.lock();
    state.next_check.clone_from(&scheduled);
    loop {
        if state.stopping {
            return None;
        }
        let now = target.now();
        let mut until = now + LOOK_MS;
        if let (Some(full), Some(at)) = (&plan.full, &scheduled) {
            let left = at.timestamp().duration_since(Zoned::now().timestamp());
            let left = Millis::try_from(left.as_millis()).unwrap_or(0);
            if left == 0 {
                // While it runs the next one is shown.
                state.next_check = next(full);
                return Some(Due::Full(full.clone()));
            }
            until = until.min(now + left);
        }
        if let Some(idle) = plan.idle {
            let due = rest.due(&state, idle, now);
            if due.is_some_and(|due| due <= now) {
                return Some(Due::Idle);
            }
            let look = (idle.as_millis() as Millis / 4).clamp(IDLE_LOOK_MIN_MS, IDLE_LOOK_MAX_MS);
            until = until.min(now + look);
        }
        state = target.rest(state, until);
    }
}

/// The session, once the target has had everything; `None` if it stops.
fn wait_for_link(target: &Target) -> Option<Arc<Link>> {
    let mut state = target.lock();
    loop {
        if state.stopping {
            return None;
        }
        let link = state.link.clone().filter(|link| !link.is_closed());
        if let Some(link) = link.filter(|_| state.watched && state.counts.comparisons > 0) {
            state.checking = true;
            return Some(link);
        }
        state = target.rest(state, target.now() + POLL_MS);
    }
}

/// Lets changes go first, within reason.
fn give_way(target: &Target, link: &Link) -> Result<(), CompareError> {
    let until = target.now() + YIELD_MS;
    let mut state = target.lock();
    loop {
        check_open(&state, link)?;
        let is_busy = state.comparing || state.dirty.outstanding() > 0;
        if !is_busy || target.now() >= until {
            return Ok(());
        }
        state = target.rest(state, until.min(target.now() + POLL_MS));
    }
}

/// Counts a difference that nobody told of, and has it mended.
fn found(
    target: &Target,
    link: &Arc<Link>,
    checked: &mut Checked,
    path: WirePath,
    difference: Difference,
) -> Result<(), CompareError> {
    target.hear();
    let told = !target.lock().dirty.is_settled(&path);
    if !told {
        checked.found += 1;
        if checked.examples.len() < EXAMPLES_MAX {
            checked.examples.push(path.to_string());
        }
        let mut known = target.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&path);
    }
    mark(target, link, vec![(path, difference)])
}

fn found_all(
    target: &Target,
    link: &Arc<Link>,
    checked: &mut Checked,
    differences: Differences,
) -> Result<(), CompareError> {
    differences
        .into_iter()
        .try_for_each(|(path, difference)| found(target, link, checked, path, difference))
}

/// One comparison of everything by digests; `None` if the target stops.
fn digests(target: &Arc<Target>, checked: &mut Checked) -> Option<()> {
    let mut attempts = 0;
    loop {
        let link = wait_for_link(target)?;
        let result = give_way(target, &link).and_then(|()| {
            let mut report = |differences: Differences| {
                differences.into_iter().try_for_each(|(path, difference)| {
                    let links = matches!(difference, Difference::Links { .. });
                    let extra = matches!(difference, Difference::Extra(_)) && !target.delete;
                    if links || extra {
                        return mark(target, &link, vec![(path, difference)]);
                    }
                    found(target, &link, checked, path, difference)
                })
            };
            reconcile::compare(target, &link, &WirePath::root(), false, &mut report)
        });
        match result {
            Ok(compared) => {
                checked.unread += compared.unread.len() as u64;
                target.update(|state, now| {
                    checked.entries = state.brake.entries();
                    put_off(state, compared.unread, false, now);
                    if let Some(root) = compared.equal {
                        state.identical = Some((root, std::time::SystemTime::now()));
                    }
                });
                return Some(());
            }
            Err(error) => {
                attempts += 1;
                if let Some(()) = leave(target, checked, error, attempts, false)? {
                    return Some(());
                }
            }
        }
    }
}

/// An attempt failed: waits a moment. What cannot be read is left to the comparisons after a few attempts, which show
/// it and try it again; then there is `Some(())` inside. `None` if the target stops.
fn leave(
    target: &Target,
    checked: &mut Checked,
    error: CompareError,
    attempts: u32,
    content: bool,
) -> Option<Option<()>> {
    match error {
        CompareError::Unread(unread) if attempts >= ATTEMPTS_MAX => {
            tracing::warn!(target = %target.name, "full check: left out: {unread}");
            checked.unread += 1;
            target.update(|state, now| put_off(state, vec![unread], content, now));
            Some(Some(()))
        }
        error => pause(target, &error).map(|()| None),
    }
}

/// Everything by contents, directory by directory; `None` if the target stops.
fn contents(target: &Arc<Target>, full: &FullCheck, checked: &mut Checked) -> Option<()> {
    let pace = Pace::new(target, full);
    let mut open = vec![WirePath::root()];
    while let Some(path) = open.pop() {
        let mut attempts = 0;
        loop {
            let link = wait_for_link(target)?;
            let result = give_way(target, &link)
                .and_then(|()| directory(target, &link, &path, &pace, checked));
            match result {
                Ok(below) => {
                    open.extend(below);
                    break;
                }
                Err(error) => {
                    attempts += 1;
                    if let Some(()) = leave(target, checked, error, attempts, true)? {
                        break;
                    }
                }
            }
        }
        checked.bytes = pace.bytes();
        tell(target, checked);
    }
    Some(())
}

/// Waits a moment after an attempt that failed. `None` if the target stops.
fn pause(target: &Target, error: &CompareError) -> Option<()> {
    if !matches!(
        error,
        CompareError::Stopped | CompareError::Link(LinkError::Closed)
    ) {
        tracing::warn!(target = %target.name, "full check: {error}");
    }
    let until = target.now() + RETRY_MS;
    let mut state = target.lock();
    while !state.stopping && target.now() < until {
        state = target.rest(state, until);
    }
    (!state.stopping).then_some(())
}

type Entries = BTreeMap<Name, EntryMeta>;

/// A directory on both sides.
struct Both {
    here: Entries,
    there: Entries,
    /// What could not be read here.
    problems: Problems,
}

/// Compares one directory; the directories in it come next.
fn directory(
    target: &Arc<Target>,
    link: &Arc<Link>,
    path: &WirePath,
    pace: &Pace<'_>,
    checked: &mut Checked,
) -> Result<Vec<WirePath>, CompareError> {
    let Some(both) = look(target, link, path, pace)? else {
        return Ok(Vec::new());
    };
    checked.entries += both.here.len() as u64;
    let below = |(name, meta): (&Name, &EntryMeta)| {
        let is_dir = meta.kind == Kind::Dir;
        let both_have = both
            .there
            .get(name)
            .is_some_and(|there| there.kind == Kind::Dir);
        (is_dir && both_have).then(|| path.join(name)).flatten()
    };
    let open = both.here.iter().filter_map(below).collect();
    checked.unread += leave_entries(target, path, &both);
    believe(target, path, &both);
    let first = differing(target, link, path, &both);
    if first.is_empty() {
        return Ok(open);
    }
    // What changed while it was read is told by its event; what is still so was lost.
    target.hear();
    let Some(again) = look(target, link, path, pace)? else {
        return Ok(open);
    };
    for name in differing(target, link, path, &again) {
        if !first.contains(&name) {
            continue;
        }
        let Some(at) = path.join(&name) else { continue };
        let (here, there) = (again.here.get(&name), again.there.get(&name));
        mend(target, link, at, (here, there), checked)?;
    }
    Ok(open)
}

/// Small files that both sides have with the same content need not be sent when they are written again as they were.
fn believe(target: &Target, path: &WirePath, both: &Both) {
    let mut dir = None;
    for (name, here) in &both.here {
        let there = both.there.get(name).and_then(|there| there.content);
        let content = here.content.filter(|content| there == Some(*content));
        let is_small = here.kind == Kind::File && here.size <= INLINE_FILE_BYTES_MAX;
        let (Some(content), true) = (content, is_small) else {
            continue;
        };
        let Some(at) = path.join(name) else { continue };
        let home = || target.root.home(&at).map(|(dir, _)| dir);
        let Some(home) = dir.or_else(home) else {
            return;
        };
        dir = Some(home);
        if target.lock().dirty.is_settled(&at) {
            let mut held = target.held();
            let place = held.place(home, name.as_bytes());
            held.found(place, &content);
        }
    }
}

/// Has what could not be read of single entries looked at by itself; returns how many they are.
fn leave_entries(target: &Target, path: &WirePath, both: &Both) -> u64 {
    let names = both.here.keys();
    let unread = names.filter_map(|name| both.problems.of(&path.join(name)?).cloned());
    let unnamed = both.problems.unnamed_in(path).cloned();
    let unread: Vec<Unread> = unread.chain(unnamed).collect();
    let count = unread.len() as u64;
    if count > 0 {
        target.update(|state, now| put_off(state, unread, true, now));
    }
    count
}

/// Names whose entries are not the same, without those that could not be read.
fn differing(target: &Target, link: &Link, path: &WirePath, both: &Both) -> HashSet<Name> {
    let policy = link.welcome().compare;
    let same = |name: &Name| match (both.here.get(name), both.there.get(name)) {
        (Some(here), Some(there)) => {
            // The metadata of a directory is compared, not its size.
            here.kind == there.kind && merkle::same_entry(policy, here, there)
        }
        (Some(here), None) => !policy.keeps(here.kind),
        (None, Some(_)) => !target.delete,
        (None, None) => true,
    };
    let names = both.here.keys().chain(both.there.keys());
    let is_read = |name: &Name| {
        path.join(name)
            .is_none_or(|at| both.problems.of(&at).is_none())
    };
    let names = names.filter(|name| !same(name) && is_read(name));
    names.cloned().collect()
}

fn mend(
    target: &Arc<Target>,
    link: &Arc<Link>,
    at: WirePath,
    sides: (Option<&EntryMeta>, Option<&EntryMeta>),
    checked: &mut Checked,
) -> Result<(), CompareError> {
    match sides {
        (Some(here), Some(there)) if here.kind == there.kind || there.kind == Kind::Dir => {
            let mut report = |differences| found_all(target, link, checked, differences);
            if here.kind != Kind::Dir
                && there.kind == Kind::Dir
                && !is_clear(target, link, &at, there, &mut report)?
            {
                return Ok(());
            }
            let difference = Difference::Changed(here.clone(), there.clone());
            found(target, link, checked, at, difference)
        }
        (Some(here), _) => {
            let is_dir = here.kind == Kind::Dir;
            let below = at.clone();
            found(target, link, checked, at, Difference::Missing(here.clone()))?;
            if is_dir {
                // All that is in it is missing too.
                target.update(|state, now| state.dirty.compare(below, now));
            }
            Ok(())
        }
        (None, Some(there)) => {
            let mut report = |differences| found_all(target, link, checked, differences);
            sweep(target, link, &at, there.clone(), &mut report).map(drop)
        }
        (None, None) => Ok(()),
    }
}

/// Reads a directory on both sides at once; `None` if it is not one on both.
fn look(
    target: &Arc<Target>,
    link: &Arc<Link>,
    path: &WirePath,
    pace: &Pace<'_>,
) -> Result<Option<Both>, CompareError> {
    settle_commits(target, link)?;
    let id = ask(link, path, true)?;
    let here = list(target, link, path, pace);
    let received = receive(link, id, path);
    let (here, (dir, there)) = (here?, received?);
    let (Some((here, problems)), Some(_)) = (here, dir) else {
        return Ok(None);
    };
    let entry = stat(target, link, path, What::Entries)?;
    if entry.is_none_or(|entry| entry.kind != Kind::Dir) {
        return Ok(None);
    }
    let there = there.into_iter();
    Ok(Some(Both {
        here,
        there: there.map(|entry| (entry.name, entry.meta)).collect(),
        problems,
    }))
}

fn list(
    target: &Target,
    link: &Link,
    path: &WirePath,
    pace: &Pace<'_>,
) -> Result<Option<(Entries, Problems)>, CompareError> {
    let selection = &target.selection;
    let keep = |dir: &WirePath, name: &Name, is_dir: bool| selection.keeps_in(dir, name, is_dir);
    let mut problems = Problems::default();
    let mut problem = |problem: ScanProblem| {
        problems.take_in(&problem);
        if !matches!(problem.what, Unscanned::Unnamed(_)) {
            tracing::warn!(target = %target.name, "full check: {problem}");
        }
    };
    let take = |bytes: u64| pace.take(bytes);
    let mut reader = SourceReader::new(&target.root, &keep, &mut problem, &pace.cancel)
        .hash_contents(true)
        .paced(&take)
        .terms(link.terms().clone());
    let failed = |error| CompareError::Unread(unread(path, What::Entries, &error));
    let Some((dir, _)) = reader.start(path).map_err(failed)? else {
        return Ok(None);
    };
    let entries = reader.entries(&dir, path);
    drop(reader);
    let entries = entries.map_err(|_| CompareError::Stopped)?;
    let problems = problems.within(path).map_err(CompareError::Unread)?;
    Ok(entries.map(|entries| (entries.into_iter().collect(), problems)))
}

/// Makes reading as slow as it was asked for.
struct Pace<'a> {
    target: &'a Target,
    bucket: Option<Mutex<Bucket>>,
    bytes: Mutex<u64>,
    cancel: AtomicBool,
}

impl<'a> Pace<'a> {
    fn new(target: &'a Target, full: &FullCheck) -> Self {
        let bucket = full.read_limit;
        Self {
            target,
            bucket: bucket.map(|rate| Mutex::new(Bucket::new(rate.get(), target.now()))),
            bytes: Mutex::default(),
            cancel: AtomicBool::new(false),
        }
    }

    fn bytes(&self) -> u64 {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as so many bytes take.
    fn take(&self, bytes: u64) {
        let read = {
            let mut read = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            *read += bytes;
            *read
        };
        let wait = self.bucket.as_ref().map_or(0, |bucket| {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            bucket.take(bytes, self.target.now())
        });
        let until = self.target.now() + wait;
        let mut state = self.target.lock();
        if let Some(checked) = &mut state.checked {
            // A directory with large files takes long.
            checked.bytes = checked.bytes.max(read);
        }
        while !state.stopping && self.target.now() < until {
            state = self.target.rest(state, until);
        }
        if state.stopping {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}
