//! One session after the other with a target: connect, run, and come back after a pause.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Zoned;
use syncd_proto::attributes::Attributes;
use syncd_proto::message::{AgentMessage, Bye, Ping, Purpose, ReceiverMessage, Rejected};
use syncd_proto::reject::RejectCode;
use tokio::io::ReadHalf;

use crate::fs::{accounts, password};
use crate::logic::backoff::Backoff;
use crate::logic::config::TargetConfig;
use crate::logic::password::Password;
use crate::logic::rate::Bwlimit;
use crate::net::framing::FrameReader;
use crate::net::handshake::{self, ConnectError, Connected, Dial, Stream};
use crate::net::link::Link;
use crate::net::threads::apart;
use crate::net::tls::TlsSettings;
use crate::pipeline::owners::Owners;
use crate::pipeline::status::remedy;
use crate::pipeline::stop::Stop;
use crate::pipeline::target::{Phase, Target};

/// How often the receiver is asked for a sign of life while nothing else happens.
const PING_EVERY: Duration = Duration::from_secs(15);

/// Silence after which a connection counts as dead.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_secs(2);

/// After a session that ended for want of room, or of a disk that works, the next call waits for up to eight seconds.
const TROUBLED_ATTEMPTS: u32 = 5;

/// A session of this length was none that a failing disk lets begin and nothing more.
const TROUBLE_LASTS: Duration = Duration::from_secs(60);

/// What is needed to reach a target.
#[derive(Debug)]
pub struct Access {
    /// Destination and limits.
    pub config: TargetConfig,
    /// Certificate, key and authorities.
    pub tls: TlsSettings,
    /// Password, if there is one, as it was at the start.
    pub password: Option<Password>,
    /// Extended attributes to mirror.
    pub attributes: Attributes,
    /// Whether rules may protect names at the target.
    pub spare: bool,
}

impl Access {
    /// Opens a session, with the password that the file has now: it may have been changed on both sides.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, purpose: Purpose) -> Result<Connected, ConnectError> {
        let file = self.config.access.password_file.clone();
        let read = move || (accounts::names(), file.and_then(|file| reread(&file)));
        let (names, password) = apart(read).await.map_err(ConnectError::System)?;
        let dial = Dial {
            tls: &self.tls,
            password: password.as_ref().or(self.password.as_ref()),
            timeout: self.config.access.connect_timeout,
            compress: self.config.access.compress,
            spare: self.spare,
            attributes: self.attributes,
            names: &names,
        };
        handshake::connect(&dial, &self.config.to, purpose).await
    }
}

/// The password of a file that could be read at the start; what is wrong with it now is logged.
fn reread(file: &Path) -> Option<Password> {
    let read = password::read(file);
    read.inspect_err(|error| {
        tracing::warn!(
            "{error}; the password of the start is used: {}",
            error.hint()
        )
    })
    .ok()
}

/// Keeps a session with a target open until `stop`. With `once`, a failure to connect at first, or one
/// that trying again cannot mend, ends it.
///
/// # Errors
/// That failure.
pub async fn run(
    target: &Arc<Target>,
    access: &Access,
    purpose: Purpose,
    once: bool,
    stop: &Stop,
) -> Result<(), ConnectError> {
    let mut attempt = 0;
    let mut attempt_max;
    let mut was_open = false;
    loop {
        let connected = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            connected = access.connect(purpose) => connected,
        };
        match connected {
            Ok(connected) => {
                was_open = true;
                let begun = Instant::now();
                tracing::info!(target = %target.name, peer = %connected.peer, receiver = %syncd_proto::path::escaped(connected.welcome.receiver.as_bytes()), "connected");
                note_lacking(target, access, &connected);
                let Ended { text, trouble } = run_session(target, access, connected, stop).await;
                if stop.is_cancelled() {
                    return Ok(());
                }
                tracing::warn!(target = %target.name, "session ended: {text}");
                target.disconnected(Phase::Disconnected {
                    text,
                    hint: trouble.map(|code| remedy(code).to_owned()),
                    permanent: false,
                });
                // A disk that fails lets sessions begin, and each begins with a comparison.
                if trouble.is_none() || begun.elapsed() > TROUBLE_LASTS {
                    attempt = 0;
                }
                attempt_max = trouble.map_or(u32::MAX, |_| TROUBLED_ATTEMPTS);
            }
            Err(error) if once && (error.is_permanent() || !was_open) => return Err(error),
            Err(error) => {
                attempt_max = u32::MAX;
                tracing::warn!(target = %target.name, "not connected: {error}; {}", error.hint());
                target.disconnected(Phase::Disconnected {
                    text: error.to_string(),
                    hint: Some(error.hint().to_owned()),
                    permanent: error.is_permanent(),
                });
            }
        }
        attempt = (attempt + 1).min(attempt_max);
        let pause = Backoff::CONNECT.delay(attempt, random());
        let pause_ms = pause.as_millis() as u64;
        target.update(|state, now| state.next_try = Some(now + pause_ms));
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        target.update(|state, _| state.next_try = None);
    }
}

/// Says which attributes the receiver does not keep although they are to be mirrored, and what it does not hold of times.
fn note_lacking(target: &Target, access: &Access, connected: &Connected) {
    let kept = connected.terms.attributes;
    let lacking = access.attributes.without(kept);
    if lacking.any() {
        tracing::warn!(
            target = %target.name,
            "not kept by the receiver, which may not set them: {}",
            lacking.words()
        );
    }
    if let Some(times) = connected.welcome.compare.mtime.words() {
        tracing::warn!(
            target = %target.name,
            "times are kept and compared {times}: the receiver's file system holds no more"
        );
    }
}

/// Why a session ended.
struct Ended {
    text: String,
    /// The receiver's disk takes nothing.
    trouble: Option<RejectCode>,
}

impl Ended {
    fn of(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            trouble: None,
        }
    }
}

/// Runs an open session to its end; says why it ended.
async fn run_session(
    target: &Arc<Target>,
    access: &Access,
    connected: Connected,
    stop: &Stop,
) -> Ended {
    let Connected {
        mut reader,
        writer,
        session,
        welcome,
        terms,
        ..
    } = connected;
    let link = Arc::new(Link::new(
        session,
        welcome,
        terms,
        access.tls.signer().clone(),
    ));
    if let Some(limit) = &access.config.bwlimit {
        link.set_limit(limit.at(Zoned::now().datetime()));
    }
    Owners::serve(&link);
    target.connected(link.clone());
    let sending = tokio::spawn({
        let link = link.clone();
        async move { link.write_all(writer).await }
    });
    let ended = tokio::select! {
        () = stop.cancelled() => {
            let bye = AgentMessage::Bye(Bye { text: "agent stops".to_owned() });
            let _ = link.send(&bye, Vec::new());
            Ended::of("stopped")
        }
        ended = read_frames(target, &link, &mut reader) => ended,
        () = keep_to(&link, access.config.bwlimit.as_ref()) => Ended::of(""),
        () = keep_alive(target, &link) => Ended::of(format!("no sign of life for {} s", SILENCE_MAX.as_secs())),
    };
    link.close();
    match tokio::time::timeout(FAREWELL, sending).await {
        Ok(Ok(Err(error))) => Ended {
            text: format!("{} ({error})", ended.text),
            ..ended
        },
        _ => ended,
    }
}

async fn read_frames(
    target: &Arc<Target>,
    link: &Arc<Link>,
    reader: &mut FrameReader<ReadHalf<Stream>>,
) -> Ended {
    loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ended::of("the receiver closed the connection"),
            Err(error) => return Ended::of(format!("connection lost: {error}")),
        };
        let message = match link.handle(frame) {
            Ok(message) => message,
            Err(error) => return Ended::of(format!("the receiver broke the protocol: {error}")),
        };
        match message {
            None | Some(ReceiverMessage::Pong(_)) => {}
            Some(ReceiverMessage::Ack(ack)) => target.acked(&ack),
            Some(ReceiverMessage::Draining(notice)) => {
                return Ended::of(format!("the receiver ends it: {}", safe(&notice.text)));
            }
            Some(ReceiverMessage::Reject(reject)) if reject.what == Rejected::Session => {
                return Ended {
                    text: format!("{}: {}", reject.code, safe(&reject.text)),
                    trouble: Some(reject.code).filter(|code| code.pauses_transfers()),
                };
            }
            Some(ReceiverMessage::Reject(reject)) => target.rejected(&reject),
            Some(ReceiverMessage::Refused(refused)) => {
                return Ended::of(format!("{}: {}", refused.code, safe(&refused.text)));
            }
            Some(other) => {
                return Ended::of(format!(
                    "the receiver broke the protocol: unexpected {}",
                    other.name()
                ));
            }
        }
    }
}

/// Limits what is written as the timetable has it; never returns.
async fn keep_to(link: &Link, limit: Option<&Bwlimit>) {
    match limit.filter(|limit| limit.changes()) {
        None => std::future::pending().await,
        Some(limit) => loop {
            link.set_limit(limit.at(Zoned::now().datetime()));
            tokio::time::sleep(LIMIT_LOOK).await;
        },
    }
}

/// How often the timetable of `bwlimit` is looked at.
const LIMIT_LOOK: Duration = Duration::from_secs(5);

/// Asks for a sign of life now and then; returns when there was none for too long. At rest both sides give memory back: a
/// receiver takes the question for that.
async fn keep_alive(target: &Target, link: &Link) {
    let mut token = 0;
    loop {
        tokio::time::sleep(PING_EVERY).await;
        if link.silence() > SILENCE_MAX {
            return;
        }
        if target.give_back() || link.silence() >= PING_EVERY {
            token += 1;
            let _ = link.send(&AgentMessage::Ping(Ping { token }), Vec::new());
        }
    }
}

fn safe(text: &str) -> String {
    syncd_proto::path::escaped(text.as_bytes())
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness the jitter is gone, not the pause.
    if getrandom::fill(&mut bytes).is_err() {
        return u64::MAX;
    }
    u64::from_le_bytes(bytes)
}
