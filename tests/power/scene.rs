//! [`Scene`]: both programs, with a module on a disk that remembers.

use std::fs;
use std::path::{Path, PathBuf};

use syncd_tests::conf::Section;
use syncd_tests::sandbox::MODULE;
use syncd_tests::volume::{Kind, Volume};
use syncd_tests::wait::try_wait_for;
use syncd_tests::workload::Rng;
use syncd_tests::{Sandbox, diff};

use crate::LONG;
use crate::changes::Changes;
use crate::device::Device;
use crate::history::{History, look};
use crate::record::{Log, Mark};
use crate::replay::copy_sparse;

/// Changes between two questions whether all is durable.
const BURST_MAX: u64 = 14;

/// A sandbox whose module lies on a file system of its own.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) sandbox: Sandbox,
    pub(crate) kind: Kind,
}

/// What was recorded of it.
#[derive(Debug)]
pub(crate) struct Recorded {
    /// The disk before the first record.
    pub(crate) before: PathBuf,
    pub(crate) log: Log,
    pub(crate) history: History,
    /// Number of records before the first promise.
    pub(crate) start: usize,
}

impl Scene {
    /// A module that is changed.
    pub(crate) fn new(kind: Kind, change: impl FnOnce(&mut Section)) -> Self {
        let mut sandbox = Sandbox::new();
        let at = sandbox.path().join("disk.mnt/mirror");
        change(sandbox.conf().module(MODULE).set("path", at.display()));
        Self { sandbox, kind }
    }

    /// Mirrors a source that changes, until it rests.
    pub(crate) fn record(&mut self, seed: u64, bursts: usize) -> Recorded {
        let disk = Disk::start(self.kind, self.sandbox.path());
        let src = self.sandbox.src();
        let spare = self.sandbox.path().join("spare");
        let mut changes = Changes::begin(&src, &spare, seed).expect("the source");
        let receiver = self.sandbox.receiver().start();
        let agent = self.sandbox.agent(&receiver);
        let agent = agent.arg("--max-delete").arg("unlimited").start();
        agent.wait_synced(LONG);
        let mut history = History::begin(&src);
        disk.device.mark(Mark::Durable(0));
        let start = disk.device.len();
        let mut rng = Rng::new(seed);
        for burst in 0..bursts {
            for step in 0..=rng.below(BURST_MAX) {
                disk.device.mark(Mark::Begun(history.last() + 1));
                let change = match (burst, step) {
                    (0, 0) => changes.replace_large(),
                    (1, 0) => changes.move_tree(),
                    _ => changes.step(),
                };
                history.note(&src, change.expect("a change of the source"));
            }
            agent.wait_synced(LONG);
            disk.device.mark(Mark::Durable(history.last()));
            let story = || format!("seed {seed}:\n{}", history.story(history.recent()));
            let mirror = self.sandbox.path().join("disk.mnt/mirror");
            // What is wrong without a power cut is wrong before anything else.
            let problems = history.judge(&look(&mirror), history.now());
            assert!(problems.is_empty(), "{problems:#?} after {}", story());
        }
        drop(agent);
        receiver.terminate(LONG);
        let (before, log) = disk.finish();
        Recorded {
            before,
            log,
            history,
            start,
        }
    }

    /// Goes on from a disk as a power cut left it: the mirror becomes what the source is, and nothing is left over.
    pub(crate) fn converge(&mut self, module: &Path) -> Result<(), String> {
        self.sandbox
            .conf()
            .module(MODULE)
            .set("path", module.display());
        let receiver = self.sandbox.receiver().start();
        let agent = self.sandbox.agent(&receiver);
        let mut command = agent.once_command("sync");
        command.args(["--max-delete", "unlimited"]);
        let output = command.output().expect("sync");
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("it does not converge: {}\n{said}", output.status));
        }
        let differences = diff(&look(&self.sandbox.src()), &look(module));
        try_wait_for(LONG, || nothing_staged(&module.join(".syncd")))?;
        receiver.terminate(LONG);
        match differences.first() {
            None => Ok(()),
            Some(first) => Err(format!("{} differences: {first}", differences.len())),
        }
    }
}

fn nothing_staged(area: &Path) -> Result<(), String> {
    for place in ["stage", "trash"] {
        let left = fs::read_dir(area.join(place));
        let left = left.map_err(|error| format!("{place}: {error}"))?.count();
        if left > 0 {
            return Err(format!("{left} entries are left in {place}"));
        }
    }
    Ok(())
}

/// A file system on a disk that remembers, mounted, with a directory `mirror`.
#[derive(Debug)]
pub(crate) struct Disk {
    // The volume goes before the device that it is on.
    volume: Volume,
    pub(crate) device: Device,
    before: PathBuf,
}

impl Disk {
    /// Makes one, with everything it needs in `dir`.
    pub(crate) fn start(kind: Kind, dir: &Path) -> Self {
        let at = |name: &str| dir.join(name);
        kind.make(&at("disk.img"), kind.size_mib());
        copy_sparse(&at("disk.img"), &at("before.img")).expect("copy the image");
        let log = Log::create(&at("disk.log")).expect("the log");
        let device = Device::start(&at("disk.img"), &at("disk"), log).expect("serve the disk");
        let volume = Volume::mount(kind, device.disk(), &at("disk.mnt")).expect("mount");
        let mirror = at("disk.mnt/mirror");
        fs::create_dir(&mirror).expect("mkdir");
        let synced = fs::File::open(&mirror).and_then(|dir| Ok(rustix::fs::syncfs(dir)?));
        synced.expect("sync");
        Self {
            volume,
            device,
            before: at("before.img"),
        }
    }

    /// Unmounts it: the image before everything, and the record.
    pub(crate) fn finish(self) -> (PathBuf, Log) {
        self.volume.unmount();
        (self.before, self.device.finish())
    }
}
