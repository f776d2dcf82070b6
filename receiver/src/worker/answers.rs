//! Questions of one session: answered in order, beside the commits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use syncd_proto::message::{Ids, Rejected, Signature};

use super::outbox::Outbox;
use super::reader::Question;
use super::shared::Shared;
use crate::fs::ids::Accounts;
use crate::fs::known::Known;
use crate::fs::root::Root;
use crate::fs::signature::{self, Frames};
use crate::fs::tree::{Stopped, Trees};

/// Answers until there are no more questions, or nobody wants answers.
pub(super) fn run(
    root: &Arc<Root>,
    known: &Known,
    mut trees: Trees,
    accounts: Option<&Accounts>,
    queue: &Receiver<Question>,
    shared: &Shared<'_>,
    outbox: &Outbox,
) {
    while let Ok(question) = queue.recv() {
        if answer(root, known, &mut trees, accounts, &question, shared, outbox).is_err() {
            return;
        }
    }
}

fn answer(
    root: &Root,
    known: &Known,
    trees: &mut Trees,
    accounts: Option<&Accounts>,
    question: &Question,
    shared: &Shared<'_>,
    outbox: &Outbox,
) -> Result<(), Stopped> {
    let applied = shared.applied.load(Ordering::Relaxed);
    let stop = &shared.stop;
    match question {
        Question::Digests(query) => {
            let digests = trees.digests(root, query, applied, stop)?;
            if outbox.send(digests) {
                Ok(())
            } else {
                Err(Stopped)
            }
        }
        Question::List(query) => {
            let send = |listing| outbox.send(listing);
            trees.list(root, query, applied, stop, send)
        }
        Question::Ids(query) => {
            let numbers = query.names.iter();
            let numbers = numbers.map(|name| accounts.map_or(name.id, |known| known.number(name)));
            let ids = Ids {
                id: query.id,
                numbers: numbers.collect(),
            };
            if outbox.send(ids) {
                Ok(())
            } else {
                Err(Stopped)
            }
        }
        Question::Signature(query) => {
            let mut sink = Sink { shared, outbox };
            if let Err(refusal) = signature::answer(root, known, query, &mut sink) {
                outbox.reject(Rejected::Query(query.id), refusal);
            }
            Ok(())
        }
    }
}

struct Sink<'a> {
    shared: &'a Shared<'a>,
    outbox: &'a Outbox,
}

impl Frames for Sink<'_> {
    fn send(&mut self, signature: Signature, payload: Vec<u8>) -> bool {
        !self.shared.stop.load(Ordering::Relaxed) && self.outbox.send_with(signature, payload)
    }
}
