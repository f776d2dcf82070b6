//! A worker process on a module in a temporary directory, and an agent that only talks.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use certs_dev::{Authority, Issued};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use syncd_proto::attributes::Attributes;
use syncd_proto::chain::CommitSigner;
use syncd_proto::digest::Digest;
use syncd_proto::exchange::agent::{self, AgentSession, Channel, Reply};
use syncd_proto::frame::{Deframer, Frame, FrameLimits};
use syncd_proto::message::{
    AgentMessage, Durability, Hello, Purpose, ReceiverMessage, Refused, Rejected, Welcome,
};
use syncd_proto::meta::{Meta, Mtime};
use syncd_proto::op::{IdName, Op};
use syncd_proto::path::WirePath;
use syncd_proto::reject::RejectCode;
use syncd_recv::net::relay_io;
use syncd_recv::relay::{Chroot, FromWorker, ModuleSetup, Rules, SessionOpen, ToWorker};
use tempfile::TempDir;

/// Longest wait for anything; a test that reaches it has failed.
const PATIENCE: Duration = Duration::from_secs(120);

const SESSION: [u8; 32] = [9; 32];

pub(crate) fn path(text: &str) -> WirePath {
    WirePath::from_relative(Path::new(text)).unwrap()
}

pub(crate) fn meta(mode: u16) -> Meta {
    Meta {
        mode,
        uid: 12,
        gid: 34,
        mtime: Mtime::new(1_000_000, 123_456_789).unwrap(),
        xattrs: None,
    }
}

pub(crate) fn dir_meta() -> Meta {
    meta(0o755)
}

/// A worker and its module.
pub(crate) struct Bench {
    module: PathBuf,
    issued: Issued,
    control: UnixStream,
    child: Mutex<Child>,
    _certificates: TempDir,
    _mount: Option<Mount>,
    _home: Option<TempDir>,
}

impl Bench {
    /// Starts a worker; `change` adjusts its setup.
    pub(crate) fn start(change: impl FnOnce(&mut ModuleSetup)) -> Self {
        let home = TempDir::new().unwrap();
        let mut bench = Self::launch(home.path().to_owned(), change);
        bench._home = Some(home);
        let ready = bench.hear();
        assert_eq!(ready, FromWorker::Ready);
        bench
    }

    /// The answer of a worker that does not become ready.
    pub(crate) fn failing(change: impl FnOnce(&mut ModuleSetup)) -> FromWorker {
        let home = TempDir::new().unwrap();
        Self::launch(home.path().to_owned(), change).hear()
    }

    /// A worker on a small file system of its own; `None`, with a word, where none can be mounted.
    pub(crate) fn on_tmpfs(options: &str, change: impl FnOnce(&mut ModuleSetup)) -> Option<Self> {
        let home = TempDir::new().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(home.path())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            let required = std::env::var("SYNCD_TESTS_REQUIRE").is_ok_and(|what| what == "all");
            assert!(!required, "cannot mount a tmpfs");
            eprintln!("skipped: cannot mount a tmpfs");
            return None;
        }
        let mount = Mount(home.path().to_owned());
        let mut bench = Self::launch(home.path().to_owned(), change);
        bench._mount = Some(mount);
        bench._home = Some(home);
        assert_eq!(bench.hear(), FromWorker::Ready);
        Some(bench)
    }

    fn launch(module: PathBuf, change: impl FnOnce(&mut ModuleSetup)) -> Self {
        let certificates = TempDir::new().unwrap();
        let authority = Authority::create(certificates.path()).unwrap();
        let issued = authority.issue_agent("web01").unwrap();
        let (control, theirs) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_syncd-recv"))
            .arg("worker")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let mut setup = ModuleSetup {
            name: b"m".to_vec(),
            path: module.to_str().unwrap().as_bytes().to_vec(),
            run_as: None,
            chroot: Chroot::Off,
            durability: Durability::Batch,
            shared_writers: false,
            keep_dirlinks: false,
            devices: true,
            numeric_ids: true,
            munge_symlinks: Some(false),
            rules: Rules::default(),
            log: Default::default(),
            incoming_chmod: None,
            timeout_s: 0,
        };
        change(&mut setup);
        if let Some(run_as) = &setup.run_as {
            chown(&module, Some(run_as.uid), Some(run_as.gid)).unwrap();
        }
        let bench = Self {
            module,
            issued,
            control,
            child: Mutex::new(child),
            _certificates: certificates,
            _home: None,
            _mount: None,
        };
        bench.send(&ToWorker::Setup(setup));
        bench
    }

    pub(crate) fn path(&self) -> &Path {
        &self.module
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.module.join(name)
    }

    pub(crate) fn send(&self, message: &ToWorker) {
        relay_io::send(&self.control, message, None).unwrap();
    }

    /// A session of number 1 that may write.
    pub(crate) fn open(&self) -> Agent {
        self.open_as(1, |_| {}).unwrap()
    }

    pub(crate) fn open_as(
        &self,
        id: u64,
        change: impl FnOnce(&mut SessionOpen),
    ) -> Result<Agent, Refused> {
        let certificate = CertificateDer::from_pem_slice(self.issued.cert_pem.as_bytes()).unwrap();
        let mut open = SessionOpen {
            id,
            label: format!("session {id}"),
            purpose: Purpose::Mirror,
            sub_path: WirePath::root(),
            features: syncd_proto::message::FEATURE_ZSTD,
            attributes: Attributes::ALL,
            writable: true,
            next_out: 0,
            next_in: 1,
            session: SESSION,
            proof: None,
            log: None,
            certificate: certificate.to_vec(),
        };
        change(&mut open);
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let open = ToWorker::Open(open);
        relay_io::send(&self.control, &open, Some(theirs.as_fd())).unwrap();
        drop(theirs);
        Agent::greet(ours, &self.issued)
    }

    /// Waits until a session has ended; bytes and operations.
    pub(crate) fn ended(&self) -> (u64, u64) {
        loop {
            if let FromWorker::Ended {
                content_bytes, ops, ..
            } = self.hear()
            {
                return (content_bytes, ops);
            }
        }
    }

    /// Closes a session and waits for its end.
    pub(crate) fn close(&self, id: u64) -> (u64, u64) {
        let text = "closed by the test".to_owned();
        self.send(&ToWorker::Close { id, text });
        self.ended()
    }

    /// Nothing temporary outside of the staging area, and nothing in it that will not go by itself.
    pub(crate) fn stays_clean(&self) {
        let mut pending = vec![self.module.clone()];
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let name = entry.file_name();
                if name == ".syncd" {
                    continue;
                }
                let name = name.to_str().unwrap();
                let strange = name.contains('.') || name.len() > 8;
                assert!(!strange, "what is {name}?");
                if entry.file_type().unwrap().is_dir() {
                    pending.push(entry.path());
                }
            }
        }
        let until = Instant::now() + PATIENCE;
        for place in ["stage", "trash", "partial"] {
            let at = self.at(".syncd").join(place);
            while std::fs::read_dir(&at).unwrap().count() > 0 {
                assert!(Instant::now() < until, "{place} is not emptied");
                std::thread::yield_now();
            }
        }
        let mode = std::fs::metadata(self.at(".syncd")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o700);
    }

    /// Limits the worker.
    pub(crate) fn limit(&self, what: Resource, limit: Rlimit) {
        let pid = Pid::from_child(&self.child.lock().unwrap());
        rustix::process::prlimit(Some(pid), what, limit).unwrap();
    }

    /// Memory that the worker has for itself, in KiB.
    pub(crate) fn own_kib(&self) -> u64 {
        self.status("RssAnon:").parse().unwrap()
    }

    /// The first word of a line of its `/proc/PID/status`.
    fn status(&self, name: &str) -> String {
        let pid = self.child.lock().unwrap().id();
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let word = line.and_then(|line| line.split_whitespace().next());
        word.unwrap().to_owned()
    }

    /// Stops the worker for a moment, as a debugger or the system does.
    pub(crate) fn interrupt(&self) {
        let pid = Pid::from_child(&self.child.lock().unwrap());
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        while self.status("State:") != "T" {
            std::thread::yield_now();
        }
        rustix::process::kill_process(pid, Signal::CONT).unwrap();
    }

    /// Kills the worker and waits until it is gone.
    pub(crate) fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn exit(&self) -> ExitStatus {
        self.child.lock().unwrap().wait().unwrap()
    }

    /// Plays the front that knows these numbers, for the next question about names; gives that question.
    pub(crate) fn answer_names(&self, numbers: Vec<Option<u32>>) -> Vec<IdName> {
        loop {
            if let FromWorker::Names { ticket, names } = self.hear() {
                self.send(&ToWorker::Numbers { ticket, numbers });
                return names;
            }
        }
    }

    fn hear(&self) -> FromWorker {
        let heard = relay_io::receive::<FromWorker>(&self.control).unwrap();
        heard.expect("the worker is there").0
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
    }
}

struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The agent's end of a session.
pub(crate) struct Agent {
    pub(crate) welcome: Welcome,
    pub(crate) session: AgentSession,
    stream: UnixStream,
    deframer: Deframer,
    signer: CommitSigner,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Agent({:?})", self.welcome)
    }
}

impl Agent {
    fn greet(mut stream: UnixStream, issued: &Issued) -> Result<Self, Refused> {
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
        let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        let channel = Channel {
            session: SESSION,
            agent_key: Digest::empty(),
            receiver_key: Digest::empty(),
        };
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            features: 0,
            purpose: Purpose::Mirror,
            module: b"m".to_vec(),
            sub_path: WirePath::root(),
            attributes: Attributes::ALL,
            user: None,
            nonce: [0; 32],
            agent: "test".to_owned(),
        };
        let (state, _) = agent::connect(channel, hello, None).unwrap();
        let mut deframer = Deframer::new(FrameLimits::SESSION, 0);
        let frame = next_frame(&mut stream, &mut deframer).expect("a first frame");
        match state.handle(&frame).unwrap() {
            Reply::Open(session, welcome) => Ok(Self {
                welcome: *welcome,
                session: *session,
                stream,
                deframer,
                signer: CommitSigner::new(&*key).unwrap(),
            }),
            Reply::Refused(refused) => Err(refused),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn say(&mut self, message: impl Into<AgentMessage>) {
        self.say_with(message, Vec::new());
    }

    pub(crate) fn say_with(&mut self, message: impl Into<AgentMessage>, payload: Vec<u8>) {
        let frame = self.session.frame(&message.into(), payload).unwrap();
        self.write(&frame);
    }

    /// Sends a commit; its number.
    pub(crate) fn send_commit(&mut self, ops: Vec<(Op, Vec<u8>)>) -> u64 {
        let (ops, inline): (Vec<Op>, Vec<Vec<u8>>) = ops.into_iter().unzip();
        let inline = inline.concat();
        let (seq, frame) = self.session.commit(&self.signer, ops, inline).unwrap();
        self.write(&frame);
        seq
    }

    /// Sends a commit whose signature is that of something else.
    pub(crate) fn forge(&mut self, ops: Vec<(Op, Vec<u8>)>) {
        let (ops, inline): (Vec<Op>, Vec<Vec<u8>>) = ops.into_iter().unzip();
        let commit = self.session.commit(&self.signer, ops, inline.concat());
        let (_, mut frame) = commit.unwrap();
        frame.payload[10] ^= 1;
        self.write(&frame);
    }

    /// Sends a commit and waits until it is durable; what was refused of it.
    pub(crate) fn commit(&mut self, ops: Vec<(Op, Vec<u8>)>) -> Vec<(u32, RejectCode)> {
        let seq = self.send_commit(ops);
        self.wait_durable(seq)
    }

    pub(crate) fn wait_durable(&mut self, seq: u64) -> Vec<(u32, RejectCode)> {
        let mut rejects = Vec::new();
        while self.session.durable() < seq {
            match self.receive() {
                Some(ReceiverMessage::Reject(reject)) => match reject.what {
                    Rejected::Op { index, .. } => rejects.push((index, reject.code)),
                    _ => panic!("{reject:?}"),
                },
                Some(_) => {}
                None => panic!("closed before {seq} was durable"),
            }
        }
        rejects
    }

    /// The first message that `pick` takes; others are passed over.
    pub(crate) fn find<T>(&mut self, pick: impl Fn(&ReceiverMessage) -> Option<T>) -> T {
        loop {
            let message = self.receive().expect("closed before the answer");
            if let Some(found) = pick(&message) {
                return found;
            }
        }
    }

    pub(crate) fn receive(&mut self) -> Option<ReceiverMessage> {
        let frame = next_frame(&mut self.stream, &mut self.deframer)?;
        Some(self.session.handle(&frame).unwrap())
    }

    fn write(&mut self, frame: &Frame) {
        let mut bytes = Vec::new();
        frame.write_to(&mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }
}

fn next_frame(stream: &mut UnixStream, deframer: &mut Deframer) -> Option<Frame> {
    let mut bytes = [0; 64 << 10];
    loop {
        if let Some(frame) = deframer.next_frame().unwrap() {
            return Some(frame);
        }
        match stream.read(&mut bytes) {
            Ok(0) => return None,
            Ok(length) => deframer.feed(&bytes[..length]),
            // A process that was stopped goes on; here the system does not do that by itself, since there is a time limit.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("no answer within {PATIENCE:?}: {error}"),
        }
    }
}
