//! [`Link`]: one open session, shared by the threads that feed it.
//!
//! Sending never blocks: what is queued is bounded by the window of commits, the credit for chunks and
//! the number of questions, all of which the senders wait for. One task writes, one reads; the reader
//! never waits for the writer, so the two ends cannot block each other.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use syncd_proto::chain::CommitSigner;
use syncd_proto::digest::Digest;
use syncd_proto::error::{DecodeError, ProtocolError};
use syncd_proto::exchange::agent::{AgentSession, CommitError};
use syncd_proto::frame::Frame;
use syncd_proto::message::{
    AgentMessage, Digests, FEATURE_SAME, FEATURE_SPARE, FEATURE_ZSTD, Ids, Listing,
    ReceiverMessage, Reject, Rejected, Signature, Welcome,
};
use syncd_proto::op::{Op, TransferId};
use syncd_proto::pack;
use syncd_proto::spares::Spares;
use tokio::io::AsyncWrite;
use tokio::sync::Notify;

use crate::logic::bucket::Bucket;
use crate::logic::packing::Packing;
use crate::logic::terms::Terms;
use crate::net::framing::FrameWriter;
use crate::net::threads::apart;

/// Longest wait for the answer to one question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

/// While so many bytes of its kind wait to be written, content waits where it comes from: what is urgent waits for no
/// more than that.
const QUEUE_BYTES_MAX: usize = 512 << 10;

/// Bytes of one chunk, at most.
const CHUNK_BYTES_MAX: usize = 512 << 10;

/// Where a limit is set, so much of a second's bytes wait to be written at most, and are in one chunk.
const QUEUE_PARTS: u64 = 4;
const CHUNK_PARTS: u64 = 8;

/// Most buffers that wait for the next commits.
const BUFFERS_MAX: usize = 4;

/// Fewer bytes are not worth it.
const BYTES_MIN: u64 = 32 << 10;

/// Why something could not be sent or answered.
#[derive(Debug)]
pub enum LinkError {
    /// The connection is gone.
    Closed,
    /// The receiver refused this question or transfer.
    Rejected(Reject),
    /// The receiver did not answer.
    Timeout,
    /// A message is above a limit.
    TooLarge(DecodeError),
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("connection lost"),
            Self::Rejected(reject) => write!(f, "{}: {}", reject.code, reject.text),
            Self::Timeout => write!(f, "no answer for {} s", ANSWER_TIMEOUT.as_secs()),
            Self::TooLarge(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for LinkError {}

/// An answer, or a part of one.
#[derive(Debug)]
pub enum Answer {
    /// To a `DigestQuery`.
    Digests(Digests),
    /// To a `ListQuery`.
    Listing(Listing),
    /// To an `IdQuery`.
    Ids(Ids),
    /// To a `SignatureQuery`, with its payload.
    Signature(Signature, Vec<u8>),
    /// It is refused.
    Rejected(Reject),
}

impl Answer {
    /// Whether nothing follows it.
    fn is_last(&self) -> bool {
        match self {
            Self::Digests(_) | Self::Ids(_) | Self::Rejected(_) => true,
            Self::Listing(part) => part.last,
            Self::Signature(part, _) => part.last,
        }
    }
}

#[derive(Debug, Default)]
struct Inbox {
    answers: HashMap<u64, VecDeque<Answer>>,
    rejected_transfers: HashMap<TransferId, Reject>,
    /// Leftovers that a transfer has continued: they are no more.
    continued: HashSet<Digest>,
    credit: i64,
    /// Urgent transfers that wait for credit.
    urgent: usize,
}

/// Whether a transfer goes before others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// It waits for those that do.
    Patient,
    /// It does.
    Urgent,
}

/// One open session.
#[derive(Debug)]
pub struct Link {
    welcome: Welcome,
    /// Whether payloads may be compressed.
    packs: bool,
    terms: Arc<Terms>,
    signer: CommitSigner,
    outgoing: Mutex<Outgoing>,
    writable: Notify,
    inbox: Mutex<Inbox>,
    arrived: Condvar,
    closed: AtomicBool,
    closing: Notify,
    next_id: AtomicU64,
    /// Bytes of commits, and of what is small, that wait to be written.
    queued_commits: AtomicUsize,
    /// Bytes of chunks that wait to be written.
    queued_chunks: AtomicUsize,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    last_heard_ms: AtomicU64,
    /// Most bytes per second; 0 is no limit.
    limit: AtomicU64,
    /// Whether the link takes long for what it is given.
    slow: AtomicBool,
    started: Instant,
    /// Buffers of commits that were written.
    buffers: Spares,
}

#[derive(Debug)]
struct Outgoing {
    session: AgentSession,
    frames: VecDeque<(Frame, Lane)>,
}

/// What a frame is counted as while it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Commits,
    Chunks,
}

impl Link {
    /// A link over an open session.
    #[must_use]
    pub fn new(
        session: AgentSession,
        welcome: Welcome,
        terms: Terms,
        signer: CommitSigner,
    ) -> Self {
        let credit = i64::try_from(welcome.window_bytes).unwrap_or(i64::MAX);
        Self {
            packs: welcome.features & FEATURE_ZSTD != 0,
            welcome,
            terms: Arc::new(terms),
            signer,
            outgoing: Mutex::new(Outgoing {
                session,
                frames: VecDeque::new(),
            }),
            writable: Notify::new(),
            inbox: Mutex::new(Inbox {
                credit,
                ..Inbox::default()
            }),
            arrived: Condvar::new(),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            next_id: AtomicU64::new(1),
            queued_commits: AtomicUsize::new(0),
            queued_chunks: AtomicUsize::new(0),
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            last_heard_ms: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            slow: AtomicBool::new(false),
            started: Instant::now(),
            buffers: Spares::new(BUFFERS_MAX),
        }
    }

    /// What the receiver said when it opened the session.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// Buffers of commits that were written, for the content of the next.
    #[must_use]
    pub fn buffers(&self) -> &Spares {
        &self.buffers
    }

    /// Whether renames leave directories at the target that are not empty.
    #[must_use]
    pub fn spares(&self) -> bool {
        self.welcome.features & FEATURE_SPARE != 0
    }

    /// Whether the receiver can be told that it has the content of a small file.
    #[must_use]
    pub fn compares(&self) -> bool {
        self.welcome.features & FEATURE_SAME != 0
    }

    /// What was agreed about metadata.
    #[must_use]
    pub fn terms(&self) -> &Arc<Terms> {
        &self.terms
    }

    /// A number for a question or transfer, not used before in this session.
    #[must_use]
    pub fn issue_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Queues a message.
    ///
    /// # Errors
    /// [`LinkError::Closed`], [`LinkError::TooLarge`].
    pub fn send(&self, message: &AgentMessage, payload: Vec<u8>) -> Result<(), LinkError> {
        if self.is_closed() {
            return Err(LinkError::Closed);
        }
        let mut outgoing = lock(&self.outgoing);
        let frame = outgoing
            .session
            .frame(message, payload)
            .map_err(LinkError::TooLarge)?;
        let lane = match message {
            AgentMessage::StageChunk(_) => Lane::Chunks,
            _ => Lane::Commits,
        };
        self.queue(outgoing, frame, lane);
        Ok(())
    }

    /// Signs and queues a commit; returns its number and the size of its frame in bytes.
    ///
    /// # Errors
    /// [`CommitError`]. On a closed link the commit is numbered and goes nowhere; what was in flight is
    /// given back when the connection ends.
    pub fn commit(&self, ops: Vec<Op>, inline: Vec<u8>) -> Result<(u64, usize), CommitError> {
        let mut outgoing = lock(&self.outgoing);
        let (seq, frame) = outgoing.session.commit(&self.signer, ops, inline)?;
        let bytes = frame.wire_len();
        self.queue(outgoing, frame, Lane::Commits);
        Ok((seq, bytes))
    }

    fn queue(&self, mut outgoing: MutexGuard<'_, Outgoing>, frame: Frame, lane: Lane) {
        let bytes = frame.wire_len();
        self.queued(lane).fetch_add(bytes, Ordering::AcqRel);
        outgoing.frames.push_back((frame, lane));
        drop(outgoing);
        self.writable.notify_one();
    }

    /// Waits until few commits are left to be written, or the link is closed.
    pub fn wait_until_written(&self) {
        let mut inbox = lock(&self.inbox);
        while !self.is_closed() && self.is_full(Lane::Commits) {
            let waited = self.arrived.wait(inbox);
            inbox = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn queued(&self, lane: Lane) -> &AtomicUsize {
        match lane {
            Lane::Chunks => &self.queued_chunks,
            Lane::Commits => &self.queued_commits,
        }
    }

    fn is_full(&self, lane: Lane) -> bool {
        self.queued(lane).load(Ordering::Acquire) >= self.share(QUEUE_PARTS, QUEUE_BYTES_MAX)
    }

    /// How many bytes a chunk should have.
    #[must_use]
    pub fn chunk_bytes(&self) -> usize {
        self.share(CHUNK_PARTS, CHUNK_BYTES_MAX)
    }

    /// What is written in a part of a second, if there is a limit.
    fn share(&self, parts: u64, most: usize) -> usize {
        let share = self.limit().map(|rate| (rate.get() / parts).max(BYTES_MIN));
        share.map_or(most, |share| {
            usize::try_from(share).map_or(most, |share| share.min(most))
        })
    }

    /// So many bytes have been written.
    fn written(&self, lane: Lane, bytes: usize) {
        let was_full = self.is_full(lane);
        self.queued(lane).fetch_sub(bytes, Ordering::AcqRel);
        if was_full && !self.is_full(lane) {
            // Whoever holds the lock has not begun to wait yet and will see it.
            drop(lock(&self.inbox));
            self.arrived.notify_all();
        }
    }

    /// Number of the last commit sent, and of the last one visible at the receiver.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let outgoing = lock(&self.outgoing);
        (outgoing.session.committed(), outgoing.session.applied())
    }

    /// Takes room for `bytes` of chunk payload, waiting until the receiver has consumed enough, and little is left to be
    /// written.
    ///
    /// # Errors
    /// [`LinkError::Closed`]; [`LinkError::Rejected`] once the receiver has refused the transfer.
    pub fn take_credit(
        &self,
        transfer: TransferId,
        bytes: usize,
        urgency: Urgency,
    ) -> Result<(), LinkError> {
        let is_urgent = urgency == Urgency::Urgent;
        let mut inbox = lock(&self.inbox);
        inbox.urgent += usize::from(is_urgent);
        let taken = loop {
            if self.is_closed() {
                break Err(LinkError::Closed);
            }
            if let Some(reject) = inbox.rejected_transfers.get(&transfer) {
                break Err(LinkError::Rejected(reject.clone()));
            }
            let is_next = is_urgent || inbox.urgent == 0;
            if is_next && inbox.credit > 0 && !self.is_full(Lane::Chunks) {
                inbox.credit -= i64::try_from(bytes).unwrap_or(i64::MAX);
                break Ok(());
            }
            let waited = self.arrived.wait(inbox);
            inbox = waited.unwrap_or_else(PoisonError::into_inner);
        };
        if is_urgent {
            inbox.urgent -= 1;
            drop(inbox);
            // Others waited for this one.
            self.arrived.notify_all();
        }
        taken
    }

    /// How many bytes an interrupted transfer of this key has left at the receiver, for the one transfer
    /// that may continue it.
    #[must_use]
    pub fn take_leftover(&self, key: &Digest) -> u64 {
        let mut leftovers = self.welcome.leftovers.iter();
        match leftovers.find(|leftover| leftover.key == *key) {
            Some(leftover) if lock(&self.inbox).continued.insert(*key) => leftover.bytes,
            _ => 0,
        }
    }

    /// Forgets a transfer that has ended; the refusal, if there was one.
    pub fn end_transfer(&self, transfer: TransferId) -> Option<Reject> {
        lock(&self.inbox).rejected_transfers.remove(&transfer)
    }

    /// Asks a question and returns its number; [`Link::answer`] waits for the answer.
    ///
    /// # Errors
    /// As [`Link::send`].
    pub fn ask(&self, id: u64, question: &AgentMessage) -> Result<(), LinkError> {
        lock(&self.inbox).answers.insert(id, VecDeque::new());
        self.send(question, Vec::new())
    }

    /// Whether all of an answer is there: then nobody waits in [`Link::answer`].
    #[must_use]
    pub fn is_answered(&self, id: u64) -> bool {
        let inbox = lock(&self.inbox);
        let parts = inbox.answers.get(&id);
        parts.is_none_or(|parts| parts.back().is_some_and(Answer::is_last))
    }

    /// Waits for the next part of an answer.
    ///
    /// # Errors
    /// [`LinkError::Closed`], [`LinkError::Rejected`], [`LinkError::Timeout`].
    pub fn answer(&self, id: u64) -> Result<Answer, LinkError> {
        let answer = self.answer_before(id, Instant::now() + ANSWER_TIMEOUT)?;
        answer.ok_or_else(|| {
            lock(&self.inbox).answers.remove(&id);
            LinkError::Timeout
        })
    }

    /// The same; `None` if nothing has come by then, which may still come later.
    ///
    /// # Errors
    /// [`LinkError::Closed`], [`LinkError::Rejected`].
    pub fn answer_before(&self, id: u64, deadline: Instant) -> Result<Option<Answer>, LinkError> {
        let mut inbox = lock(&self.inbox);
        loop {
            if self.is_closed() {
                return Err(LinkError::Closed);
            }
            let next = inbox.answers.get_mut(&id).and_then(VecDeque::pop_front);
            if let Some(answer) = next {
                if answer.is_last() {
                    inbox.answers.remove(&id);
                }
                return match answer {
                    Answer::Rejected(reject) => Err(LinkError::Rejected(reject)),
                    other => Ok(Some(other)),
                };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            inbox = self
                .arrived
                .wait_timeout(inbox, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Takes a frame from the receiver: answers, credit and refused transfers are kept for those who
    /// wait; everything else is returned.
    ///
    /// # Errors
    /// Those of [`AgentSession::handle`]; the connection is over then.
    pub fn handle(&self, frame: Frame) -> Result<Option<ReceiverMessage>, ProtocolError> {
        self.bytes_received
            .fetch_add(frame.wire_len() as u64, Ordering::Relaxed);
        self.last_heard_ms
            .store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
        let message = lock(&self.outgoing).session.handle(&frame)?;
        let (id, answer) = match message {
            ReceiverMessage::Credit(credit) => {
                let mut inbox = lock(&self.inbox);
                let bytes = i64::try_from(credit.bytes).unwrap_or(i64::MAX);
                inbox.credit = inbox.credit.saturating_add(bytes);
                drop(inbox);
                self.arrived.notify_all();
                return Ok(None);
            }
            ReceiverMessage::Reject(reject) => match reject.what {
                Rejected::Query(id) => (id, Answer::Rejected(reject)),
                Rejected::Transfer(transfer) => {
                    lock(&self.inbox)
                        .rejected_transfers
                        .insert(transfer, reject);
                    self.arrived.notify_all();
                    return Ok(None);
                }
                Rejected::Op { .. } | Rejected::Session => {
                    return Ok(Some(ReceiverMessage::Reject(reject)));
                }
            },
            ReceiverMessage::Digests(digests) => (digests.id, Answer::Digests(digests)),
            ReceiverMessage::Ids(ids) => (ids.id, Answer::Ids(ids)),
            ReceiverMessage::Listing(listing) => (listing.id, Answer::Listing(listing)),
            ReceiverMessage::Signature(part) => (part.id, Answer::Signature(part, frame.payload)),
            other => return Ok(Some(other)),
        };
        let mut inbox = lock(&self.inbox);
        let Some(queue) = inbox.answers.get_mut(&id) else {
            return Err(ProtocolError::Contradiction("answer to no question"));
        };
        queue.push_back(answer);
        drop(inbox);
        self.arrived.notify_all();
        Ok(None)
    }

    /// From now on at most so many bytes are written per second.
    pub fn set_limit(&self, bytes_per_s: Option<NonZeroU64>) {
        let limit = bytes_per_s.map_or(0, NonZeroU64::get);
        self.limit.store(limit, Ordering::Relaxed);
        // There may be more room now.
        drop(lock(&self.inbox));
        self.arrived.notify_all();
    }

    /// Most bytes written per second now.
    #[must_use]
    pub fn limit(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.limit.load(Ordering::Relaxed))
    }

    /// Writes what is queued until the link is closed, within the limit.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn write_all<W: AsyncWrite + Unpin>(
        &self,
        mut writer: FrameWriter<W>,
    ) -> std::io::Result<()> {
        let mut bucket: Option<Bucket> = None;
        let mut packing = Packing::default();
        loop {
            let next = lock(&self.outgoing).frames.pop_front();
            if let Some((mut frame, lane)) = next {
                let bytes = frame.wire_len();
                if self.packs && packing.is_slow() {
                    frame = packed(frame).await?;
                }
                let begun = Instant::now();
                let wire_len = frame.wire_len();
                let wait = self.wait_ms(&mut bucket, wire_len);
                if wait > 0 {
                    writer.flush().await?;
                    tokio::time::sleep(Duration::from_millis(wait)).await;
                }
                self.bytes_sent
                    .fetch_add(wire_len as u64, Ordering::Relaxed);
                writer.feed(&frame).await?;
                self.written(lane, bytes);
                if lane == Lane::Commits {
                    self.buffers.give(frame.payload);
                }
                packing.wrote(wire_len, begun.elapsed().as_micros() as u64);
                self.slow.store(packing.is_slow(), Ordering::Relaxed);
                continue;
            }
            writer.flush().await?;
            if self.is_closed() {
                return Ok(());
            }
            tokio::select! {
                () = self.writable.notified() => {}
                () = self.closing.notified() => {}
            }
        }
    }

    /// How long the limit asks to wait before so many bytes, in milliseconds.
    fn wait_ms(&self, bucket: &mut Option<Bucket>, bytes: usize) -> u64 {
        let Some(rate) = self.limit() else {
            *bucket = None;
            return 0;
        };
        let now = self.started.elapsed().as_millis() as u64;
        let bucket = bucket.get_or_insert_with(|| Bucket::new(rate.get(), now));
        bucket.set_rate(rate.get(), now);
        bucket.take(bytes, now)
    }

    /// Whether it takes long for what it is given: then the last batch is still on its way when all others are at the
    /// target.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// Bytes sent and received so far, frames without TLS.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.bytes_sent.load(Ordering::Relaxed),
            self.bytes_received.load(Ordering::Relaxed),
        )
    }

    /// Time since the receiver was last heard.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.last_heard_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(heard)
    }

    /// Whether nothing can be sent any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Ends it: everybody who waits is told.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // Whoever holds the lock has not begun to wait yet and will see the flag.
        drop(lock(&self.inbox));
        self.arrived.notify_all();
        self.closing.notify_one();
        self.writable.notify_one();
    }
}

/// A frame with its payload compressed; as it is where no thread can be started for that.
async fn packed(frame: Frame) -> std::io::Result<Frame> {
    let whole = Arc::new(Mutex::new(Some(frame)));
    let work = {
        let whole = Arc::clone(&whole);
        move || lock(&whole).take().map(pack::pack)
    };
    match apart(work).await {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(std::io::Error::other("a frame was taken twice")),
        Err(error) => lock(&whole).take().ok_or(error),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
