//! sersync's `confxml.xml`: what its elements make sersync 2.5 do, and what becomes of that.

use std::sync::Arc;

use roxmltree::{Document, Node, ParsingOptions};

use super::draft::{At, Draft, Remark, Setting, SourceDraft, Value, Verdict};
use super::flags::{self, Flag};
use super::place::{Place, port_of_rsync};
use super::{pattern, shell};
use Verdict::{Danger, Differs, Kept, Nothing};

/// More elements than any of these files has.
const NODES_MAX: u32 = 10_000;

/// Reads one file.
///
/// # Errors
/// Text that is no XML, with its line.
pub fn read(file: &str, text: &str) -> Result<Draft, String> {
    let options = ParsingOptions {
        nodes_limit: NODES_MAX,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(text, options)
        .map_err(|error| format!("{file}: this is no XML: {error}"))?;
    let reader = Reader {
        file: file.into(),
        document: &document,
    };
    Ok(reader.draft())
}

struct Reader<'a> {
    file: Arc<str>,
    document: &'a Document<'a>,
}

impl<'a> Reader<'a> {
    fn draft(&self) -> Draft {
        let mut draft = Draft::new("sersync");
        let root = self.document.root_element();
        let mut source = SourceDraft::default();
        let mut found = None;
        for part in elements(root) {
            match part.tag_name().name() {
                "host" => draft
                    .remarks
                    .push(self.say(part, Nothing, "sersync never used it")),
                "debug" => {
                    let text = "see `[log]` and `syncd-agent status`";
                    draft.remarks.push(self.say(part, Nothing, text));
                }
                "fileSystem" => {
                    let text = "every file system is looked at alike";
                    draft.remarks.push(self.say(part, Nothing, text));
                }
                "filter" => self.filter(part, &mut source),
                "inotify" => self.inotify(part, &mut source),
                "sersync" => found = Some(part),
                "plugin" => self.plugin(part, &mut draft),
                _ => draft.remarks.push(self.unknown(part)),
            }
        }
        if !elements(root).any(|part| part.tag_name().name() == "inotify") {
            let text = "no <inotify>: sersync then mirrors no deletes";
            let why = Remark::new(&self.at(root), Kept, "<head>", text);
            source
                .settings
                .push(Setting::new("delete", Value::Flag(false), why));
        }
        match found {
            Some(part) => self.sersync(part, source, &mut draft),
            None => {
                let text = "there is no <sersync> in it: nothing to mirror";
                let remark = Remark::new(&self.at(root), Danger, "<head>", text);
                draft.remarks.push(remark);
            }
        }
        draft.finish();
        draft
    }

    fn sersync(&self, part: Node<'a, 'a>, mut source: SourceDraft, draft: &mut Draft) {
        let mut places = Vec::new();
        let mut watched = false;
        let mut called = None;
        for part in elements(part) {
            match part.tag_name().name() {
                "localpath" if watched => {
                    let text = "sersync reads the first <localpath> only, so this one never ran; add a [[source]] if it should";
                    draft.remarks.push(self.say(part, Danger, text));
                }
                "localpath" => {
                    watched = true;
                    self.watched(part, &mut source, &mut places);
                }
                "rsync" => called = Some(part),
                "failLog" => {
                    let text = "what fails stays dirty and is tried again until it is acknowledged; sersync's own script of failures is lost to it after a few tries";
                    source.remarks.push(self.say(part, Nothing, text));
                }
                "crontab" => self.crontab(part, &mut source),
                "plugin" if is_on(part) => {
                    let text = "there are no plugins; `syncd-agent status` and the control socket tell what was mirrored";
                    draft.remarks.push(self.say(part, Danger, text));
                }
                "plugin" => draft.remarks.push(self.say(part, Nothing, "it is off")),
                _ => draft.remarks.push(self.unknown(part)),
            }
        }
        let text = "sersync sends no names that begin with a dot, end with ~ or are 4913, whatever its settings; here they are mirrored unless `filter` has \"- .*\" or `presets` has \"editor-temp\"";
        source.remarks.push(self.say(part, Differs, text));
        self.rsync(part, called, &mut source, &places);
        draft.sources.push(source);
    }

    fn watched(
        &self,
        part: Node<'a, 'a>,
        source: &mut SourceDraft,
        places: &mut Vec<(Node<'a, 'a>, String)>,
    ) {
        let path = part.attribute("watch").unwrap_or_default();
        if path.is_empty() {
            source
                .remarks
                .push(self.say(part, Danger, "it names no directory"));
        } else {
            let value = Value::Text(trimmed(path).to_owned());
            source
                .settings
                .insert(0, Setting::new("path", value, self.say(part, Kept, "")));
        }
        for remote in elements(part) {
            let (ip, name) = (remote.attribute("ip"), remote.attribute("name"));
            match (remote.tag_name().name(), ip, name) {
                ("remote", Some(ip), Some(name)) if !ip.is_empty() && !name.is_empty() => {
                    places.push((remote, format!("{ip}|{name}")));
                }
                ("remote", ..) => {
                    let text = "it needs both `ip` and `name`";
                    source.remarks.push(self.say(remote, Danger, text));
                }
                _ => source.remarks.push(self.unknown(remote)),
            }
        }
        if places.is_empty() {
            let text = "there is no <remote> in it: nowhere to go";
            source.remarks.push(self.say(part, Danger, text));
        }
    }

    /// How rsync is called, and with that the targets.
    fn rsync(
        &self,
        around: Node<'a, 'a>,
        part: Option<Node<'a, 'a>>,
        source: &mut SourceDraft,
        places: &[(Node<'a, 'a>, String)],
    ) {
        let at = self.at(part.unwrap_or(around));
        let mut flags = Vec::new();
        let mut user = None;
        let mut by_ssh = false;
        let mut given = false;
        for part in part.into_iter().flat_map(elements) {
            let at = self.at(part);
            match part.tag_name().name() {
                "commonParams" => {
                    given = true;
                    flags.extend(split(&at, part.attribute("params").unwrap_or_default()));
                }
                "auth" if is_on(part) => {
                    user = part.attribute("users").map(str::to_owned);
                    flags.extend(part.attribute("passwordfile").map(|file| Flag {
                        at,
                        name: "password-file".to_owned(),
                        value: Some(file.to_owned()),
                    }));
                }
                "userDefinedPort" if is_on(part) => {
                    let port = part.attribute("port").unwrap_or_default();
                    source.remarks.push(port_of_rsync(&at, port));
                }
                "timeout" if is_on(part) => {
                    source
                        .remarks
                        .push(self.say(part, Nothing, "the module's `timeout` counts"));
                }
                "ssh" if is_on(part) => by_ssh = true,
                "auth" | "userDefinedPort" | "timeout" | "ssh" => {
                    source.remarks.push(self.say(part, Nothing, "it is off"));
                }
                _ => source.remarks.push(self.unknown(part)),
            }
        }
        if !given {
            flags.extend(split(&at, "-artuz"));
            let text = "without it sersync calls rsync -artuz";
            let remark = Remark::new(&at, Kept, "<commonParams>", text);
            source.remarks.push(remark);
        }
        let mut effect = flags::effect(&at, &flags);
        if let Some(remark) = effect.delete.take() {
            // Said by <delete> of <inotify>, which is what sersync asks.
            effect.remarks.push(remark);
        }
        let mut targets = Vec::new();
        for (remote, place) in places {
            let (host, name) = place.split_once('|').unwrap_or_default();
            let place = match by_ssh {
                true => Place::Ssh {
                    user: user.clone(),
                    host: host.to_owned(),
                    dir: name.to_owned(),
                },
                false => Place::Module {
                    user: user.clone(),
                    host: host.to_owned(),
                    port: None,
                    path: name.to_owned(),
                },
            };
            targets.push(place.target(&self.at(*remote), &self.written(*remote)));
        }
        let users = vec![user.as_deref().filter(|_| !by_ssh); targets.len()];
        effect.give(source, &mut targets, &users);
        source.targets = targets;
    }

    fn filter(&self, part: Node<'a, 'a>, source: &mut SourceDraft) {
        for rule in elements(part) {
            let expression = rule.attribute("expression").unwrap_or_default();
            if !is_on(part) {
                let text = "<filter> is off: sersync mirrors it, and so does the agent";
                source.remarks.push(self.say(rule, Nothing, text));
                continue;
            }
            match pattern::of_regex(expression) {
                Some(pattern) => {
                    let text = "a pattern of rsync, which holds for events, full passes and what is there at the start alike; sersync's holds for events only";
                    let why = self.say(rule, Differs, text);
                    source.rules.push((format!("- {pattern}"), why));
                }
                None => {
                    let text = "this regular expression has no plain counterpart: what it excludes IS MIRRORED until you add a rule to `filter`";
                    source.remarks.push(self.say(rule, Danger, text));
                }
            }
        }
        if is_on(part) {
            let text = "full passes go on: with it sersync refuses -r, and its crontab needs a <crontabfilter>";
            source.remarks.push(self.say(part, Differs, text));
        }
    }

    fn inotify(&self, part: Node<'a, 'a>, source: &mut SourceDraft) {
        let mut deletes = None;
        for event in elements(part) {
            let on = is_on(event);
            let (verdict, text) = match event.tag_name().name() {
                "delete" => {
                    deletes = Some((on, event));
                    continue;
                }
                "createFolder" if !on => (
                    Danger,
                    "sersync neither mirrors nor watches new directories then; the agent does both",
                ),
                "createFolder" | "moveFrom" | "moveTo" if on => {
                    (Kept, "a renamed directory is renamed there, not sent again")
                }
                "closeWrite" if on => (Kept, ""),
                "modify" if on => (
                    Differs,
                    "a file that is being written goes after a quiet time (settle_ms), at the latest after hold_max_ms",
                ),
                "createFile" if on => (
                    Differs,
                    "a file goes when it is closed or quiet, not empty as it is made",
                ),
                "attrib" if on => (Kept, "modes, owners and times are always mirrored"),
                "moveFrom" | "moveTo" | "closeWrite" | "modify" | "createFile" | "attrib" => {
                    (Differs, "every change is noticed, this kind too")
                }
                _ => {
                    source.remarks.push(self.unknown(event));
                    continue;
                }
            };
            source.remarks.push(self.say(event, verdict, text));
        }
        let (on, at) = deletes.unwrap_or((false, part));
        let text = match (on, deletes) {
            (true, _) => "deletes beyond max_delete (50%) are held until somebody approves",
            (false, Some(_)) => "what is gone here stays there",
            (false, None) => "there is no <delete>: what is gone here stays there",
        };
        let why = self.say(at, Kept, text);
        let setting = Setting::new("delete", Value::Flag(on), why);
        source.settings.push(setting);
    }

    fn crontab(&self, part: Node<'a, 'a>, source: &mut SourceDraft) {
        if !is_on(part) {
            let text = "it is off; the agent compares both sides whenever it connects";
            source.remarks.push(self.say(part, Nothing, text));
            return;
        }
        let text = "the agent compares both sides whenever it connects, and after lost events; `syncd-agent rescan` does it on demand";
        source.remarks.push(self.say(part, Differs, text));
        let filters = elements(part).filter(|filter| is_on(*filter));
        for rule in filters.flat_map(elements) {
            let text = "rules count for events and full passes alike; add it to `filter` if events should obey it too";
            source.remarks.push(self.say(rule, Danger, text));
        }
    }

    fn plugin(&self, part: Node<'a, 'a>, draft: &mut Draft) {
        let text = match part.attribute("name") {
            Some("http") => "no release of sersync ran it",
            _ => "it runs only if <plugin start=\"true\"> in <sersync> names it, or with -m",
        };
        draft.remarks.push(self.say(part, Nothing, text));
    }

    fn unknown(&self, part: Node<'a, 'a>) -> Remark {
        self.say(part, Danger, "not known here: nothing was made of it")
    }

    fn say(&self, part: Node<'a, 'a>, verdict: Verdict, text: &str) -> Remark {
        Remark::new(&self.at(part), verdict, self.written(part), text)
    }

    fn at(&self, part: Node<'a, 'a>) -> At {
        let line = self.document.text_pos_at(part.range().start).row;
        At {
            file: self.file.clone(),
            line: line as usize,
        }
    }

    /// The start of an element, as it was written.
    fn written(&self, part: Node<'a, 'a>) -> String {
        let attributes = part.attributes();
        let attributes: Vec<String> = attributes
            .map(|attribute| match attribute.name() {
                // A remark is read by more people than a configuration.
                "passwd" => " passwd=\"...\"".to_owned(),
                name => format!(" {name}=\"{}\"", attribute.value()),
            })
            .collect();
        format!("<{}{}>", part.tag_name().name(), attributes.concat())
    }
}

fn elements<'a>(part: Node<'a, 'a>) -> impl Iterator<Item = Node<'a, 'a>> {
    part.children().filter(Node::is_element)
}

/// sersync takes the word `true` alone.
fn is_on(part: Node<'_, '_>) -> bool {
    part.attribute("start") == Some("true")
}

fn trimmed(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

/// Options in one text, as a shell splits them.
fn split(at: &At, text: &str) -> Vec<Flag> {
    let words = shell::plain_words(text);
    let words: Vec<_> = words.into_iter().map(|word| (at.clone(), word)).collect();
    flags::split(&words).0
}
