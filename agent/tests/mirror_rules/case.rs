//! [`Case`]: a source, a target and rules by chance; what rsync makes of them, and what the filter says.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use syncd_agent::logic::filter::{Filter, Origin, Rules, RulesFile, Scope, Statement};
use syncd_proto::path::WirePath;

use super::beside::{Rng, entries};
use super::texts::{
    Content, random_absolute, random_dir_merge, random_pattern, random_rule, random_text,
};

/// Directories end with `/`.
pub(crate) type Paths = BTreeSet<String>;

/// Options and their values, in order.
type Options = Vec<(&'static str, String)>;

/// A source, a target, and rules.
pub(crate) struct Case {
    dir: tempfile::TempDir,
    options: Options,
    scopes: RefCell<BTreeMap<WirePath, Scope>>,
}

/// Directories above source and target, alike on both sides.
const ABOVE: &str = "p/q/tree";

const DIRS: [&str; 5] = ["a", "b", "ab", "foo", "CVS"];
const FILES: [&str; 8] = ["x", "a.o", "b.o", "ba", "fo~", "[x]", "a\\b", "core"];

/// Files of rules, and what may stand in them.
const RULE_FILES: [(&str, Content); 7] = [
    (".rules", Content::Nesting),
    (".more", Content::Nesting),
    (".third", Content::Rules),
    (".list", Content::Unsided),
    (".sided", Content::Unsided),
    (".plain", Content::Patterns),
    (".cvsignore", Content::Words),
];

impl Case {
    pub(crate) fn make(rng: &mut Rng, sends_only: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut case = Self {
            dir,
            options: Vec::new(),
            scopes: RefCell::default(),
        };
        fs::create_dir_all(case.src()).unwrap();
        fs::create_dir_all(case.dst()).unwrap();
        case.fill("", rng, 0, true, true);
        case.write_rules("..", rng);
        case.write_rules("../..", rng);
        case.options = case.random_options(rng, sends_only);
        case
    }

    fn src(&self) -> PathBuf {
        self.dir.path().join("1").join(ABOVE)
    }

    pub(crate) fn dst(&self) -> PathBuf {
        self.dir.path().join("2").join(ABOVE)
    }

    /// Files and directories on one side or both.
    fn fill(&self, at: &str, rng: &mut Rng, depth: usize, here: bool, there: bool) {
        let sides = |rng: &mut Rng| match rng.below(6) {
            0 => (here, false),
            1 => (false, there),
            2 | 3 => (here, there),
            _ => (false, false),
        };
        for name in FILES {
            let (here, there) = sides(rng);
            for side in [here.then(|| self.src()), there.then(|| self.dst())] {
                side.into_iter()
                    .for_each(|side| fs::write(side.join(at).join(name), "x").unwrap());
            }
        }
        for name in DIRS.iter().filter(|_| depth < 2) {
            let (here, there) = sides(rng);
            if !here && !there {
                continue;
            }
            let path = format!("{at}{name}/");
            for side in [here.then(|| self.src()), there.then(|| self.dst())] {
                side.into_iter()
                    .for_each(|side| fs::create_dir(side.join(&path)).unwrap());
            }
            self.fill(&path, rng, depth + 1, here, there);
        }
        // The receiver of rsync looks into its own directories.
        if here {
            self.write_rules(at, rng);
        }
    }

    /// Writes the files of rules of one directory to both sides, if it is on both.
    fn write_rules(&self, at: &str, rng: &mut Rng) {
        for (name, content) in RULE_FILES {
            let text = random_text(rng, content);
            // Whatever merges it must find it.
            if name != ".list" && rng.below(4) > 0 {
                continue;
            }
            for side in [self.src(), self.dst()] {
                if side.join(at).is_dir() {
                    fs::write(side.join(at).join(name), &text).unwrap();
                }
            }
        }
    }

    fn random_options(&self, rng: &mut Rng, sends_only: bool) -> Options {
        let mut options = Options::new();
        if !sends_only {
            // Files of rules have to stay where rsync's receiver reads them.
            for (name, _) in RULE_FILES {
                options.push(("filter", format!("P {name}")));
            }
        }
        let mut has_list = false;
        for _ in 0..=rng.below(5) {
            let option = match rng.below(12) {
                0 => ("exclude", random_pattern(rng)),
                1 => ("include", random_pattern(rng)),
                2..=4 => ("filter", random_rule(rng, true)),
                5..=8 => ("filter", random_dir_merge(rng, sends_only)),
                9 if sends_only && rng.below(3) == 0 => ("filter", "!".to_owned()),
                9 if !has_list => {
                    has_list = true;
                    let list = rng.pick(&["-C", "-C", "-,C", "-Cs", "-Cr", "exclude,C", "+C"]);
                    ("filter", list.to_owned())
                }
                9 | 10 => self.file_option(options.len(), rng),
                _ if sends_only => {
                    let abs = self.src().display().to_string();
                    let tail = random_pattern(rng);
                    let tail = tail.trim_start_matches('/');
                    ("filter", format!("-/ {abs}/{tail}"))
                }
                _ => ("filter", random_absolute(rng)),
            };
            options.push(option);
        }
        options
    }

    /// An option that names a file.
    fn file_option(&self, number: usize, rng: &mut Rng) -> (&'static str, String) {
        let path = self.dir.path().join(format!("file{number}"));
        let kinds = [
            ("exclude-from", "", Content::Patterns),
            ("include-from", "", Content::Patterns),
            ("filter", ". ", Content::Nesting),
            ("filter", "merge,e ", Content::Rules),
            ("filter", ".s ", Content::Unsided),
            ("filter", "merge,r ", Content::Unsided),
            ("filter", ".rs ", Content::Unsided),
            ("filter", ".p ", Content::Rules),
            ("filter", "./ ", Content::Rules),
            ("filter", ".- ", Content::Patterns),
            ("filter", "merge,+ ", Content::Patterns),
            ("filter", ".w- ", Content::Words),
            ("filter", ".C ", Content::Words),
        ];
        let (option, prefix, content) = kinds[rng.below(kinds.len() as u64) as usize];
        let mut text = random_text(rng, content);
        if content == Content::Nesting {
            // A plain name would be that of a file here.
            for merge in [". .list", ".p .list", ". ./.list", ".e ./.list"] {
                text = text.replace(merge, "");
            }
        }
        if content == Content::Words && prefix == ".w- " {
            text = text.replace('!', "");
        }
        fs::write(&path, text).unwrap();
        (option, format!("{prefix}{}", path.display()))
    }

    pub(crate) fn run_rsync(&self, seed: u64, more: &[&str]) {
        let side = |path: PathBuf| format!("{}/", path.display());
        let output = Command::new("rsync")
            .args(["-rl"])
            .args(more)
            .args(
                self.options
                    .iter()
                    .map(|(kind, text)| format!("--{kind}={text}")),
            )
            .args([side(self.src()), side(self.dst())])
            .env("HOME", "/nonexistent")
            .env_remove("CVSIGNORE")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "seed {seed}: {:?}: {errors}",
            self.options
        );
    }

    pub(crate) fn compile(&self) -> Filter {
        let mut list = Rules::default().of_source(&self.src());
        for (kind, text) in &self.options {
            let bytes = text.clone().into_bytes();
            let statement = match *kind {
                "exclude" => Statement::Exclude(bytes),
                "include" => Statement::Include(bytes),
                "exclude-from" => Statement::ExcludeFrom(text.into()),
                "include-from" => Statement::IncludeFrom(text.into()),
                _ => Statement::Filter(bytes),
            };
            list.push(statement, Origin::option(kind));
        }
        let mut read = |file: &Path| fs::read(file).map_err(|error| error.to_string());
        Filter::compile(&list, &mut read).unwrap_or_else(|error| panic!("{error}"))
    }

    fn scope(&self, filter: &Filter, dir: &WirePath) -> Scope {
        if let Some(known) = self.scopes.borrow().get(dir) {
            return known.clone();
        }
        let parent = dir.parent().map(|parent| self.scope(filter, &parent));
        let mut read = |file: &RulesFile| {
            let path = match file {
                RulesFile::Within(path) => self.src().join(path.to_path_buf()),
                RulesFile::Outside(path) => path.clone(),
            };
            Ok(fs::read(path).ok())
        };
        let scope = filter.with_dir(&parent.unwrap_or_default(), dir, &mut read);
        if let Some(error) = scope.broken() {
            panic!("{error}");
        }
        self.scopes.borrow_mut().insert(dir.clone(), scope.clone());
        scope
    }

    pub(crate) fn send(&self, filter: &Filter, sent: &mut Paths) {
        let mut open = vec![WirePath::root()];
        while let Some(dir) = open.pop() {
            let scope = self.scope(filter, &dir);
            for (path, is_dir) in entries(&self.src(), &dir) {
                if filter.keeps(&path, is_dir, &scope) {
                    sent.insert(text(&path, is_dir));
                    open.extend(is_dir.then_some(path));
                }
            }
        }
    }

    /// What stays at the target that is not sent; whether anything does.
    pub(crate) fn stay(
        &self,
        filter: &Filter,
        dir: &WirePath,
        removed: Option<&WirePath>,
        sent: &Paths,
        left: &mut Paths,
    ) -> bool {
        let mut any = false;
        for (path, is_dir) in entries(&self.dst(), dir) {
            let name = text(&path, is_dir);
            let is_sent = sent.contains(&name);
            let mut scope_of = |dir: &WirePath| self.scope(filter, dir);
            let protected = !is_sent
                && filter.protects(&path, is_dir, removed, &mut scope_of, &mut |dir| {
                    sent.contains(&text(dir, true))
                });
            let goes = removed.or((!is_sent).then_some(&path));
            let below = is_dir
                && if protected {
                    self.all(&path, left);
                    true
                } else {
                    self.stay(filter, &path, goes, sent, left)
                };
            if is_sent || protected || below {
                left.insert(name);
                any = true;
            }
        }
        any
    }

    fn all(&self, dir: &WirePath, left: &mut Paths) {
        for (path, is_dir) in entries(&self.dst(), dir) {
            left.insert(text(&path, is_dir));
            if is_dir {
                self.all(&path, left);
            }
        }
    }

    pub(crate) fn difference(&self, ours: &Paths, seed: u64) -> Option<String> {
        let mut theirs = Paths::new();
        self.all(&WirePath::root(), &mut theirs);
        let only_ours: Vec<_> = ours.difference(&theirs).collect();
        let only_theirs: Vec<_> = theirs.difference(ours).collect();
        if only_ours.is_empty() && only_theirs.is_empty() {
            return None;
        }
        let path = self.src().display().to_string();
        Some(format!(
            "seed {seed} in {path}: {:#?}\nonly ours: {only_ours:?}\nonly rsync's: {only_theirs:?}\n{}",
            self.options,
            self.texts()
        ))
    }

    /// The files of rules, for the message.
    fn texts(&self) -> String {
        let mut told = String::new();
        let mut tell = |at: &Path| {
            for (name, _) in RULE_FILES {
                if let Ok(text) = fs::read_to_string(at.join(name)) {
                    told.push_str(&format!("{}: {text:?}\n", at.join(name).display()));
                }
            }
        };
        tell(&self.src().join("../.."));
        tell(&self.src().join(".."));
        let mut open = vec![WirePath::root()];
        while let Some(dir) = open.pop() {
            tell(&self.src().join(dir.to_path_buf()));
            let below = entries(&self.src(), &dir).into_iter();
            open.extend(below.filter_map(|(path, is_dir)| is_dir.then_some(path)));
        }
        told
    }
}

fn text(path: &WirePath, is_dir: bool) -> String {
    let path = path.to_path_buf();
    format!("{}{}", path.display(), if is_dir { "/" } else { "" })
}
