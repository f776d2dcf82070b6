//! An agent and a receiver over the exchange, with trees in memory: the least that makes two trees equal.

use std::collections::{BTreeMap, BTreeSet};

use syncd_proto::auth::PasswordKey;
use syncd_proto::chain::CommitSigner;
use syncd_proto::delta::{
    BlockQuery, BlockSignature, BlockSize, Chunk, Chunker, GroupDiff, GroupHasher, GroupList,
    apply, sign_range,
};
use syncd_proto::digest::Digest;
use syncd_proto::error::ProtocolError;
use syncd_proto::exchange::agent::{
    AgentSession, AwaitReply, AwaitWelcome, Channel, Reply, connect,
};
use syncd_proto::exchange::receiver::{
    AwaitAnswer, AwaitHello, Handover, Incoming, ReceiverSession, Verified,
};
use syncd_proto::frame::{Deframer, Frame, FrameLimits};
use syncd_proto::message::*;
use syncd_proto::meta::{Compare, EntryMeta, Kind};
use syncd_proto::op::{Content, Op, TransferId};
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;

use crate::golden::{channel, hello, meta, path, signer, verifier};

/// Paths and the content of files; `None` for a directory.
pub(crate) type Tree = BTreeMap<WirePath, Option<Vec<u8>>>;

/// Files larger than this are staged.
const INLINE_MAX: usize = 4_096;

/// What survives a connection: the receiver's tree, and how many commits each session applied.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store {
    pub(crate) tree: Tree,
    pub(crate) commits: u64,
}

/// How a receiver behaves.
#[derive(Debug, Clone)]
pub(crate) struct Manners {
    pub(crate) password: Option<PasswordKey>,
    /// Opens the session whatever the answer, as somebody would who does not know the password.
    pub(crate) impostor: bool,
}

enum ReceiverState {
    Hello(AwaitHello),
    Answer(AwaitAnswer),
    Session(Box<ReceiverSession>),
    Closed,
}

#[derive(Default)]
struct Transfer {
    basis: Option<WirePath>,
    content: Vec<u8>,
    complete: bool,
}

/// The receiver's end of one connection.
pub(crate) struct Receiver {
    state: ReceiverState,
    deframer: Deframer,
    manners: Manners,
    staged: BTreeMap<TransferId, Transfer>,
    out: Vec<Frame>,
}

impl Receiver {
    pub(crate) fn new(channel: Channel, manners: Manners) -> Self {
        Self {
            state: ReceiverState::Hello(AwaitHello::new(channel)),
            deframer: Deframer::new(FrameLimits::HANDSHAKE, 0),
            manners,
            staged: BTreeMap::new(),
            out: Vec::new(),
        }
    }

    /// Takes bytes; gives the frames to send. After an error the connection is over.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        store: &mut Store,
    ) -> (Vec<Frame>, Result<(), ProtocolError>) {
        self.deframer.feed(bytes);
        let done = self.drain(store);
        if done.is_err() {
            self.state = ReceiverState::Closed;
        }
        (std::mem::take(&mut self.out), done)
    }

    fn drain(&mut self, store: &mut Store) -> Result<(), ProtocolError> {
        while let Some(frame) = self.deframer.next_frame()? {
            let state = std::mem::replace(&mut self.state, ReceiverState::Closed);
            self.state = match state {
                ReceiverState::Hello(state) => self.greet(state, &frame)?,
                ReceiverState::Answer(state) => self.answered(state, &frame)?,
                ReceiverState::Session(mut session) => {
                    let incoming = session.handle(frame)?;
                    match self.handle(&mut session, incoming, store)? {
                        true => ReceiverState::Session(session),
                        false => ReceiverState::Closed,
                    }
                }
                ReceiverState::Closed => return Ok(()),
            };
        }
        Ok(())
    }

    fn greet(&mut self, state: AwaitHello, frame: &Frame) -> Result<ReceiverState, ProtocolError> {
        let greeted = state.handle(frame)?;
        if let Some(refused) = greeted.version_refusal() {
            self.out.push(greeted.refuse(refused)?);
            return Ok(ReceiverState::Closed);
        }
        if self.manners.password.is_none() && !self.manners.impostor {
            return self.welcome(greeted.accept());
        }
        let (state, frame) = greeted.challenge([0x22; 32])?;
        self.out.push(frame);
        Ok(ReceiverState::Answer(state))
    }

    fn answered(
        &mut self,
        state: AwaitAnswer,
        frame: &Frame,
    ) -> Result<ReceiverState, ProtocolError> {
        let keys = self.manners.password.clone();
        let (answered, matched) = state.handle(frame, keys.as_slice())?;
        if matched.is_none() && !self.manners.impostor {
            let refused = Refused {
                code: RejectCode::AuthFailed,
                text: "auth failed on module www".to_owned(),
            };
            self.out.push(answered.refuse(refused)?);
            return Ok(ReceiverState::Closed);
        }
        self.welcome(answered.accept())
    }

    fn welcome(&mut self, handover: Handover) -> Result<ReceiverState, ProtocolError> {
        let mut session = ReceiverSession::resume(
            handover.counters,
            handover.session,
            b"www".to_vec(),
            verifier(),
        );
        let welcome = Welcome {
            version: 1,
            features: 0,
            receiver: "syncd-recv 0.1.0".to_owned(),
            proof: handover.proof,
            writable: true,
            compare: Compare::ALL,
            maps_names: false,
            durability: Durability::Batch,
            window_bytes: 8 << 20,
            window_commits: 64,
            instance: [0x33; 16],
            leftovers: Vec::new(),
        };
        self.out.push(session.frame(&welcome.into(), Vec::new())?);
        self.deframer.set_limits(FrameLimits::SESSION);
        Ok(ReceiverState::Session(Box::new(session)))
    }

    /// Whether the session goes on.
    fn handle(
        &mut self,
        session: &mut ReceiverSession,
        incoming: Incoming,
        store: &mut Store,
    ) -> Result<bool, ProtocolError> {
        let mut payload = Vec::new();
        let answer: ReceiverMessage = match incoming {
            Incoming::Commit(commit) => {
                for reject in self.commit(&commit, store) {
                    self.out.push(session.frame(&reject.into(), Vec::new())?);
                }
                let (applied, root) = (commit.seq(), commit.root());
                Ack {
                    applied,
                    durable: applied,
                    root,
                }
                .into()
            }
            Incoming::Chunk(chunk, literals) => {
                let bytes = literals.len() as u64;
                match self.chunk(&chunk, &literals, store) {
                    Ok(()) => Credit { bytes }.into(),
                    Err(code) => reject(Rejected::Transfer(chunk.transfer), code).into(),
                }
            }
            Incoming::Message(AgentMessage::StageBegin(begin)) => {
                let transfer = Transfer {
                    basis: begin.basis.map(|basis| basis.path),
                    ..Transfer::default()
                };
                self.staged.insert(begin.transfer, transfer);
                return Ok(true);
            }
            Incoming::Message(AgentMessage::StageEnd(end)) => {
                let Some(transfer) = self.staged.get_mut(&end.transfer) else {
                    return Ok(true);
                };
                transfer.complete = Digest::of(&transfer.content) == end.digest;
                if transfer.complete {
                    return Ok(true);
                }
                reject(Rejected::Transfer(end.transfer), RejectCode::BadContent).into()
            }
            Incoming::Message(AgentMessage::ListQuery(query)) => list(&store.tree, &query).into(),
            Incoming::Message(AgentMessage::SignatureQuery(query)) => {
                let (signature, sums) = sign(&store.tree, &query);
                payload = sums;
                signature.into()
            }
            Incoming::Message(AgentMessage::Ping(ping)) => Pong { token: ping.token }.into(),
            Incoming::Message(AgentMessage::Bye(_)) => return Ok(false),
            Incoming::Message(_) => return Ok(true),
        };
        self.out.push(session.frame(&answer, payload)?);
        Ok(true)
    }

    fn chunk(
        &mut self,
        chunk: &StageChunk,
        literals: &[u8],
        store: &Store,
    ) -> Result<(), RejectCode> {
        let transfer = self
            .staged
            .get_mut(&chunk.transfer)
            .ok_or(RejectCode::BadContent)?;
        let basis = match &transfer.basis {
            Some(path) => store
                .tree
                .get(path)
                .cloned()
                .flatten()
                .ok_or(RejectCode::NoBasis)?,
            None => Vec::new(),
        };
        let produced = apply(&basis, &chunk.ops, literals, 1 << 24);
        transfer
            .content
            .extend(produced.map_err(|_| RejectCode::NoBasis)?);
        Ok(())
    }

    fn commit(&mut self, commit: &Verified, store: &mut Store) -> Vec<Reject> {
        let mut rejects = Vec::new();
        for (index, (op, inline)) in commit.ops().enumerate() {
            if let Err(code) = self.operation(op, inline, &mut store.tree) {
                let (seq, index) = (commit.seq(), index as u32);
                rejects.push(reject(Rejected::Op { seq, index }, code));
            }
        }
        store.commits += 1;
        rejects
    }

    fn operation(
        &mut self,
        op: &Op,
        inline: Option<&[u8]>,
        tree: &mut Tree,
    ) -> Result<(), RejectCode> {
        match op {
            Op::Mkdir { path, .. } => {
                tree.insert(path.clone(), None);
            }
            Op::Put { path, content, .. } => {
                let bytes = match content {
                    Content::Inline { .. } => inline.unwrap_or_default().to_vec(),
                    Content::Staged { transfer, .. } => match self.staged.remove(transfer) {
                        Some(transfer) if transfer.complete => transfer.content,
                        _ => return Err(RejectCode::BadContent),
                    },
                };
                if Digest::of(&bytes) != *content.digest() {
                    return Err(RejectCode::BadContent);
                }
                tree.insert(path.clone(), Some(bytes));
            }
            Op::Remove { path, .. } => tree.retain(|other, _| !other.starts_with(path)),
            Op::Rename { from, to, .. } => {
                let moved = tree.remove(from).ok_or(RejectCode::Mismatch)?;
                tree.insert(to.clone(), moved);
            }
            _ => return Err(RejectCode::Unsupported),
        }
        Ok(())
    }
}

fn reject(what: Rejected, code: RejectCode) -> Reject {
    let text = code.to_string();
    Reject { what, code, text }
}

fn entry_meta(content: &Option<Vec<u8>>) -> EntryMeta {
    EntryMeta {
        kind: if content.is_some() {
            Kind::File
        } else {
            Kind::Dir
        },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: meta().mtime,
        size: content.as_ref().map_or(0, |bytes| bytes.len() as u64),
        rdev: (0, 0),
        content: content.as_ref().map(|bytes| Digest::of(bytes)),
        xattrs: None,
    }
}

fn list(tree: &Tree, query: &ListQuery) -> Listing {
    let below = |path: &&WirePath| path.parent().as_ref() == Some(&query.path);
    let found = tree.iter().filter(|(path, _)| below(path));
    let entries = found.filter_map(|(path, content)| {
        let meta = entry_meta(content);
        Some(ListEntry {
            name: path.file_name()?.clone(),
            meta,
            subtree: None,
            links: None,
        })
    });
    let known = query.path.is_root() || tree.get(&query.path) == Some(&None);
    Listing {
        id: query.id,
        dir: known.then(|| entry_meta(&None)),
        entries: entries.collect(),
        last: true,
    }
}

fn sign(tree: &Tree, query: &SignatureQuery) -> (Signature, Vec<u8>) {
    let (id, mut payload) = (query.id, Vec::new());
    let Some(Some(bytes)) = tree.get(&query.path) else {
        return (
            Signature {
                id,
                info: None,
                last: true,
            },
            payload,
        );
    };
    match &query.want {
        SignatureWant::Version => {}
        SignatureWant::Groups => {
            let mut hasher = GroupHasher::for_len(bytes.len() as u64);
            hasher.update(bytes);
            payload = hasher.finish().0.to_payload();
        }
        SignatureWant::Blocks {
            block_bytes,
            ranges,
            ..
        } => {
            let block = BlockSize::new(*block_bytes).unwrap_or(BlockSize::MIN);
            for &(start, len) in ranges {
                let range = start as usize..start.saturating_add(len) as usize;
                sign_range(bytes.get(range).unwrap_or_default(), block, &mut payload);
            }
        }
    }
    let info = SignatureInfo {
        version: [1; 16],
        len: bytes.len() as u64,
        mtime: meta().mtime,
        content: None,
    };
    (
        Signature {
            id,
            info: Some(info),
            last: true,
        },
        payload,
    )
}

enum AgentState {
    Reply(AwaitReply),
    Welcome(Box<AwaitWelcome>),
    Session(Box<AgentSession>),
    Closed,
}

/// The file whose signature has been asked for, and what the first tier found and the second was asked.
struct Asked {
    path: WirePath,
    second: Option<(GroupDiff, BlockQuery)>,
}

/// The agent's end of one connection.
pub(crate) struct Agent {
    state: AgentState,
    deframer: Deframer,
    signer: CommitSigner,
    source: Tree,
    /// Directories whose listings are still to come, by question.
    asked: BTreeMap<u64, WirePath>,
    removes: Vec<Op>,
    changed: BTreeMap<WirePath, bool>,
    delta: Option<Asked>,
    transfers: BTreeMap<WirePath, TransferId>,
    pub(crate) refused: Option<Refused>,
    pub(crate) rejects: Vec<Reject>,
    pub(crate) done: bool,
    out: Vec<Frame>,
}

impl Agent {
    /// An agent that has said hello.
    pub(crate) fn new(session: u8, password: Option<PasswordKey>, source: &Tree) -> Self {
        Self::greeting(channel(session), hello(), password, source)
    }

    pub(crate) fn greeting(
        channel: Channel,
        hello: Hello,
        password: Option<PasswordKey>,
        source: &Tree,
    ) -> Self {
        let (state, frame) = connect(channel, hello, password).unwrap();
        Self {
            state: AgentState::Reply(state),
            deframer: Deframer::new(FrameLimits::SESSION, 0),
            signer: signer(),
            source: source.clone(),
            asked: BTreeMap::new(),
            removes: Vec::new(),
            changed: BTreeMap::new(),
            delta: None,
            transfers: BTreeMap::new(),
            refused: None,
            rejects: Vec::new(),
            done: false,
            out: vec![frame],
        }
    }

    /// Takes bytes; gives the frames to send. After an error the connection is over.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> (Vec<Frame>, Result<(), ProtocolError>) {
        self.deframer.feed(bytes);
        let done = self.drain();
        if done.is_err() {
            self.state = AgentState::Closed;
        }
        (std::mem::take(&mut self.out), done)
    }

    fn drain(&mut self) -> Result<(), ProtocolError> {
        while let Some(frame) = self.deframer.next_frame()? {
            let state = std::mem::replace(&mut self.state, AgentState::Closed);
            self.state = match state {
                AgentState::Reply(state) => self.replied(state.handle(&frame)?)?,
                AgentState::Welcome(state) => self.replied(state.handle(&frame)?)?,
                AgentState::Session(mut session) => {
                    let message = session.handle(&frame)?;
                    self.handle(&mut session, message, &frame.payload)?;
                    AgentState::Session(session)
                }
                AgentState::Closed => AgentState::Closed,
            };
        }
        Ok(())
    }

    fn replied(&mut self, reply: Reply) -> Result<AgentState, ProtocolError> {
        match reply {
            Reply::Answer(state, frame) => {
                self.out.push(frame);
                Ok(AgentState::Welcome(state))
            }
            Reply::Open(mut session, _) => {
                let mut dirs = BTreeSet::from([WirePath::root()]);
                let source = self.source.iter().filter(|(_, content)| content.is_none());
                dirs.extend(source.map(|(path, _)| path.clone()));
                for (id, dir) in (1..).zip(dirs) {
                    let query = ListQuery {
                        id,
                        path: dir.clone(),
                        content: true,
                    };
                    self.out.push(session.frame(&query.into(), Vec::new())?);
                    self.asked.insert(id, dir);
                }
                Ok(AgentState::Session(session))
            }
            Reply::Refused(refused) => {
                self.refused = Some(refused);
                Ok(AgentState::Closed)
            }
            Reply::PasswordNeeded | Reply::Modules(_) => Ok(AgentState::Closed),
        }
    }

    fn handle(
        &mut self,
        session: &mut AgentSession,
        message: ReceiverMessage,
        payload: &[u8],
    ) -> Result<(), ProtocolError> {
        match message {
            ReceiverMessage::Listing(listing) => self.listed(session, &listing),
            ReceiverMessage::Signature(signature) => self.signed(session, &signature, payload),
            ReceiverMessage::Reject(reject) => {
                self.rejects.push(reject);
                Ok(())
            }
            ReceiverMessage::Ack(ack) if ack.durable == session.committed() => {
                let bye = Bye {
                    text: "in sync".to_owned(),
                };
                self.out.push(session.frame(&bye.into(), Vec::new())?);
                self.done = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn listed(
        &mut self,
        session: &mut AgentSession,
        listing: &Listing,
    ) -> Result<(), ProtocolError> {
        let Some(dir) = self.asked.remove(&listing.id) else {
            return Err(ProtocolError::Contradiction("a listing nobody asked for"));
        };
        let mut theirs = BTreeMap::new();
        for entry in &listing.entries {
            let path = dir.join(&entry.name).unwrap();
            if !self.source.contains_key(&path) {
                let path = path.clone();
                self.removes.push(Op::Remove {
                    path,
                    recursive: true,
                });
            }
            theirs.insert(path, entry.meta.clone());
        }
        for (path, content) in &self.source {
            let ours = entry_meta(content);
            let found = theirs.get(path);
            if path.parent().as_ref() == Some(&dir) && found != Some(&ours) {
                self.changed.insert(path.clone(), found.is_some());
            }
        }
        if !self.asked.is_empty() {
            return Ok(());
        }
        let large = |path: &&WirePath| {
            let content = self.source.get(*path).and_then(Option::as_ref);
            content.is_some_and(|bytes| bytes.len() > INLINE_MAX)
        };
        let Some(path) = self.changed.keys().find(large).cloned() else {
            return self.commit(session);
        };
        let query = SignatureQuery {
            id: 90,
            path: path.clone(),
            want: SignatureWant::Groups,
        };
        self.delta = Some(Asked { path, second: None });
        self.out.push(session.frame(&query.into(), Vec::new())?);
        Ok(())
    }

    fn signed(
        &mut self,
        session: &mut AgentSession,
        signature: &Signature,
        payload: &[u8],
    ) -> Result<(), ProtocolError> {
        const BAD: ProtocolError = ProtocolError::Contradiction("signature");
        let Asked { path, second } = self.delta.take().ok_or(BAD)?;
        let bytes = self.source[&path].clone().unwrap();
        let mut chunks = Vec::new();
        let mut chunker = Chunker::new(5);
        match (&signature.info, second) {
            (None, _) => chunker.literal(&bytes, &mut chunks),
            (Some(info), None) => {
                let list = GroupList::from_payload(payload, info.len).map_err(|_| BAD)?;
                let mut hasher = GroupHasher::against(&list);
                hasher.update(&bytes);
                let diff = hasher.finish().0.compare(&list);
                if let Some(query) = BlockQuery::plan(&diff) {
                    let want = query.want(info.version);
                    let question = SignatureQuery {
                        id: 91,
                        path: path.clone(),
                        want,
                    };
                    self.out.push(session.frame(&question.into(), Vec::new())?);
                    let second = Some((diff, query));
                    self.delta = Some(Asked { path, second });
                    return Ok(());
                }
                pack(&mut chunker, &diff, None, &bytes, &mut chunks);
            }
            (Some(info), Some((diff, query))) => {
                let signature =
                    BlockSignature::from_ranges(payload, query.block, &query.ranges, info.len)
                        .map_err(|_| BAD)?;
                pack(&mut chunker, &diff, Some(&signature), &bytes, &mut chunks);
            }
        }
        chunks.extend(chunker.flush());
        self.stage(session, path, signature.info.as_ref(), &bytes, chunks)?;
        self.commit(session)
    }

    fn stage(
        &mut self,
        session: &mut AgentSession,
        path: WirePath,
        info: Option<&SignatureInfo>,
        bytes: &[u8],
        chunks: Vec<Chunk>,
    ) -> Result<(), ProtocolError> {
        let (transfer, len) = (5, bytes.len() as u64);
        let basis = info.map(|info| Basis {
            path: path.clone(),
            version: info.version,
            len: info.len,
        });
        let begin = StageBegin {
            transfer,
            len_hint: len,
            basis,
            key: None,
            resume_at: 0,
        };
        self.out.push(session.frame(&begin.into(), Vec::new())?);
        for chunk in chunks {
            self.out
                .push(session.frame(&chunk.message.into(), chunk.payload)?);
        }
        let end = StageEnd {
            transfer,
            len,
            digest: Digest::of(bytes),
        };
        self.out.push(session.frame(&end.into(), Vec::new())?);
        self.transfers.insert(path, transfer);
        Ok(())
    }

    /// Two commits: names that go and directories, then files.
    fn commit(&mut self, session: &mut AgentSession) -> Result<(), ProtocolError> {
        let mut first = std::mem::take(&mut self.removes);
        let (mut second, mut inline) = (Vec::new(), Vec::new());
        for path in self.changed.keys().cloned() {
            let meta = meta();
            let Some(bytes) = &self.source[&path] else {
                first.push(Op::Mkdir { path, meta });
                continue;
            };
            let (digest, len) = (Digest::of(bytes), bytes.len());
            let content = match self.transfers.get(&path) {
                Some(&transfer) => Content::Staged {
                    transfer,
                    len: len as u64,
                    digest,
                },
                None => {
                    inline.extend_from_slice(bytes);
                    Content::Inline {
                        len: len as u32,
                        digest,
                    }
                }
            };
            second.push(Op::Put {
                path,
                meta,
                content,
            });
        }
        for (ops, inline) in [(first, Vec::new()), (second, inline)] {
            let made = session.commit(&self.signer, ops, inline);
            self.out.push(made.unwrap().1);
        }
        Ok(())
    }
}

fn pack(
    chunker: &mut Chunker,
    diff: &GroupDiff,
    signature: Option<&BlockSignature>,
    bytes: &[u8],
    chunks: &mut Vec<Chunk>,
) {
    let index = signature.map(BlockSignature::index);
    for segment in diff.segments() {
        let range = &bytes[segment.start as usize..(segment.start + segment.len) as usize];
        match &index {
            _ if segment.same => chunker.copy(segment.start, segment.len, chunks),
            None => chunker.literal(range, chunks),
            Some(index) => {
                let found = index.diff_window(range, segment.start, true).unwrap();
                chunker.window(range, &found, chunks);
            }
        }
    }
}

/// The bytes of frames.
pub(crate) fn wire(frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.write_to(&mut bytes));
    bytes
}

/// How a connection went.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Frames the agent sent, whether or not they arrived.
    pub(crate) sent: Vec<Frame>,
    pub(crate) agent_error: Option<ProtocolError>,
    pub(crate) receiver_error: Option<ProtocolError>,
}

/// A line that loses everything after so many bytes in either direction, and delivers in pieces.
pub(crate) struct Line {
    pub(crate) to_receiver: usize,
    pub(crate) to_agent: usize,
    pub(crate) pieces: Vec<usize>,
}

impl Line {
    pub(crate) fn perfect() -> Self {
        Self {
            to_receiver: usize::MAX,
            to_agent: usize::MAX,
            pieces: vec![usize::MAX],
        }
    }
}

/// Lets both talk until nothing more moves. Time is the number of deliveries: pieces alternate between the
/// directions, so frames of both overlap in every way the sizes allow.
pub(crate) fn talk(
    agent: &mut Agent,
    receiver: &mut Receiver,
    store: &mut Store,
    mut line: Line,
) -> Run {
    let mut run = Run::default();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let take = |queue: &mut Vec<u8>, left: &mut usize, tick: usize| {
        let piece = line.pieces[tick % line.pieces.len()].min(queue.len());
        let piece: Vec<u8> = queue.drain(..piece).collect();
        let arrives = piece.len().min(*left);
        *left -= arrives;
        piece[..arrives].to_vec()
    };
    for tick in 0.. {
        let piece = take(&mut down, &mut line.to_agent, tick);
        let (frames, result) = agent.feed(&piece);
        up.extend(wire(&frames));
        run.sent.extend(frames);
        run.agent_error = run.agent_error.or(result.err());
        let piece = take(&mut up, &mut line.to_receiver, tick);
        let (frames, result) = receiver.feed(&piece, store);
        down.extend(wire(&frames));
        run.receiver_error = run.receiver_error.or(result.err());
        if up.is_empty() && down.is_empty() {
            return run;
        }
    }
    run
}

/// A short tree: what the agent has.
pub(crate) fn source(large: usize) -> Tree {
    let file = |text: &str| Some(text.as_bytes().to_vec());
    let mut tree = Tree::from([
        (path("a"), file("new a")),
        (path("d"), None),
        (path("d/c"), file("c")),
        (path("e"), file("")),
    ]);
    if large > 0 {
        tree.insert(path("d/big"), Some(noise(large, 1)));
    }
    tree
}

/// What the receiver has before: some of it stale, some to be removed.
pub(crate) fn before(large: usize) -> Tree {
    let file = |text: &str| Some(text.as_bytes().to_vec());
    let mut tree = Tree::from([
        (path("a"), file("old a")),
        (path("d"), None),
        (path("d/stale"), file("stale")),
        (path("old"), None),
        (path("old/x"), file("x")),
    ]);
    if large > 0 {
        let mut bytes = noise(large, 1);
        let middle = large / 2;
        bytes.drain(middle..middle + 100);
        tree.insert(path("d/big"), Some(bytes));
    }
    tree
}

fn noise(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}
