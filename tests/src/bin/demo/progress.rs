//! The first sync: a bar on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use serde_json::Value;
use syncd_tests::{Control, ControlError};

const POLL: Duration = Duration::from_millis(100);
const LINE_EVERY: Duration = Duration::from_secs(2);
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How the first sync ended.
pub(crate) enum Outcome {
    /// The mirror is equal and durable.
    InSync,
    /// The demo was asked to stop.
    Stopped,
}

/// Shows the first sync until it is done.
pub(crate) fn first_sync(
    control: &Path,
    alive: &mut dyn FnMut() -> Result<bool, String>,
) -> Result<Outcome, String> {
    let control = Control::new(control);
    let started = Instant::now();
    let shown = Shown::new();
    let mut answered = false;
    let mut told = Instant::now();
    let mut trouble = String::new();
    let mut busy = None;
    while alive()? {
        match control.status() {
            Ok(answer) => {
                answered = true;
                let target = &answer["status"]["sources"][0]["targets"][0];
                shown.update(target, &mut told);
                shown.tell_trouble(target, &mut trouble);
                match answer["verdict"].as_str() {
                    Some("in_sync") => {
                        shown.finish("in sync and durable", target, started.elapsed());
                        return Ok(Outcome::InSync);
                    }
                    // SRC changes all the time.
                    Some("behind") if target["first_sync"].is_null() && !is_left(&mut busy) => {
                        let what = "what was there is durable, and changes follow,";
                        shown.finish(what, target, started.elapsed());
                        return Ok(Outcome::InSync);
                    }
                    Some("failed") => return Err(troubles(&answer["status"]["sources"][0])),
                    Some("degraded") if target["first_sync"].is_null() => {
                        shown.finish("durable", target, started.elapsed());
                        println!(
                            "not everything: {}",
                            troubles(&answer["status"]["sources"][0])
                        );
                        return Ok(Outcome::InSync);
                    }
                    _ => {}
                }
            }
            Err(ControlError::Io(_)) if !answered && started.elapsed() < START_TIMEOUT => {}
            Err(error) => {
                // It may have ended between the two questions.
                alive()?;
                return Err(format!("the agent does not answer: {error}"));
            }
        }
        sleep(POLL);
    }
    Ok(Outcome::Stopped)
}

/// Everything a source's status says is wrong, with its hints.
pub(crate) fn troubles(source: &Value) -> String {
    let mut lines = Vec::new();
    for value in list(&source["problems"]) {
        push_problem(value, &mut lines);
    }
    for target in list(&source["targets"]) {
        push_problem(&target["last_error"], &mut lines);
        for failed in list(&target["failed"]) {
            let path = failed["path"].as_str().unwrap_or("?");
            let text = failed["text"].as_str().unwrap_or("?");
            lines.push(format!("{path}: {text}"));
        }
    }
    if let Some(reason) = source["held"]["reason"].as_str() {
        lines.push(format!("deletes are held: {reason}"));
    }
    match lines.is_empty() {
        true => "the agent does not say why".into(),
        false => lines.join("\n"),
    }
}

fn push_problem(problem: &Value, lines: &mut Vec<String>) {
    if let Some(text) = problem["text"].as_str() {
        lines.push(text.to_owned());
    }
    if let Some(hint) = problem["hint"].as_str() {
        lines.push(format!("  -> {hint}"));
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The bar, if there is a terminal.
struct Shown(Option<ProgressBar>);

impl Shown {
    fn new() -> Self {
        if !stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::no_length().with_style(spinner());
        bar.enable_steady_tick(POLL);
        bar.set_message("comparing");
        Self(Some(bar))
    }

    fn update(&self, target: &Value, told: &mut Instant) {
        let first = &target["first_sync"];
        if first.is_null() {
            return;
        }
        let files = counted(first["files_done"].as_u64(), first["files_total"].as_u64());
        let done = first["bytes_done"].as_u64().unwrap_or(0);
        let total = first["bytes_total"].as_u64();
        match &self.0 {
            Some(bar) => {
                if let (Some(total), true) = (total, bar.length() != total) {
                    bar.set_style(full());
                    bar.set_length(total);
                    bar.reset_eta();
                }
                bar.set_position(done);
                bar.set_message(format!("{files} files"));
            }
            None if told.elapsed() >= LINE_EVERY => {
                *told = Instant::now();
                let total =
                    total.map_or(String::new(), |total| format!(" of {}", HumanBytes(total)));
                println!("first sync: {files} files, {}{total}", HumanBytes(done));
            }
            None => {}
        }
    }

    /// Says once why there is no connection; it may still come.
    fn tell_trouble(&self, target: &Value, last: &mut String) {
        let mut lines = Vec::new();
        push_problem(&target["last_error"], &mut lines);
        let now = lines.join("\n");
        if now.is_empty() || now == *last {
            return;
        }
        match &self.0 {
            Some(bar) => bar.println(&now),
            None => println!("{now}"),
        }
        *last = now;
    }

    fn finish(&self, what: &str, target: &Value, took: Duration) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
        let number = |key: &str| target[key].as_u64().unwrap_or(0);
        let (content, sent) = (number("bytes_content"), number("bytes_sent"));
        let rate = content as f64 / took.as_secs_f64().max(0.001);
        println!(
            "{what} after {:.1} s ({}): {} files, {} ({} on the wire), {}/s",
            took.as_secs_f64(),
            HumanDuration(took),
            number("files"),
            HumanBytes(content),
            HumanBytes(sent),
            HumanBytes(rate as u64)
        );
    }
}

/// Whether the moment is not over that the last of the first sync may take to be told.
fn is_left(since: &mut Option<Instant>) -> bool {
    since.get_or_insert_with(Instant::now).elapsed() < LINE_EVERY
}

fn counted(done: Option<u64>, total: Option<u64>) -> String {
    let done = done.unwrap_or(0);
    total.map_or_else(|| done.to_string(), |total| format!("{done} of {total}"))
}

fn spinner() -> ProgressStyle {
    style("{spinner} first sync: {msg}, {bytes}, {bytes_per_sec}, {elapsed}")
}

fn full() -> ProgressStyle {
    style("{spinner} [{bar:30}] {msg}, {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_styles_are_valid() {
        for template in [
            "{spinner} first sync: {msg}, {bytes}, {bytes_per_sec}, {elapsed}",
            "{spinner} [{bar:30}] {msg}, {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        ] {
            assert!(ProgressStyle::with_template(template).is_ok());
        }
    }

    #[test]
    fn troubles_are_told_with_their_hints() {
        let source = json!({
            "problems": [{"text": "a", "hint": "b"}],
            "held": null,
            "targets": [{"last_error": {"text": "c", "hint": null},
                         "failed": [{"path": "p", "text": "t"}]}],
        });
        assert_eq!(troubles(&source), "a\n  -> b\nc\np: t");
        assert!(troubles(&json!({})).contains("does not say"));
    }
}
