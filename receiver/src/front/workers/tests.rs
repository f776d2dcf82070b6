//! The pool with a worker that is this test binary, started to run [`acts_as_a_worker`] only.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdStream;

use syncd_proto::message::{Durability, Purpose};
use syncd_proto::path::WirePath;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader as AsyncBufReader};

use super::*;
use crate::relay::{Chroot, Rules};

/// Serves sessions that answer each line with the worker's process id and the line; `die` kills it.
#[test]
fn acts_as_a_worker() {
    let stdin = std::io::stdin();
    let is_worker = std::env::args().any(|argument| argument == "--exact")
        && std::env::var_os("PATH").is_none()
        && rustix::net::sockopt::socket_type(stdin.as_fd()).is_ok();
    if !is_worker {
        return;
    }
    let Ok(Some((ToWorker::Setup(setup), _))) = relay_io::receive(stdin.as_fd()) else {
        return;
    };
    if setup.path == b"/missing" {
        let failed = FromWorker::Failed {
            text: "chdir failed".to_owned(),
            log: "chdir /missing: not there".to_owned(),
        };
        relay_io::send(stdin.as_fd(), &failed, None).unwrap();
        return;
    }
    relay_io::send(stdin.as_fd(), &FromWorker::Ready, None).unwrap();
    let mut sessions = HashMap::new();
    while let Ok(Some((message, descriptor))) = relay_io::receive(stdin.as_fd()) {
        match message {
            ToWorker::Setup(_) | ToWorker::Expect(_) | ToWorker::Numbers { .. } => {}
            ToWorker::Open(open) => {
                let stream = StdStream::from(descriptor.unwrap());
                sessions.insert(open.id, stream.try_clone().unwrap());
                std::thread::spawn(move || echo(&stream));
            }
            ToWorker::Close { id, text } => end(&sessions[&id], &text),
            ToWorker::Drain { text } => {
                sessions.values().for_each(|session| end(session, &text));
                return;
            }
        }
    }
}

fn echo(stream: &StdStream) {
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if line == "die" {
            std::process::abort();
        }
        let answer = format!("{} {line}\n", std::process::id());
        let mut stream = stream;
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn end(mut stream: &StdStream, text: &str) {
    let _ = stream.write_all(format!("end: {text}\n").as_bytes());
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

fn pool() -> Pool {
    let name = "front::workers::tests::acts_as_a_worker";
    Pool::new([name, "--exact", "--nocapture"].map(str::to_owned).to_vec())
}

fn setup(path: &str) -> ModuleSetup {
    ModuleSetup {
        name: b"m".to_vec(),
        path: path.as_bytes().to_vec(),
        run_as: None,
        chroot: Chroot::Off,
        durability: Durability::Batch,
        shared_writers: false,
        keep_dirlinks: false,
        devices: false,
        numeric_ids: true,
        munge_symlinks: Some(false),
        rules: Rules::default(),
        log: Default::default(),
        incoming_chmod: None,
        timeout_s: 0,
    }
}

fn session(id: u64) -> SessionOpen {
    SessionOpen {
        id,
        label: "test".to_owned(),
        purpose: Purpose::Mirror,
        sub_path: WirePath::root(),
        features: 0,
        attributes: syncd_proto::attributes::Attributes::NONE,
        writable: true,
        next_out: 0,
        next_in: 1,
        session: [0; 32],
        proof: None,
        log: None,
        certificate: Vec::new(),
    }
}

struct Line {
    stream: AsyncBufReader<UnixStream>,
    worker: Worker,
}

async fn open(pool: &Pool, setup: &ModuleSetup, id: u64) -> Line {
    let (worker, stream) = pool.open(setup, session(id)).await.unwrap();
    let stream = AsyncBufReader::new(stream);
    Line { stream, worker }
}

impl Line {
    /// The next line; empty at the end.
    async fn read(&mut self) -> String {
        let mut line = String::new();
        // A connection reset is an end as well.
        let _ = self.stream.read_line(&mut line).await;
        line.trim_end().to_owned()
    }

    async fn ask(&mut self, line: &str) -> String {
        let line = format!("{line}\n");
        self.stream.write_all(line.as_bytes()).await.unwrap();
        self.read().await
    }

    /// Process id of the worker behind it.
    async fn pid(&mut self) -> String {
        let answer = self.ask("hello").await;
        answer.strip_suffix(" hello").unwrap().to_owned()
    }
}

#[tokio::test]
async fn sessions_of_a_module_share_its_worker_and_other_modules_have_their_own() {
    let pool = pool();
    let mut first = open(&pool, &setup("/a"), 1).await;
    let mut second = open(&pool, &setup("/a"), 2).await;
    let other = ModuleSetup {
        name: b"other".to_vec(),
        ..setup("/a")
    };
    let mut third = open(&pool, &other, 3).await;
    let pid = first.pid().await;
    assert_eq!(second.pid().await, pid);
    assert_ne!(third.pid().await, pid);
    first.worker.close(1, "enough".to_owned());
    assert_eq!(first.read().await, "end: enough");
    assert_eq!(first.read().await, "");
    assert_eq!(second.pid().await, pid);
}

#[tokio::test]
async fn a_worker_that_cannot_serve_says_why() {
    let refused = pool()
        .open(&setup("/missing"), session(1))
        .await
        .unwrap_err();
    assert_eq!(refused.text, "chdir failed");
    assert_eq!(refused.log, "chdir /missing: not there");
}

#[tokio::test]
async fn a_worker_that_dies_ends_its_sessions_and_is_replaced() {
    let pool = pool();
    let mut first = open(&pool, &setup("/a"), 1).await;
    let pid = first.pid().await;
    assert_eq!(first.ask("die").await, "");
    first.worker.ended().await;
    let mut second = open(&pool, &setup("/a"), 2).await;
    assert_ne!(second.pid().await, pid);
}

#[tokio::test]
async fn new_settings_end_the_old_worker_before_the_new_one_starts() {
    let pool = pool();
    let mut first = open(&pool, &setup("/a"), 1).await;
    let pid = first.pid().await;
    let changed = ModuleSetup {
        timeout_s: 5,
        ..setup("/a")
    };
    let mut second = open(&pool, &changed, 2).await;
    assert!(*first.worker.gone.borrow());
    assert!(
        first
            .read()
            .await
            .contains("settings of the module have changed")
    );
    assert_ne!(second.pid().await, pid);
}

#[tokio::test]
async fn draining_ends_all_and_lets_nobody_in() {
    let pool = pool();
    let mut first = open(&pool, &setup("/a"), 1).await;
    let mut second = open(&pool, &setup("/b"), 2).await;
    pool.drain("going down").await;
    assert_eq!(first.read().await, "end: going down");
    assert_eq!(second.read().await, "end: going down");
    assert!(pool.open(&setup("/a"), session(3)).await.is_err());
}
