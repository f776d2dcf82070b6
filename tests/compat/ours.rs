//! `syncd-recv` on a vector's configuration, and an agent that does over TLS what the vector's client did.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use certs_dev::Authority;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use syncd_proto::auth::{PasswordKey, key_hash};
use syncd_proto::chain::CommitSigner;
use syncd_proto::digest::Digest;
use syncd_proto::exchange::agent::{self, AgentSession, Channel, Reply};
use syncd_proto::frame::{Deframer, Frame, FrameLimits};
use syncd_proto::message::{AgentMessage, Bye, Hello, Purpose, ReceiverMessage, Refused};
use syncd_proto::meta::{Kind, Meta, Mtime};
use syncd_proto::op::{Content, Op};
use syncd_proto::path::{Name, WirePath};
use syncd_proto::reject::RejectCode;
use syncd_proto::{ALPN, EXPORTER_LABEL};
use syncd_tests::{Binaries, Exit, Process, wait_for};

use crate::lab::{INSIDE, Lab, Met, chmod};
use crate::theirs::unescaped;
use crate::vectors::{bytes, octal, options};

/// Longest wait for anything; what reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest wait for the end of the session before.
const TURN: Duration = Duration::from_secs(3);

const UMASK: u32 = 0o022;
/// What the agent says of its password, and the outcome that means.
const SAID: [(&str, &str); 5] = [
    ("must not be other-accessible", "client-password-file-open"),
    ("must be owned by root", "client-password-file-owner"),
    (
        "cannot read password file",
        "client-password-file-unreadable",
    ),
    ("no password in", "client-password-file-empty"),
    ("auth failed on module", "auth-failed"),
];

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Certificates for the daemon, by the user who runs it, and for the agent.
pub(crate) struct Site {
    dir: PathBuf,
    client: Arc<ClientConfig>,
    certificate: CertificateDer<'static>,
    signer: CommitSigner,
}

impl Site {
    pub(crate) fn make(dir: &Path) -> Self {
        let authority = Authority::create(dir).expect("authority");
        authority.issue_server::<&str>(&[]).expect("certificate");
        let issued = authority.issue_agent("lab").expect("certificate");
        chmod(dir, 0o755);
        let certificate = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("PEM");
        let signing = ring::sign::any_supported_type(&key).expect("a key");
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.cert_pem().as_bytes()).expect("PEM");
        roots.add(root).expect("a root");
        let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate.clone()], key)
            .expect("an identity");
        client.alpn_protocols = vec![ALPN.to_vec()];
        Self {
            dir: dir.to_owned(),
            client: Arc::new(client),
            certificate,
            signer: CommitSigner::new(&*signing).expect("a signer"),
        }
    }

    /// A key that this user's program may read.
    fn key_for(&self, name: &str, user: &str, uid: u32) -> PathBuf {
        let key = self.dir.join(format!("{name}-{user}.key"));
        if !key.exists() {
            fs::copy(self.dir.join(format!("{name}.key")), &key).expect("copy");
            chmod(&key, 0o600);
            chown(&key, Some(uid), None).expect("owner");
        }
        key
    }

    /// What a configuration says on top, so that it can be served here: where the TLS files are, and that
    /// rsync's clients have no certificates.
    fn preamble(&self, key: &Path) -> String {
        let at = |name: &str| self.dir.join(name).display().to_string();
        format!(
            "tls cert file = {}\ntls key file = {}\ntls ca file = {}\nallow any certificate = yes\n",
            at("server.pem"),
            key.display(),
            at("ca.pem"),
        )
    }
}

/// A running receiver, or the reason why there is none.
pub(crate) struct Daemon<'a> {
    site: &'a Site,
    process: Option<Process>,
}

impl<'a> Daemon<'a> {
    /// Starts it on the vector's configuration.
    pub(crate) fn start(site: &'a Site, lab: &Lab<'_>, vector: &Value) -> Self {
        let user = vector["daemon"]["run_as"].as_str().unwrap_or("root");
        let (uid, gid) = lab.account(user);
        let preamble = site.preamble(&site.key_for("server", user, uid));
        let text = lab.placed(&bytes(&vector["config"]));
        let (mark, text) = text.split_at(if text.starts_with(BOM) { BOM.len() } else { 0 });
        let config = lab.root.join("rsyncd.conf");
        fs::write(&config, [mark, preamble.as_bytes(), text].concat()).expect("configuration");
        let mut command = Command::new(&Binaries::locate().receiver);
        command
            .args(["run", "--port", &lab.port.to_string(), "--config"])
            .arg(&config)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/");
        if user != "root" {
            command.uid(uid).gid(gid);
        }
        for (name, value) in vector["daemon"]["env"].as_object().into_iter().flatten() {
            let value = lab.placed(&bytes(value));
            command.env(name, OsStr::from_bytes(&value));
        }
        let log = lab.root.with_extension("log");
        let process = Process::spawn("receiver", &mut command, &log).expect("start");
        let process = ready(&process).then_some(process);
        Self { site, process }
    }

    /// What the vector's client meets.
    pub(crate) fn ask(&self, lab: &Lab<'_>, vector: &Value) -> Met {
        if self.process.is_none() {
            return Met::new("config-error");
        }
        let client = &vector["client"];
        let holders = client["holders"].as_array().into_iter().flatten();
        let _held: Vec<_> = holders.map(|holder| self.hold(lab, holder)).collect();
        if client["password_file"].is_string() {
            return self.program(lab, vector);
        }
        in_turn(vector, || self.try_once(lab, vector))
    }

    /// The real `syncd-agent`, for what its own files decide.
    fn program(&self, lab: &Lab<'_>, vector: &Value) -> Met {
        let client = &vector["client"];
        let user = client["run_as"].as_str().unwrap_or("root");
        let (uid, gid) = lab.account(user);
        let source = lab.root.with_extension("source");
        let _ = fs::remove_dir_all(&source);
        fs::create_dir(&source).expect("a directory");
        let probe = source.join(Lab::probe(vector));
        fs::write(&probe, crate::content(vector)).expect("file");
        chmod(&probe, 0o644);
        chmod(&source, 0o755);
        // A mirror's own directory belongs to whom the module is served as.
        chown(lab.root.join("mod"), Some(lab.account("nobody").0), None).expect("owner");
        let name = client["user"].as_str().expect("a user");
        let module = client["module"].as_str().expect("a module");
        let password_file = lab.placed(&bytes(&client["password_file"]));
        let mut command = Command::new(&Binaries::locate().agent);
        command
            .arg("sync")
            .arg(&source)
            .arg(format!("{name}@127.0.0.1::{module}"))
            .args(["--no-delete", "--port", &lab.port.to_string(), "--ca"])
            .arg(self.site.dir.join("ca.pem"))
            .arg("--cert")
            .arg(self.site.dir.join("lab.pem"))
            .arg("--key")
            .arg(self.site.key_for("lab", user, uid))
            .arg("--password-file")
            .arg(OsStr::from_bytes(&password_file))
            .env_clear()
            .uid(uid)
            .gid(gid)
            .current_dir("/");
        if let Some(password) = client["password"].as_str() {
            command.env("RSYNC_PASSWORD", password);
        }
        let output = command.output().expect("the agent");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let found = SAID.iter().find(|(words, _)| said.contains(words));
        let outcome = match (found, output.status.code()) {
            (Some((_, outcome)), _) => outcome,
            (None, Some(0)) => "accepted",
            (None, _) => "failed",
        };
        Met::told(outcome, said)
    }

    pub(crate) fn log(&self, lab: &Lab<'_>) -> String {
        fs::read_to_string(lab.root.with_extension("log")).unwrap_or_default()
    }

    fn try_once(&self, lab: &Lab<'_>, vector: &Value) -> Met {
        let client = &vector["client"];
        let dry = options(vector).contains(&"--dry-run");
        let module = bytes(&client["module"]);
        let op = client["op"].as_str().expect("an operation");
        let lists =
            op == "list" || op == "handshake" && [&b""[..], b"#list"].contains(&&module[..]);
        let (purpose, module) = match op {
            _ if lists => (Purpose::ListModules, Vec::new()),
            "pull" => (Purpose::Compare, module),
            _ if dry => (Purpose::Compare, module),
            _ => (Purpose::Mirror, module),
        };
        let Some(sub_path) = sub_path(client) else {
            return Met::new("cannot-be-asked");
        };
        let hello = hello(purpose, module, sub_path, client["user"].as_str());
        let password = client["password"]
            .as_str()
            .map(|_| bytes(&client["password"]));
        let source = client["source"].as_str().expect("a source");
        let header = client["proxy_header"].as_str().map(unescaped);
        let header = header.unwrap_or_default();
        let Some(agent) = Agent::connect(self.site, source, lab.port, &header) else {
            return Met::new("dropped");
        };
        match agent.greet(hello, password.as_deref().unwrap_or_default()) {
            Greeted::Closed => Met::new("dropped"),
            Greeted::Refused(refused) => Met::told(outcome_of(&refused), refused.text),
            Greeted::Modules(modules) => Met {
                modules: Some(modules),
                ..Met::new("listed")
            },
            Greeted::Open(opened, writable) => {
                let ops = match op {
                    "push" if !dry => push(lab, vector),
                    "delete" if !dry => delete(lab),
                    _ => return opened.leave(Met::new("accepted")),
                };
                if writable {
                    opened.commit(&self.site.signer, ops)
                } else {
                    opened.leave(Met::new("read-only"))
                }
            }
        }
    }

    /// A client that asked for a module and stays; to compare only, since there is one writer.
    fn hold(&self, lab: &Lab<'_>, holder: &Value) -> Option<(Agent, Option<Frame>)> {
        let source = holder["source"].as_str().unwrap_or("127.0.0.1");
        let hello = hello(
            Purpose::Compare,
            bytes(&holder["module"]),
            WirePath::root(),
            None,
        );
        let mut agent = Agent::connect(self.site, source, lab.port, b"")?;
        let (_, frame) = agent::connect(agent.channel(), hello, None).expect("a hello");
        agent.write(&frame);
        let answer = agent.receive();
        Some((agent, answer))
    }
}

/// Asks again for a while where the place may still be taken by the client before.
pub(crate) fn in_turn(vector: &Value, ask: impl Fn() -> Met) -> Met {
    let until = Instant::now() + TURN;
    wait_for(2 * PATIENCE, "a turn", || {
        let met = ask();
        let taken = ["busy", "max-connections", "failed"].contains(&&met.outcome[..]);
        if taken && vector["expect"]["outcome"] != met.outcome && Instant::now() < until {
            return Err(met.outcome);
        }
        Ok(met)
    })
}

/// Whether it listens on both families; it ended if not.
fn ready(process: &Process) -> bool {
    let ended = wait_for(PATIENCE, "the receiver listens", || {
        let exit = process.exit();
        let log = process.log();
        let listening = log
            .lines()
            .filter(|line| line.contains("listening on"))
            .count();
        match (listening >= 2 || log.contains("listening on 127."), exit) {
            (true, _) => Ok(None),
            (false, Some(exit)) => Ok(Some(exit)),
            (false, None) => Err(log),
        }
    });
    match ended {
        None => true,
        Some(Exit::Code(78)) => false,
        Some(other) => panic!("the receiver ended with {other:?}: {}", process.log()),
    }
}

/// Where in the module; `None` if that cannot be expressed.
fn sub_path(client: &Value) -> Option<WirePath> {
    let Some(path) = client["path"].as_str() else {
        return Some(WirePath::root());
    };
    WirePath::from_relative(Path::new(path.trim_matches('/')))
}

fn hello(purpose: Purpose, module: Vec<u8>, sub_path: WirePath, user: Option<&str>) -> Hello {
    let user = user.map(|user| user.chars().map(|character| character as u8).collect());
    Hello {
        version_min: 1,
        version_max: 1,
        features: 0,
        purpose,
        module,
        sub_path,
        attributes: syncd_proto::attributes::Attributes::ALL,
        user,
        nonce: [7; 32],
        agent: "compat".to_owned(),
    }
}

fn outcome_of(refused: &Refused) -> &'static str {
    let text = &refused.text[..];
    match refused.code {
        RejectCode::UnknownModule => "unknown-module",
        RejectCode::HostDenied => "denied-host",
        RejectCode::TooManyConnections => "max-connections",
        RejectCode::AuthFailed => "auth-failed",
        RejectCode::ReadOnly => "read-only",
        RejectCode::Busy => "busy",
        RejectCode::Permission => "permission-denied",
        _ if text.starts_with("invalid uid") => "bad-uid",
        _ if text.starts_with("invalid gid") || text == "getpwuid failed" => "bad-gid",
        _ => match text {
            "no path setting." => "no-path",
            "module is write only" => "write-only",
            "chroot failed" => "chroot-failed",
            "chdir failed" => "chdir-failed",
            "setuid failed" => "setuid-failed",
            "setgid failed" | "setgroups failed" => "setgid-failed",
            "failed to open lock file" => "lock-file-error",
            "daemon security issue -- contact admin" => "munge-dir-exists",
            _ if text.contains("exec returned failure") || text.contains("exec failed") => {
                "hook-failed"
            }
            _ if text.contains("Permission denied") => "permission-denied",
            _ if text.contains("Too many levels of symbolic links") => "symlink-refused",
            _ => "refused",
        },
    }
}

/// The operations that bring what the client pushed.
fn push(lab: &Lab<'_>, vector: &Value) -> (Vec<Op>, Vec<u8>) {
    let client = &vector["client"];
    let probe = path(&[&Lab::probe(vector)]);
    let meta = |mode: &Value, usual| sent(lab, vector, octal(mode).unwrap_or(usual));
    let content = crate::content(vector);
    let put = |path| Op::Put {
        path,
        meta: meta(&client["file_mode"], 0o644),
        content: Content::Inline {
            len: u32::try_from(content.len()).expect("short"),
            digest: Digest::of(&content),
        },
    };
    if !client["dir_mode"].is_null() {
        let dir = Op::Mkdir {
            path: probe,
            meta: meta(&client["dir_mode"], 0o755),
        };
        return (
            vec![dir, put(path(&[&Lab::probe(vector), INSIDE]))],
            content,
        );
    }
    let kind = client["kind"].as_str().unwrap_or("file");
    let special = |path, kind, rdev| Op::Special {
        path,
        meta: meta(&client["file_mode"], 0o644),
        kind,
        rdev,
    };
    let op = match kind.split_once(':') {
        None if kind == "fifo" => special(probe, Kind::Fifo, (0, 0)),
        None => return (vec![put(probe)], content),
        Some(("symlink", target)) => Op::Symlink {
            path: probe,
            meta: meta(&Value::Null, 0o777),
            target: target.as_bytes().to_vec(),
        },
        Some((_, numbers)) => {
            let (major, minor) = numbers.split_once(',').expect("two numbers");
            let rdev = (major.parse().expect("major"), minor.parse().expect("minor"));
            special(probe, Kind::CharDevice, rdev)
        }
    };
    (vec![op], Vec::new())
}

/// Metadata as the client would have sent it: without `-p` a new file gets what the daemon's umask leaves.
fn sent(lab: &Lab<'_>, vector: &Value, mode: u32) -> Meta {
    let options = options(vector);
    let has = |short: &str| options.contains(&short) || options.contains(&"-a");
    let mode = if has("-p") { mode } else { mode & !UMASK };
    let owner = vector["client"]["file_owner"]
        .as_str()
        .filter(|_| has("-o"));
    let (uid, gid) = owner.map_or((0, 0), |owner| lab.account(owner));
    let gid = if has("-g") { gid } else { 0 };
    Meta {
        mode: u16::try_from(mode).expect("a mode"),
        uid,
        gid,
        mtime: Mtime::new(1_700_000_000, 0).expect("a time"),
        xattrs: None,
    }
}

fn delete(lab: &Lab<'_>) -> (Vec<Op>, Vec<u8>) {
    let names = lab.names_in_module().into_iter();
    let ops = names.map(|name| Op::Remove {
        path: path(&[&name]),
        recursive: true,
    });
    (ops.collect(), Vec::new())
}

fn path(names: &[&str]) -> WirePath {
    let names = names
        .iter()
        .map(|name| Name::new(name.as_bytes()).expect("a name"));
    WirePath::from_names(names.collect()).expect("a path")
}

/// The agent's end of a connection.
struct Agent {
    stream: StreamOwned<ClientConnection, TcpStream>,
    deframer: Deframer,
    certificate: CertificateDer<'static>,
}

enum Greeted {
    Closed,
    Refused(Refused),
    Modules(Vec<(Vec<u8>, Vec<u8>)>),
    Open(Box<Opened>, bool),
}

impl Agent {
    /// `None` if there is no connection. `header` goes ahead of everything.
    fn connect(site: &Site, source: &str, port: u16, header: &[u8]) -> Option<Self> {
        let mut socket = socket(source, port).ok()?;
        socket.write_all(header).ok()?;
        socket.set_nodelay(true).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let tls = ClientConnection::new(Arc::clone(&site.client), name).expect("TLS");
        let mut stream = StreamOwned::new(tls, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).ok()?;
        }
        Some(Self {
            stream,
            deframer: Deframer::new(FrameLimits::SESSION, 0),
            certificate: site.certificate.clone(),
        })
    }

    fn channel(&self) -> Channel {
        let connection = &self.stream.conn;
        let session = connection.export_keying_material([0; 32], EXPORTER_LABEL, None);
        let theirs = connection.peer_certificates().expect("its certificate")[0].clone();
        Channel {
            session: session.expect("an exporter"),
            agent_key: key_hash(&self.certificate).expect("a key"),
            receiver_key: key_hash(&theirs).expect("a key"),
        }
    }

    fn greet(mut self, hello: Hello, password: &[u8]) -> Greeted {
        let user = hello.user.clone().unwrap_or_default();
        let key = PasswordKey::derive(password, &user, &hello.module);
        // A name above the protocol's limit cannot be sent.
        let Ok((state, frame)) = agent::connect(self.channel(), hello, Some(key)) else {
            return Greeted::Closed;
        };
        self.write(&frame);
        let Some(frame) = self.receive() else {
            return Greeted::Closed;
        };
        let reply = match state.handle(&frame).expect("a reply") {
            Reply::Answer(state, answer) => {
                self.write(&answer);
                match self.receive() {
                    Some(frame) => state.handle(&frame).expect("a reply"),
                    None => return Greeted::Closed,
                }
            }
            reply => reply,
        };
        match reply {
            Reply::Open(session, welcome) => {
                let opened = Opened {
                    agent: self,
                    session: *session,
                };
                Greeted::Open(Box::new(opened), welcome.writable)
            }
            Reply::Refused(refused) => Greeted::Refused(refused),
            Reply::Modules(list) => {
                let lines = list.modules.into_iter();
                Greeted::Modules(lines.map(|line| (line.name, line.comment)).collect())
            }
            Reply::Answer(..) | Reply::PasswordNeeded => panic!("a second challenge"),
        }
    }

    fn write(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.write_to(&mut bytes);
        // A connection that is gone shows itself when reading.
        let _ = self.stream.write_all(&bytes);
        let _ = self.stream.flush();
    }

    fn receive(&mut self) -> Option<Frame> {
        let mut bytes = [0; 4_096];
        loop {
            if let Some(frame) = self.deframer.next_frame().expect("a frame") {
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

/// An open session.
struct Opened {
    agent: Agent,
    session: AgentSession,
}

impl Opened {
    fn commit(mut self, signer: &CommitSigner, (ops, inline): (Vec<Op>, Vec<u8>)) -> Met {
        let made = self.session.commit(signer, ops, inline);
        let (number, frame) = made.expect("a commit");
        self.agent.write(&frame);
        let mut met = Met::new("accepted");
        while self.session.durable() < number {
            let Some(frame) = self.agent.receive() else {
                return Met::told("dropped", met.message);
            };
            match self.session.handle(&frame).expect("an answer") {
                ReceiverMessage::Reject(reject) if reject.code == RejectCode::DeleteHeld => {
                    met = Met::told("option-refused", reject.text);
                }
                ReceiverMessage::Reject(reject)
                    if reject.text.starts_with("daemon refused to receive") =>
                {
                    met = Met::told("excluded", reject.text);
                }
                ReceiverMessage::Reject(reject) => {
                    met = Met::told(
                        "transfer-failed",
                        format!("{}: {}", reject.code, reject.text),
                    );
                }
                ReceiverMessage::Refused(refused) => {
                    return Met::told(outcome_of(&refused), refused.text);
                }
                _ => {}
            }
        }
        self.leave(met)
    }

    /// Says good-bye and waits for the end, so that the next session finds the place free.
    fn leave(mut self, met: Met) -> Met {
        let bye = AgentMessage::Bye(Bye {
            text: "done".to_owned(),
        });
        if let Ok(frame) = self.session.frame(&bye, Vec::new()) {
            self.agent.write(&frame);
            while self.agent.receive().is_some() {}
        }
        met
    }
}

/// Connects from this address to the same family's loopback.
pub(crate) fn socket(source: &str, port: u16) -> std::io::Result<TcpStream> {
    let (address, interface) = source.split_once('%').unwrap_or((source, ""));
    let own: IpAddr = address.parse().expect("an address");
    let scope = if interface.is_empty() { 0 } else { 1 };
    let (from, to) = match own {
        IpAddr::V4(_) => (
            SocketAddr::new(own, 0),
            SocketAddr::from(([127, 0, 0, 1], port)),
        ),
        IpAddr::V6(own) => {
            let to = if scope == 0 {
                "::1".parse().expect("an address")
            } else {
                own
            };
            (
                SocketAddrV6::new(own, 0, 0, scope).into(),
                SocketAddrV6::new(to, port, 0, scope).into(),
            )
        }
    };
    let family = match own {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &from)?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}
