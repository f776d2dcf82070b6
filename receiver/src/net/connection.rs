//! One connection: what it opens with, the frames of the handshake, then the bytes of the session
//! copied to and from a worker.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use syncd_proto::error::ProtocolError;
use syncd_proto::frame::{Deframer, Frame, FrameLimits, HEADER_BYTES};

use crate::logic::proxy::{Header, Origin};
use crate::net::gate::Gate;

/// Bytes copied at once, each way: TLS and the socket pair are far slower in small pieces.
const COPY_BYTES: usize = 256 << 10;

/// Bytes read at once before the session.
const HANDSHAKE_READ_BYTES: usize = 4 << 10;

/// How long a peer may take to read what was said last.
const LINGER: Duration = Duration::from_secs(2);

/// How long a worker may take to end a session whose agent broke the protocol.
const VIOLATION_GRACE: Duration = Duration::from_secs(30);

/// What a connection opens with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// A TLS record.
    Tls,
    /// The greeting of an rsync client.
    Rsync,
    /// An HTTP request.
    Http,
    /// An SSH client.
    Ssh,
    /// Anything else.
    Unknown,
    /// Nothing; the peer closed.
    Nothing,
}

impl Opening {
    fn of(bytes: &[u8]) -> Self {
        const METHODS: [&[u8]; 6] = [b"GET ", b"POST", b"HEAD", b"PUT ", b"OPTI", b"CONN"];
        match bytes {
            [] => Self::Nothing,
            [0x16, ..] => Self::Tls,
            _ if bytes.starts_with(b"@RSYNCD:") => Self::Rsync,
            _ if bytes.starts_with(b"SSH-") => Self::Ssh,
            _ if METHODS.iter().any(|method| bytes.starts_with(method)) => Self::Http,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "TLS",
            Self::Rsync => {
                "an rsync client; this is the syncd port (rsync has its own, usually 873): use syncd-agent here"
            }
            Self::Http => "an HTTP client; only syncd-agent may connect here",
            Self::Ssh => "an SSH client; only syncd-agent may connect here",
            Self::Unknown => "not TLS; only syncd-agent may connect here",
            Self::Nothing => "closed without a word",
        })
    }
}

/// Looks at the first bytes without taking them.
///
/// # Errors
/// Those of the socket.
pub async fn opening(socket: &TcpStream) -> io::Result<Opening> {
    let mut bytes = [0; 16];
    let length = socket.peek(&mut bytes).await?;
    Ok(Opening::of(&bytes[..length]))
}

/// Reads the PROXY header and not one byte behind it.
///
/// # Errors
/// The connection broke, or there is no such header.
pub async fn proxy_header(socket: &mut TcpStream) -> io::Result<Origin> {
    let mut header = Header::default();
    loop {
        let byte = socket.read_u8().await?;
        match header.push(byte) {
            Ok(None) => {}
            Ok(Some(origin)) => return Ok(origin),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

/// Why no frame came.
#[derive(Debug)]
pub enum ReceiveError {
    /// The connection broke.
    Io(io::Error),
    /// The peer closed it.
    Closed,
    /// What came is not a frame that may come now.
    Protocol(ProtocolError),
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "connection lost: {error}"),
            Self::Closed => f.write_str("the agent closed the connection"),
            Self::Protocol(error) => write!(f, "protocol error: {error}"),
        }
    }
}

impl std::error::Error for ReceiveError {}

impl From<ProtocolError> for ReceiveError {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

/// Frames before the session.
#[derive(Debug)]
pub struct Conversation {
    stream: TlsStream<BufReader<TcpStream>>,
    deframer: Deframer,
}

impl Conversation {
    /// Frames on a fresh connection.
    #[must_use]
    pub fn new(stream: TlsStream<BufReader<TcpStream>>) -> Self {
        Self {
            stream,
            deframer: Deframer::new(FrameLimits::HANDSHAKE, 0),
        }
    }

    /// The next frame.
    ///
    /// # Errors
    /// None comes, or one above the limits of a handshake.
    pub async fn receive(&mut self) -> Result<Frame, ReceiveError> {
        let mut bytes = [0; HANDSHAKE_READ_BYTES];
        loop {
            if let Some(frame) = self.deframer.next_frame()? {
                return Ok(frame);
            }
            let read = self.stream.read(&mut bytes).await;
            match read.map_err(ReceiveError::Io)? {
                0 => return Err(ReceiveError::Closed),
                length => self.deframer.feed(&bytes[..length]),
            }
        }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame.write_to(&mut bytes);
        self.stream.write_all(&bytes).await?;
        self.stream.flush().await
    }

    /// Says that nothing more comes, and gives the peer time to read what did.
    pub async fn finish(mut self) {
        let _ = self.stream.shutdown().await;
        linger(&mut self.stream).await;
    }

    /// Copies the session's frames both ways until it is over. `violation` is called if the agent
    /// breaks the protocol, and must make the worker end the session.
    pub async fn relay(
        self,
        worker: UnixStream,
        next_in: u64,
        notes: Notes<impl FnMut(usize), impl FnMut(&[u8])>,
        violation: impl AsyncFnOnce(&ProtocolError),
    ) -> Relayed {
        let early = self.deframer.pending().to_vec();
        let (mut reader, mut writer) = tokio::io::split(self.stream);
        let inbound = Inbound {
            gate: Gate::new(next_in),
            early,
        };
        let relayed = copy(&mut reader, &mut writer, worker, inbound, notes, violation).await;
        let _ = timeout(LINGER, writer.shutdown()).await;
        linger(&mut reader).await;
        relayed
    }
}

/// Who is told of what passes, in either direction.
#[derive(Debug)]
pub struct Notes<R, S> {
    /// So many bytes came from the agent and went to the worker.
    pub received: R,
    /// These bytes went from the worker to the agent.
    pub sent: S,
}

/// What comes from the agent: what follows next, and what came with the handshake already.
struct Inbound {
    gate: Gate,
    early: Vec<u8>,
}

/// How a session's relay ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Relayed {
    /// Who ended it.
    pub cause: Ended,
    /// Bytes sent to the agent.
    pub bytes_out: u64,
}

/// Who ended a session.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The agent closed the connection, or it broke.
    ByAgent,
    /// The agent broke the protocol.
    ByViolation(ProtocolError),
    /// The worker ended it or died.
    ByWorker,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByAgent => f.write_str("the agent closed the connection"),
            Self::ByViolation(error) => write!(f, "protocol error: {error}"),
            Self::ByWorker => f.write_str("ended by the receiver"),
        }
    }
}

async fn copy(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWriteExt + Unpin),
    worker: UnixStream,
    from: Inbound,
    notes: Notes<impl FnMut(usize), impl FnMut(&[u8])>,
    violation: impl AsyncFnOnce(&ProtocolError),
) -> Relayed {
    let Notes { received, sent } = notes;
    let (worker_reader, worker_writer) = worker.into_split();
    let mut inbound = pin!(inbound(reader, worker_writer, from, received));
    let mut outbound = pin!(outbound(worker_reader, writer, sent));
    let (cause, bytes_out) = tokio::select! {
        ended = &mut outbound => ended,
        cause = &mut inbound => {
            let bytes = if let Ended::ByViolation(error) = &cause {
                violation(error).await;
                timeout(VIOLATION_GRACE, outbound).await.map_or(0, |(_, bytes)| bytes)
            } else {
                outbound.await.1
            };
            (cause, bytes)
        }
    };
    Relayed { cause, bytes_out }
}

async fn inbound(
    reader: &mut (impl AsyncRead + Unpin),
    mut worker: tokio::net::unix::OwnedWriteHalf,
    Inbound { mut gate, early }: Inbound,
    mut received: impl FnMut(usize),
) -> Ended {
    let mut buffer = vec![0; COPY_BYTES.max(early.len() + HEADER_BYTES)];
    buffer[..early.len()].copy_from_slice(&early);
    let mut filled = early.len();
    loop {
        let admitted = gate.admit(&buffer[..filled]);
        if worker.write_all(&buffer[..admitted.pass]).await.is_err() {
            // Its last words may still be on their way; reading them ends the session.
            return std::future::pending().await;
        }
        received(admitted.pass);
        if let Some(error) = admitted.violation {
            // The write half stays open: the worker must see the reason before the end of the stream.
            worker.forget();
            return Ended::ByViolation(error);
        }
        buffer.copy_within(admitted.pass..filled, 0);
        filled -= admitted.pass;
        match read_available(reader, &mut buffer[filled..]).await {
            Ok(0) | Err(_) => {
                let _ = worker.shutdown().await;
                return Ended::ByAgent;
            }
            Ok(length) => filled += length,
        }
    }
}

async fn outbound(
    mut worker: tokio::net::unix::OwnedReadHalf,
    writer: &mut (impl AsyncWriteExt + Unpin),
    mut note: impl FnMut(&[u8]),
) -> (Ended, u64) {
    let mut buffer = vec![0; COPY_BYTES];
    let mut total = 0;
    loop {
        let Ok(length @ 1..) = read_available(&mut worker, &mut buffer).await else {
            return (Ended::ByWorker, total);
        };
        let sent = async {
            writer.write_all(&buffer[..length]).await?;
            writer.flush().await
        };
        if sent.await.is_err() {
            return (Ended::ByAgent, total);
        }
        note(&buffer[..length]);
        total += length as u64;
    }
}

/// Reads at least one byte, and then as much as is there without waiting; 0 at the end.
async fn read_available(
    reader: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
) -> io::Result<usize> {
    let mut buffer = ReadBuf::new(buffer);
    poll_fn(|context| poll_available(Pin::new(reader), context, &mut buffer)).await
}

fn poll_available(
    mut reader: Pin<&mut impl AsyncRead>,
    context: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
) -> Poll<io::Result<usize>> {
    loop {
        let before = buffer.filled().len();
        match reader.as_mut().poll_read(context, buffer) {
            Poll::Pending if before == 0 => return Poll::Pending,
            // An error shows itself again at the next read.
            Poll::Ready(Err(error)) if before == 0 => return Poll::Ready(Err(error)),
            Poll::Pending | Poll::Ready(Err(_)) => return Poll::Ready(Ok(before)),
            Poll::Ready(Ok(())) => {
                let filled = buffer.filled().len();
                if filled == before || buffer.remaining() == 0 {
                    return Poll::Ready(Ok(filled));
                }
            }
        }
    }
}

/// Reads and forgets until the peer closes, for a moment: closing with unread bytes would reset the
/// connection and destroy what the peer has not read yet.
async fn linger(reader: &mut (impl AsyncRead + Unpin)) {
    let mut bytes = [0; HANDSHAKE_READ_BYTES];
    let drained = async { while matches!(reader.read(&mut bytes).await, Ok(1..)) {} };
    let _ = timeout(LINGER, drained).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_apart() {
        for (bytes, opening) in [
            (&b"\x16\x03\x01\x02\x00"[..], Opening::Tls),
            (b"@RSYNCD: 32.0 sha512\n", Opening::Rsync),
            (b"GET / HTTP/1.1\r\n", Opening::Http),
            (b"SSH-2.0-OpenSSH", Opening::Ssh),
            (b"\x00\xff", Opening::Unknown),
            (b"", Opening::Nothing),
        ] {
            assert_eq!(Opening::of(bytes), opening, "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn reading_takes_what_is_there_and_no_more() {
        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(b"one").await.unwrap();
        far.write_all(b"two").await.unwrap();
        let mut buffer = [0; 32];
        assert_eq!(read_available(&mut near, &mut buffer).await.unwrap(), 6);
        far.write_all(&[7; 40]).await.unwrap();
        drop(far);
        assert_eq!(read_available(&mut near, &mut buffer).await.unwrap(), 32);
        assert_eq!(read_available(&mut near, &mut buffer).await.unwrap(), 8);
        assert_eq!(read_available(&mut near, &mut buffer).await.unwrap(), 0);
    }

    fn ping(seq: u64, body: usize) -> Vec<u8> {
        let mut wire = Vec::new();
        Frame {
            seq,
            kind: 11,
            body: vec![1; body],
            payload: Vec::new(),
            packed: false,
        }
        .write_to(&mut wire);
        wire
    }

    /// Runs a relay; gives the agent's and the worker's end.
    fn relaying(
        early: Vec<u8>,
    ) -> (
        tokio::io::DuplexStream,
        UnixStream,
        tokio::task::JoinHandle<(Relayed, bool)>,
    ) {
        let (agent, ours) = tokio::io::duplex(COPY_BYTES);
        let (front, worker) = UnixStream::pair().unwrap();
        let relay = tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(ours);
            let mut violated = false;
            let noted = async |_: &ProtocolError| violated = true;
            let from = Inbound {
                gate: Gate::new(1),
                early,
            };
            let notes = Notes {
                received: |_| {},
                sent: |_: &[u8]| {},
            };
            let relayed = copy(&mut reader, &mut writer, front, from, notes, noted).await;
            (relayed, violated)
        });
        (agent, worker, relay)
    }

    #[tokio::test]
    async fn a_session_passes_unchanged_both_ways_and_ends_with_its_agent() {
        let (mut agent, mut worker, relay) = relaying(ping(1, 9));
        let sent = [ping(2, 700_000), ping(3, 0)].concat();
        let expected = [ping(1, 9), sent.clone()].concat();
        let sending = tokio::spawn(async move {
            agent.write_all(&sent).await.unwrap();
            let mut answer = [0; 6];
            agent.read_exact(&mut answer).await.unwrap();
            answer
        });
        let mut arrived = vec![0; expected.len()];
        worker.read_exact(&mut arrived).await.unwrap();
        assert!(arrived == expected);
        worker.write_all(b"answer").await.unwrap();
        assert_eq!(&sending.await.unwrap(), b"answer");
        // The agent has gone; the worker learns it, and may finish before it closes.
        assert_eq!(worker.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(!relay.is_finished());
        drop(worker);
        let (relayed, violated) = relay.await.unwrap();
        assert_eq!(
            (relayed.cause, relayed.bytes_out, violated),
            (Ended::ByAgent, 6, false)
        );
    }

    #[tokio::test]
    async fn a_worker_that_ends_ends_the_session_after_its_last_words() {
        let (mut agent, mut worker, relay) = relaying(Vec::new());
        worker.write_all(b"draining").await.unwrap();
        drop(worker);
        let (relayed, _) = relay.await.unwrap();
        assert_eq!((relayed.cause, relayed.bytes_out), (Ended::ByWorker, 8));
        let mut words = [0; 8];
        agent.read_exact(&mut words).await.unwrap();
        assert_eq!(&words, b"draining");
    }

    #[tokio::test]
    async fn a_bad_frame_reaches_nobody_and_the_worker_may_answer() {
        let (mut agent, mut worker, relay) = relaying(Vec::new());
        agent
            .write_all(&[ping(1, 5), ping(9, 5)].concat())
            .await
            .unwrap();
        let mut arrived = vec![0; ping(1, 5).len()];
        worker.read_exact(&mut arrived).await.unwrap();
        assert_eq!(arrived, ping(1, 5));
        worker.write_all(b"why").await.unwrap();
        worker.shutdown().await.unwrap();
        let (relayed, violated) = relay.await.unwrap();
        assert!(violated);
        assert!(matches!(
            relayed.cause,
            Ended::ByViolation(ProtocolError::Sequence { .. })
        ));
        let mut rest = Vec::new();
        worker.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
        let mut words = [0; 3];
        agent.read_exact(&mut words).await.unwrap();
        assert_eq!(&words, b"why");
    }
}
