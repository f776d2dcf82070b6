//! Peers that say what the real programs never would: an agent and a receiver of another time.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use certs_dev::Issued;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use syncd_proto::ALPN;
use syncd_proto::digest::Digest;
use syncd_proto::exchange::agent::{self, Channel};
use syncd_proto::exchange::receiver::AwaitHello;
use syncd_proto::frame::{Deframer, Frame, FrameLimits};
use syncd_proto::message::{Hello, Purpose, ReceiverMessage, Refused};
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;
use syncd_tests::Sandbox;

const PATIENCE: Duration = Duration::from_secs(60);

type Client = rustls::StreamOwned<ClientConnection, TcpStream>;

/// Says `Hello` for a module in these versions, with the sandbox's own certificate, and gives the refusal.
#[track_caller]
pub(crate) fn hello_in(sandbox: &Sandbox, port: u16, versions: (u16, u16)) -> Refused {
    let (cert, key) = identity(sandbox, "agent");
    let mut stream = client(sandbox, port, cert, key);
    send(&mut stream, &hello(versions)).expect("send Hello");
    let answer = receive(&mut stream).expect("an answer");
    match ReceiverMessage::from_frame(&answer).expect("a message") {
        ReceiverMessage::Refused(refused) => refused,
        other => panic!("not refused: {}", other.name()),
    }
}

/// Shows a certificate that must not be accepted: there is no answer to `Hello`.
#[track_caller]
pub(crate) fn expect_no_session(sandbox: &Sandbox, port: u16, issued: &Issued) {
    let cert = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).expect("certificate");
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("key");
    let mut stream = client(sandbox, port, vec![cert], key);
    let sent = send(&mut stream, &hello((1, 1)));
    let answer = sent.and_then(|()| receive(&mut stream));
    assert!(answer.is_err(), "an answer: {answer:?}");
}

fn client(
    sandbox: &Sandbox,
    port: u16,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Client {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots(sandbox));
    let mut config = builder
        .with_client_auth_cert(chain, key)
        .expect("agent certificate");
    config.alpn_protocols = vec![ALPN.to_vec()];
    let name = ServerName::try_from("localhost").expect("name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("TLS client");
    let socket = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    rustls::StreamOwned::new(connection, socket)
}

fn hello(versions: (u16, u16)) -> Frame {
    let hello = Hello {
        version_min: versions.0,
        version_max: versions.1,
        features: 0,
        purpose: Purpose::Mirror,
        module: b"demo".to_vec(),
        sub_path: WirePath::root(),
        attributes: syncd_proto::attributes::Attributes::ALL,
        user: Some(b"mirror".to_vec()),
        nonce: [7; 32],
        agent: "an agent of another time".to_owned(),
    };
    let (_, frame) = agent::connect(channel(), hello, None).expect("Hello");
    frame
}

/// A receiver that refuses everybody in these words; answers one connection.
#[track_caller]
pub(crate) fn refusing(sandbox: &Sandbox, code: RejectCode, text: &str) -> (u16, JoinHandle<()>) {
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(sandbox)), provider.clone())
            .build()
            .expect("verifier");
    let (chain, key) = identity(sandbox, "server");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("server certificate");
    config.alpn_protocols = vec![ALPN.to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("address").port();
    let refused = Refused {
        code,
        text: text.to_owned(),
    };
    let thread = thread::spawn(move || {
        let (socket, _) = listener.accept().expect("accept");
        socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let connection = ServerConnection::new(Arc::new(config)).expect("TLS server");
        let mut stream = rustls::StreamOwned::new(connection, socket);
        let hello = receive(&mut stream).expect("Hello");
        let greeted = AwaitHello::new(channel()).handle(&hello).expect("Hello");
        let frame = greeted.refuse(refused).expect("refusal");
        send(&mut stream, &frame).expect("send the refusal");
        stream.conn.send_close_notify();
        let _ = stream.flush();
        // Closing with bytes unread would cut off what was just said.
        let _ = stream.sock.shutdown(std::net::Shutdown::Write);
        let _ = io::copy(&mut stream.sock, &mut io::sink());
    });
    (port, thread)
}

/// Nothing is proved in these conversations, so nothing has to be known of the connection.
fn channel() -> Channel {
    Channel {
        session: [0; 32],
        agent_key: Digest::of(b"agent"),
        receiver_key: Digest::of(b"receiver"),
    }
}

fn roots(sandbox: &Sandbox) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(sandbox.certs().join("ca.pem")).expect("ca.pem");
    roots.add(ca).expect("authority");
    roots
}

fn identity(
    sandbox: &Sandbox,
    stem: &str,
) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let file = |end: &str| sandbox.certs().join(format!("{stem}.{end}"));
    let cert = CertificateDer::from_pem_file(file("pem")).expect("certificate");
    let key = PrivateKeyDer::from_pem_file(file("key")).expect("key");
    (vec![cert], key)
}

fn send(stream: &mut impl Write, frame: &Frame) -> io::Result<()> {
    let mut bytes = Vec::new();
    frame.write_to(&mut bytes);
    stream.write_all(&bytes)?;
    stream.flush()
}

fn receive(stream: &mut impl Read) -> io::Result<Frame> {
    let mut deframer = Deframer::new(FrameLimits::HANDSHAKE, 0);
    let mut bytes = [0; 4096];
    loop {
        if let Some(frame) = deframer.next_frame().map_err(io::Error::other)? {
            return Ok(frame);
        }
        match stream.read(&mut bytes)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => deframer.feed(&bytes[..count]),
        }
    }
}
