//! An agent's handshake against a small receiver in the same process: what opens a session, and what each
//! refusal looks like from here.

use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use certs_dev::{Authority, Issued, Request, Role, Validity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use syncd_agent::fs::credentials;
use syncd_agent::logic::password::Password;
use syncd_agent::logic::target::Target;
use syncd_agent::net::framing::{FrameReader, FrameWriter};
use syncd_agent::net::handshake::{self, ConnectError, Connected, Dial, Fault, Stage};
use syncd_agent::net::tls::{TlsSettings, TlsSetupError};
use syncd_proto::ALPN;
use syncd_proto::attributes::Attributes;
use syncd_proto::auth::{self, PasswordKey};
use syncd_proto::digest::Digest;
use syncd_proto::exchange::agent::Channel;
use syncd_proto::exchange::receiver::{AwaitHello, Greeted};
use syncd_proto::frame::{Frame, FrameLimits};
use syncd_proto::message::{
    Durability, ModuleLine, Modules, Purpose, ReceiverMessage, Refused, Welcome,
};
use syncd_proto::meta::Compare;
use syncd_proto::reject::RejectCode;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const TIMEOUT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// What the receiver does with a `Hello`.
#[derive(Clone, Copy)]
enum Manner {
    Welcome,
    Challenge(&'static [u8]),
    WelcomeWithoutProof,
    Refuse(RejectCode),
    List,
    Silence,
}

struct Sandbox {
    dir: TempDir,
    ca: Authority,
    agent: Issued,
    server: Issued,
}

impl Sandbox {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::create(dir.path().join("pki")).unwrap();
        let agent = ca.issue_agent("web01").unwrap();
        let server = ca.issue_server::<&str>(&[]).unwrap();
        Self {
            dir,
            ca,
            agent,
            server,
        }
    }

    fn other(&self) -> Authority {
        Authority::create(self.dir.path().join("other")).unwrap()
    }

    fn tls(&self) -> TlsSettings {
        settings(&self.ca, &self.agent).unwrap()
    }

    /// Connects to a receiver of this manner.
    async fn connect(&self, to: &str, password: Option<&[u8]>, manner: Manner) -> Outcome {
        let port = serve(&self.ca, &self.server, ALPN, manner).await;
        call(&self.tls(), to, port, password).await
    }
}

type Outcome = Result<Connected, ConnectError>;

fn settings(ca: &Authority, agent: &Issued) -> Result<TlsSettings, TlsSetupError> {
    settings_of(&ca.cert_path(), &agent.cert_path, &agent.key_path)
}

fn settings_of(ca: &Path, cert: &Path, key: &Path) -> Result<TlsSettings, TlsSetupError> {
    let files = credentials::read(ca, cert, key).unwrap();
    TlsSettings::new(&files, None, UnixTime::now())
}

async fn call(tls: &TlsSettings, to: &str, port: NonZeroU16, password: Option<&[u8]>) -> Outcome {
    let target = Target::parse(to.as_bytes(), Some(port)).unwrap();
    let password = password.and_then(Password::from_file_content);
    let dial = Dial {
        compress: true,
        spare: false,
        tls,
        password: password.as_ref(),
        timeout: TIMEOUT,
        attributes: Attributes::ALL,
        names: &[],
    };
    handshake::connect(&dial, &target, Purpose::Mirror).await
}

fn acceptor(clients: &Authority, server: &Issued, alpn: &[u8]) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(clients.cert_pem().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(server.cert_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(server.key_pem.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Serves one connection on a new port.
async fn serve(clients: &Authority, server: &Issued, alpn: &[u8], manner: Manner) -> NonZeroU16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = acceptor(clients, server, alpn);
    let certificate = CertificateDer::from_pem_slice(server.cert_pem.as_bytes()).unwrap();
    let receiver_key = auth::key_hash(&certificate).unwrap();
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let Ok(stream) = acceptor.accept(tcp).await else {
            return;
        };
        let (_, connection) = stream.get_ref();
        let channel = Channel {
            session: connection
                .export_keying_material([0; 32], syncd_proto::EXPORTER_LABEL, None)
                .unwrap(),
            agent_key: auth::key_hash(&connection.peer_certificates().unwrap()[0]).unwrap(),
            receiver_key,
        };
        let (read, write) = tokio::io::split(stream);
        let mut reader = FrameReader::new(read, FrameLimits::HANDSHAKE);
        let mut writer = FrameWriter::new(write);
        let Ok(Some(frame)) = reader.next().await else {
            return;
        };
        let greeted = AwaitHello::new(channel).handle(&frame).unwrap();
        let answer = match manner {
            Manner::Welcome => welcome(0, None),
            Manner::Refuse(code) => greeted.refuse(refused(code)).unwrap(),
            Manner::List => greeted.list(list()).unwrap(),
            Manner::Silence => {
                let _ = reader.next().await;
                return;
            }
            Manner::Challenge(password) => {
                let (key, state, frame) = challenge(greeted, password);
                writer.feed(&frame).await.unwrap();
                writer.flush().await.unwrap();
                let Ok(Some(answer)) = reader.next().await else {
                    return;
                };
                let (answered, matched) = state.handle(&answer, &[key]).unwrap();
                match matched {
                    Some(_) => welcome(1, answered.accept().proof),
                    None => answered.refuse(refused(RejectCode::AuthFailed)).unwrap(),
                }
            }
            Manner::WelcomeWithoutProof => {
                let (_, _, frame) = challenge(greeted, b"");
                writer.feed(&frame).await.unwrap();
                writer.flush().await.unwrap();
                welcome(1, Some(Digest::empty()))
            }
        };
        writer.feed(&answer).await.unwrap();
        writer.flush().await.unwrap();
        let _ = reader.next().await;
    });
    NonZeroU16::new(port).unwrap()
}

fn challenge(
    greeted: Greeted,
    password: &[u8],
) -> (
    PasswordKey,
    syncd_proto::exchange::receiver::AwaitAnswer,
    Frame,
) {
    let user = greeted.hello().user.clone().unwrap_or_default();
    let key = PasswordKey::derive(password, &user, &greeted.hello().module);
    let (state, frame) = greeted.challenge([7; 32]).unwrap();
    (key, state, frame)
}

fn refused(code: RejectCode) -> Refused {
    let text = "because".into();
    Refused { code, text }
}

fn welcome(seq: u64, proof: Option<Digest>) -> Frame {
    let message = ReceiverMessage::Welcome(Welcome {
        version: 1,
        features: 0,
        receiver: "test".into(),
        proof,
        writable: true,
        compare: Compare::ALL,
        maps_names: false,
        durability: Durability::Batch,
        window_bytes: 1 << 20,
        window_commits: 16,
        instance: [1; 16],
        leftovers: Vec::new(),
    });
    let mut body = Vec::new();
    message.encode_body(&mut body).unwrap();
    Frame {
        seq,
        kind: message.kind(),
        body,
        payload: Vec::new(),
        packed: false,
    }
}

fn list() -> Modules {
    let module = ModuleLine {
        name: b"www".to_vec(),
        comment: b"web".to_vec(),
    };
    Modules {
        modules: vec![module],
    }
}

fn fault(outcome: &Outcome) -> Option<Fault> {
    match outcome {
        Err(ConnectError::Tls { fault, .. }) => Some(*fault),
        _ => None,
    }
}

fn text(outcome: Outcome) -> String {
    let error = outcome.unwrap_err();
    format!("{error} ({})", error.hint())
}

#[tokio::test]
async fn a_welcome_opens_a_session() {
    let sandbox = Sandbox::new();
    for to in ["127.0.0.1::www", "localhost::www/sub"] {
        let connected = sandbox.connect(to, None, Manner::Welcome).await.unwrap();
        assert_eq!(connected.welcome.window_commits, 16);
        assert_eq!(connected.session.committed(), 0);
    }
}

#[tokio::test]
async fn a_password_is_proved_on_both_sides() {
    let sandbox = Sandbox::new();
    let right = Manner::Challenge(b"secret");
    let to = "alice@localhost::www";
    assert!(sandbox.connect(to, Some(b"secret"), right).await.is_ok());
    let wrong = sandbox.connect(to, Some(b"other"), right).await;
    assert!(
        matches!(
            &wrong,
            Err(ConnectError::Refused {
                code: RejectCode::AuthFailed,
                ..
            })
        ),
        "{wrong:?}"
    );
    let none = sandbox.connect(to, None, right).await;
    assert!(
        matches!(none, Err(ConnectError::PasswordNeeded)),
        "{none:?}"
    );
    let impostor = sandbox
        .connect(to, Some(b"secret"), Manner::WelcomeWithoutProof)
        .await;
    assert!(
        matches!(impostor, Err(ConnectError::BadServerProof)),
        "{impostor:?}"
    );
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_words() {
    let sandbox = Sandbox::new();
    let outcome = sandbox
        .connect("localhost::www", None, Manner::Refuse(RejectCode::Busy))
        .await;
    let text = text(outcome);
    assert!(
        text.starts_with("refused: another writer is connected: because"),
        "{text}"
    );
}

#[tokio::test]
async fn modules_are_listed_without_naming_one() {
    let sandbox = Sandbox::new();
    let port = serve(&sandbox.ca, &sandbox.server, ALPN, Manner::List).await;
    let target = Target::parse(b"localhost::x", Some(port)).unwrap();
    let dial = Dial {
        compress: true,
        spare: false,
        tls: &sandbox.tls(),
        password: None,
        timeout: TIMEOUT,
        attributes: Attributes::ALL,
        names: &[],
    };
    let modules = handshake::modules(&dial, &target.address()).await.unwrap();
    assert_eq!(modules, list().modules);
}

#[tokio::test]
async fn a_certificate_the_receiver_does_not_know_is_our_fault() {
    let sandbox = Sandbox::new();
    let stranger = sandbox.other().issue_agent("web01").unwrap();
    let port = serve(&sandbox.ca, &sandbox.server, ALPN, Manner::Welcome).await;
    let tls = settings(&sandbox.ca, &stranger).unwrap();
    let outcome = call(&tls, "localhost::www", port, None).await;
    assert_eq!(fault(&outcome), Some(Fault::Agent), "{outcome:?}");
    let text = text(outcome);
    assert!(text.contains("refused our certificate"), "{text}");
}

#[tokio::test]
async fn a_receiver_of_another_authority_is_its_fault() {
    let sandbox = Sandbox::new();
    let stranger = sandbox.other().issue_server::<&str>(&[]).unwrap();
    let port = serve(&sandbox.ca, &stranger, ALPN, Manner::Welcome).await;
    let outcome = call(&sandbox.tls(), "localhost::www", port, None).await;
    assert_eq!(fault(&outcome), Some(Fault::Receiver), "{outcome:?}");
    let text = text(outcome);
    assert!(text.contains("does not come from our authority"), "{text}");
}

#[tokio::test]
async fn a_receiver_with_another_name_or_expired_says_so() {
    let sandbox = Sandbox::new();
    let requests = [
        (
            Request::server::<&str>(&[]).names(&["else.test"]),
            "else.test",
        ),
        (
            Request::server::<&str>(&[]).validity(Validity::Expired),
            "expired on 20",
        ),
        (
            Request::server::<&str>(&[]).role(Role::Agent),
            "not for servers",
        ),
    ];
    for (index, (request, part)) in requests.into_iter().enumerate() {
        let stem = format!("server{index}");
        let server = sandbox.ca.issue(&request.file_stem(&stem)).unwrap();
        let port = serve(&sandbox.ca, &server, ALPN, Manner::Welcome).await;
        let outcome = call(&sandbox.tls(), "localhost::www", port, None).await;
        assert_eq!(fault(&outcome), Some(Fault::Receiver), "{outcome:?}");
        let text = text(outcome);
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn another_protocol_behind_tls_is_not_taken_for_ours() {
    let sandbox = Sandbox::new();
    let port = serve(&sandbox.ca, &sandbox.server, b"http/1.1", Manner::Welcome).await;
    let outcome = call(&sandbox.tls(), "localhost::www", port, None).await;
    let text = text(outcome);
    assert!(text.contains("not syncd/1"), "{text}");
}

#[tokio::test]
async fn an_rsync_daemon_is_recognised_as_not_tls() {
    let sandbox = Sandbox::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"@RSYNCD: 32.0 sha512 sha256 sha1 md5 md4\n")
            .await
            .unwrap();
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    });
    let text = text(call(&sandbox.tls(), "localhost::www", port, None).await);
    assert!(text.contains("does not speak TLS"), "{text}");
}

#[tokio::test]
async fn nobody_there_and_no_answer_are_told_apart() {
    let sandbox = Sandbox::new();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap()
    };
    let outcome = call(&sandbox.tls(), "127.0.0.1::www", closed, None).await;
    assert!(
        matches!(
            outcome,
            Err(ConnectError::Unreachable {
                nobody_listens: true,
                ..
            })
        ),
        "{outcome:?}"
    );
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = NonZeroU16::new(silent.local_addr().unwrap().port()).unwrap();
    let mute = serve(&sandbox.ca, &sandbox.server, ALPN, Manner::Silence).await;
    for (port, wanted) in [(silent_port, Stage::Tls), (mute, Stage::Greeting)] {
        let target = Target::parse(b"127.0.0.1::www", Some(port)).unwrap();
        let dial = Dial {
            compress: true,
            spare: false,
            tls: &sandbox.tls(),
            password: None,
            timeout: SHORT,
            attributes: Attributes::ALL,
            names: &[],
        };
        let outcome = handshake::connect(&dial, &target, Purpose::Mirror).await;
        assert!(
            matches!(outcome, Err(ConnectError::Timeout { stage, .. }) if stage == wanted),
            "{outcome:?}"
        );
    }
}

#[test]
fn our_own_files_are_checked_before_anybody_is_called() {
    let sandbox = Sandbox::new();
    let (ca, agent, server) = (&sandbox.ca, &sandbox.agent, &sandbox.server);
    let ca_path = ca.cert_path();
    let expired = Request::agent("old").validity(Validity::Expired);
    let expired = ca.issue(&expired).unwrap();
    let not_yet = Request::agent("new").validity(Validity::NotYet);
    let not_yet = ca.issue(&not_yet).unwrap();
    let text = |result: Result<TlsSettings, TlsSetupError>| result.unwrap_err().to_string();
    let error = text(settings(ca, &expired));
    assert!(
        error.contains("expired on 20") && error.contains("old.pem"),
        "{error}"
    );
    let error = text(settings(ca, &not_yet));
    assert!(error.contains("not valid before 20"), "{error}");
    let error = text(settings(ca, server));
    assert!(error.contains("may not be used by a client"), "{error}");
    let error = text(settings_of(&ca_path, &agent.cert_path, &server.key_path));
    assert!(error.contains("server.key is not the key"), "{error}");
    let error = text(settings_of(
        &agent.key_path,
        &agent.cert_path,
        &agent.key_path,
    ));
    assert!(error.contains("no certificate in"), "{error}");
    let no_key = sandbox.agent.key_path.with_file_name("no.key");
    std::fs::write(&no_key, "no key").unwrap();
    std::fs::set_permissions(&no_key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let error = text(settings_of(&ca_path, &agent.cert_path, &no_key));
    assert!(error.contains("no usable private key in"), "{error}");
}
