//! The delete brake: when removing names at the target must wait for a person.
//!
//! Two things trip it: the source's root is not the one that was pinned at the start (unmounted,
//! replaced, empty), or more removes within a window than allowed. Everything else goes on; what is
//! held stays dirty. Whoever approves a hold lets go exactly what was held then; the brake itself only
//! counts.

use std::collections::VecDeque;

use crate::logic::coalesce::Millis;

/// Removes within a window that no share of the tree holds back: a share of next to nothing says
/// nothing.
const FEW: u64 = 100;

/// Names that a source may lose together with its last one: more are asked about, although each removal
/// was seen.
const LAST_FEW: u64 = 20;

/// Most removes allowed within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteLimit {
    /// Most removes, if set; 0 holds every one.
    pub count_max: Option<u64>,
    /// Most removes in percent of the entries there were, if set. Up to a hundred removes it does not
    /// apply.
    pub percent_max: Option<u8>,
    /// Length of the window, in milliseconds.
    pub window_ms: Millis,
}

impl DeleteLimit {
    /// Why so many removes of so many entries are too many, if they are.
    fn exceeded(&self, removes: u64, entries: u64) -> Option<String> {
        let window_s = self.window_ms / 1_000;
        if let Some(max) = self.count_max.filter(|max| removes > *max) {
            return Some(format!(
                "{removes} removes within {window_s} s, and max_delete allows {max}"
            ));
        }
        let max = u64::from(self.percent_max?);
        let share = removes.saturating_mul(100) > entries.saturating_mul(max);
        (share && removes > FEW).then(|| {
            format!(
                "{removes} of {entries} entries removed within {window_s} s, and max_delete allows {max} %"
            )
        })
    }
}

/// Why removes are held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Number to approve or reject it by.
    pub id: u64,
    /// What happened, as evidence.
    pub reason: String,
    /// Since when.
    pub since: Millis,
    /// Somebody has looked and said no; it stays.
    pub rejected: bool,
}

/// Whether removes may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They may.
    Go,
    /// They are held.
    Held,
}

/// Counts removes and holds them.
#[derive(Debug, Clone)]
pub struct Brake {
    limit: DeleteLimit,
    recent: VecDeque<(Millis, u64)>,
    in_window: u64,
    entries: u64,
    hold: Option<Hold>,
    root_lost: bool,
    /// The hold is because of a mount.
    mount_lost: bool,
    /// Mounts that the hold names, by their reasons.
    mounts_held: Vec<String>,
    /// Those of holds that somebody approved: comparisons go on finding what they were about.
    mounts_let_go: Vec<String>,
    next_id: u64,
    id_step: u64,
}

impl Brake {
    /// A brake with a limit on removes.
    #[must_use]
    pub fn new(limit: DeleteLimit) -> Self {
        Self {
            limit,
            recent: VecDeque::new(),
            in_window: 0,
            entries: 0,
            hold: None,
            root_lost: false,
            mount_lost: false,
            mounts_held: Vec::new(),
            mounts_let_go: Vec::new(),
            next_id: 1,
            id_step: 1,
        }
    }

    /// The same as the one with this number, from 0 on, of so many: no two of them give a hold the same
    /// number, so that who approves one approves that one only.
    #[must_use]
    pub fn numbered(mut self, number: usize, of: usize) -> Self {
        self.next_id = number as u64 + 1;
        self.id_step = of.max(1) as u64;
        self
    }

    /// How many entries the source had when it was last seen whole. A sudden loss does not lower it
    /// before the window is over.
    pub fn entries_seen(&mut self, entries: u64, now: Millis) {
        self.forget_old(now);
        if entries > self.entries || self.recent.is_empty() && self.hold.is_none() {
            self.entries = entries;
        }
    }

    /// How many entries the share is taken of.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Whether [`Brake::check`] would hold so many removes now, going by the entries known: then it is
    /// worth counting anew, since the tree may have grown.
    pub fn would_hold(&mut self, count: u64, now: Millis) -> bool {
        self.forget_old(now);
        let total = self.in_window + count;
        let exceeded = self.limit.exceeded(total, self.entries.max(total));
        self.hold.is_none() && exceeded.is_some()
    }

    /// The source has so many entries now; together with what went within the window and what is `gone`
    /// but not removed yet that is what the share is taken of, if it is more than known.
    pub fn recounted(&mut self, entries: u64, gone: u64) {
        self.entries = self.entries.max(entries + self.in_window + gone);
    }

    /// Whether a source that has nothing any more has lost too much at once to believe it, with `count` names
    /// that are about to go and all that went within the window. Who allows any number is believed.
    pub fn is_too_sudden(&mut self, count: u64, now: Millis) -> bool {
        self.forget_old(now);
        self.is_limited() && self.in_window + count > LAST_FEW
    }

    /// Whether it matters how many names go.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.limit.count_max.is_some() || self.limit.percent_max.is_some()
    }

    /// Asks whether `count` names may be removed now, and counts them if so.
    #[must_use]
    pub fn check(&mut self, count: u64, now: Millis) -> Verdict {
        if count == 0 {
            return Verdict::Go;
        }
        if self.hold.is_some() {
            return Verdict::Held;
        }
        self.forget_old(now);
        let total = self.in_window + count;
        if let Some(reason) = self.limit.exceeded(total, self.entries.max(total)) {
            self.begin(reason, now);
            return Verdict::Held;
        }
        self.in_window = total;
        self.recent.push_back((now, count));
        Verdict::Go
    }

    /// So many of those that were let go last were refused: they are still there, and are asked about again.
    pub fn came_back(&mut self, count: u64) {
        let mut left = count;
        while let Some((at, last)) = self.recent.pop_back() {
            let back = left.min(last);
            (left, self.in_window) = (left - back, self.in_window - back);
            if last > back {
                self.recent.push_back((at, last - back));
                return;
            }
        }
    }

    /// Something else speaks against removing: held until somebody approves.
    pub fn doubt(&mut self, reason: String, now: Millis) -> Verdict {
        if self.hold.is_none() {
            self.begin(reason, now);
        }
        Verdict::Held
    }

    /// What was mounted at or above a removed name is not any more. Held until it is back, or a person says
    /// that it may go. A hold that there is becomes one about this too, under another number: who knows nothing of this
    /// mount cannot approve that it goes.
    pub fn mount_lost(&mut self, reason: String, now: Millis) -> Verdict {
        if self.mounts_let_go.contains(&reason) {
            return Verdict::Go;
        }
        if self.root_lost || self.mounts_held.contains(&reason) {
            return Verdict::Held;
        }
        self.mounts_held.push(reason.clone());
        match self.hold.take() {
            None => {
                self.mount_lost = true;
                self.begin(reason, now);
            }
            Some(hold) => self.begin(format!("{}; {reason}", hold.reason), hold.since),
        }
        Verdict::Held
    }

    /// Everything that was mounted is again.
    pub fn mounts_back(&mut self) {
        self.mounts_let_go.clear();
        self.mounts_held.clear();
        if std::mem::take(&mut self.mount_lost) {
            self.hold = None;
        }
    }

    /// The source's root is not what it was. Held until it is back; nobody can approve that away.
    pub fn root_lost(&mut self, reason: String, now: Millis) {
        if !self.root_lost {
            (self.root_lost, self.mount_lost) = (true, false);
            self.mounts_held.clear();
            self.begin(reason, now);
        }
    }

    /// The source's root is the pinned one again.
    pub fn root_back(&mut self) {
        if self.root_lost {
            self.root_lost = false;
            self.hold = None;
        }
    }

    /// Whether the root is lost.
    #[must_use]
    pub fn is_root_lost(&self) -> bool {
        self.root_lost
    }

    /// What is held and why.
    #[must_use]
    pub fn hold(&self) -> Option<&Hold> {
        self.hold.as_ref()
    }

    /// Nothing is held any more: what was missing is there again. What goes from now on is asked about anew.
    pub fn nothing_held(&mut self) {
        if !self.root_lost && !self.mount_lost {
            self.hold = None;
            self.mounts_held.clear();
        }
    }

    /// Ends a hold; the caller lets go what was held. False if there is no such hold, or if the root is
    /// lost.
    pub fn approve(&mut self, id: u64) -> bool {
        let known = self.hold.as_ref().is_some_and(|hold| hold.id == id);
        if !known || self.root_lost {
            return false;
        }
        (self.hold, self.mount_lost) = (None, false);
        self.mounts_let_go.append(&mut self.mounts_held);
        self.recent.clear();
        self.in_window = 0;
        true
    }

    /// Keeps holding. False if there is no such hold.
    pub fn reject(&mut self, id: u64) -> bool {
        match &mut self.hold {
            Some(hold) if hold.id == id => {
                hold.rejected = true;
                true
            }
            _ => false,
        }
    }

    fn forget_old(&mut self, now: Millis) {
        let window_ms = self.limit.window_ms;
        while let Some((_, old)) = self.recent.front().filter(|(at, _)| at + window_ms <= now) {
            self.in_window -= old;
            self.recent.pop_front();
        }
    }

    fn begin(&mut self, reason: String, now: Millis) {
        self.hold = Some(Hold {
            id: self.next_id,
            reason,
            since: now,
            rejected: false,
        });
        self.next_id += self.id_step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brake(count_max: Option<u64>, percent_max: Option<u8>) -> Brake {
        let mut brake = Brake::new(DeleteLimit {
            count_max,
            percent_max,
            window_ms: 60_000,
        });
        brake.entries_seen(1_000, 0);
        brake
    }

    #[test]
    fn a_count_is_kept_within_its_window_and_begins_anew_after_it() {
        let mut brake = brake(Some(10), None);
        assert_eq!(brake.check(10, 0), Verdict::Go);
        assert_eq!(brake.check(10, 60_000), Verdict::Go);
        assert_eq!(brake.check(1, 60_001), Verdict::Held);
        assert!(
            brake
                .hold()
                .is_some_and(|hold| hold.reason.contains("11 removes"))
        );
        assert_eq!(brake.check(1, 999_999), Verdict::Held, "held until decided");
    }

    #[test]
    fn what_was_refused_does_not_count_twice() {
        let mut brake = brake(Some(10), None);
        assert_eq!(brake.check(6, 0), Verdict::Go);
        assert_eq!(brake.check(4, 1), Verdict::Go);
        for at in 2..99 {
            brake.came_back(5);
            assert_eq!(brake.check(5, at), Verdict::Go);
        }
        // Those of long ago are not in the window any more.
        brake.came_back(5_000);
        assert_eq!(brake.check(10, 99), Verdict::Go);
        assert_eq!(brake.check(1, 99), Verdict::Held);
    }

    #[test]
    fn half_of_a_tree_is_held_and_a_few_files_of_a_small_one_are_not() {
        let mut large = brake(None, Some(50));
        assert_eq!(large.check(500, 0), Verdict::Go);
        assert_eq!(large.check(1, 0), Verdict::Held);
        let mut small = Brake::new(large.limit);
        small.entries_seen(3, 0);
        assert_eq!(small.check(3, 0), Verdict::Go);
    }

    #[test]
    fn a_tree_that_has_grown_is_counted_anew_before_anything_is_held() {
        let mut brake = brake(None, Some(50));
        assert!(brake.would_hold(600, 0));
        brake.recounted(2_000, 600);
        assert!(!brake.would_hold(600, 0));
        assert_eq!(brake.check(600, 0), Verdict::Go);
    }

    #[test]
    fn a_shrinking_tree_does_not_raise_its_own_share() {
        let mut brake = brake(None, Some(50));
        assert_eq!(brake.check(400, 0), Verdict::Go);
        brake.entries_seen(600, 1);
        assert_eq!(brake.entries(), 1_000);
        brake.entries_seen(600, 60_000);
        assert_eq!(brake.entries(), 600);
    }

    #[test]
    fn approval_ends_a_hold_by_its_number_only_and_never_a_lost_root() {
        let mut brake = brake(Some(0), None);
        assert_eq!(brake.check(5, 0), Verdict::Held);
        let id = brake.hold().map_or(0, |hold| hold.id);
        assert!(!brake.approve(id + 1));
        assert!(brake.reject(id) && brake.hold().is_some_and(|hold| hold.rejected));
        assert!(brake.approve(id) && brake.hold().is_none());
        brake.root_lost("gone".into(), 0);
        let id = brake.hold().map_or(0, |hold| hold.id);
        assert!(!brake.approve(id));
        brake.root_back();
        assert_eq!(brake.hold(), None);
    }

    #[test]
    fn the_last_of_many_names_are_asked_about_and_the_last_of_a_few_are_not() {
        let mut some = brake(None, Some(50));
        assert!(!some.is_too_sudden(20, 0));
        assert!(some.is_too_sudden(21, 0));
        assert_eq!(some.check(15, 0), Verdict::Go);
        assert!(some.is_too_sudden(6, 59_999));
        assert!(!some.is_too_sudden(6, 60_000), "not at once");
        assert!(!brake(None, None).is_too_sudden(1_000, 0));
    }

    #[test]
    fn a_hold_of_nothing_ends_unless_what_it_is_about_is_still_so() {
        let mut brake = brake(Some(0), None);
        assert_eq!(brake.check(5, 0), Verdict::Held);
        brake.nothing_held();
        assert!(brake.hold().is_none());
        assert_eq!(brake.check(1, 0), Verdict::Held, "asked anew");
        brake.root_lost("gone".into(), 0);
        brake.nothing_held();
        assert!(brake.hold().is_some());
        brake.root_back();
        assert_eq!(brake.mount_lost("disk".to_owned(), 5), Verdict::Held);
        brake.nothing_held();
        assert!(brake.hold().is_some());
    }

    #[test]
    fn brakes_of_one_agent_give_no_number_twice() {
        let ids = |number| {
            let mut brake = brake(Some(0), None).numbered(number, 3);
            [(); 4].map(|()| {
                assert_eq!(brake.check(1, 0), Verdict::Held);
                let id = brake.hold().map_or(0, |hold| hold.id);
                assert!(brake.approve(id));
                id
            })
        };
        let all: std::collections::BTreeSet<_> = (0..3).flat_map(ids).collect();
        assert_eq!(all, (1..=12).collect());
    }

    #[test]
    fn an_unmount_holds_until_it_is_back_or_somebody_approves() {
        let mut brake = super::tests::brake(None, None);
        let lost = |brake: &mut Brake, place: &str| brake.mount_lost(place.to_owned(), 5);
        assert_eq!(lost(&mut brake, "disk"), Verdict::Held);
        brake.mounts_back();
        assert!(brake.hold().is_none());
        assert_eq!(lost(&mut brake, "disk"), Verdict::Held);
        assert!(brake.approve(2));
        // A comparison finds it again; another place is another question.
        assert_eq!(lost(&mut brake, "disk"), Verdict::Go);
        assert_eq!(lost(&mut brake, "other"), Verdict::Held);
        brake.mounts_back();
        assert_eq!(lost(&mut brake, "disk"), Verdict::Held);
        // Who was asked about one place has not said that another may go.
        assert_eq!(lost(&mut brake, "other"), Verdict::Held);
        let hold = brake.hold().cloned().unwrap();
        assert_eq!(hold.reason, "disk; other");
        assert!(!brake.approve(hold.id - 1) && brake.approve(hold.id));
        assert_eq!(lost(&mut brake, "disk"), Verdict::Go);
        assert_eq!(lost(&mut brake, "other"), Verdict::Go);
        // A hold of another kind is not over because of a mount.
        let mut brake = super::tests::brake(None, None);
        assert_eq!(brake.doubt("empty".to_owned(), 1), Verdict::Held);
        assert_eq!(lost(&mut brake, "disk"), Verdict::Held);
        assert_eq!(
            brake.hold().map(|hold| &hold.reason[..]),
            Some("empty; disk")
        );
        brake.mounts_back();
        assert!(brake.hold().is_some());
    }
}
