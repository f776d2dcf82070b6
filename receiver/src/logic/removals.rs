//! `max delete`: how many names a module lets go within an hour.
//!
//! What would be more is refused, name by name, and while removals that were refused are tried again all
//! others are refused too: the limit is a brake, not a pace.

use std::collections::VecDeque;

use bincode::{Decode, Encode};

/// How long a removal counts, in milliseconds; and for how long nobody may have tried what was refused
/// before there are removals again.
pub const WINDOW_MS: u64 = 3_600_000;

/// So many removals no share of the mirror holds back: a share of next to nothing says nothing.
const FEW: u64 = 100;

/// How many removals within an hour are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum MaxDelete {
    /// So many names.
    Count(u64),
    /// So many of a hundred names of the mirror; up to a hundred names it does not apply.
    Percent(u8),
}

impl MaxDelete {
    /// How many of so many names may go.
    fn most(self, entries: u64) -> u64 {
        match self {
            Self::Count(most) => most,
            Self::Percent(percent) => (entries.saturating_mul(percent.into()) / 100).max(FEW),
        }
    }
}

/// Counts the removals of a module.
#[derive(Debug)]
pub struct Removals {
    limit: MaxDelete,
    recent: VecDeque<(u64, u64)>,
    in_window: u64,
    /// How many names there were when the window began.
    entries: Option<u64>,
    /// When a removal was refused last.
    refused_at: Option<u64>,
}

impl Removals {
    /// None yet.
    #[must_use]
    pub fn new(limit: MaxDelete) -> Self {
        Self {
            limit,
            recent: VecDeque::new(),
            in_window: 0,
            entries: None,
            refused_at: None,
        }
    }

    /// Asks whether so many names may go now, and counts them if so. `entries` says how many names there
    /// are, if that has to be known.
    ///
    /// # Errors
    /// Why they may not.
    pub fn ask(
        &mut self,
        count: u64,
        now_ms: u64,
        entries: impl FnOnce() -> u64,
    ) -> Result<(), String> {
        if count == 0 {
            return Ok(());
        }
        self.forget_old(now_ms);
        let entries = match self.limit {
            MaxDelete::Count(_) => 0,
            MaxDelete::Percent(_) => *self.entries.get_or_insert_with(entries),
        };
        let most = self.limit.most(entries);
        let total = self.in_window.saturating_add(count);
        if total > most {
            self.refused_at = Some(now_ms);
            return Err(format!(
                "it would be {total} removals within an hour, and `max delete` allows {most}"
            ));
        }
        if self.refused_at.is_some() {
            self.refused_at = Some(now_ms);
            return Err(
                "others were refused by `max delete` within the last hour, and all wait for somebody to look"
                    .to_owned(),
            );
        }
        self.in_window = total;
        self.recent.push_back((now_ms, count));
        if self.recent.len() > RECENT_MAX {
            self.merge_oldest();
        }
        Ok(())
    }

    fn forget_old(&mut self, now_ms: u64) {
        let is_old = |at: u64| now_ms.saturating_sub(at) >= WINDOW_MS;
        while let Some((_, count)) = self.recent.front().filter(|(at, _)| is_old(*at)) {
            self.in_window -= count;
            self.recent.pop_front();
        }
        if self.recent.is_empty() {
            self.entries = None;
        }
        self.refused_at = self.refused_at.filter(|at| !is_old(*at));
    }

    /// Counted for a little longer than they would be by themselves.
    fn merge_oldest(&mut self) {
        if let Some((_, first)) = self.recent.pop_front()
            && let Some((_, second)) = self.recent.front_mut()
        {
            *second += first;
        }
    }
}

/// Most points in time that are kept apart.
const RECENT_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(removals: &mut Removals, count: u64, now_ms: u64) -> bool {
        removals.ask(count, now_ms, || 1_000).is_ok()
    }

    #[test]
    fn what_would_be_more_is_refused_and_holds_the_others() {
        let mut removals = Removals::new(MaxDelete::Count(3));
        assert!(ask(&mut removals, 2, 0));
        assert!(ask(&mut removals, 1, 10));
        assert!(ask(&mut removals, 0, 10));
        let why = removals.ask(1, 20, || 0).unwrap_err();
        assert!(
            why.contains("4 removals") && why.contains("allows 3"),
            "{why}"
        );
        // The first three no longer count, but it was tried again all the time.
        for at in 1..10 {
            assert!(!ask(&mut removals, 1, at * WINDOW_MS / 2));
        }
        assert!(ask(&mut removals, 1, 6 * WINDOW_MS));
    }

    #[test]
    fn nothing_at_all_may_be_allowed() {
        let mut removals = Removals::new(MaxDelete::Count(0));
        assert!(!ask(&mut removals, 1, 0));
        assert!(ask(&mut removals, 0, 0));
    }

    #[test]
    fn a_share_is_taken_of_what_there_was_at_first() {
        let mut removals = Removals::new(MaxDelete::Percent(50));
        assert!(ask(&mut removals, 400, 0));
        assert!(removals.ask(100, 1, || 600).is_ok());
        assert!(removals.ask(1, 2, || 1_000_000).is_err());
        let mut few = Removals::new(MaxDelete::Percent(0));
        assert!(ask(&mut few, 100, 0));
        assert!(!ask(&mut few, 1, 0));
    }

    proptest! {
        #[test]
        fn never_more_than_the_limit_in_any_hour(
            most in 0_u64..50,
            asked in proptest::collection::vec((0_u64..10, 0_u64..WINDOW_MS), 0..200),
        ) {
            let mut removals = Removals::new(MaxDelete::Count(most));
            let mut now = 0;
            let mut done: Vec<(u64, u64)> = Vec::new();
            for (count, pause) in asked {
                now += pause;
                if ask(&mut removals, count, now) {
                    done.push((now, count));
                }
                let recent = done.iter().filter(|(at, _)| now - at < WINDOW_MS);
                prop_assert!(recent.map(|(_, count)| count).sum::<u64>() <= most);
            }
        }
    }
}
