//! [`Journal`]: what a decision looked at on its way, for whoever wants it explained.

use std::sync::{Arc, Mutex, PoisonError};

use crate::logic::rsyncd_conf::{Located, Position};

/// One look at one parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The parameter, or what else was looked at.
    pub what: &'static str,
    /// Where it stands; `None` for what is built in.
    pub position: Option<Position>,
    /// What was found.
    pub text: String,
    /// What follows.
    pub outcome: Outcome,
}

/// What follows from a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing by itself.
    Seen,
    /// The peer may go on.
    Passed,
    /// The peer is turned away.
    Refused,
}

/// The steps of one decision, if they are wanted. Clones write to the same one.
#[derive(Debug, Clone, Default)]
pub struct Journal(Option<Arc<Mutex<Vec<Step>>>>);

impl Journal {
    /// One that is kept.
    #[must_use]
    pub fn kept() -> Self {
        Self(Some(Arc::default()))
    }

    /// The steps so far.
    #[must_use]
    pub fn steps(&self) -> Vec<Step> {
        let steps = self.0.as_ref();
        steps.map_or_else(Vec::new, |steps| {
            steps.lock().unwrap_or_else(PoisonError::into_inner).clone()
        })
    }

    /// Notes a step; `text` is only asked for if somebody wants to know.
    pub(super) fn note(
        &self,
        outcome: Outcome,
        what: &'static str,
        position: Option<&Position>,
        text: impl FnOnce() -> String,
    ) {
        if let Some(steps) = &self.0 {
            let step = Step {
                what,
                position: position.cloned(),
                text: text(),
                outcome,
            };
            let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
            steps.push(step);
        }
    }
}

/// Where a parameter stands that may not be written at all.
pub(super) fn place<T>(parameter: Option<&Located<T>>) -> Option<&Position> {
    parameter.and_then(|parameter| parameter.position.as_ref())
}
