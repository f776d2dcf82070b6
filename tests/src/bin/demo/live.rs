//! After the first sync: one line per change, as soon as it is durable.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::HumanBytes;
use serde_json::Value;
use syncd_tests::Control;

use super::progress::troubles;

const LINES_WAITING_MAX: usize = 1_024;
const POLL: Duration = Duration::from_millis(100);
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// Prints what becomes durable until the demo is asked to stop.
pub(crate) fn follow(
    control: &Path,
    alive: &mut dyn FnMut() -> Result<bool, String>,
) -> Result<(), String> {
    let lines = subscribe(control).map_err(|error| format!("cannot follow changes: {error}"))?;
    println!("change something in SRC: each line below is a change that is durable in DST");
    let control = Control::new(control);
    let mut verdict = String::from("in_sync");
    let mut asked = Instant::now();
    while alive()? {
        match lines.recv_timeout(POLL) {
            Ok(line) => println!("{line}"),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                alive()?;
                return Err("the agent has ended the stream of changes".into());
            }
        }
        if asked.elapsed() >= STATUS_EVERY {
            asked = Instant::now();
            tell_verdict(&control, &mut verdict);
        }
    }
    Ok(())
}

/// Says when things go wrong, and when they are right again; being behind for a moment is neither.
fn tell_verdict(control: &Control, last: &mut String) {
    let Ok(answer) = control.status() else { return };
    let now = answer["verdict"].as_str().unwrap_or("unknown");
    if now == last || now == "behind" {
        return;
    }
    match now {
        "in_sync" => println!("-- in sync again"),
        bad => println!("-- {bad}: {}", troubles(&answer["status"]["sources"][0])),
    }
    now.clone_into(last);
}

fn subscribe(control: &Path) -> std::io::Result<Receiver<String>> {
    let mut stream = UnixStream::connect(control)?;
    stream.write_all(b"{\"cmd\":\"events\"}\n")?;
    let (send, lines) = sync_channel(LINES_WAITING_MAX);
    thread::spawn(move || read(stream, &send));
    Ok(lines)
}

/// A slow terminal slows this down; the agent then says how much was missed.
fn read(stream: UnixStream, send: &SyncSender<String>) {
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let Some(text) = serde_json::from_str(&line).ok().as_ref().and_then(render) else {
            continue;
        };
        if send.send(text).is_err() {
            return;
        }
    }
}

/// One line for people; `None` for what is no event.
fn render(event: &Value) -> Option<String> {
    match event["event"].as_str()? {
        "durable" => {
            let bytes = event["bytes"].as_u64().unwrap_or(0);
            Some(format!(
                "{:>7} ms  {:<8} {:>12}  {}",
                event["latency_ms"].as_u64()?,
                event["op"].as_str()?,
                HumanBytes(bytes).to_string(),
                event["path"].as_str()?
            ))
        }
        "missed" => Some(format!("-- and {} more", event["count"].as_u64()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_one_line() {
        let event = json!({"event": "durable", "target": "t", "path": "a/b", "op": "put",
                           "bytes": 2048, "latency_ms": 7});
        assert_eq!(
            render(&event).as_deref(),
            Some("      7 ms  put          2.00 KiB  a/b")
        );
        let missed = json!({"event": "missed", "count": 3});
        assert_eq!(render(&missed).as_deref(), Some("-- and 3 more"));
        assert_eq!(render(&json!({"ok": true, "reply": "events"})), None);
    }
}
