//! Where a cell happens: a sandbox with certificates and passwords, and two fresh file systems.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use syncd_tests::Sandbox;
use syncd_tests::sandbox::MODULE;
use syncd_tests::tree::{Aspect, Difference, Kind, Options, Tree, diff};

use super::link::{FAR, Link, NEAR, Quality};
use super::peer::installed;

const IMAGE_SIZE_BYTES: u64 = 10 << 30;
const DIFFERENCES_SHOWN_MAX: usize = 3;
const LOOPBACK: &str = "127.0.0.1";
const SIDES: [&str; 2] = ["source", "mirror"];

/// What source and mirror lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileSystem {
    Tmpfs,
    Ext4,
    Xfs,
    Btrfs,
}

impl FileSystem {
    /// By its usual name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let all = [Self::Tmpfs, Self::Ext4, Self::Xfs, Self::Btrfs];
        all.into_iter().find(|known| known.name() == name)
    }

    /// Its usual name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    fn make(self, image: &Path, many_inodes: bool) -> Option<Command> {
        let (program, options): (&str, &[&str]) = match self {
            Self::Tmpfs => return None,
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=1"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
        };
        let mut command = Command::new(installed(program).unwrap_or(PathBuf::from(program)));
        command.args(options);
        if self == Self::Ext4 && many_inodes {
            command.args(["-i", "4096"]);
        }
        command.arg(image);
        Some(command)
    }

    /// Why there can be none here.
    pub(crate) fn missing(self) -> Option<String> {
        let program = match self {
            Self::Tmpfs => return None,
            Self::Ext4 => "mkfs.ext4",
            Self::Xfs => "mkfs.xfs",
            Self::Btrfs => "mkfs.btrfs",
        };
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let known = known.lines().any(|line| line.ends_with(self.name()))
            || run(Command::new("modprobe").args(["-n", "-q", self.name()])).is_ok();
        match (installed(program), known) {
            (None, _) => Some(format!("{program} is not installed")),
            (_, false) => Some(format!("{} is not in the kernel", self.name())),
            _ => None,
        }
    }

    fn mount(self, image: &Path, point: &Path) -> Command {
        let mut command = Command::new("mount");
        match self {
            Self::Tmpfs => command.args(["-t", "tmpfs", "-o", "size=10g,nr_inodes=0", "tmpfs"]),
            Self::Ext4 => command.args(["-o", "loop,noinit_itable"]).arg(image),
            Self::Xfs | Self::Btrfs => command.args(["-o", "loop"]).arg(image),
        };
        command.arg(point);
        command
    }
}

/// Fresh file systems and everything both sides need; gone when dropped.
pub(crate) struct Place {
    pub(crate) sandbox: Sandbox,
    mounted: Vec<PathBuf>,
    link: Option<Link>,
}

impl Place {
    /// Makes and mounts two file systems below `images`; between the sides there is the loopback, or a link.
    /// `many_inodes`: as many as a million files need.
    pub(crate) fn fresh(
        fs: FileSystem,
        images: &Path,
        link: Option<Quality>,
        many_inodes: bool,
    ) -> Result<Self, String> {
        let mut place = Self {
            sandbox: Sandbox::in_dir(images),
            mounted: Vec::new(),
            link: link.map(Link::up).transpose()?,
        };
        let base = place.sandbox.path().to_owned();
        for side in SIDES {
            let (image, point) = (image(&base, side), base.join(side));
            let failed = |error: std::io::Error| format!("{}: {error}", point.display());
            fs::create_dir(&point).map_err(failed)?;
            if let Some(mut make) = fs.make(&image, many_inodes) {
                let file = File::create(&image).map_err(failed)?;
                file.set_len(IMAGE_SIZE_BYTES).map_err(failed)?;
                run(&mut make)?;
            }
            run(&mut fs.mount(&image, &point))?;
            place.mounted.push(point.clone());
            fs::create_dir(point.join("tree")).map_err(failed)?;
        }
        let mirror = place.mirror();
        let (host, listens) = (place.host(), place.listens());
        let conf = place.sandbox.conf();
        conf.module(MODULE).set("path", mirror.display());
        conf.module(MODULE).set("hosts allow", host);
        conf.globals().set("address", listens);
        Ok(place)
    }

    /// The address at which receivers listen.
    pub(crate) fn listens(&self) -> &'static str {
        self.link.as_ref().map_or(LOOPBACK, |_| NEAR)
    }

    /// The address at which senders find them, and from which they seem to come.
    pub(crate) fn host(&self) -> &'static str {
        self.link.as_ref().map_or(LOOPBACK, |_| FAR)
    }

    /// What is mirrored; the file system's own root is one above, for what comes from outside.
    pub(crate) fn source(&self) -> PathBuf {
        self.sandbox.path().join(SIDES[0]).join("tree")
    }

    /// Where it goes.
    pub(crate) fn mirror(&self) -> PathBuf {
        self.sandbox.path().join(SIDES[1]).join("tree")
    }

    /// Writes everything back, so that a step does not pay for what came before, and waits for a new second: rsync
    /// takes files of equal size and whole second for equal.
    pub(crate) fn rest(&self) -> Result<(), String> {
        for point in &self.mounted {
            let file = File::open(point).map_err(|error| error.to_string())?;
            rustix::fs::syncfs(&file).map_err(|error| format!("syncfs: {error}"))?;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = now.map_or(0, |now| now.subsec_nanos());
        thread::sleep(
            Duration::from_nanos(1_000_000_000 - u64::from(nanos)) + Duration::from_millis(20),
        );
        Ok(())
    }

    /// How much of the mirror's image has ever been written; nothing without an image.
    pub(crate) fn written(&self) -> Option<u64> {
        let image = image(self.sandbox.path(), SIDES[1]);
        let metadata = fs::metadata(image).ok()?;
        Some(metadata.blocks() * 512)
    }

    /// Compares everything: names, contents, modes, owners, times to the nanosecond.
    pub(crate) fn differences(&self) -> Result<Differences, String> {
        let options = Options::default();
        let scan = |root: PathBuf| Tree::scan(root, &options).map_err(|error| error.to_string());
        let (source, mirror) = (scan(self.source())?, scan(self.mirror())?);
        let known_hole = |found: &Difference| {
            let second = |tree: &Tree| {
                let entry = tree.entry(&found.path);
                let directory = entry.filter(|entry| entry.kind == Kind::Directory);
                directory.map(|entry| entry.mtime.0)
            };
            found.aspect == Aspect::Mtime
                && second(&source).is_some_and(|s| second(&mirror) == Some(s))
        };
        let (holes, real): (Vec<_>, Vec<_>) =
            diff(&source, &mirror).into_iter().partition(known_hole);
        let shown: Vec<String> = real
            .iter()
            .take(DIFFERENCES_SHOWN_MAX)
            .map(ToString::to_string)
            .collect();
        Ok(Differences {
            dir_times: holes.len(),
            others: (!real.is_empty())
                .then(|| format!("{} differences: {}", real.len(), shown.join("; "))),
        })
    }
}

fn image(base: &Path, side: &str) -> PathBuf {
    base.join(format!("{side}.img"))
}

/// How source and mirror differ.
pub(crate) struct Differences {
    /// Directories whose times differ within a second: rsync's quick check takes them for equal.
    pub(crate) dir_times: usize,
    /// Everything else.
    pub(crate) others: Option<String>,
}

impl Drop for Place {
    fn drop(&mut self) {
        for point in &self.mounted {
            if run(Command::new("umount").arg(point)).is_err() {
                let _ = run(Command::new("umount").arg("-l").arg(point));
            }
        }
    }
}

/// Runs a command to its end; its own words if it fails.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{name}: {}: {text}", output.status))
}
