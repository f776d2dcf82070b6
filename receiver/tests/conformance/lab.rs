//! The world of one vector: its files, names, accounts and client, as the logic asks for them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;
use syncd_proto::message::Purpose;
use syncd_proto::reject::RejectCode;
use syncd_recv::logic::authorize::{
    self, Admission, Authorization, Grant, Journal, Refusal, Request, Slots, World,
};
use syncd_recv::logic::hosts::{PeerAddr, Resolver};
use syncd_recv::logic::rsyncd_conf::{
    Config, ConfigSource, Entry, Loaded, Reading, Severity, SourceError, Variables, load,
};
use syncd_recv::logic::secrets::{self, Secrets};
use syncd_recv::logic::users::Accounts;
use zeroize::Zeroizing;

const ROOT: &[u8] = b"/lab";
const CONFIG: &[u8] = b"/lab/rsyncd.conf";
const BOM: &[u8] = b"\xef\xbb\xbf";

/// One file of vectors.
pub(crate) struct Topic(Value);

impl Topic {
    pub(crate) fn read(name: &str) -> Self {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/vectors/conformance")
            .join(format!("{name}.json"));
        let text =
            std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self(serde_json::from_slice(&text).expect("JSON"))
    }

    pub(crate) fn vectors(&self) -> &[Value] {
        self.0["vectors"].as_array().expect("vectors")
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

pub(crate) fn octal(value: &Value) -> u32 {
    u32::from_str_radix(&text(value), 8).expect("octal")
}

pub(crate) fn list(value: &Value) -> Vec<Vec<u8>> {
    let items = value.as_array().into_iter().flatten();
    items.map(bytes).collect()
}

/// Strings stand for bytes, one character each.
fn bytes(value: &Value) -> Vec<u8> {
    from_characters(value.as_str().expect("a string"))
}

fn from_characters(text: &str) -> Vec<u8> {
    text.chars()
        .map(|character| u8::try_from(u32::from(character)).expect("a byte"))
        .collect()
}

fn to_characters(bytes: &[u8]) -> Value {
    Value::String(bytes.iter().map(|byte| char::from(*byte)).collect())
}

/// With the scratch directory put in.
fn placed(mut text: &[u8]) -> Vec<u8> {
    let mut placed = Vec::new();
    while let Some((&byte, after)) = text.split_first() {
        match text.strip_prefix(b"{ROOT}") {
            Some(after) => {
                placed.extend_from_slice(ROOT);
                text = after;
            }
            None => {
                placed.push(byte);
                text = after;
            }
        }
    }
    placed
}

/// What a client met: in the vectors' words, and in ours.
pub(crate) struct Outcome {
    pub(crate) kind: String,
    pub(crate) words: Option<String>,
}

impl Outcome {
    fn new(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            words: None,
        }
    }

    pub(crate) fn is_let_in(&self) -> bool {
        matches!(&self.kind[..], "accepted" | "listed")
    }
}

pub(crate) struct Lab<'a> {
    topic: &'a Value,
    vector: &'a Value,
    files: BTreeMap<Vec<u8>, &'a Value>,
}

impl<'a> Lab<'a> {
    pub(crate) fn new(topic: &'a Topic, vector: &'a Value) -> Self {
        let files = vector["files"].as_array().expect("files").iter();
        Self {
            topic: &topic.0,
            vector,
            files: files
                .map(|file| (placed(&bytes(&file["path"])), file))
                .collect(),
        }
    }

    pub(crate) fn load(&self, reading: Reading) -> Result<Loaded, String> {
        let environment = self.vector["daemon"]["env"].as_object();
        let variables: Variables = environment
            .into_iter()
            .flatten()
            .map(|(name, value)| (from_characters(name), placed(&bytes(value))))
            .collect();
        let mut files = Files { lab: self, reading };
        load(&mut files, CONFIG, &variables, reading).map_err(|unusable| {
            let severities = unusable.diagnostics.iter().map(|remark| remark.severity);
            assert_eq!(severities.max(), Some(Severity::Error));
            unusable.to_string()
        })
    }

    pub(crate) fn outcome(&self, reading: Reading) -> Outcome {
        let Ok(loaded) = self.load(reading) else {
            return Outcome::new("config-error");
        };
        if self.vector["client"]["op"] == "list" {
            return Outcome::new("listed");
        }
        match self.decide(&loaded.config) {
            Authorization::Grant(grant) => Outcome::new(self.beyond(&loaded.config, &grant)),
            Authorization::Refusal(refusal) => Outcome {
                kind: kind_of(&refusal),
                words: Some(refusal.text),
            },
        }
    }

    fn decide(&self, config: &Config) -> Authorization {
        let client = &self.vector["client"];
        let slots = Slots::default();
        let holders = client["holders"].as_array().into_iter().flatten();
        let _held: Vec<_> = holders
            .map(|holder| self.ask(config, &bytes(&holder["module"]), &slots))
            .collect();
        match self.ask(config, &bytes(&client["module"]), &slots) {
            Admission::Decided(decided) => decided,
            Admission::Challenge(pending) => {
                let secrets = match pending.secrets_file() {
                    Some((path, strict)) => self.secrets(path, strict),
                    None => Err("not set".into()),
                };
                let password = client["password"].as_str().map(from_characters);
                let password = password.unwrap_or_default();
                let secrets = secrets.as_ref().map_err(Clone::clone);
                pending.finish(secrets, |candidate| candidate == password)
            }
        }
    }

    fn ask(&self, config: &Config, module: &[u8], slots: &Slots) -> Admission {
        let client = &self.vector["client"];
        let user = client["user"].as_str().map(from_characters);
        let source = text(&client["source"]);
        let (address, interface) = source.split_once('%').unwrap_or((&source, ""));
        let scope = self.interface(interface.as_bytes()).unwrap_or(0);
        let purpose = match client["op"].as_str() {
            Some("pull") => Purpose::Compare,
            _ => Purpose::Mirror,
        };
        let request = Request {
            peer: PeerAddr::new(address.parse().expect("an address"), scope),
            identities: &[],
            module,
            user: user.as_deref(),
            purpose,
        };
        let world = World {
            resolver: self,
            accounts: self,
            slots,
            journal: &Journal::default(),
        };
        authorize::admit(config, &request, &world)
    }

    /// Whether the refusal has rsync's words, which the client saw after `@ERROR`.
    pub(crate) fn says_the_same(&self, words: &str) -> bool {
        let Some(seen) = self.vector["expect"]["daemon_message"].as_str() else {
            return true;
        };
        let theirs = seen.trim_start_matches('@').trim_start_matches("ERROR: ");
        // An address is told without its scope, a name that is no text is escaped, and there are
        // no commands.
        let comparable = !theirs.contains('%') && theirs.is_ascii() && !theirs.contains('#');
        !comparable || theirs == words
    }

    /// What follows the authorization: the user to become, and the directory.
    fn beyond(&self, config: &Config, grant: &Grant) -> &'static str {
        let module = config.module(&grant.module).expect("its module");
        let uid = module
            .uid
            .as_ref()
            .map(|uid| uid.value.expand(&grant.variables));
        let known = |uid: &Vec<u8>| {
            let name = String::from_utf8_lossy(uid).into_owned();
            !self.topic["accounts"]["users"][name].is_null() || uid.iter().all(u8::is_ascii_digit)
        };
        if !uid.as_ref().is_none_or(known) {
            "bad-uid"
        } else if self.directory(&grant.root).is_none() {
            "chroot-failed"
        } else {
            "accepted"
        }
    }

    /// The directory served, as the vector writes it, if it was made.
    fn directory(&self, root: &[u8]) -> Option<Value> {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in root.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        let path = parts.join(&b'/');
        let inside = path.strip_prefix(b"lab/")?;
        let made = match &self.vector["daemon"]["dirs"] {
            Value::Null => vec![b"mod".to_vec()],
            dirs => list(dirs),
        };
        made.iter()
            .any(|made| made == inside)
            .then(|| to_characters(&[b"{ROOT}/", inside].concat()))
    }

    /// What parameters proved to be, beside the outcome.
    pub(crate) fn differences(&self) -> Vec<String> {
        let Ok(loaded) = self.load(Reading::AsRsync) else {
            return Vec::new();
        };
        let config = &loaded.config;
        let expect = &self.vector["expect"];
        let observed = &expect["observed"];
        let mut pairs = vec![
            ("modules", listing(config), &expect["modules"]),
            ("names", names(config), &observed["modules"]),
        ];
        let asked_for = bytes(&self.vector["client"]["module"]);
        if let Some(module) = config.module(&asked_for) {
            pairs.extend([
                (
                    "read only",
                    module.read_only.value.into(),
                    &observed["read only"],
                ),
                (
                    "write only",
                    module.write_only.value.into(),
                    &observed["write only"],
                ),
                ("listed", module.list.value.into(), &observed["listed"]),
                (
                    "max connections",
                    module.max_connections.value.into(),
                    &observed["max connections"],
                ),
            ]);
        }
        if observed["path"].get(0).is_some()
            && let Authorization::Grant(grant) = self.decide(config)
        {
            let found = self.directory(&grant.root).into_iter().collect();
            pairs.push(("path", found, &observed["path"]));
        }
        pairs
            .into_iter()
            .filter(|(_, ours, theirs)| !theirs.is_null() && ours != *theirs)
            .map(|(what, ours, theirs)| {
                format!("{}: {what} {ours}, rsync: {theirs}", self.vector["id"])
            })
            .collect()
    }

    fn account(&self, name: &str) -> u32 {
        let uid = &self.topic["accounts"]["users"][name][0];
        u32::try_from(uid.as_u64().expect("an account")).expect("a uid")
    }

    /// What reading a secrets file comes to: links, permission to open, strict modes.
    fn secrets(&self, path: &[u8], strict: bool) -> Result<Secrets, String> {
        let runs_as = self.vector["daemon"]["run_as"].as_str().unwrap_or("root");
        let owner = |file: &'a Value| file["owner"].as_str().unwrap_or("root");
        let mut file = *self.files.get(path).ok_or("no such file")?;
        if file["type"] == "symlink" {
            if !["root", runs_as].contains(&owner(file)) {
                return Err("a link of somebody else".into());
            }
            let target = placed(&bytes(&file["to"]));
            file = self.files.get(&target).ok_or("no such file")?;
        }
        if file["type"] == "dir" {
            return Err("a directory".into());
        }
        let mode = octal(&file["mode"]);
        let group = file["group"].as_str().unwrap_or(owner(file));
        let shift = match (owner(file) == runs_as, group == runs_as) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        if runs_as != "root" && mode >> shift & 4 == 0 {
            return Err("permission denied".into());
        }
        if strict {
            let (owner, euid) = (self.account(owner(file)), self.account(runs_as));
            secrets::strict_modes(mode, owner, euid).map_err(|unfit| unfit.to_string())?;
        }
        Ok(Secrets::new(Zeroizing::new(bytes(&file["text"]))))
    }
}

fn listing(config: &Config) -> Value {
    config
        .listing()
        .map(|(name, comment)| vec![to_characters(name), to_characters(&comment)])
        .collect()
}

fn names(config: &Config) -> Value {
    config
        .listing()
        .map(|(name, _)| to_characters(name))
        .collect()
}

fn kind_of(refusal: &Refusal) -> String {
    match (refusal.code, &refusal.text[..]) {
        (RejectCode::UnknownModule, _) => "unknown-module",
        (RejectCode::HostDenied, _) => "denied-host",
        (RejectCode::TooManyConnections, _) => "max-connections",
        (RejectCode::AuthFailed, _) => "auth-failed",
        (RejectCode::ReadOnly, _) => "read-only",
        (_, "no path setting.") => "no-path",
        (_, "module is write only") => "write-only",
        (_, text) => text,
    }
    .to_owned()
}

struct Files<'a, 'b> {
    lab: &'a Lab<'b>,
    reading: Reading,
}

impl ConfigSource for Files<'_, '_> {
    fn read(&mut self, path: &[u8]) -> Result<Entry, SourceError> {
        if path == CONFIG {
            // rsync's clients have no certificates: read strictly, a module must not miss them.
            let door: &[u8] = match self.reading {
                Reading::Strict => b"allow any certificate = yes\n",
                Reading::AsRsync => b"",
            };
            let text = placed(&bytes(&self.lab.vector["config"]));
            let (mark, text) = text.split_at(if text.starts_with(BOM) { BOM.len() } else { 0 });
            return Ok(Entry::File([mark, door, text].concat()));
        }
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let file = self.lab.files.get(path);
        if let Some(file) = file.filter(|file| file["type"] != "dir") {
            return Ok(Entry::File(placed(&bytes(&file["text"]))));
        }
        let below = [path, b"/"].concat();
        let paths = self.lab.files.keys();
        let names: Vec<_> = paths
            .filter_map(|file| file.strip_prefix(&below[..]).map(<[u8]>::to_vec))
            .collect();
        if names.is_empty() && file.is_none() {
            return Err(SourceError("no such file".into()));
        }
        Ok(Entry::Directory(names))
    }
}

impl Resolver for Lab<'_> {
    fn reverse(&self, address: IpAddr) -> Option<Vec<u8>> {
        let name = &self.topic["resolver"]["ptr"][address.to_string()];
        name.as_str().map(from_characters)
    }

    fn forward(&self, name: &[u8]) -> Vec<IpAddr> {
        let resolver = &self.topic["resolver"];
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        let name = resolver["cname"][name].as_str().unwrap_or(name);
        let addresses = ["a", "aaaa"].map(|kind| resolver[kind][name].as_array());
        let addresses = addresses.into_iter().flatten().flatten();
        addresses
            .map(|address| text(address).parse().expect("an address"))
            .collect()
    }

    fn netgroup_holds(&self, group: &[u8], host: &[u8]) -> Option<bool> {
        let group = String::from_utf8_lossy(group).into_owned();
        Some(list(&self.topic["netgroups"][group]).contains(&host.to_vec()))
    }

    fn interface(&self, name: &[u8]) -> Option<u32> {
        match name {
            b"lo" => Some(1),
            b"lab0" => Some(2),
            _ => None,
        }
    }
}

impl Accounts for Lab<'_> {
    fn groups_of(&self, user: &[u8]) -> Vec<Vec<u8>> {
        let user = String::from_utf8_lossy(user).into_owned();
        let accounts = &self.topic["accounts"];
        let Some(primary) = accounts["users"][&user][1].as_u64() else {
            return Vec::new();
        };
        let groups = accounts["groups"].as_object().expect("groups");
        let of_user = |first: bool| {
            let user = &user;
            groups.iter().filter(move |(_, group)| {
                let is_primary = group[0].as_u64() == Some(primary);
                let holds = list(&group[1]).contains(&user.as_bytes().to_vec());
                is_primary == first && (is_primary || holds)
            })
        };
        of_user(true)
            .chain(of_user(false))
            .map(|(name, _)| from_characters(name))
            .collect()
    }
}
