//! A site (certificates, configuration) and a small agent that only talks; the crate's own tests use it
//! too.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use certs_dev::{Authority, Issued};
use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use syncd_proto::auth::{PasswordKey, key_hash};
use syncd_proto::exchange::agent::{self, AgentSession, Channel, Reply};
use syncd_proto::frame::{Deframer, Frame, FrameLimits};
use syncd_proto::message::{Hello, Modules, Purpose, ReceiverMessage, Refused, Welcome};
use syncd_proto::path::WirePath;
use syncd_proto::{ALPN, EXPORTER_LABEL};
use tempfile::TempDir;

/// Longest wait for anything; a test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Certificates and a place for files.
pub(crate) struct Site {
    dir: TempDir,
    pub(crate) authority: Authority,
    agent: Issued,
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("directory");
        let authority = Authority::create(dir.path()).expect("authority");
        authority
            .issue_server::<&str>(&[])
            .expect("server certificate");
        let agent = authority.issue_agent("web01").expect("agent certificate");
        chmod(dir.path(), 0o755);
        Self {
            dir,
            authority,
            agent,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Makes a module's directory.
    pub(crate) fn module(&self, name: &str) -> String {
        let path = self.path().join(format!("module-{name}"));
        std::fs::create_dir_all(&path).expect("module");
        chmod(&path, 0o777);
        path.display().to_string()
    }

    /// Writes the secrets file.
    pub(crate) fn secrets(&self, text: &str) -> String {
        let path = self.path().join("secrets");
        std::fs::write(&path, text).expect("secrets");
        chmod(&path, 0o600);
        path.display().to_string()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path().join("rsyncd.conf")
    }

    /// Writes the configuration: the TLS files, and what is given.
    pub(crate) fn configure(&self, text: &str) {
        let at = |name: &str| self.path().join(name).display().to_string();
        let text = format!(
            "tls cert file = {}\ntls key file = {}\ntls ca file = {}\nuse chroot = no\n{text}",
            at("server.pem"),
            at("server.key"),
            at("ca.pem"),
        );
        std::fs::write(self.config(), text).expect("configuration");
    }
}

pub(crate) fn chmod(path: impl AsRef<Path>, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("chmod");
}

/// An ordinary `Hello`.
pub(crate) fn hello(module: &str) -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        purpose: Purpose::Mirror,
        module: module.as_bytes().to_vec(),
        sub_path: WirePath::root(),
        attributes: syncd_proto::attributes::Attributes::ALL,
        user: None,
        nonce: [3; 32],
        agent: "test agent".to_owned(),
    }
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    Open(Box<Opened>),
    Refused(Refused),
    Modules(Modules),
    Closed,
}

/// An open session.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) welcome: Welcome,
    pub(crate) session: AgentSession,
    pub(crate) agent: Agent,
}

/// The agent's end of a connection.
#[derive(Debug)]
pub(crate) struct Agent {
    stream: StreamOwned<ClientConnection, TcpStream>,
    deframer: Deframer,
    own: Option<CertificateDer<'static>>,
}

impl Agent {
    /// Connects with the site's usual certificate.
    pub(crate) fn connect(site: &Site, port: u16) -> std::io::Result<Self> {
        Self::with(site, port, Some(&site.agent))
    }

    pub(crate) fn with(site: &Site, port: u16, issued: Option<&Issued>) -> std::io::Result<Self> {
        Self::handshake(site, port, issued, &[ALPN])
    }

    /// Offers other application protocols.
    pub(crate) fn speaking(site: &Site, port: u16, alpn: &[&[u8]]) -> std::io::Result<Self> {
        Self::handshake(site, port, Some(&site.agent), alpn)
    }

    fn handshake(
        site: &Site,
        port: u16,
        issued: Option<&Issued>,
        alpn: &[&[u8]],
    ) -> std::io::Result<Self> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(site.authority.cert_pem().as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots);
        let own = issued.map(|issued| {
            let der = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
            (der, key)
        });
        let certificate = own.as_ref().map(|(der, _)| der.clone());
        let mut config = match own {
            Some((der, key)) => builder.with_client_auth_cert(vec![der], key).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = StreamOwned::new(tls, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self {
            stream,
            deframer: Deframer::new(FrameLimits::SESSION, 0),
            own: certificate,
        })
    }

    fn channel(&self) -> Channel {
        let connection = &self.stream.conn;
        let session = connection.export_keying_material([0; 32], EXPORTER_LABEL, None);
        let theirs = connection.peer_certificates().unwrap()[0].clone();
        Channel {
            session: session.unwrap(),
            agent_key: key_hash(self.own.as_ref().unwrap()).unwrap(),
            receiver_key: key_hash(&theirs).unwrap(),
        }
    }

    /// Says `Hello` and goes as far as it can.
    pub(crate) fn ask(mut self, hello: Hello, password: Option<&str>) -> Answer {
        let key = password.map(|password| {
            let user = hello.user.clone().unwrap_or_default();
            PasswordKey::derive(password.as_bytes(), &user, &hello.module)
        });
        if self.own.is_none() {
            return Answer::Closed;
        }
        let (state, frame) = agent::connect(self.channel(), hello, key).unwrap();
        self.write(&frame);
        let Some(frame) = self.receive() else {
            return Answer::Closed;
        };
        match state.handle(&frame).unwrap() {
            Reply::Answer(state, answer) => {
                self.write(&answer);
                match self.receive() {
                    Some(frame) => self.answered(state.handle(&frame).unwrap()),
                    None => Answer::Closed,
                }
            }
            reply => self.answered(reply),
        }
    }

    fn answered(self, reply: Reply) -> Answer {
        match reply {
            Reply::Open(session, welcome) => Answer::Open(Box::new(Opened {
                welcome: *welcome,
                session: *session,
                agent: self,
            })),
            Reply::Refused(refused) => Answer::Refused(refused),
            Reply::Modules(modules) => Answer::Modules(modules),
            Reply::Answer(..) | Reply::PasswordNeeded => panic!("a password is wanted"),
        }
    }

    /// Sends any frame and waits for the refusal.
    pub(crate) fn send(mut self, frame: &Frame) -> Answer {
        self.write(frame);
        match self
            .receive()
            .map(|frame| ReceiverMessage::from_frame(&frame))
        {
            Some(Ok(ReceiverMessage::Refused(refused))) => Answer::Refused(refused),
            None => Answer::Closed,
            other => panic!("{other:?}"),
        }
    }

    /// Writes a frame; a connection that is gone shows itself when reading.
    pub(crate) fn write(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.write_to(&mut bytes);
        let _ = self.stream.write_all(&bytes);
        let _ = self.stream.flush();
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) fn receive(&mut self) -> Option<Frame> {
        let mut bytes = [0; 4_096];
        loop {
            if let Some(frame) = self.deframer.next_frame().unwrap() {
                return Some(frame);
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(length) => self.deframer.feed(&bytes[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("no answer within {PATIENCE:?}")
                }
                Err(_) => return None,
            }
        }
    }
}

/// A ClientHello of TLS 1.2, with the signature algorithms every client names.
pub(crate) fn tls12_hello() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend([0, 2, 0xc0, 0x2f]);
    hello.extend([1, 0]);
    hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut bytes = vec![
        0x16,
        3,
        1,
        0,
        (hello.len() + 4) as u8,
        1,
        0,
        0,
        hello.len() as u8,
    ];
    bytes.extend(hello);
    bytes
}
