//! From a destination to an open session: TCP, TLS, `Hello`, password, `Welcome`; all under one deadline.

use std::fmt::Write;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use syncd_proto::attributes::Attributes;
use syncd_proto::error::ProtocolError;
use syncd_proto::exchange::agent::{self, AgentSession, Channel, Reply};
use syncd_proto::frame::{Frame, FrameLimits};
use syncd_proto::limits::ID_NAMES_MAX;
use syncd_proto::message::{
    AgentMessage, FEATURE_LINKS, FEATURE_SAME, FEATURE_SPARE, FEATURE_TIMES, FEATURE_ZSTD, Hello,
    IdQuery, ModuleLine, Purpose, ReceiverMessage, Welcome,
};
use syncd_proto::op::IdName;
use syncd_proto::path::WirePath;
use syncd_proto::{ALPN, EXPORTER_LABEL, VERSION, auth};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

pub use crate::net::connect_error::{ConnectError, Fault, Stage};

use crate::logic::password::Password;
use crate::logic::target::{Address, Target};
use crate::logic::terms::Terms;
use crate::net::framing::{FrameReader, FrameWriter};
use crate::net::threads::apart;
use crate::net::tls::TlsSettings;

/// Encrypted bytes that may wait in memory for the socket.
const TLS_BUFFER_BYTES: usize = 256 << 10;
/// A host's further addresses are not tried.
const ADDRESSES_MAX: usize = 16;

/// The stream of a connection.
pub type Stream = tokio_rustls::client::TlsStream<TcpStream>;

/// What is needed to call a receiver, besides where it is.
#[derive(Debug, Clone, Copy)]
pub struct Dial<'a> {
    /// Certificate, key and authorities.
    pub tls: &'a TlsSettings,
    /// Password for `auth users`, if there is one.
    pub password: Option<&'a Password>,
    /// Time for everything together.
    pub timeout: Duration,
    /// Whether content may be compressed.
    pub compress: bool,
    /// Whether names at the target may have to stay that nobody names.
    pub spare: bool,
    /// Extended attributes to mirror.
    pub attributes: Attributes,
    /// Names of our users and groups.
    pub names: &'a [IdName],
}

impl Dial<'_> {
    /// Features that are asked for.
    fn features(&self) -> u64 {
        let compress = if self.compress { FEATURE_ZSTD } else { 0 };
        let spare = if self.spare { FEATURE_SPARE } else { 0 };
        compress | spare | FEATURE_LINKS | FEATURE_TIMES | FEATURE_SAME
    }
}

/// An open session.
#[derive(Debug)]
pub struct Connected {
    /// Frames from the receiver.
    pub reader: FrameReader<ReadHalf<Stream>>,
    /// Frames to the receiver.
    pub writer: FrameWriter<WriteHalf<Stream>>,
    /// Makes and takes the frames.
    pub session: AgentSession,
    /// What the receiver allows and expects.
    pub welcome: Welcome,
    /// What was agreed about metadata.
    pub terms: Terms,
    /// The address that answered.
    pub peer: SocketAddr,
}

/// Opens a session with a target.
///
/// # Errors
/// [`ConnectError`]: typed, with a hint.
pub async fn connect(
    dial: &Dial<'_>,
    target: &Target,
    purpose: Purpose,
) -> Result<Connected, ConnectError> {
    let hello = hello(
        purpose,
        target.module.clone(),
        target.sub_path.clone(),
        target.user.clone(),
        dial.attributes,
        dial.features(),
    )?;
    let deadline = Deadline::of(dial);
    let (mut call, reply) = greet(dial, deadline, &target.address(), hello).await?;
    let (mut session, welcome) = match reply {
        Reply::Open(session, welcome) => (session, welcome),
        other => return Err(no_session(other)),
    };
    let links = welcome.features & FEATURE_LINKS != 0;
    let mut terms = Terms::new(welcome.compare, dial.attributes).linking(links);
    if welcome.maps_names {
        let asking = ask_numbers(&mut call, &mut session, dial.names, &mut terms);
        deadline.within(Stage::Greeting, asking).await?;
    }
    Ok(Connected {
        reader: call.reader,
        writer: call.writer,
        session: *session,
        welcome: *welcome,
        terms,
        peer: call.peer,
    })
}

/// Asks which numbers our users and groups have at the receiver.
async fn ask_numbers(
    call: &mut Call,
    session: &mut AgentSession,
    names: &[IdName],
    terms: &mut Terms,
) -> Result<(), ConnectError> {
    for (id, names) in (0..).zip(names.chunks(ID_NAMES_MAX)) {
        let query = AgentMessage::IdQuery(IdQuery {
            id,
            names: names.to_vec(),
        });
        let frame = session.frame(&query, Vec::new());
        let frame = frame.map_err(|error| ConnectError::Protocol(error.into()))?;
        match session.handle(&call.ask(&frame).await?)? {
            ReceiverMessage::Ids(ids) if ids.id == id && ids.numbers.len() == names.len() => {
                terms.learn(names, &ids.numbers);
            }
            other => {
                return Err(ConnectError::Protocol(ProtocolError::Unexpected {
                    message: other.name(),
                    state: "in reply to IdQuery",
                }));
            }
        }
    }
    Ok(())
}

/// The modules of a receiver that we may see.
///
/// # Errors
/// [`ConnectError`].
pub async fn modules(dial: &Dial<'_>, address: &Address) -> Result<Vec<ModuleLine>, ConnectError> {
    let user = address.user.clone();
    let hello = hello(
        Purpose::ListModules,
        Vec::new(),
        WirePath::root(),
        user,
        Attributes::NONE,
        0,
    )?;
    let deadline = Deadline::of(dial);
    match greet(dial, deadline, address, hello).await?.1 {
        Reply::Modules(list) => Ok(list.modules),
        other => Err(no_session(other)),
    }
}

fn no_session(reply: Reply) -> ConnectError {
    let surprise = |message| {
        ConnectError::Protocol(ProtocolError::Unexpected {
            message,
            state: "for what was asked",
        })
    };
    match reply {
        Reply::Refused(refused) => refused.into(),
        Reply::PasswordNeeded => ConnectError::PasswordNeeded,
        Reply::Answer(..) => surprise("Challenge"),
        Reply::Open(..) => surprise("Welcome"),
        Reply::Modules(_) => surprise("Modules"),
    }
}

fn hello(
    purpose: Purpose,
    module: Vec<u8>,
    sub_path: WirePath,
    user: Option<Vec<u8>>,
    attributes: Attributes,
    features: u64,
) -> Result<Hello, ConnectError> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce)
        .map_err(|error| ConnectError::System(io::Error::other(error.to_string())))?;
    let machine = rustix::system::uname();
    Ok(Hello {
        version_min: VERSION,
        version_max: VERSION,
        features,
        purpose,
        module,
        sub_path,
        attributes,
        user,
        nonce,
        agent: format!(
            "syncd-agent {} on {}",
            env!("CARGO_PKG_VERSION"),
            machine.nodename().to_string_lossy()
        ),
    })
}

/// A TLS connection on which frames travel.
struct Call {
    reader: FrameReader<ReadHalf<Stream>>,
    writer: FrameWriter<WriteHalf<Stream>>,
    peer: SocketAddr,
}

impl Call {
    /// Sends a frame and waits for the one that answers it.
    async fn ask(&mut self, frame: &Frame) -> Result<Frame, ConnectError> {
        let sent = async {
            self.writer.feed(frame).await?;
            self.writer.flush().await
        }
        .await;
        // A receiver that refuses our certificate says so in an alert that is read here, also when it
        // has closed before we had written.
        match (self.reader.next().await, sent) {
            (Ok(Some(answer)), _) => Ok(answer),
            (Err(error), sent) => match (ConnectError::from_read(error), sent) {
                (ConnectError::Cut(_), Err(sent)) => Err(ConnectError::from_io(sent)),
                (error, _) => Err(error),
            },
            (Ok(None), Err(sent)) => Err(ConnectError::from_io(sent)),
            (Ok(None), Ok(())) => Err(ConnectError::Cut(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// Time until which everything has to be done.
#[derive(Clone, Copy)]
struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    fn of(dial: &Dial<'_>) -> Self {
        Self {
            at: Instant::now() + dial.timeout,
            after: dial.timeout,
        }
    }

    async fn within<T>(
        self,
        stage: Stage,
        step: impl Future<Output = Result<T, ConnectError>>,
    ) -> Result<T, ConnectError> {
        let after = self.after;
        tokio::time::timeout_at(self.at, step)
            .await
            .unwrap_or(Err(ConnectError::Timeout { stage, after }))
    }
}

async fn greet(
    dial: &Dial<'_>,
    deadline: Deadline,
    address: &Address,
    hello: Hello,
) -> Result<(Call, Reply), ConnectError> {
    dial.tls.check_validity(UnixTime::now())?;
    let key = match (&hello.user, dial.password) {
        (Some(user), Some(password)) => Some(password.key(user, &hello.module)),
        _ => None,
    };
    let (tcp, peer) = dial_tcp(address, deadline).await?;
    let shake = shake_hands(dial.tls, address, tcp);
    let (stream, channel) = deadline.within(Stage::Tls, shake).await?;
    let (read, write) = tokio::io::split(stream);
    let mut call = Call {
        reader: FrameReader::new(read, FrameLimits::SESSION),
        writer: FrameWriter::new(write),
        peer,
    };
    let exchange = async {
        let (state, frame) = agent::connect(channel, hello, key)
            .map_err(|error| ConnectError::Protocol(error.into()))?;
        match state.handle(&call.ask(&frame).await?)? {
            Reply::Answer(state, frame) => Ok(state.handle(&call.ask(&frame).await?)?),
            reply => Ok(reply),
        }
    };
    let reply = deadline.within(Stage::Greeting, exchange).await?;
    Ok((call, reply))
}

/// Connects to the first address of the host that answers; the host is looked up anew each time.
async fn dial_tcp(
    address: &Address,
    deadline: Deadline,
) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let Address { host, port, .. } = address;
    let lookup = async {
        let asked = (host.clone(), port.get());
        let found = apart(move || {
            let found = asked.to_socket_addrs()?;
            Ok::<_, io::Error>(found.take(ADDRESSES_MAX).collect::<Vec<_>>())
        });
        let found = found.await.map_err(ConnectError::System)?;
        found.map_err(|error| ConnectError::Unreachable {
            text: format!("{host}: {error}"),
            nobody_listens: false,
        })
    };
    let found = deadline.within(Stage::Resolve, lookup).await?;
    let mut text = format!("{host} port {port}");
    let mut nobody_listens = !found.is_empty();
    let mut silent = 0;
    for (index, &peer) in found.iter().enumerate() {
        let left = deadline.at.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(found.len() - index).unwrap_or(1);
        match tokio::time::timeout(share, TcpStream::connect(peer)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(ConnectError::System)?;
                return Ok((stream, peer));
            }
            Ok(Err(error)) => {
                nobody_listens &= error.kind() == io::ErrorKind::ConnectionRefused;
                let _ = write!(text, "; {}: {error}", peer.ip());
            }
            Err(_) => {
                silent += 1;
                nobody_listens = false;
                let _ = write!(text, "; {}: no answer", peer.ip());
            }
        }
    }
    if silent > 0 && silent == found.len() {
        let after = deadline.after;
        let stage = Stage::Connect;
        return Err(ConnectError::Timeout { stage, after });
    }
    Err(ConnectError::Unreachable {
        text,
        nobody_listens,
    })
}

async fn shake_hands(
    tls: &TlsSettings,
    address: &Address,
    tcp: TcpStream,
) -> Result<(Stream, Channel), ConnectError> {
    let name = tls.server_name(&address.host)?;
    let mut stream = TlsConnector::from(tls.config())
        .connect(name, tcp)
        .await
        .map_err(ConnectError::from_io)?;
    let connection = stream.get_mut().1;
    connection.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(ConnectError::from_io(io::Error::other(
            rustls::Error::NoApplicationProtocol,
        )));
    }
    let failed = |error| ConnectError::from_io(io::Error::other(error));
    let session = connection
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .map_err(failed)?;
    let receiver_key = connection
        .peer_certificates()
        .and_then(|chain| auth::key_hash(chain.first()?))
        .ok_or(rustls::Error::NoCertificatesPresented)
        .map_err(failed)?;
    let channel = Channel {
        session,
        agent_key: tls.key_hash(),
        receiver_key,
    };
    Ok((stream, channel))
}
