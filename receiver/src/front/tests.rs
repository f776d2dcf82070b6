//! Whole sessions through TLS and the front, with a worker that is this test binary, started to run
//! [`acts_as_a_worker`] only.

#[path = "../../tests/front/common/agent.rs"]
#[expect(
    dead_code,
    reason = "shared with tests/front.rs, which needs another part of it"
)]
mod agent;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;

use syncd_proto::chain::CommitVerifier;
use syncd_proto::exchange::Counters;
use syncd_proto::exchange::receiver::{Incoming, ReceiverSession};
use syncd_proto::frame::{Deframer, FrameLimits};
use syncd_proto::message::{
    AgentMessage, Draining, Durability, Hello, Ping, Pong, ReceiverMessage, Welcome,
};
use syncd_proto::meta::{Compare, Times};
use syncd_proto::reject::RejectCode;
use tokio::task::spawn_blocking;

use self::agent::{Agent, Answer, Opened, Site, hello};
use super::*;
use crate::net::relay_io;
use crate::relay::{FromWorker, SessionOpen, ToWorker};

/// Welcomes every session, answers pings, and ends it when told to.
#[test]
fn acts_as_a_worker() {
    let stdin = std::io::stdin();
    let is_worker = std::env::args().any(|argument| argument == "--exact")
        && std::env::var_os("PATH").is_none()
        && rustix::net::sockopt::socket_type(stdin.as_fd()).is_ok();
    if !is_worker {
        return;
    }
    let Ok(Some((ToWorker::Setup(_), _))) = relay_io::receive(stdin.as_fd()) else {
        return;
    };
    relay_io::send(stdin.as_fd(), &FromWorker::Ready, None).unwrap();
    let (mut open, mut threads) = (Vec::new(), Vec::new());
    while let Ok(Some((message, descriptor))) = relay_io::receive(stdin.as_fd()) {
        match message {
            ToWorker::Setup(_) | ToWorker::Expect(_) | ToWorker::Numbers { .. } => {}
            ToWorker::Open(session) => {
                let stream = StdStream::from(descriptor.unwrap());
                let (id, copy) = (session.id, stream.try_clone().unwrap());
                let (tell, told) = std::sync::mpsc::sync_channel(1);
                open.push((id, tell, copy));
                threads.push(std::thread::spawn(move || {
                    serve(&session, &stream, &told);
                }));
            }
            ToWorker::Close { id, text } => {
                for (_, tell, stream) in open.iter().filter(|(other, ..)| *other == id) {
                    let _ = tell.try_send(text.clone());
                    let _ = stream.shutdown(std::net::Shutdown::Read);
                }
            }
            ToWorker::Drain { text } => {
                for (_, tell, stream) in &open {
                    let _ = tell.try_send(text.clone());
                    let _ = stream.shutdown(std::net::Shutdown::Read);
                }
                break;
            }
        }
    }
    for serving in threads {
        serving.join().unwrap();
    }
}

fn serve(open: &SessionOpen, stream: &StdStream, told: &std::sync::mpsc::Receiver<String>) {
    use std::io::{Read, Write};
    let verifier = CommitVerifier::new(open.certificate.clone().into()).unwrap();
    let counters = Counters {
        next_out: open.next_out,
        next_in: open.next_in,
    };
    let mut session = ReceiverSession::resume(counters, open.session, b"m".to_vec(), verifier);
    let say = |session: &mut ReceiverSession, message: ReceiverMessage| {
        let mut bytes = Vec::new();
        session
            .frame(&message, Vec::new())
            .unwrap()
            .write_to(&mut bytes);
        let mut stream = stream;
        let _ = stream.write_all(&bytes);
    };
    say(&mut session, welcome(open).into());
    let mut deframer = Deframer::new(FrameLimits::SESSION, open.next_in);
    let mut bytes = [0; 4_096];
    let mut stream = stream;
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        deframer.feed(&bytes[..length]);
        while let Ok(Some(frame)) = deframer.next_frame() {
            if let Ok(Incoming::Message(AgentMessage::Ping(ping))) = session.handle(frame) {
                say(&mut session, Pong { token: ping.token }.into());
            }
        }
    }
    if let Ok(text) = told.try_recv() {
        say(&mut session, Draining { text }.into());
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

fn welcome(open: &SessionOpen) -> Welcome {
    Welcome {
        version: 1,
        features: 0,
        receiver: open.label.clone(),
        proof: open.proof,
        writable: open.writable,
        compare: Compare {
            owner: false,
            mode_mask: 0o7777,
            mtime: Times::Nanos,
            xattrs: syncd_proto::attributes::Attributes::NONE,
            specials: false,
            devices: false,
            links: false,
        },
        maps_names: false,
        durability: Durability::Batch,
        window_bytes: 0,
        window_commits: 0,
        instance: [0; 16],
        leftovers: Vec::new(),
    }
}

/// A front in this process, on a port of its own.
struct Running {
    front: Arc<Front>,
    port: u16,
    all_gone: mpsc::Receiver<()>,
    accepting: JoinSet<()>,
}

impl Running {
    async fn start(config: &Path) -> Self {
        let name = "front::tests::acts_as_a_worker";
        let arguments = [name, "--exact", "--nocapture"].map(str::to_owned).to_vec();
        let generation = reload::load(config.as_os_str()).unwrap();
        let front = Arc::new(Front::new(generation, arguments));
        let listener = listen::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (alive, all_gone) = mpsc::channel(1);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(
            listener,
            Budget::default(),
            Arc::clone(&front),
            alive,
        ));
        Self {
            front,
            port,
            all_gone,
            accepting,
        }
    }

    async fn drain(mut self) {
        self.accepting.shutdown().await;
        drain(&self.front, self.all_gone).await;
        assert!(self.front.sessions.live().is_empty());
    }
}

fn options(site: &Site) -> Options {
    Options {
        control: None,
        config: site.config().into_os_string(),
        port: None,
        address: None,
        worker_arguments: Vec::new(),
    }
}

/// The module `m`, writable for all certificates, and what is given.
fn configure(site: &Site, lines: &str) {
    let path = site.module("m");
    site.configure(&format!("[m]\npath = {path}\nread only = no\n{lines}\n"));
}

async fn ask(site: &Arc<Site>, port: u16, hello: Hello, password: Option<&'static str>) -> Answer {
    let site = Arc::clone(site);
    let asked = spawn_blocking(move || Agent::connect(&site, port).unwrap().ask(hello, password));
    asked.await.unwrap()
}

async fn opened(site: &Arc<Site>, port: u16) -> Opened {
    match ask(site, port, hello("m"), None).await {
        Answer::Open(opened) => *opened,
        other => panic!("not open: {other:?}"),
    }
}

async fn next(mut opened: Opened) -> (Opened, Option<ReceiverMessage>) {
    let received = spawn_blocking(move || {
        let frame = opened.agent.receive();
        let message = frame.map(|frame| ReceiverMessage::from_frame(&frame).unwrap());
        (opened, message)
    });
    received.await.unwrap()
}

async fn ends_with(opened: Opened, text: &str) {
    let (opened, message) = next(opened).await;
    let Some(ReceiverMessage::Draining(draining)) = message else {
        panic!("no reason given: {message:?}");
    };
    assert!(draining.text.contains(text), "{}", draining.text);
    assert!(next(opened).await.1.is_none(), "not closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_opens_talks_and_is_drained() {
    let site = Arc::new(Site::new());
    configure(&site, "client certs = spiffe://syncd.test/agent/web*");
    let running = Running::start(&site.config()).await;
    let mut opened = opened(&site, running.port).await;
    assert!(opened.welcome.writable);
    assert_eq!(
        opened.welcome.receiver,
        "spiffe://syncd.test/agent/web01 from 127.0.0.1"
    );
    for token in 0..3 {
        let ping = opened
            .session
            .frame(&Ping { token }.into(), Vec::new())
            .unwrap();
        opened.agent.write(&ping);
        let answer;
        (opened, answer) = next(opened).await;
        assert_eq!(answer, Some(Pong { token }.into()));
    }
    let ended = tokio::spawn(ends_with(opened, DRAIN_TEXT));
    running.drain().await;
    ended.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_opens_and_the_receiver_proves_that_it_knows_it() {
    let site = Arc::new(Site::new());
    let secrets = site.secrets("alice:right\n");
    configure(
        &site,
        &format!("auth users = alice:ro\nsecrets file = {secrets}"),
    );
    let running = Running::start(&site.config()).await;
    let compare = Hello {
        user: Some(b"alice".to_vec()),
        purpose: syncd_proto::message::Purpose::Compare,
        ..hello("m")
    };
    let answer = ask(&site, running.port, compare, Some("right")).await;
    // `ask` fails if the receiver's own proof is missing or wrong.
    let Answer::Open(opened) = answer else {
        panic!("not open: {answer:?}");
    };
    assert!(!opened.welcome.writable);
    drop(opened);
    running.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_until_they_end() {
    let site = Arc::new(Site::new());
    let lock_file = site.config().with_file_name("rsyncd.lock");
    let lines = format!(
        "allow any certificate = yes\nmax connections = 1\nlock file = {}",
        lock_file.display()
    );
    configure(&site, &lines);
    let running = Running::start(&site.config()).await;
    let first = opened(&site, running.port).await;
    let Answer::Refused(refused) = ask(&site, running.port, hello("m"), None).await else {
        panic!("two at once");
    };
    assert_eq!(refused.code, RejectCode::TooManyConnections);
    drop(first);
    // The place is free once the receiver has seen the end.
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    while !running.front.sessions.live().is_empty() {
        assert!(tokio::time::Instant::now() < until);
        tokio::task::yield_now().await;
    }
    loop {
        match ask(&site, running.port, hello("m"), None).await {
            Answer::Open(_) => break,
            answer => assert!(tokio::time::Instant::now() < until, "{answer:?}"),
        }
    }
    running.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_ends_the_sessions_it_would_not_admit_and_no_others() {
    let site = Arc::new(Site::new());
    configure(&site, "allow any certificate = yes");
    let running = Running::start(&site.config()).await;
    let staying = opened(&site, running.port).await;
    configure(&site, "allow any certificate = yes\ncomment = changed");
    reload(&running.front, &options(&site)).await;
    assert_eq!(running.front.sessions.live().len(), 1);
    configure(&site, "client certs = db01");
    reload(&running.front, &options(&site)).await;
    ends_with(staying, "certificate not allowed on module m").await;

    configure(&site, "allow any certificate = yes");
    reload(&running.front, &options(&site)).await;
    for (lines, text) in [
        (
            "hosts deny = *\nallow any certificate = yes",
            "access denied to m",
        ),
        ("read only = yes", "module is read only"),
        (
            "auth users = alice\nsecrets file = /nonexistent",
            "auth failed on module m",
        ),
    ] {
        let session = opened(&site, running.port).await;
        configure(&site, lines);
        reload(&running.front, &options(&site)).await;
        ends_with(session, text).await;
        configure(&site, "allow any certificate = yes");
        reload(&running.front, &options(&site)).await;
    }
    let session = opened(&site, running.port).await;
    site.configure("[other]\npath = /\n");
    reload(&running.front, &options(&site)).await;
    ends_with(session, "Unknown module 'm'").await;
    running.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_frame_in_a_session_ends_it_with_its_reason() {
    let site = Arc::new(Site::new());
    configure(&site, "allow any certificate = yes");
    let running = Running::start(&site.config()).await;
    let mut opened = opened(&site, running.port).await;
    let mut ping = opened
        .session
        .frame(&Ping { token: 1 }.into(), Vec::new())
        .unwrap();
    ping.seq += 1;
    opened.agent.write(&ping);
    ends_with(opened, "protocol error: frame 2 came where 1 was due").await;
    running.drain().await;
}
