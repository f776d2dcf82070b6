//! What the receiver refused, and what could not be read: it waits, longer each time.

use std::sync::Arc;

use syncd_proto::message::{Reject, Rejected};
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;

use super::{LINK, Pause, REMOVE, State, Target};
use crate::logic::backoff::Backoff;
use crate::logic::coalesce::{Failure, Leave, Look, Millis, Remote, Taken};
use crate::logic::plan::Cause;

/// How long everything rests after the receiver had no space, at most.
const PAUSE_MAX_MS: Millis = 10_000;

impl Target {
    /// An operation was refused.
    pub fn rejected(&self, reject: &Reject) {
        let Rejected::Op { seq, index } = reject.what else {
            return;
        };
        let now = self.now();
        let mut state = self.lock();
        let Some((cause, note, arrived)) = state.outbox.reject(seq, index) else {
            return;
        };
        if !arrived && note.is_some_and(|note| note.staged) {
            state.staged = state.staged.saturating_sub(1);
        }
        if let Cause::Path(taken) = &cause
            && note.is_some_and(|note| note.verb == REMOVE)
            && taken.mark.leave != Leave::Given
        {
            state.brake.came_back(taken.mark.weight);
        }
        let cause = match cause {
            Cause::Path(taken) if self.may_hold_more(&taken, reject.code) => {
                if !arrived {
                    state.dirty.arrived(&taken.path);
                }
                // The comparison removes what may go, and leaves the rest; or counts what goes.
                state.keep(&taken.path);
                state.dirty.compare(WirePath::clone(&taken.path), now);
                state.dirty.settle_seq(taken.mark.seq);
                drop(state);
                self.wake_all();
                return;
            }
            cause => cause,
        };
        let in_the_way = matches!(&cause, Cause::Rename(_)) && reject.code == RejectCode::NotEmpty;
        if reject.code.is_stale() || in_the_way {
            // The agent's picture was behind: it looks again, and nobody has to do anything.
            tracing::debug!(target = %self.name, code = %reject.code, "looked at again: {}", reject.text);
        } else if reject.code.pauses_transfers() && state.resting_until(now).is_some() {
            // The first one has been told.
            tracing::debug!(target = %self.name, code = %reject.code, "refused: {}", reject.text);
        } else {
            tracing::warn!(target = %self.name, code = %reject.code, "refused: {}", reject.text);
        }
        match cause {
            Cause::Path(taken) => {
                if !arrived {
                    state.dirty.arrived(&taken.path);
                }
                let State { dirty, .. } = &mut *state;
                dirty.look_where_it_went(&taken.path, taken.mark.seq, now);
                if reject.code == RejectCode::Attributes {
                    state.links.agreed(&taken.path, taken.mark.seq);
                    state.outbox.lacks_attributes(seq, index, taken.mark.seq);
                    state.attributes_failed(taken, &reject.text, now);
                } else if note.is_some_and(|note| note.verb == LINK) {
                    state.link_failed(taken, reject.code, &reject.text, now);
                } else {
                    match state.links.disagreed(taken.mark.seq) {
                        Some(others) => state.look_at_names(others, taken.mark.seq, now),
                        None => {
                            // Its name may have moved since, and was known as one of what it did not get.
                            let later = state.dirty.later_names(&taken.path, taken.mark.seq);
                            let names = [WirePath::clone(&taken.path)].into_iter().chain(later);
                            let others = names.flat_map(|name| state.links.put_refused(&name));
                            let others = others.collect();
                            state.relink(others, now);
                        }
                    }
                    state.path_failed(taken, reject.code, &reject.text, now);
                }
            }
            other => {
                match &other {
                    Cause::Rename(rename) => {
                        if in_the_way {
                            // What takes its place, if it is no directory, has to wait for a comparison.
                            state.keep(&rename.to);
                            if rename.dir {
                                // It is still where it was, with what is protected in it.
                                state.keep(&rename.from);
                            }
                        }
                        state.links.forget_below(&rename.from);
                        state.links.forget_below(&rename.to);
                    }
                    Cause::Follows(path) => {
                        state.link_refused(path, reject.code, now);
                    }
                    Cause::Path(_) => {}
                }
                state.give_back_cause(other, arrived, now);
            }
        }
        drop(state);
        self.wake_all();
    }

    /// Whether a directory could not be removed because names may be in it that the rules protect, or that nobody
    /// has counted.
    fn may_hold_more(&self, taken: &Taken, code: RejectCode) -> bool {
        code == RejectCode::NotEmpty
            && taken.mark.gone
            && !taken.mark.cleared
            && (self.selection.may_protect() || !taken.mark.witnessed)
    }

    /// A path could not be read or transferred: it waits, longer each time.
    pub fn failed(&self, taken: Taken, code: &str, text: String) {
        self.update(|state, now| {
            state.dirty.given_up(&taken.path);
            state.wait_longer(taken, code.to_owned(), text, now);
        });
    }
}

impl State {
    /// A link was refused: where another name of the file is not what it should be, all are looked at
    /// again; where there can be no link, every name gets the content.
    fn link_refused(&mut self, path: &WirePath, code: RejectCode, now: Millis) {
        let passing = code.is_stale() || code.pauses_transfers();
        let others = self.links.link_refused(path, passing);
        self.relink(others, now);
    }

    /// The target does not have a file under these names as it was believed: none of them got what was seen as `seq` under
    /// one more, and that one may be gone by now.
    fn look_at_names(&mut self, names: Vec<Arc<WirePath>>, seq: u64, now: Millis) {
        for name in &names {
            self.dirty.look_where_it_went(name, seq, now);
        }
        self.relink(names, now);
    }

    fn link_failed(&mut self, mut taken: Taken, code: RejectCode, text: &str, now: Millis) {
        self.link_refused(&taken.path, code, now);
        if code == RejectCode::NoParent || code.pauses_transfers() {
            self.path_failed(taken, code, text, now);
        } else {
            taken.mark.attempts += 1;
            self.dirty.give_back(taken, now);
        }
    }

    /// A path was refused by the receiver.
    pub fn path_failed(&mut self, mut taken: Taken, code: RejectCode, text: &str, now: Millis) {
        // What was on its way when the rest began is refused for the same reason.
        let counted = self.pause.as_ref().is_none_or(|pause| pause.is_tried);
        if code.pauses_transfers() && counted {
            let attempts = self.pause.as_ref().map_or(0, |pause| pause.attempts) + 1;
            let rest = path_delay_ms(attempts).min(PAUSE_MAX_MS);
            self.pause = Some(Pause {
                code,
                text: text.to_owned(),
                until: now + rest,
                attempts,
                is_tried: false,
            });
        }
        if code == RejectCode::NoParent {
            let mut above = taken.path.parent();
            while let Some(parent) = above.filter(|parent| !parent.is_root()) {
                self.dirty
                    .found(parent.clone(), Look::Content, Remote::Unknown, now);
                above = parent.parent();
            }
        }
        taken.mark.look = Look::Content;
        taken.mark.remote = Remote::Unknown;
        taken.mark.born = false;
        if code.is_stale() && taken.mark.attempts < 2 {
            taken.mark.attempts += 1;
            self.dirty.give_back(taken, now);
            return;
        }
        let rested = self.resting_until(now);
        let rested = rested.filter(|_| code.pauses_transfers());
        let (code, text) = (code.to_string(), text.to_owned());
        match rested {
            // All of them go on when there is room, however often each was tried.
            Some(until) => self.wait_until(taken, Failure { code, text }, until),
            None => self.wait_longer(taken, code, text, now),
        }
    }

    /// Everything but the attributes arrived: only metadata is tried again.
    fn attributes_failed(&mut self, mut taken: Taken, text: &str, now: Millis) {
        taken.mark.look = Look::Meta;
        taken.mark.remote = Remote::Present;
        taken.mark.born = false;
        let code = RejectCode::Attributes.to_string();
        self.wait_longer(taken, code, text.to_owned(), now);
    }

    fn wait_longer(&mut self, taken: Taken, code: String, text: String, now: Millis) {
        let due = now + path_delay_ms(taken.mark.attempts + 1);
        self.wait_until(taken, Failure { code, text }, due);
    }

    fn wait_until(&mut self, mut taken: Taken, failure: Failure, due: Millis) {
        taken.mark.attempts += 1;
        taken.mark.failure = Some(failure);
        self.dirty.give_back(taken, due);
    }
}

/// Delay before a path that failed so often is tried again: doubles to a minute.
pub fn path_delay_ms(attempts: u32) -> Millis {
    Backoff::PATH.ceiling(attempts).as_millis() as Millis
}
