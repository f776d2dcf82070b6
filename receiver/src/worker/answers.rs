//! Questions of one session: answered in order, beside the commits; those that need contents to be read beside the
//! others.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use syncd_proto::message::{Ids, Rejected, Signature};

use super::Module;
use super::outbox::Outbox;
use super::reader::Question;
use super::shared::Shared;
use crate::fs::area::Area;
use crate::fs::commit;
use crate::fs::known::Known;
use crate::fs::root::Root;
use crate::fs::signature::{self, Frames};
use crate::fs::tree::{ListError, Stopped, Trees};

/// Answers questions until there are no more.
#[derive(Debug)]
pub(super) struct Answerer<'a> {
    /// What is asked about.
    pub(super) root: Arc<Root>,
    /// Versions whose content is known.
    pub(super) known: Arc<Known>,
    /// Digests and listings.
    pub(super) trees: Trees,
    /// Who knows this machine's users and groups.
    pub(super) module: &'a Module,
    /// What was made visible before this session may not be durable: it is made so before it is compared.
    /// `None` once it is, or if nobody wants that.
    pub(super) unsynced: Option<Arc<Area>>,
    /// The session.
    pub(super) shared: &'a Shared<'a>,
    /// To the agent.
    pub(super) outbox: Outbox,
    /// When something was asked last.
    pub(super) asked: Instant,
    /// Commits applied when memory was given back last.
    pub(super) rested: u64,
}

impl Answerer<'_> {
    /// Answers in order, until there are no more questions or nobody wants answers.
    pub(super) fn run(mut self, queue: &Receiver<Question>) {
        while let Ok(question) = queue.recv() {
            if self.answer(&question).is_err() {
                return;
            }
            if !matches!(question, Question::Rest) {
                self.asked = Instant::now();
            }
        }
    }

    fn answer(&mut self, question: &Question) -> Result<(), Stopped> {
        let applied = self.shared.applied.load(Ordering::Relaxed);
        match question {
            Question::Digests(query) => {
                self.settle()?;
                let stop = &self.shared.stop;
                let digests = self.trees.digests(&self.root, query, applied, stop)?;
                sent(self.outbox.send(digests))
            }
            Question::List(query) => {
                self.settle()?;
                let send = |listing| self.outbox.send(listing);
                let stop = &self.shared.stop;
                match self.trees.list(&self.root, query, applied, stop, send) {
                    Err(ListError::Stopped) => Err(Stopped),
                    Err(ListError::Unread(refusal)) => {
                        self.outbox.reject(Rejected::Query(query.id), refusal);
                        Ok(())
                    }
                    Ok(()) => Ok(()),
                }
            }
            Question::Ids(query) => {
                let ids = Ids {
                    id: query.id,
                    numbers: self.module.numbers(query.names.clone()),
                };
                sent(self.outbox.send(ids))
            }
            Question::Signature(query) => {
                let mut sink = Sink {
                    shared: self.shared,
                    outbox: &self.outbox,
                };
                let answered = signature::answer(&self.root, &self.known, query, &mut sink);
                if let Err(refusal) = answered {
                    self.outbox.reject(Rejected::Query(query.id), refusal);
                }
                Ok(())
            }
            Question::Rest => {
                let worked = mem::replace(&mut self.rested, applied) != applied;
                if self.trees.forget(self.asked.elapsed()) || worked {
                    self.shared.commit_spares.clear();
                    syncd_heap::give_back();
                }
                Ok(())
            }
        }
    }

    /// An agent takes for durable what it finds equal. A worker that was killed may have left names that it
    /// had not synced.
    fn settle(&mut self) -> Result<(), Stopped> {
        let Some(area) = self.unsynced.take() else {
            return Ok(());
        };
        commit::settle(&area).map_err(|refusal| {
            tracing::error!(%refusal, "a session ends");
            self.shared.fail(refusal);
            Stopped
        })
    }
}

fn sent(sent: bool) -> Result<(), Stopped> {
    if sent { Ok(()) } else { Err(Stopped) }
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
