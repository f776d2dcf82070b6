//! What the tests share: a mirror that is up, one-shot commands, sizes, and a spy on the module.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use syncd_tests::programs::AgentBuilder;
use syncd_tests::sandbox::wait_equal;
use syncd_tests::tree::{Options, escape};
use syncd_tests::workload::Rng;
use syncd_tests::{Agent, Exit, Process, Receiver, Sandbox, wait_for, wait_until};

/// Far longer than anything takes; only a failure waits that long.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What one-shot commands exit with.
pub(crate) mod code {
    use syncd_tests::Exit;

    pub(crate) const DONE: Exit = Exit::Code(0);
    pub(crate) const DIFFERENT: Exit = Exit::Code(1);
    pub(crate) const DEGRADED: Exit = Exit::Code(2);
    pub(crate) const FAILED: Exit = Exit::Code(3);
    pub(crate) const USAGE: Exit = Exit::Code(64);
    pub(crate) const CONFIG: Exit = Exit::Code(78);
}

/// `small`, or `full` if `SYNCD_TESTS_SCALE=full`.
pub(crate) fn scaled(small: usize, full: usize) -> usize {
    match std::env::var_os("SYNCD_TESTS_SCALE") {
        Some(scale) if scale == "full" => full,
        _ => small,
    }
}

/// A running mirror of `src/` in `dst/`. Fields go in this order: the agent first.
#[derive(Debug)]
pub(crate) struct Mirror {
    pub(crate) agent: Agent,
    pub(crate) receiver: Receiver,
    pub(crate) sandbox: Sandbox,
}

impl Mirror {
    /// Up, in sync, and both sides are still empty.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::of(Sandbox::new())
    }

    /// The same of a sandbox that has been prepared.
    #[track_caller]
    pub(crate) fn of(sandbox: Sandbox) -> Self {
        Self::with(sandbox, |agent| agent)
    }

    /// The same with an agent that is not the usual one.
    #[track_caller]
    pub(crate) fn with(
        sandbox: Sandbox,
        change: impl FnOnce(AgentBuilder) -> AgentBuilder,
    ) -> Self {
        let receiver = sandbox.receiver().start();
        let agent = change(patient(sandbox.agent(&receiver))).start();
        Self::settled(sandbox, receiver, agent)
    }

    /// Another agent for the same mirror, after what is done to the source meanwhile.
    #[track_caller]
    pub(crate) fn restart(self, meanwhile: impl FnOnce(&Path)) -> Self {
        self.agent.kill9();
        meanwhile(&self.sandbox.src());
        let agent = patient(self.sandbox.agent(&self.receiver)).start();
        Self::settled(self.sandbox, self.receiver, agent)
    }

    #[track_caller]
    fn settled(sandbox: Sandbox, receiver: Receiver, agent: Agent) -> Self {
        let mirror = Self {
            agent,
            receiver,
            sandbox,
        };
        mirror.settle();
        mirror
    }

    pub(crate) fn src(&self, name: impl AsRef<Path>) -> PathBuf {
        self.sandbox.src().join(name)
    }

    pub(crate) fn dst(&self, name: impl AsRef<Path>) -> PathBuf {
        self.sandbox.dst().join(name)
    }

    /// Waits for the agent's word that everything is durable; then it must be true.
    #[track_caller]
    pub(crate) fn settle(&self) {
        self.agent.wait_synced(LONG);
        self.sandbox.assert_equal();
    }

    /// What the agent says of its one target.
    #[track_caller]
    pub(crate) fn target(&self) -> Value {
        target_of(&self.agent)
    }

    /// Bytes on the wire so far, from the agent.
    #[track_caller]
    pub(crate) fn bytes_sent(&self) -> u64 {
        let target = self.target();
        target["bytes_sent"]
            .as_u64()
            .unwrap_or_else(|| panic!("no bytes_sent in {target}"))
    }

    /// Bytes on the wire in both directions, from the agent.
    #[track_caller]
    pub(crate) fn wire(&self) -> u64 {
        let target = self.target();
        ["bytes_sent", "bytes_received"]
            .map(|name| target[name].as_u64().expect("a number"))
            .iter()
            .sum()
    }

    /// Waits until nothing is left in the receiver's staging area.
    #[track_caller]
    pub(crate) fn wait_staging_empty(&self) {
        wait_staging_empty(&self.sandbox);
    }
}

/// One tree equals another now.
#[track_caller]
pub(crate) fn assert_same(left: &Path, right: &Path) {
    wait_equal(left, right, &Options::default(), Duration::ZERO);
}

/// Tests delete most of what they made: not a reason to hold anything.
pub(crate) fn patient(agent: AgentBuilder) -> AgentBuilder {
    agent.arg("--max-delete").arg("unlimited")
}

/// The first target of the first source in an agent's status.
#[track_caller]
pub(crate) fn target_of(agent: &Agent) -> Value {
    let status = agent.control().status().expect("status");
    status["status"]["sources"][0]["targets"][0].clone()
}

/// Waits until nothing is on its way or being deleted in the receiver's staging area.
#[track_caller]
pub(crate) fn wait_staging_empty(sandbox: &Sandbox) {
    let area = sandbox.dst().join(".syncd");
    wait_for(LONG, "nothing is left in staging", || {
        for place in ["stage", "trash"] {
            let names = list(&area.join(place)).map_err(|error| format!("{place}: {error}"))?;
            if !names.is_empty() {
                return Err(format!("{place}: {names:?}"));
            }
        }
        Ok(())
    });
}

fn list(dir: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect()
}

/// What a one-shot command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) exit: Exit,
    pub(crate) text: String,
}

impl Said {
    /// Panics unless it ended so and said each of these.
    #[track_caller]
    pub(crate) fn expect(self, exit: Exit, parts: &[&str]) -> Self {
        assert_eq!(self.exit, exit, "{}", self.text);
        for part in parts {
            assert!(
                self.text.contains(part),
                "{part:?} is not in: {}",
                self.text
            );
        }
        self
    }
}

/// Runs `sync`, `verify` or another one-shot command to its end.
#[track_caller]
pub(crate) fn once(sandbox: &Sandbox, agent: &AgentBuilder, name: &str) -> Said {
    run(sandbox, &mut agent.once_command(name))
}

/// Runs any program to its end.
#[track_caller]
pub(crate) fn run(sandbox: &Sandbox, command: &mut Command) -> Said {
    static COUNT: AtomicUsize = AtomicUsize::new(1);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let log = sandbox.path().join(format!("once-{number}.log"));
    let process = Process::spawn("command", command, &log).expect("start a command");
    let exit = process.wait_exit(LONG);
    Said {
        exit,
        text: process.log(),
    }
}

/// Runs a helper program that must succeed.
#[track_caller]
pub(crate) fn tool(program: &str, args: &[&str], dir: &Path) {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", dir)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Lists the module again and again, and collects every path it saw.
#[derive(Debug)]
pub(crate) struct Spy {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<Vec<u8>>>,
}

impl Spy {
    /// Begins with the module's directory.
    pub(crate) fn on(root: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = stop.clone();
            move || {
                let mut seen = BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    look(&root, &mut Vec::new(), &mut seen);
                    thread::yield_now();
                }
                seen
            }
        });
        Self { stop, thread }
    }

    /// Ends, and panics if a path was visible that the source never had.
    #[track_caller]
    pub(crate) fn expect_only(self, known: &BTreeSet<Vec<u8>>) {
        expect_none_strange(&self.end(), known);
    }

    /// Ends, and panics if a name was visible, in whatever directory, that the source never had.
    #[track_caller]
    pub(crate) fn expect_only_names_of(self, known: &BTreeSet<Vec<u8>>) {
        expect_none_strange(&last_names(&self.end()), &last_names(known));
    }

    fn end(self) -> BTreeSet<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the spy")
    }
}

#[track_caller]
fn expect_none_strange(seen: &BTreeSet<Vec<u8>>, known: &BTreeSet<Vec<u8>>) {
    let strange: Vec<_> = seen.difference(known).map(|path| escape(path)).collect();
    assert!(
        strange.is_empty(),
        "visible in the module, never in the source: {strange:?}"
    );
}

fn last_names(paths: &BTreeSet<Vec<u8>>) -> BTreeSet<Vec<u8>> {
    let last = |path: &Vec<u8>| path.rsplit(|byte| *byte == b'/').next().map(<[u8]>::to_vec);
    paths.iter().filter_map(last).collect()
}

/// Adds every path below `root`, which may change meanwhile; the staging area is not looked at.
pub(crate) fn look(root: &Path, prefix: &mut Vec<u8>, seen: &mut BTreeSet<Vec<u8>>) {
    let dir = root.join(std::ffi::OsStr::from_bytes(prefix));
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if prefix.is_empty() && name == ".syncd" {
            continue;
        }
        let length = prefix.len();
        if length > 0 {
            prefix.push(b'/');
        }
        prefix.extend_from_slice(name.as_bytes());
        if !seen.contains(prefix) {
            seen.insert(prefix.clone());
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            look(root, prefix, seen);
        }
        prefix.truncate(length);
    }
}

/// Bytes that no compression makes smaller.
pub(crate) fn noise(size: usize, seed: u64) -> Vec<u8> {
    Rng::new(seed).bytes(size)
}

/// Waits until a file of the mirror has this content.
#[track_caller]
pub(crate) fn wait_content(path: &Path, content: &[u8]) {
    wait_until(LONG, &format!("{} arrives", path.display()), || {
        fs::read(path).is_ok_and(|found| found == content)
    });
}

/// A small file system on a directory, taken away again in the end.
#[derive(Debug)]
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// In memory, on top of what is in `dir`.
    pub(crate) fn on(dir: &Path, size_mib: u32) -> Self {
        let options = format!("size={size_mib}m,mode=755");
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "syncd-tests"])
            .arg(dir)
            .status();
        assert!(status.expect("mount").success());
        Self(dir.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a worker may still be in it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Whether a [`Disk`] can be made.
pub(crate) fn may_mount() -> bool {
    let dir = tempfile::tempdir().expect("directory");
    let mut command = Command::new("mount");
    command
        .args(["-t", "tmpfs", "-o", "size=64k", "syncd-tests"])
        .arg(dir.path());
    let mounted = command.output().is_ok_and(|output| output.status.success());
    mounted
        && Command::new("umount")
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success())
}

/// Files that are immutable, or append-only, as long as this lives.
#[derive(Debug)]
pub(crate) struct Immutable<'a>(pub(crate) &'a [PathBuf]);

impl<'a> Immutable<'a> {
    /// If the file system knows that.
    pub(crate) fn make(paths: &'a [PathBuf]) -> Option<Self> {
        let made = Self(paths);
        made.chattr("+i").then_some(made)
    }

    /// Whether this change of attributes could be made.
    pub(crate) fn chattr(&self, change: &str) -> bool {
        let mut command = Command::new("chattr");
        let done = command.arg(change).args(self.0).output();
        done.is_ok_and(|done| done.status.success())
    }
}

impl Drop for Immutable<'_> {
    fn drop(&mut self) {
        self.chattr("-ia");
    }
}
