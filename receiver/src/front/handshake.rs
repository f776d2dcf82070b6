//! From an accepted socket to a session, under one absolute deadline: TLS, `Hello`, version, module,
//! hosts, certificate, connections, password, worker. Each refusal is told to the agent and logged.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use syncd_proto::auth::PasswordKey;
use syncd_proto::chain::CommitVerifier;
use syncd_proto::error::{DecodeError, ProtocolError};
use syncd_proto::exchange::receiver::{Answered, AwaitAnswer, AwaitHello, Greeted, Handover};
use syncd_proto::frame::Frame;
use syncd_proto::limits::TEXT_BYTES_MAX;
use syncd_proto::message::{Hello, Purpose, ReceiverMessage, Refused};
use syncd_proto::path::escaped;
use syncd_proto::reject::RejectCode;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::front::Front;
use crate::front::hooks::{Hooks, Status};
use crate::front::policy::{self, Asked};
use crate::front::reload::{self, Generation};
use crate::front::sessions::{Entered, Live};
use crate::front::threads::apart;
use crate::front::workers::{Unavailable, Worker};
use crate::logic::authorize::{Admission, Authorization, Grant, PendingLogin, Refusal, Slot};
use crate::logic::hosts::PeerAddr;
use crate::logic::ledger::Key;
use crate::logic::proxy::Origin;
use crate::logic::users::Access;
use crate::net::connection::{self, Conversation, Ended, Notes, Opening};
use crate::net::listen::Permit;
use crate::net::tls::{Identity, Secured};
use crate::relay::{ModuleSetup, SessionOpen};

/// From accept to the worker.
const HANDSHAKE_MAX: Duration = Duration::from_secs(20);

/// Serves one connection to its end.
pub async fn serve(front: &Arc<Front>, socket: TcpStream, peer: SocketAddr, permit: Permit) {
    let opened = tokio::select! {
        opened = timeout(HANDSHAKE_MAX, open(front, socket, peer)) => opened,
        () = front.drained() => return,
    };
    drop(permit);
    match opened {
        Ok(Some(session)) => session.run().await,
        Ok(None) => {}
        Err(_) => warn!(%peer, "closed: no session within {HANDSHAKE_MAX:?} of connecting"),
    }
}

/// `None` if there will be no session; the reason has been logged.
async fn open(front: &Arc<Front>, mut socket: TcpStream, peer: SocketAddr) -> Option<Session> {
    let generation = front.generation();
    let (peer, from) = origin(&generation, &mut socket, peer).await?;
    match connection::opening(&socket).await {
        Ok(Opening::Tls) => {}
        Ok(Opening::Nothing) => {
            debug!(%peer, "{}", Opening::Nothing);
            return None;
        }
        Ok(stranger) => {
            warn!(%peer, "closed: {stranger}");
            return None;
        }
        Err(error) => {
            debug!(%peer, %error, "connection lost");
            return None;
        }
    }
    let Secured {
        stream,
        identity,
        channel,
    } = match generation.tls.accept(socket).await {
        Ok(secured) => secured,
        Err(error) => {
            warn!(%peer, "closed: {error}");
            let (address, text) = (peer.ip().to_string(), error.to_string());
            let nobody = "no good certificate".to_owned();
            front.sessions.refused(address, nobody, None, &text);
            return None;
        }
    };
    let mut guest = Guest {
        front,
        generation,
        talk: Conversation::new(stream),
        peer,
        from,
        identity,
    };
    match guest.greet(AwaitHello::new(channel)).await {
        Ok(Some(handed)) => Some(guest.enter(handed).await),
        Ok(None) => {
            guest.talk.finish().await;
            None
        }
        Err(end) => {
            guest.end(end).await;
            None
        }
    }
}

/// Where a connection comes from; `None` if it has to say so and does not.
async fn origin(
    generation: &Generation,
    socket: &mut TcpStream,
    peer: SocketAddr,
) -> Option<(SocketAddr, PeerAddr)> {
    let scope = match peer {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(peer) => peer.scope_id(),
    };
    let own = PeerAddr::new(peer.ip(), scope);
    if !generation.config.globals.proxy_protocol {
        return Some((peer, own));
    }
    if !policy::is_proxy(&generation.config, own) {
        warn!(%peer, "closed: not one of `proxy protocol hosts`");
        return None;
    }
    match connection::proxy_header(socket).await {
        Ok(Origin::Socket) => Some((peer, own)),
        Ok(Origin::Address(ip, port)) => Some((SocketAddr::new(ip, port), PeerAddr::told(ip))),
        Err(error) => {
            warn!(%peer, "closed: {error}");
            None
        }
    }
}

/// Why a connection ends before its session.
enum End {
    /// The agent is told why.
    Refused {
        frame: Result<Frame, DecodeError>,
        hello: Option<Box<Hello>>,
        log: String,
    },
    /// There is nobody to tell.
    Lost(String),
}

/// A peer with a certificate.
struct Guest<'a> {
    front: &'a Arc<Front>,
    generation: Arc<Generation>,
    talk: Conversation,
    peer: SocketAddr,
    /// The same, for decisions.
    from: PeerAddr,
    identity: Identity,
}

/// What a session is made of.
struct Handed {
    id: u64,
    hooks: Hooks,
    asked: Asked,
    access: Access,
    user: Option<Vec<u8>>,
    slot: Option<Slot>,
    worker: Worker,
    stream: UnixStream,
    next_in: u64,
    agent: String,
    sub_path: String,
}

/// Where the conversation stands, so that a refusal gets the right number.
enum Stage {
    Greeted(Box<Greeted>),
    Answered(Box<Answered>),
}

impl Stage {
    fn refuse(self, refused: Refused) -> Result<Frame, DecodeError> {
        match self {
            Self::Greeted(greeted) => greeted.refuse(refused),
            Self::Answered(answered) => answered.refuse(refused),
        }
    }

    /// Number of the next frame to the agent.
    const fn next_out(&self) -> u64 {
        match self {
            Self::Greeted(_) => 0,
            Self::Answered(_) => 1,
        }
    }

    fn accept(self) -> Handover {
        match self {
            Self::Greeted(greeted) => greeted.accept(),
            Self::Answered(answered) => answered.accept(),
        }
    }
}

impl Guest<'_> {
    /// `Hello` and all that follows from it; `None` after a list of modules.
    async fn greet(&mut self, state: AwaitHello) -> Result<Option<Handed>, End> {
        let frame = self.receive(0).await?;
        let greeted = state.handle(&frame).map_err(|error| violation(0, &error))?;
        let hello = greeted.hello().clone();
        let stage = Box::new(greeted);
        if let Some(refused) = stage.version_refusal() {
            let log = refused.text.clone();
            return Err(turned_away(Stage::Greeted(stage), hello, refused, log));
        }
        let asked = self.asked(&hello);
        if hello.purpose == Purpose::ListModules {
            return self.list(*stage, asked).await.map(|()| None);
        }
        let (generation, slots) = (Arc::clone(&self.generation), self.front.slots.clone());
        let question = asked.clone();
        let admission = blocking(0, move || policy::admit(&generation, &question, &slots)).await?;
        let (authorization, stage) = match admission {
            Admission::Decided(decided) => (decided, Stage::Greeted(stage)),
            Admission::Challenge(pending) => self.challenge(*stage, &hello, pending).await?,
        };
        match authorization {
            Authorization::Grant(_) if !self.can_sign(&hello) => {
                Err(self.cannot_sign(stage, hello))
            }
            Authorization::Grant(grant) => {
                self.hand_over(stage, hello, asked, *grant).await.map(Some)
            }
            Authorization::Refusal(refusal) => Err(refused(stage, hello, refusal)),
        }
    }

    /// Whoever writes signs each commit with the key of its certificate.
    fn can_sign(&self, hello: &Hello) -> bool {
        let certificate = self.identity.certificate().to_vec();
        hello.purpose != Purpose::Mirror || CommitVerifier::new(certificate.into()).is_some()
    }

    fn cannot_sign(&self, stage: Stage, hello: Hello) -> End {
        let text = "the key of the agent's certificate cannot sign commits: use Ed25519, or ECDSA P-256 or P-384";
        let refused = Refused {
            code: RejectCode::CertificateDenied,
            text: text.to_owned(),
        };
        turned_away(stage, hello, refused, text.to_owned())
    }

    fn asked(&self, hello: &Hello) -> Asked {
        Asked {
            peer: self.from,
            identities: self.identity.names().to_vec(),
            module: hello.module.clone(),
            user: hello.user.clone(),
            purpose: hello.purpose,
        }
    }

    async fn list(&mut self, greeted: Greeted, asked: Asked) -> Result<(), End> {
        let generation = Arc::clone(&self.generation);
        let modules = blocking(0, move || policy::visible(&generation, &asked)).await?;
        info!(peer = %self.peer, identity = %self.identity, modules = modules.modules.len(), "modules listed");
        self.send(greeted.list(modules)).await
    }

    async fn challenge(
        &mut self,
        greeted: Greeted,
        hello: &Hello,
        pending: Box<PendingLogin>,
    ) -> Result<(Authorization, Stage), End> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce)
            .map_err(|error| End::Lost(format!("no random bytes: {error}")))?;
        let (state, frame) = greeted
            .challenge(nonce)
            .map_err(|error| End::Lost(error.to_string()))?;
        self.send(Ok(frame)).await?;
        let answer = self.receive(1).await?;
        // Whoever does not answer at all is told so before any secret is read.
        let (unproved, _) = state
            .clone()
            .handle(&answer, &[])
            .map_err(|error| violation(1, &error))?;
        let user = hello.user.clone().unwrap_or_default();
        let module = hello.module.clone();
        let judged = blocking(1, move || log_in(*pending, &state, &answer, &user, &module));
        let (authorization, proved) = judged.await?;
        let stage = Stage::Answered(Box::new(proved.unwrap_or(unproved)));
        Ok((authorization, stage))
    }

    async fn hand_over(
        &mut self,
        stage: Stage,
        hello: Hello,
        asked: Asked,
        grant: Grant,
    ) -> Result<Handed, End> {
        let generation = Arc::clone(&self.generation);
        let (setup, grant) = blocking(stage.next_out(), move || {
            let setup = policy::setup(&generation.config, generation.me, &grant);
            (setup, grant)
        })
        .await?;
        let setup = match setup {
            Ok(setup) => setup,
            Err(why) => return Err(self.unavailable(stage, hello, why)),
        };
        let id = self.front.sessions.number();
        let hooks = match self.admitted_by_hooks(id, &hello, &grant, &setup).await {
            Ok(hooks) => hooks,
            Err(why) => return Err(self.unavailable(stage, hello, why)),
        };
        // Only the stage knows the numbers, and a refusal may still need it: it cannot be cloned, so the
        // handover is taken from it and a late refusal is made from the handover's own numbers.
        let handover = stage.accept();
        let open = self.session_open(id, &hello, &grant, &handover);
        match self.front.workers.open(&setup, open).await {
            Ok((worker, stream)) => Ok(Handed {
                id,
                hooks,
                asked,
                access: grant.access,
                user: grant.user,
                slot: grant.slot,
                worker,
                stream,
                next_in: handover.counters.next_in,
                agent: escaped(hello.agent.as_bytes()),
                sub_path: match hello.sub_path.is_root() {
                    true => String::new(),
                    false => hello.sub_path.to_string(),
                },
            }),
            Err(why) => {
                hooks.after(Status::NotBegun).await;
                let (refused, log) = self.refused_by(why);
                Err(End::Refused {
                    frame: frame(handover.counters.next_out, refused),
                    hello: Some(Box::new(hello)),
                    log,
                })
            }
        }
    }

    /// Runs what has to be run before the session, with the worker made ready in between.
    async fn admitted_by_hooks(
        &self,
        id: u64,
        hello: &Hello,
        grant: &Grant,
        setup: &ModuleSetup,
    ) -> Result<Hooks, Unavailable> {
        let mut request = [&grant.module[..], b"/"].concat();
        for (index, name) in hello.sub_path.names().iter().enumerate() {
            if index > 0 {
                request.push(b'/');
            }
            request.extend_from_slice(name.as_bytes());
        }
        let address = self.peer.ip().to_string();
        let hooks = Hooks::of(&self.generation.config, grant, (id, address, request))?;
        if let Err(why) = hooks.early().await {
            hooks.after(Status::NotBegun).await;
            return Err(why);
        }
        if let Err(why) = self.front.workers.prepare(setup).await {
            hooks.after(Status::NotBegun).await;
            return Err(why);
        }
        if let Err(why) = hooks.before().await {
            hooks.after(Status::Refused).await;
            return Err(why);
        }
        Ok(hooks)
    }

    fn session_open(
        &self,
        id: u64,
        hello: &Hello,
        grant: &Grant,
        handover: &Handover,
    ) -> SessionOpen {
        let user = grant.user.as_ref();
        let user = user.map_or_else(String::new, |user| format!(" as {}", escaped(user)));
        SessionOpen {
            id,
            label: format!("{}{user} from {}", self.identity, self.peer.ip()),
            purpose: hello.purpose,
            sub_path: hello.sub_path.clone(),
            features: hello.features,
            attributes: hello.attributes,
            writable: grant.access == Access::ReadWrite,
            next_out: handover.counters.next_out,
            next_in: handover.counters.next_in,
            session: handover.session,
            proof: handover.proof,
            log: policy::transfer_log(&self.generation.config, grant, self.peer.ip().to_string()),
            certificate: self.identity.certificate().to_vec(),
        }
    }

    fn unavailable(&self, stage: Stage, hello: Hello, why: Unavailable) -> End {
        let (refused, log) = self.refused_by(why);
        turned_away(stage, hello, refused, log)
    }

    fn refused_by(&self, why: Unavailable) -> (Refused, String) {
        let code = if self.front.is_draining() {
            RejectCode::Draining
        } else {
            RejectCode::ModuleUnavailable
        };
        let text = why.text;
        (Refused { code, text }, why.log)
    }

    /// Registers the session.
    async fn enter(self, handed: Handed) -> Session {
        let module = escaped(&handed.asked.module);
        let user = handed.user.as_deref().map(escaped);
        info!(
            session = handed.id, peer = %self.peer, identity = %self.identity, user, module,
            agent = handed.agent, access = ?handed.access, "session open"
        );
        let key = Key {
            module: module.clone(),
            sub_path: handed.sub_path,
            identity: self.identity.to_string(),
            user: user.clone(),
        };
        let entered = self.front.sessions.enter(Live {
            key,
            address: self.peer.ip().to_string(),
            agent: handed.agent,
            id: handed.id,
            module: handed.asked.module,
            purpose: handed.asked.purpose,
            peer: handed.asked.peer,
            identity: self.identity,
            user: handed.user,
            worker: handed.worker.clone(),
        });
        // A reload that came in between has not seen this session.
        let now = self.front.generation();
        if !Arc::ptr_eq(&now, &self.generation) {
            reload::judge(&now, entered.live()).await;
        }
        Session {
            id: handed.id,
            hooks: handed.hooks,
            talk: self.talk,
            worker: handed.worker,
            stream: handed.stream,
            next_in: handed.next_in,
            entered,
            slot: handed.slot,
        }
    }

    async fn receive(&mut self, next_out: u64) -> Result<Frame, End> {
        self.talk.receive().await.map_err(|error| match error {
            connection::ReceiveError::Protocol(error) => violation(next_out, &error),
            other => End::Lost(other.to_string()),
        })
    }

    async fn send(&mut self, frame: Result<Frame, DecodeError>) -> Result<(), End> {
        let frame = frame.map_err(|error| End::Lost(error.to_string()))?;
        let sent = self.talk.send(&frame).await;
        sent.map_err(|error| End::Lost(format!("connection lost: {error}")))
    }

    async fn end(mut self, end: End) {
        let (peer, identity) = (self.peer, &self.identity);
        match end {
            End::Lost(why) => info!(%peer, %identity, "closed before the session: {why}"),
            End::Refused { frame, hello, log } => {
                let hello = hello.as_deref();
                let module = hello.map(|hello| escaped(&hello.module));
                let user = hello.and_then(|hello| hello.user.as_deref()).map(escaped);
                warn!(%peer, %identity, user, module, "refused: {log}");
                let (peer, identity) = (peer.ip().to_string(), identity.to_string());
                self.front.sessions.refused(peer, identity, module, &log);
                if self.send(frame).await.is_ok() {
                    self.talk.finish().await;
                }
            }
        }
    }
}

/// Reads the secrets, and decides. The stage after the answer comes with the password that matched.
fn log_in(
    pending: PendingLogin,
    state: &AwaitAnswer,
    answer: &Frame,
    user: &[u8],
    module: &[u8],
) -> (Authorization, Option<Answered>) {
    let secrets = policy::read_secrets(pending.secrets_file());
    let mut proved = None;
    let authorization = pending.finish(secrets.as_ref().map_err(String::clone), |password| {
        let key = PasswordKey::derive(password, user, module);
        match state.clone().handle(answer, &[key]) {
            Ok((answered, Some(_))) => {
                proved = Some(answered);
                true
            }
            _ => false,
        }
    });
    (authorization, proved)
}

fn refused(stage: Stage, hello: Hello, refusal: Refusal) -> End {
    let refused = Refused {
        code: refusal.code,
        text: refusal.text,
    };
    turned_away(stage, hello, refused, refusal.log)
}

fn turned_away(stage: Stage, hello: Hello, mut refused: Refused, log: String) -> End {
    shorten(&mut refused.text);
    End::Refused {
        frame: stage.refuse(refused),
        hello: Some(Box::new(hello)),
        log,
    }
}

fn violation(next_out: u64, error: &ProtocolError) -> End {
    let text = format!("protocol error: {error}");
    cut_short(next_out, RejectCode::Protocol, text)
}

/// A refusal where no state is left.
fn cut_short(next_out: u64, code: RejectCode, text: String) -> End {
    let refused = Refused {
        code,
        text: text.clone(),
    };
    End::Refused {
        frame: frame(next_out, refused),
        hello: None,
        log: text,
    }
}

/// A refusal with a given number, where no state is left to number it.
fn frame(seq: u64, mut refused: Refused) -> Result<Frame, DecodeError> {
    shorten(&mut refused.text);
    let message = ReceiverMessage::from(refused);
    let mut body = Vec::new();
    message.encode_body(&mut body)?;
    Ok(Frame {
        seq,
        kind: message.kind(),
        body,
        payload: Vec::new(),
        packed: false,
    })
}

fn shorten(text: &mut String) {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

/// Decides what may block; `next_out` numbers the refusal if that cannot be.
async fn blocking<T: Send + 'static>(
    next_out: u64,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, End> {
    apart(work).await.map_err(|error| {
        let text = format!("the receiver cannot decide about the connection: {error}");
        cut_short(next_out, RejectCode::Other, text)
    })
}

/// An open session.
struct Session {
    id: u64,
    hooks: Hooks,
    talk: Conversation,
    worker: Worker,
    stream: UnixStream,
    next_in: u64,
    entered: Entered,
    slot: Option<Slot>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({})", self.id)
    }
}

impl Session {
    async fn run(self) {
        let (id, worker) = (self.id, self.worker);
        let notes = Notes {
            received: self.entered.note_received(),
            sent: self.entered.note_sent(),
        };
        let relayed = self
            .talk
            .relay(self.stream, self.next_in, notes, async |error| {
                warn!(session = id, "protocol error: {error}");
                worker.close(id, format!("protocol error: {error}"));
            })
            .await;
        // It counts no more, whatever is still run for it.
        drop((self.entered, self.slot));
        info!(
            session = id,
            bytes_out = relayed.bytes_out,
            "session closed: {}",
            relayed.cause
        );
        let status = match relayed.cause {
            Ended::ByViolation(_) => Status::Protocol,
            Ended::ByAgent | Ended::ByWorker => Status::Done,
        };
        self.hooks.after(status).await;
    }
}
