//! The directory of one group of vectors: what stands there before the daemon starts, and what came of it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::vectors::{Topic, bytes, characters, id, octal, placed};

/// The name of a file below a pushed directory.
pub(crate) const INSIDE: &str = "inside";

/// What every module directory holds before.
const SEED: &str = "seed.txt";

/// What a client met, in the vectors' words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Met {
    /// The outcome.
    pub(crate) outcome: String,
    /// What it was told.
    pub(crate) message: String,
    /// A list of modules: name and comment.
    pub(crate) modules: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Met {
    pub(crate) fn new(outcome: &str) -> Self {
        Self {
            outcome: outcome.to_owned(),
            ..Self::default()
        }
    }

    pub(crate) fn told(outcome: &str, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::new(outcome)
        }
    }
}

/// The scratch directory, `{ROOT}`.
pub(crate) struct Lab<'a> {
    pub(crate) topic: &'a Topic,
    pub(crate) root: PathBuf,
    pub(crate) port: u16,
}

impl<'a> Lab<'a> {
    /// Makes everything the vector wants to be there.
    pub(crate) fn make(topic: &'a Topic, vector: &Value, root: PathBuf, port: u16) -> Self {
        let lab = Self { topic, root, port };
        make_dir(&lab.root, 0o755);
        let dirs = match vector["daemon"]["dirs"].as_array() {
            None => vec!["mod".to_owned()],
            Some(dirs) => dirs
                .iter()
                .map(|dir| dir.as_str().expect("a name").to_owned())
                .collect(),
        };
        for dir in dirs {
            let dir = lab.root.join(dir);
            make_dir(&dir, 0o777);
            fs::write(dir.join(SEED), "seed\n").expect("seed");
        }
        for file in vector["files"].as_array().into_iter().flatten() {
            lab.make_file(file);
        }
        lab
    }

    fn make_file(&self, file: &Value) {
        let path = PathBuf::from(OsStr::from_bytes(&self.placed(&bytes(&file["path"]))));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("parents");
        }
        let owner = file["owner"].as_str().unwrap_or("root");
        let (uid, own_gid) = self.account(owner);
        let gid = file["group"]
            .as_str()
            .map_or(own_gid, |name| self.group(name));
        match file["type"].as_str() {
            Some("symlink") => {
                let target = self.placed(&bytes(&file["to"]));
                symlink(OsStr::from_bytes(&target), &path).expect("symlink");
                lchown(&path, Some(uid), Some(gid)).expect("owner");
                return;
            }
            Some("dir") => fs::create_dir_all(&path).expect("directory"),
            _ => fs::write(&path, self.placed(&bytes(&file["text"]))).expect("file"),
        }
        chown(&path, Some(uid), Some(gid)).expect("owner");
        if let Some(mode) = octal(&file["mode"]) {
            chmod(&path, mode);
        }
    }

    pub(crate) fn placed(&self, text: &[u8]) -> Vec<u8> {
        placed(text, &self.root.display().to_string(), self.port)
    }

    /// User and primary group.
    pub(crate) fn account(&self, name: &str) -> (u32, u32) {
        let ids = &self.topic.part("accounts")["users"][name];
        (number(&ids[0]), number(&ids[1]))
    }

    fn group(&self, name: &str) -> u32 {
        number(&self.topic.part("accounts")["groups"][name][0])
    }

    /// The name of what a vector pushes.
    pub(crate) fn probe(vector: &Value) -> String {
        match vector["client"]["probe_name"].as_str() {
            Some(name) => name.to_owned(),
            None => format!("probe-{}", id(vector).replace('/', "_")),
        }
    }

    /// What the vector recorded and what is there, where they differ.
    pub(crate) fn differences(&self, vector: &Value, met: &Met) -> Vec<String> {
        let expect = &vector["expect"];
        let mut found = Vec::new();
        let mut compare = |what: &str, ours: Value, theirs: &Value| {
            if !theirs.is_null() && ours != *theirs {
                found.push(format!("{what}: {ours}, recorded {theirs}"));
            }
        };
        if let Some(modules) = &met.modules {
            let pairs: Vec<_> = modules
                .iter()
                .map(|(name, comment)| [characters(name), characters(comment)])
                .collect();
            compare("modules", serde_json::json!(pairs), &expect["modules"]);
        }
        let probe = Self::probe(vector);
        let mut landed = Vec::new();
        find(&self.root, OsStr::from_bytes(probe.as_bytes()), &mut landed);
        let shown: BTreeSet<_> = landed.iter().map(|path| self.shown(path, &probe)).collect();
        let recorded: BTreeSet<_> = expect["landed"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|path| path.as_str().expect("a path").to_owned())
            .collect();
        if vector["client"]["op"] == "push" && shown != recorded {
            found.push(format!("landed {shown:?}, recorded {recorded:?}"));
        }
        if let Some(path) = landed.first() {
            found.extend(result(path, &expect["result"]));
            found.extend(result(&path.join(INSIDE), &expect["result_inside"]));
        }
        if !expect["remaining"].is_null() {
            let names: BTreeSet<_> = self.names_in_module().into_iter().collect();
            let recorded: BTreeSet<_> = expect["remaining"]
                .as_array()
                .expect("names")
                .iter()
                .map(|name| name.as_str().expect("a name").to_owned())
                .collect();
            if names != recorded {
                found.push(format!("remaining {names:?}, recorded {recorded:?}"));
            }
        }
        found
    }

    /// What stands in `{ROOT}/mod`, without our own directory.
    pub(crate) fn names_in_module(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("mod")).expect("the module");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| name != ".syncd").collect()
    }

    fn shown(&self, path: &Path, probe: &str) -> String {
        let path = path
            .strip_prefix(&self.root)
            .expect("within")
            .display()
            .to_string();
        let dir = path.strip_suffix(probe).expect("its name");
        format!("{{ROOT}}/{dir}<probe>")
    }
}

/// Every path below `dir` with this name.
fn find(dir: &Path, name: &OsStr, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name() == name && dir.file_name() != Some(OsStr::new("source")) {
            found.push(entry.path());
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != ".syncd"
        {
            find(&entry.path(), name, found);
        }
    }
}

/// Where a thing differs from its record.
fn result(path: &Path, expect: &Value) -> Vec<String> {
    if expect.is_null() {
        return Vec::new();
    }
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return vec![format!("{} is not there", path.display())];
    };
    let kind = metadata.file_type();
    let kind = match () {
        () if kind.is_dir() => "dir",
        () if kind.is_symlink() => "symlink",
        () if kind.is_fifo() => "fifo",
        () if kind.is_char_device() => "char",
        () => "file",
    };
    let owner = format!("{}:{}", metadata.uid(), metadata.gid());
    let target = fs::read_link(path).map(|target| characters(target.as_os_str().as_bytes()));
    let mut value = [0; 256];
    let xattr = rustix::fs::lgetxattr(path, "user.rsync.%stat", &mut value);
    let xattr = xattr.map(|length| characters(&value[..length]));
    let content = fs::read(path).map(|text| characters(&text));
    let facts = [
        ("kind", Some(kind.to_owned())),
        ("mode", Some(format!("{:04o}", metadata.mode() & 0o7777))),
        ("owner", Some(owner)),
        ("target", target.ok()),
        ("xattr", xattr.ok()),
        ("content", content.ok()),
    ];
    let mut differences = Vec::new();
    for (what, found) in facts {
        if let Some(recorded) = expect[what].as_str()
            && found.as_deref() != Some(recorded)
        {
            differences.push(format!("{what} {found:?}, recorded {recorded:?}"));
        }
    }
    differences
}

fn make_dir(path: &Path, mode: u32) {
    fs::create_dir_all(path).expect("directory");
    chmod(path, mode);
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().expect("a number")).expect("an id")
}
