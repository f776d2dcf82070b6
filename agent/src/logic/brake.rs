//! The delete brake: when removing names at the target must wait for a person.
//!
//! Two things trip it: the source's root is not the one that was pinned at the start (unmounted,
//! replaced), or more removes within a window than allowed. Everything else goes on; what is held stays
//! dirty. [`Brake::approve`] lets what is held go, [`Brake::reject`] keeps holding without asking again.

use std::collections::VecDeque;

use crate::logic::coalesce::Millis;

/// Most removes allowed within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteLimit {
    /// Most removes; 0 holds every one.
    pub count_max: u64,
    /// Length of the window, in milliseconds.
    pub window_ms: Millis,
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
    limit: Option<DeleteLimit>,
    recent: VecDeque<(Millis, u64)>,
    in_window: u64,
    hold: Option<Hold>,
    root_lost: bool,
    next_id: u64,
}

impl Brake {
    /// A brake with a limit on removes, or only with the check of the root.
    #[must_use]
    pub fn new(limit: Option<DeleteLimit>) -> Self {
        Self {
            limit,
            recent: VecDeque::new(),
            in_window: 0,
            hold: None,
            root_lost: false,
            next_id: 1,
        }
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
        let Some(limit) = self.limit else {
            return Verdict::Go;
        };
        while let Some((_, old)) = self
            .recent
            .front()
            .filter(|(at, _)| at + limit.window_ms <= now)
        {
            self.in_window -= old;
            self.recent.pop_front();
        }
        let total = self.in_window + count;
        if total > limit.count_max {
            self.begin(
                format!(
                    "{total} removes within {} s, and max_delete allows {}",
                    limit.window_ms / 1_000,
                    limit.count_max
                ),
                now,
            );
            return Verdict::Held;
        }
        self.in_window = total;
        self.recent.push_back((now, count));
        Verdict::Go
    }

    /// The source's root is not what it was. Held until it is back; nobody can approve that away.
    pub fn root_lost(&mut self, reason: String, now: Millis) {
        if !self.root_lost {
            self.root_lost = true;
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

    /// Lets what is held go. False if there is no such hold, or if the root is lost.
    pub fn approve(&mut self, id: u64) -> bool {
        let known = self.hold.as_ref().is_some_and(|hold| hold.id == id);
        if known && !self.root_lost {
            self.hold = None;
            self.recent.clear();
            self.in_window = 0;
            // What was held is more than the limit by definition: it goes as one.
            if let Some(limit) = &mut self.limit {
                limit.count_max = limit.count_max.max(1);
            }
            return true;
        }
        false
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

    fn begin(&mut self, reason: String, now: Millis) {
        self.hold = Some(Hold {
            id: self.next_id,
            reason,
            since: now,
            rejected: false,
        });
        self.next_id += 1;
    }
}
