//! lsyncd's configuration: what its `settings` and `sync` tables ask for, and what becomes of that.

use std::sync::Arc;

use super::draft::{At, Draft, Remark, Setting, SourceDraft, TargetDraft, Value, Verdict};
use super::flags::{self, Flag};
use super::lua::{self, Event, Field, Value as Lua};
use super::place::Place;
use Verdict::{Danger, Differs, Kept, Nothing};

/// Reads one file.
#[must_use]
pub fn read(file: &str, text: &str) -> Draft {
    let reader = Reader { file: file.into() };
    let mut draft = Draft::new("lsyncd");
    for event in lua::events(text) {
        match event {
            Event::Settings(_, fields) => {
                let remarks = fields.iter().map(|field| reader.setting(field));
                draft.remarks.extend(remarks);
            }
            Event::Sync(line, fields) => draft.sources.push(reader.sync(line, &fields)),
            Event::Unread(line, text) => {
                let why = "this is code, and code is not run here: write what it does as [[source]] and [[source.target]]";
                let remark = Remark::new(&reader.at(line), Danger, text, why);
                draft.remarks.push(remark);
            }
        }
    }
    if draft.sources.is_empty() {
        let remark = Remark::new(
            &reader.at(1),
            Danger,
            "the file",
            "no sync { ... } was found in it",
        );
        draft.remarks.push(remark);
    }
    draft.finish();
    draft
}

struct Reader {
    file: Arc<str>,
}

/// How a sync moves things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Rsync,
    Ssh,
    Direct,
    /// Somebody's own.
    Own,
}

impl Reader {
    fn at(&self, line: usize) -> At {
        At {
            file: self.file.clone(),
            line,
        }
    }

    fn say(&self, field: &Field, verdict: Verdict, text: &str) -> Remark {
        Remark::new(&self.at(field.line), verdict, written(field), text)
    }

    fn setting(&self, field: &Field) -> Remark {
        let (verdict, text) = match field.key.as_deref().unwrap_or_default() {
            "logfile" | "logfacility" | "logident" | "log" => (
                Differs,
                "the agent logs to standard error, which systemd keeps; see [log]",
            ),
            "statusFile" | "statusInterval" => {
                (Differs, "ask `syncd-agent status`, which is never stale")
            }
            "insist" => (
                Kept,
                "the agent starts though a receiver is away, and tries again",
            ),
            "pidfile" | "nodaemon" => (
                Nothing,
                "systemd keeps track of it: docs/examples/syncd-agent.service",
            ),
            "inotifyMode" => (
                Differs,
                "contents go when a file is closed or quiet: settle_ms, hold_max_ms",
            ),
            "maxProcesses" | "maxDelays" | "delay" => (
                Nothing,
                "there is one connection to each target, and changes are put together by themselves",
            ),
            "userEvents" | "onlyLocal" => (Nothing, "there is nothing of the kind"),
            _ => (Danger, "not known here: nothing was made of it"),
        };
        self.say(field, verdict, text)
    }

    fn sync(&self, line: usize, fields: &[Field]) -> SourceDraft {
        let at = self.at(line);
        let mut source = SourceDraft::default();
        let layer = self.layer(&at, fields, &mut source);
        let mut flags = Vec::new();
        let mut named = false;
        for field in fields.iter().filter(|field| field.key.is_some()) {
            match field.key.as_deref().unwrap_or_default() {
                "source" => {
                    named = true;
                    self.path(field, &mut source);
                }
                "target" | "host" => {}
                "targetdir" => {
                    let text = "it is the `path` of a module there";
                    source.remarks.push(self.say(field, Differs, text));
                }
                "delete" => self.delete(field, &mut source),
                "exclude" => {
                    self.patterns(field, &mut source, None, |pattern| format!("- {pattern}"))
                }
                "filter" => self.patterns(field, &mut source, None, str::to_owned),
                "excludeFrom" => {
                    let differs = Some(EXCLUDE_FROM);
                    self.patterns(field, &mut source, differs, |file| {
                        format!("merge,- {file}")
                    });
                }
                "filterFrom" => {
                    self.patterns(field, &mut source, None, |file| format!("merge {file}"));
                }
                "rsync" => flags.extend(self.rsync(field, &mut source)),
                "rsyncOpts" | "rsyncOps" => flags.extend(self.words(field, &mut source)),
                _ => source.remarks.push(self.other(field)),
            }
        }
        if !named {
            let remark = Remark::new(&at, Danger, "sync", "it names no source");
            source.remarks.push(remark);
        }
        if !fields
            .iter()
            .any(|field| field.key.as_deref() == Some("delete"))
        {
            let why = Remark::new(
                &at,
                Kept,
                "sync without delete",
                "lsyncd deletes unless told otherwise",
            );
            source
                .settings
                .push(Setting::new("delete", Value::Flag(true), why));
        }
        let place = self.place(layer, &at, fields, &mut source);
        let mut targets: Vec<TargetDraft> = place
            .iter()
            .map(|(place, at, text)| place.target(at, text))
            .collect();
        let users: Vec<_> = place.iter().map(|(place, ..)| place.user()).collect();
        if layer != Layer::Direct {
            // What lsyncd adds by itself.
            flags.extend(["links", "times"].map(|name| flag(&at, name, None)));
        } else {
            flags.push(flag(&at, "archive", None));
        }
        let mut effect = flags::effect(&at, &flags);
        effect.remarks.retain(|remark| !by_default(remark, &at));
        effect.remarks.extend(effect.delete.take());
        effect.give(&mut source, &mut targets, &users);
        source.targets = targets;
        source
    }

    fn layer(&self, at: &At, fields: &[Field], source: &mut SourceDraft) -> Layer {
        let mut layers = fields.iter().filter(|field| field.key.is_none());
        let Some(first) = layers.next() else {
            let text =
                "no default.rsync in it: what it does is code of its own, which is not run here";
            source.remarks.push(Remark::new(at, Danger, "sync", text));
            return Layer::Own;
        };
        let layer = match &first.value {
            Lua::Name(name) => match &name[..] {
                "default.rsync" => Layer::Rsync,
                "default.rsyncssh" => Layer::Ssh,
                "default.direct" => Layer::Direct,
                _ => Layer::Own,
            },
            _ => Layer::Own,
        };
        let (verdict, text) = match layer {
            Layer::Rsync => (Kept, ""),
            Layer::Ssh => (Differs, "a rename is one there too, without ssh"),
            Layer::Direct => (Differs, "through a receiver on this machine"),
            Layer::Own => (
                Danger,
                "its actions are commands or code, which are not run here; what is left is the mirror alone",
            ),
        };
        source.remarks.push(self.say(first, verdict, text));
        for field in layers {
            let text = "not known here: nothing was made of it";
            source.remarks.push(self.say(field, Danger, text));
        }
        layer
    }

    fn path(&self, field: &Field, source: &mut SourceDraft) {
        match &field.value {
            Lua::Text(path) if path.starts_with('/') => {
                let trimmed = match path.trim_end_matches('/') {
                    "" => "/",
                    trimmed => trimmed,
                };
                let value = Value::Text(trimmed.to_owned());
                let why = self.say(field, Kept, "");
                source.settings.insert(0, Setting::new("path", value, why));
            }
            Lua::Text(_) => {
                let text = "a relative path, and where lsyncd runs is not in the file";
                source.remarks.push(self.say(field, Danger, text));
            }
            _ => source.remarks.push(self.say(field, Danger, UNKNOWN_VALUE)),
        }
    }

    fn delete(&self, field: &Field, source: &mut SourceDraft) {
        let word = match &field.value {
            Lua::Text(word) => &word[..],
            Lua::Flag(true) => "true",
            Lua::Flag(false) => "false",
            _ => "",
        };
        let (on, verdict, text) = match word {
            "true" => (
                true,
                Kept,
                "deletes beyond max_delete (50%) are held until somebody approves",
            ),
            "false" => (false, Kept, ""),
            "startup" => (
                false,
                Danger,
                "there is no such half: with `true` what goes later goes there too",
            ),
            "running" => (
                true,
                Differs,
                "what went while the agent was away goes there too, within max_delete",
            ),
            _ => (false, Danger, UNKNOWN_VALUE),
        };
        let why = self.say(field, verdict, text);
        source
            .settings
            .push(Setting::new("delete", Value::Flag(on), why));
    }

    fn patterns(
        &self,
        field: &Field,
        source: &mut SourceDraft,
        differs: Option<&str>,
        rule: impl Fn(&str) -> String,
    ) {
        for (line, value) in list(field) {
            let at = self.at(line);
            match &value {
                Lua::Text(text) => {
                    let key = field.key.as_deref().unwrap_or_default();
                    let what = format!("{key} {}", value.shown());
                    let why = match differs {
                        Some(text) => Remark::new(&at, Differs, what, text),
                        None => Remark::new(&at, Kept, what, ""),
                    };
                    source.rules.push((rule(text), why));
                }
                _ => source
                    .remarks
                    .push(Remark::new(&at, Danger, written(field), UNKNOWN_VALUE)),
            }
        }
    }

    /// The table `rsync = { ... }`, as options.
    fn rsync(&self, field: &Field, source: &mut SourceDraft) -> Vec<Flag> {
        let Lua::Table(entries) = &field.value else {
            source.remarks.push(self.say(field, Danger, UNKNOWN_VALUE));
            return Vec::new();
        };
        let mut found = Vec::new();
        for entry in entries {
            let at = self.at(entry.line);
            let name = entry.key.as_deref().unwrap_or_default();
            match (name, &entry.value) {
                ("_extra", _) => found.extend(self.words(entry, source)),
                ("binary", _) => {
                    source
                        .remarks
                        .push(self.say(entry, Nothing, "no rsync is called"));
                }
                (_, Lua::Flag(false) | Lua::Nil) => {
                    let text =
                        "what is off there may be always so here: see docs/man/syncd-agent.1";
                    source.remarks.push(self.say(entry, Differs, text));
                }
                ("", _) | (_, Lua::Table(_) | Lua::Function | Lua::Dynamic(_) | Lua::Name(_)) => {
                    source.remarks.push(self.say(entry, Danger, UNKNOWN_VALUE));
                }
                (name, value) => {
                    let name = name.replace('_', "-");
                    found.push(flag(&at, &name, value.text()));
                }
            }
        }
        found
    }

    /// A list of words for rsync.
    fn words(&self, field: &Field, source: &mut SourceDraft) -> Vec<Flag> {
        let mut words = Vec::new();
        for (line, value) in list(field) {
            match value {
                Lua::Text(text) => {
                    let split = super::shell::plain_words(&text).into_iter();
                    words.extend(split.map(|word| (self.at(line), word)));
                }
                _ => source.remarks.push(self.say(field, Danger, UNKNOWN_VALUE)),
            }
        }
        let (flags, rest) = flags::split(&words);
        for (at, word) in rest {
            let text = "a word that is no option: nothing was made of it";
            source.remarks.push(Remark::new(&at, Danger, word, text));
        }
        flags
    }

    fn place(
        &self,
        layer: Layer,
        at: &At,
        fields: &[Field],
        source: &mut SourceDraft,
    ) -> Option<(Place, At, String)> {
        let field = |name: &str| {
            fields
                .iter()
                .find(|field| field.key.as_deref() == Some(name))
        };
        let mut text = |name: &str| {
            let field = field(name)?;
            match &field.value {
                Lua::Text(text) => Some((text.clone(), self.at(field.line), written(field))),
                _ => {
                    source.remarks.push(self.say(field, Danger, UNKNOWN_VALUE));
                    None
                }
            }
        };
        let (host, dir, target) = (text("host"), text("targetdir"), text("target"));
        let found = match (layer, host, dir, target) {
            (Layer::Ssh, Some((host, at, written)), Some((dir, ..)), _) => {
                let (user, host) = match host.split_once('@') {
                    Some((user, host)) => (Some(user.to_owned()), host.to_owned()),
                    None => (None, host),
                };
                Some((Place::Ssh { user, host, dir }, at, written))
            }
            (_, _, _, Some((target, at, written))) => Some((Place::parse(&target), at, written)),
            _ => None,
        };
        if found.is_none() {
            let text = "where it goes could not be read; write the [[source.target]] yourself";
            source.remarks.push(Remark::new(at, Danger, "sync", text));
        }
        found
    }

    fn other(&self, field: &Field) -> Remark {
        let (verdict, text) = match field.key.as_deref().unwrap_or_default() {
            "delay" | "maxDelays" | "maxProcesses" | "batchSizeLimit" => (
                Nothing,
                "changes go as they settle and are put together by themselves; large files do not hold others up",
            ),
            "init" => (
                Danger,
                "the agent always compares both sides as it connects; it removes there what is not here, if `delete`",
            ),
            "crontab" => (
                Differs,
                "the agent compares both sides as it connects, after lost events and on `syncd-agent rescan`",
            ),
            "inotifyMode" => (
                Differs,
                "contents go when a file is closed or quiet: settle_ms, hold_max_ms",
            ),
            "ssh" | "xargs" | "tunnel" => (
                Nothing,
                "the connection is another: TLS, with certificates on both sides",
            ),
            "exitcodes" | "rsyncExitCodes" | "sshExitCodes" => (
                Nothing,
                "no exit codes decide; a path stays dirty until it is acknowledged",
            ),
            "onCreate" | "onModify" | "onDelete" | "onMove" | "onAttrib" | "onStartup"
            | "onFull" | "action" | "collect" | "init_" | "prepare" | "full" => {
                (Danger, "commands and code are not run here")
            }
            _ => (Danger, "not known here: nothing was made of it"),
        };
        self.say(field, verdict, text)
    }
}

/// How the lines of an `excludeFrom` are read.
const EXCLUDE_FROM: &str = "here each line is a whole pattern of rsync; lsyncd passes over lines that begin with `+`, \
    drops a `-` and blanks before a pattern, and takes `[`, `]` and `\\` for themselves: rewrite such lines";

const UNKNOWN_VALUE: &str = "only lsyncd itself could tell what this is: write it out";

fn flag(at: &At, name: &str, value: Option<String>) -> Flag {
    Flag {
        at: at.clone(),
        name: name.to_owned(),
        value,
    }
}

/// Options that lsyncd adds are not the operator's.
fn by_default(remark: &Remark, at: &At) -> bool {
    remark.at == *at && ["--links", "--times"].contains(&&remark.setting[..])
}

/// The entries of a list, or the one value.
fn list(field: &Field) -> Vec<(usize, Lua)> {
    match &field.value {
        Lua::Table(entries) => entries
            .iter()
            .map(|entry| (entry.line, entry.value.clone()))
            .collect(),
        value => vec![(field.line, value.clone())],
    }
}

fn written(field: &Field) -> String {
    match &field.key {
        Some(key) => format!("{key} = {}", field.value.shown()),
        None => field.value.shown(),
    }
}
