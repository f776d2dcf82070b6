//! The control socket with a pipeline played by the test.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use syncd_agent::control::protocol::{Change, Command, Event, Reply};
use syncd_agent::control::status::Verdict;
use syncd_agent::control::{Channels, ControlError, ControlRequest, ControlServer, EVENTS_MAX};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

struct Agent {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    channels: Channels,
    asked: mpsc::Receiver<ControlRequest>,
    server: JoinHandle<()>,
}

impl Agent {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let (channels, asked) = Channels::new();
        let server = ControlServer::bind(&socket).unwrap();
        let server = tokio::spawn(server.serve(channels.clone()));
        Self {
            _dir: dir,
            socket,
            channels,
            asked,
            server,
        }
    }

    async fn client(&self) -> Client {
        Client(BufReader::new(
            UnixStream::connect(&self.socket).await.unwrap(),
        ))
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    async fn say(&mut self, line: &str) {
        self.0
            .write_all(format!("{line}\n").as_bytes())
            .await
            .unwrap();
    }

    /// The next line; empty at the end.
    async fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        line
    }

    async fn reply(&mut self) -> Reply {
        serde_json::from_str(&self.hear().await).unwrap()
    }
}

fn done(text: &str) -> Reply {
    Reply::Done { text: text.into() }
}

#[tokio::test]
async fn a_request_reaches_the_pipeline_and_its_answer_the_client() {
    let mut agent = Agent::start();
    let mut client = agent.client().await;
    for _ in 0..2 {
        client
            .say(r#"{"cmd":"rescan","path":"/srv/a\\xffb"}"#)
            .await;
        let request = agent.asked.recv().await.unwrap();
        let Command::Rescan { path: Some(path) } = request.command else {
            panic!("{:?}", request.command);
        };
        assert_eq!(path.as_os_str().as_encoded_bytes(), b"/srv/a\xffb");
        request.reply.send(done("begun")).unwrap();
        assert_eq!(client.reply().await, done("begun"));
    }
}

#[tokio::test]
async fn nonsense_is_answered_and_does_not_reach_the_pipeline() {
    let mut agent = Agent::start();
    let mut client = agent.client().await;
    for line in [
        "",
        "x",
        "{}",
        r#"{"cmd":"fly"}"#,
        r#"{"cmd":"rescan","path":"a\\b"}"#,
    ] {
        client.say(line).await;
        assert!(
            matches!(client.reply().await, Reply::Error { .. }),
            "{line}"
        );
    }
    assert!(agent.asked.try_recv().is_err());
}

#[tokio::test]
async fn a_request_without_end_is_cut_off() {
    let agent = Agent::start();
    let mut client = agent.client().await;
    let flood = "x".repeat(100 << 10);
    let _ = client.0.write_all(flood.as_bytes()).await;
    assert!(client.hear().await.contains("too long"));
}

#[tokio::test]
async fn a_client_that_goes_closes_its_request() {
    let mut agent = Agent::start();
    let mut client = agent.client().await;
    client.say(r#"{"cmd":"wait","timeout_ms":60000}"#).await;
    let mut request = agent.asked.recv().await.unwrap();
    drop(client);
    request.reply.closed().await;
}

#[tokio::test]
async fn a_waiting_client_does_not_hold_up_another() {
    let mut agent = Agent::start();
    let (mut first, mut second) = (agent.client().await, agent.client().await);
    first.say(r#"{"cmd":"wait","timeout_ms":60000}"#).await;
    let waiting = agent.asked.recv().await.unwrap();
    second.say(r#"{"cmd":"rescan"}"#).await;
    let request = agent.asked.recv().await.unwrap();
    request.reply.send(done("begun")).unwrap();
    assert_eq!(second.reply().await, done("begun"));
    let answer = Reply::Wait {
        verdict: Verdict::InSync,
        text: "all".into(),
    };
    waiting.reply.send(answer.clone()).unwrap();
    assert_eq!(first.reply().await, answer);
}

#[tokio::test]
async fn an_agent_that_stops_says_so() {
    let mut agent = Agent::start();
    let mut client = agent.client().await;
    client.say(r#"{"cmd":"status"}"#).await;
    drop(agent.asked.recv().await.unwrap());
    assert!(client.hear().await.contains("stopping"));
}

fn event(path: String) -> Event {
    Event::Durable {
        target: "h::m".into(),
        path,
        op: Change::Put,
        bytes: 1,
        latency_ms: 2,
    }
}

#[tokio::test]
async fn events_follow_until_the_client_goes() {
    let agent = Agent::start();
    let mut client = agent.client().await;
    client.say(r#"{"cmd":"events"}"#).await;
    assert_eq!(client.reply().await, Reply::Events {});
    agent.channels.events.tell(event("a".into()));
    let line = client.hear().await;
    assert_eq!(
        line,
        "{\"event\":\"durable\",\"target\":\"h::m\",\"path\":\"a\",\"op\":\"put\",\"bytes\":1,\"latency_ms\":2}\n"
    );
    drop(client);
    while agent.channels.events.are_followed() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_slow_reader_is_told_how_much_it_missed() {
    let agent = Agent::start();
    let mut client = agent.client().await;
    client.say(r#"{"cmd":"events"}"#).await;
    client.reply().await;
    // No await between the sends: the socket's side cannot keep up.
    let sent = EVENTS_MAX + 10;
    for index in 0..sent {
        agent.channels.events.tell(event(index.to_string()));
    }
    let first: Event = serde_json::from_str(&client.hear().await).unwrap();
    assert_eq!(first, Event::Missed { count: 10 });
    let next: Event = serde_json::from_str(&client.hear().await).unwrap();
    assert_eq!(next, event("10".into()));
}

#[tokio::test]
async fn the_socket_is_private_and_goes_with_the_agent() {
    let agent = Agent::start();
    let metadata = fs::symlink_metadata(&agent.socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let names = fs::read_dir(agent.socket.parent().unwrap())
        .unwrap()
        .count();
    assert_eq!(names, 1, "nothing else is left there");
    agent.server.abort();
    let _ = agent.server.await;
    assert!(!agent.socket.exists());
}

fn bind_error(path: &Path) -> ControlError {
    ControlServer::bind(path).unwrap_err()
}

#[tokio::test]
async fn only_a_dead_socket_is_replaced() {
    let agent = Agent::start();
    assert!(matches!(bind_error(&agent.socket), ControlError::InUse(_)));
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale");
    drop(StdListener::bind(&stale).unwrap());
    assert!(stale.exists());
    let server = ControlServer::bind(&stale).unwrap();
    drop(server);
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    assert!(matches!(bind_error(&file), ControlError::NotASocket(_)));
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    let nowhere = dir.path().join("no/such/dir");
    assert!(matches!(bind_error(&nowhere), ControlError::Bind(..)));
}
