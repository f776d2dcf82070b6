//! Transfers of one session: chunks become staged content.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use syncd_proto::digest::Digest;
use syncd_proto::limits::TRANSFERS_MAX;
use syncd_proto::message::{Credit, Durability, Rejected, StageBegin, StageChunk, StageEnd};
use syncd_proto::op::TransferId;
use syncd_proto::reject::RejectCode;

use super::outbox::Outbox;
use super::reader::{StageMessage, WINDOW_BYTES};
use super::shared::Shared;
use crate::fs::area::Area;
use crate::fs::commit::StagedMap;
use crate::fs::refusal::Refusal;
use crate::fs::root::Root;
use crate::fs::stage::Transfer;

/// Takes transfers until there are no more.
#[derive(Debug)]
pub(super) struct Stager<'a> {
    /// Where files are made.
    pub(super) area: Arc<Area>,
    /// Where bases are.
    pub(super) root: Arc<Root>,
    /// Where complete ones go.
    pub(super) complete: Arc<StagedMap>,
    /// Whether anything is synced at all.
    pub(super) durability: Durability,
    /// The session.
    pub(super) shared: &'a Shared<'a>,
    /// To the agent.
    pub(super) outbox: Outbox,
    /// Versions for which there was no room.
    pub(super) lacked: Lacked,
    /// Chunk bytes worked off and not given back yet.
    pub(super) consumed: u64,
}

/// What versions had taken on the disk when there was no more room for them, in bytes. They are not taken in again until
/// there is room for more than that: what cannot arrive would be sent again and again, and fill the disk for everybody.
/// It may be less than they need, since nobody knows what of them is holes.
#[derive(Debug, Default)]
pub(super) struct Lacked(HashMap<Digest, u64>);

impl Lacked {
    fn note(&mut self, version: Option<Digest>, taken_bytes: u64, refusal: &Refusal) {
        let lacking = matches!(refusal.code, RejectCode::NoSpace | RejectCode::Quota);
        let Some(version) = version.filter(|_| lacking) else {
            return;
        };
        if self.0.len() >= LACKED_MAX {
            self.0.clear();
        }
        self.0.insert(version, taken_bytes);
    }

    /// Bytes for which there has to be room before it makes sense to begin with this one.
    fn of(&self, begin: &StageBegin) -> Option<u64> {
        let taken = self.0.get(&begin.key?)?;
        let bytes = (taken + LACKED_STEP_BYTES).min(begin.len_hint);
        (begin.resume_at == 0).then_some(bytes)
    }
}

impl Stager<'_> {
    /// Works until the queue ends; what is unfinished then can be continued later.
    pub(super) fn run(mut self, queue: &Receiver<StageMessage>) {
        let mut open: HashMap<TransferId, Transfer> = HashMap::new();
        while let Some(message) = self.next(queue) {
            self.consumed += payload_len(&message);
            if let Err((id, refusal)) = self.take(&mut open, message) {
                self.complete.refuse(id, refusal.clone(), COMPLETE_MAX);
                self.outbox.reject(Rejected::Transfer(id), refusal);
            }
            if self.consumed >= CREDIT_BYTES {
                self.give_back();
            }
            self.shared.staged.step();
        }
        self.shared.staged.finish();
        open.into_values().for_each(Transfer::suspend);
    }

    /// Lets the agent send as much again as was worked off.
    fn give_back(&mut self) {
        let bytes = std::mem::take(&mut self.consumed);
        self.shared.window.fetch_sub(bytes, Ordering::Relaxed);
        self.outbox.send(Credit { bytes });
    }

    fn next(&mut self, queue: &Receiver<StageMessage>) -> Option<StageMessage> {
        match queue.recv_timeout(IDLE) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                self.shared.chunk_spares.clear();
                if self.consumed > 0 {
                    self.give_back();
                }
                queue.recv().ok()
            }
        }
    }

    fn take(
        &mut self,
        open: &mut HashMap<TransferId, Transfer>,
        message: StageMessage,
    ) -> Result<(), (TransferId, Refusal)> {
        match message {
            StageMessage::Begin(begin) => {
                let id = begin.transfer;
                self.begin(open, &begin).map_err(|refusal| (id, refusal))
            }
            StageMessage::Chunk(chunk, payload) => {
                let appended = self.append(open, &chunk, &payload);
                self.shared.chunk_spares.give(payload);
                appended
            }
            StageMessage::End(end) => match open.remove(&end.transfer) {
                Some(transfer) => {
                    let (version, taken_bytes) = (transfer.version(), transfer.taken_bytes());
                    let ended = self.end(transfer, &end);
                    ended.map_err(|refusal| {
                        self.lacked.note(version, taken_bytes, &refusal);
                        (end.transfer, refusal)
                    })
                }
                // It was refused before; the agent could not know yet.
                None => Ok(()),
            },
            StageMessage::Abort(abort) => {
                if let Some(transfer) = open.remove(&abort.transfer) {
                    transfer.abort();
                }
                drop(self.complete.take(abort.transfer));
                Ok(())
            }
        }
    }

    fn begin(
        &self,
        open: &mut HashMap<TransferId, Transfer>,
        begin: &StageBegin,
    ) -> Result<(), Refusal> {
        if open.contains_key(&begin.transfer) || open.len() >= TRANSFERS_MAX {
            let refusal = Refusal::new(RejectCode::Protocol, "a transfer too many, or used twice");
            self.shared.fail(refusal.clone());
            return Err(refusal);
        }
        let is_synced = self.durability != Durability::None;
        let known = self.complete.known();
        let transfer = Transfer::begin(&self.area, &self.root, known, begin, is_synced)?;
        if let Some(bytes) = self.lacked.of(begin)
            && let Err(refusal) = transfer.try_room(bytes)
        {
            transfer.abort();
            return Err(refusal);
        }
        open.insert(begin.transfer, transfer);
        Ok(())
    }

    fn append(
        &mut self,
        open: &mut HashMap<TransferId, Transfer>,
        chunk: &StageChunk,
        payload: &[u8],
    ) -> Result<(), (TransferId, Refusal)> {
        let Some(transfer) = open.get_mut(&chunk.transfer) else {
            return Ok(());
        };
        transfer.chunk(&chunk.ops, payload).map_err(|refusal| {
            if let Some(transfer) = open.remove(&chunk.transfer) {
                let (version, taken_bytes) = (transfer.version(), transfer.taken_bytes());
                self.lacked.note(version, taken_bytes, &refusal);
                transfer.abort();
            }
            (chunk.transfer, refusal)
        })
    }

    fn end(&self, transfer: Transfer, end: &StageEnd) -> Result<(), Refusal> {
        let staged = transfer.end(end.len, end.digest, self.complete.known())?;
        // A large file is made safe here, so that the commit that needs it does not wait for long.
        if end.len >= EARLY_SYNC_BYTES && self.durability != Durability::None {
            rustix::fs::fdatasync(staged.fd()).map_err(|errno| Refusal::staging("sync", errno))?;
        }
        if self.complete.insert(end.transfer, staged, COMPLETE_MAX) {
            return Ok(());
        }
        let text = "too many transfers wait for their commit";
        Err(Refusal::new(RejectCode::TooLarge, text))
    }
}

fn payload_len(message: &StageMessage) -> u64 {
    match message {
        StageMessage::Chunk(_, payload) => payload.len() as u64,
        _ => 0,
    }
}

/// After so long without a message there are none for a while.
const IDLE: Duration = Duration::from_millis(100);

/// Window is given back in pieces of at least this size while there is work: each wakes threads on both sides. An agent that
/// waits for it has the rest of the window on its way, so that the next piece comes whatever it does.
const CREDIT_BYTES: u64 = WINDOW_BYTES / 16;

/// Files from this size on are synced as soon as they are complete.
const EARLY_SYNC_BYTES: u64 = 8 << 20;

/// Most versions for which there was no room that are remembered.
const LACKED_MAX: usize = 1_024;

/// By how much more room than the last time there has to be.
const LACKED_STEP_BYTES: u64 = 4 << 20;

/// Most complete transfers that wait for a commit; each holds a descriptor.
const COMPLETE_MAX: usize = 512;
