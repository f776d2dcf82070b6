//! What the calls of rsync in a script mirror: sources, and where they go.

use super::super::draft::{At, Draft, Remark, Setting, SourceDraft, Value, Verdict};
use super::super::flags::{self, Flag};
use super::super::place::Place;
use super::{Call, Reader, base_name, is_open};
use Verdict::{Danger, Kept, Nothing};

/// A directory that is a source already.
struct Known {
    dir: String,
    /// Its place in the draft.
    source: usize,
    options: Vec<String>,
    /// Where it goes.
    places: Vec<String>,
}

/// What decides whether two calls can be one source.
fn options(flags: &[Flag]) -> Vec<String> {
    let mut names: Vec<String> = flags
        .iter()
        .map(|flag| format!("{} {:?}", flag.name, flag.value))
        .collect();
    names.sort();
    names.dedup();
    names
}

impl Reader {
    pub(super) fn draft(mut self) -> Draft {
        let mut draft = Draft::new("script");
        let calls = std::mem::take(&mut self.calls);
        if calls.is_empty() {
            let at = At {
                file: self.file.clone(),
                line: 1,
            };
            let text = "no rsync that pushes to another place was found in it";
            self.remarks
                .push(Remark::new(&at, Danger, "the script", text));
        }
        let mut known: Vec<Known> = Vec::new();
        for call in &calls {
            self.add(call, &mut draft, &mut known);
        }
        draft.remarks = self.remarks;
        draft.finish();
        draft
    }

    /// What one rsync mirrors; calls for the same directory and place are one.
    fn add(&mut self, call: &Call, draft: &mut Draft, known: &mut Vec<Known>) {
        let has = |name: &str| call.flags.iter().any(|flag| flag.name == name);
        // A loop gives a destination for each value, after the sources.
        let is_place = |word: &str| !matches!(Place::parse(word), Place::Here(_));
        let remote = call.operands.iter().filter(|(_, word)| is_place(word));
        let mut places: Vec<&(At, String)> = remote.collect();
        let mut sources: Vec<&(At, String)> = call
            .operands
            .iter()
            .filter(|(_, word)| !is_place(word))
            .collect();
        if places.is_empty() {
            places.extend(sources.pop());
        }
        let first_place = call.operands.iter().position(|(_, word)| is_place(word));
        if sources.is_empty() || first_place == Some(0) {
            let text =
                "it pulls: what comes from another machine is not mirrored; run an agent there";
            self.remarks
                .push(Remark::new(&call.at, Danger, "rsync", text));
            return;
        }
        for (at, written) in sources {
            let Some((dir, below)) = self.directory(call, at, written, has("relative")) else {
                continue;
            };
            if let Some(first) = known.iter().position(|known| known.dir == dir) {
                let text = self.again(call, at, &below, &places, (&mut known[first], draft));
                let (verdict, text) = text;
                let setting = format!("rsync {written}");
                self.remarks
                    .push(Remark::new(&call.at, verdict, setting, text));
                continue;
            }
            let source = self.source(call, at, (written, &dir, &below), &places);
            known.push(Known {
                dir,
                source: draft.sources.len(),
                options: options(&call.flags),
                places: places
                    .iter()
                    .map(|(_, place)| format!("{place} {below}"))
                    .collect(),
            });
            draft.sources.push(source);
        }
    }

    /// Another rsync of a directory that is a source already: another target, if nothing else differs.
    fn again(
        &self,
        call: &Call,
        at: &At,
        below: &str,
        places: &[&(At, String)],
        (known, draft): (&mut Known, &mut Draft),
    ) -> (Verdict, &'static str) {
        let place = |text: &str| format!("{text} {below}");
        let is_new = |text: &str| !known.places.contains(&place(text));
        if !places.iter().any(|(_, text)| is_new(text)) {
            return (
                Nothing,
                "the same directory and place again: one source stands for both",
            );
        }
        if known.options != options(&call.flags) {
            return (
                Danger,
                "the same directory goes elsewhere with other options; add a [[source.target]] or [[source]] for it",
            );
        }
        let mut more = self.source(call, at, ("", "", below), places);
        let source = &mut draft.sources[known.source];
        for (target, (_, text)) in more.targets.drain(..).zip(places) {
            if !known.places.contains(&place(text)) {
                known.places.push(place(text));
                source.targets.push(target);
            }
        }
        (
            Kept,
            "the same directory: another target of the same source",
        )
    }

    fn source(
        &self,
        call: &Call,
        at: &At,
        (written, dir, below): (&str, &str, &str),
        places: &[&(At, String)],
    ) -> SourceDraft {
        let mut source = SourceDraft::default();
        let why = Remark::new(at, Kept, written, "");
        let path = Value::Text(dir.to_owned());
        source.settings.push(Setting::new("path", path, why));
        let mut effect = flags::effect(&call.at, &call.flags);
        let delete = effect.delete.take();
        let why = delete.clone().unwrap_or_else(|| {
            let text = "what is gone here stays there";
            Remark::new(&call.at, Kept, "rsync without --delete", text)
        });
        let flag = Value::Flag(delete.is_some());
        source.settings.push(Setting::new("delete", flag, why));
        let mut targets = Vec::new();
        let mut users = Vec::new();
        let parsed: Vec<Place> = places
            .iter()
            .map(|(_, text)| {
                let mut place = Place::parse(text);
                place.join(below);
                place
            })
            .collect();
        for (place, (at, text)) in parsed.iter().zip(places) {
            targets.push(place.target(at, text));
            users.push(place.user());
        }
        effect.give(&mut source, &mut targets, &users);
        source.targets = targets;
        source
    }

    /// The directory that is meant, and where below the destination its content goes.
    fn directory(
        &mut self,
        call: &Call,
        at: &At,
        written: &str,
        relative: bool,
    ) -> Option<(String, String)> {
        let whole = written.strip_prefix("./").unwrap_or(written);
        let below_dir =
            ["", ".", "*", "./*"].contains(&whole) || whole.starts_with('$') && is_open(whole);
        if !below_dir && !is_open(written) {
            return self.named(call, at, written, relative);
        }
        // One file of an event, or the directory that the script went to.
        let watched = self.watched.first().map(|(_, dir)| dir.clone());
        let dir = match is_open(written) {
            true => watched.or(call.dir.clone()),
            false => call.dir.clone().or(watched),
        };
        let dir = dir.filter(|dir| dir.starts_with('/') && !is_open(dir));
        let Some(dir) = dir else {
            let text = "which directory that is cannot be read from the script; write the [[source]] yourself";
            self.remark(at, Danger, written, text);
            return None;
        };
        if is_open(written) {
            let text = "the script sends what an event names; without -R or `cd` such files land flat in the module: look there for them. The whole watched directory is mirrored here";
            self.remark(at, Danger, written, text);
        }
        Some((trimmed(&dir), String::new()))
    }

    fn named(
        &mut self,
        call: &Call,
        at: &At,
        written: &str,
        relative: bool,
    ) -> Option<(String, String)> {
        let full = match (written.starts_with('/'), &call.dir) {
            (true, _) => written.to_owned(),
            (false, Some(dir)) if dir.starts_with('/') => format!("{}/{written}", trimmed(dir)),
            _ => {
                let text = "a relative path, and where the script runs is not in it; write the [[source]] yourself";
                self.remark(at, Danger, written, text);
                return None;
            }
        };
        let whole = full.strip_suffix("/*").unwrap_or(&full);
        if full.ends_with("/*") {
            let text = "the shell leaves hidden names out there, and rsync deletes nothing with it; the whole directory is mirrored here";
            self.remark(at, Danger, written, text);
        }
        let dir = trimmed(whole);
        // rsync makes the directory itself at the target, unless a slash ends it.
        let below = match (relative, whole.ends_with('/') || full.ends_with("/*")) {
            (true, _) if written.starts_with('/') => dir.trim_start_matches('/').to_owned(),
            (true, _) => trimmed(written),
            (false, true) => String::new(),
            (false, false) => base_name(&dir).to_owned(),
        };
        if !below.is_empty() {
            let text = format!("what is in it goes to {below} in the module, as rsync has it");
            self.remark(at, Kept, written, text);
        }
        Some((dir, below))
    }

    /// Says what becomes of a source as `rsync` was given it.
    fn remark(&mut self, at: &At, verdict: Verdict, written: &str, text: impl Into<String>) {
        let subject = format!("rsync {written}");
        self.remarks.push(Remark::new(at, verdict, subject, text));
    }
}

fn trimmed(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        path => path.to_owned(),
    }
}
