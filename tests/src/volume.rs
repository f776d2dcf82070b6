//! Real file systems on loop devices: made, mounted, taken away again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::require::Need;
use crate::wait::try_wait_for;

/// Far longer than it takes until the last process has left.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(60);

/// A file system that promises something about power cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// What is needed to make one, and to mount it.
    pub fn needs(self) -> [Need; 2] {
        let (tool, what) = match self {
            Self::Ext4 => ("mkfs.ext4", "ext4 in the kernel"),
            Self::Xfs => ("mkfs.xfs", "xfs in the kernel"),
            Self::Btrfs => ("mkfs.btrfs", "btrfs in the kernel"),
        };
        [Need::Tool(tool), Need::Other(what, self.is_in_the_kernel())]
    }

    /// A module that could be loaded counts.
    fn is_in_the_kernel(self) -> bool {
        let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let known = known.lines().any(|line| line.ends_with(self.name()));
        known
            || Command::new("modprobe")
                .args(["-n", "-q", self.name()])
                .output()
                .is_ok_and(|output| output.status.success())
    }

    /// Size of an image with room for a small tree: some tools make no smaller ones.
    pub fn size_mib(self) -> u64 {
        match self {
            Self::Ext4 => 192,
            Self::Xfs => 320,
            Self::Btrfs => 256,
        }
    }

    /// Makes an image of this size with an empty one. Everything is initialised at once: what is still to be written in the
    /// background would only be in the way.
    pub fn make(self, image: &Path, size_mib: u64) {
        let file = fs::File::create_new(image).expect("image");
        file.set_len(size_mib << 20).expect("size of the image");
        let (program, options): (_, &[&str]) = match self {
            Self::Ext4 => (
                "mkfs.ext4",
                &[
                    "-q",
                    "-F",
                    "-E",
                    "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
                ],
            ),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f", "-K"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f", "-K"]),
        };
        let mut command = Command::new(program);
        run(command.args(options).arg(image)).expect("mkfs");
    }

    fn options(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Btrfs => "loop,nodiscard",
            Self::Xfs => "loop,nodiscard,nouuid",
        }
    }
}

/// A mounted file system; unmounted when it is dropped, and its loop device goes with it.
#[derive(Debug)]
pub struct Volume {
    at: Option<PathBuf>,
}

impl Volume {
    /// Mounts an image on a directory, which is made.
    pub fn mount(kind: Kind, image: &Path, at: &Path) -> Result<Self, String> {
        fs::create_dir_all(at).map_err(|error| error.to_string())?;
        let mut command = Command::new("mount");
        command.args(["-t", kind.name(), "-o", kind.options()]);
        run(command.arg(image).arg(at))?;
        Ok(Self {
            at: Some(at.to_owned()),
        })
    }

    /// Unmounts it when nobody is in it any more.
    #[track_caller]
    pub fn unmount(mut self) {
        let at = self.at.take().expect("mounted");
        let done = try_wait_for(UNMOUNT_TIMEOUT, || run(Command::new("umount").arg(&at)));
        if let Err(reason) = done {
            detach(&at);
            panic!("cannot unmount: {reason}");
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Some(at) = &self.at {
            detach(at);
        }
    }
}

fn detach(at: &Path) {
    let _ = run(Command::new("umount").arg("-l").arg(at));
}

/// Runs a program that has to succeed, also one that only root has on its path; what it said if not.
pub fn run(command: &mut Command) -> Result<(), String> {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{program}: {}: {}", output.status, said.trim()))
}
