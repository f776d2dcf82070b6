//! A temporary world: source, destination, certificates, secrets and a configuration, gone afterwards.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use certs_dev::Authority;
use tempfile::TempDir;

use crate::conf::Conf;
use crate::programs::{AgentBuilder, Receiver, ReceiverBuilder};
use crate::tree::{Options, Tree, TreeError, diff};
use crate::wait::try_wait_for;

/// The module every sandbox has.
pub const MODULE: &str = "demo";
/// The user that may write to it.
pub const USER: &str = "mirror";
/// That user's password.
pub const PASSWORD: &str = "correct horse battery staple";

const DIFFERENCES_SHOWN_MAX: usize = 20;
/// For the user's own eyes: a `SYNCD_TESTS_KEEP` in the environment leaves sandboxes on disk.
const KEEP_VARIABLE: &str = "SYNCD_TESTS_KEEP";

/// A directory with everything two programs need to meet.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
    authority: Authority,
    conf: Conf,
}

impl Sandbox {
    /// Makes `src/`, `dst/`, `certs/`, the secrets and a configuration with one writable module.
    pub fn new() -> Self {
        Self::in_dir(&std::env::temp_dir())
    }

    /// The same on the file system of `parent`.
    pub fn in_dir(parent: &Path) -> Self {
        let mut builder = tempfile::Builder::new();
        builder
            .prefix("syncd-tests-")
            .disable_cleanup(std::env::var_os(KEEP_VARIABLE).is_some());
        let dir = builder.tempdir_in(parent).expect("sandbox directory");
        Self::populate(dir).expect("sandbox contents")
    }

    fn populate(dir: TempDir) -> io::Result<Self> {
        for name in ["src", "dst"] {
            fs::create_dir(dir.path().join(name))?;
        }
        let authority = Authority::create(dir.path().join("certs")).map_err(io::Error::other)?;
        authority.issue_server(&[""; 0]).map_err(io::Error::other)?;
        authority.issue_agent("agent").map_err(io::Error::other)?;
        let mut sandbox = Self {
            dir,
            authority,
            conf: Conf::default(),
        };
        write_private(&sandbox.secrets_file(), &format!("{USER}:{PASSWORD}\n"))?;
        write_private(&sandbox.password_file(), &format!("{PASSWORD}\n"))?;
        sandbox.conf = sandbox.standard_conf();
        Ok(sandbox)
    }

    fn standard_conf(&self) -> Conf {
        let certs = self.certs();
        let mut conf = Conf::default();
        conf.globals()
            .set("address", "127.0.0.1")
            .set("tls cert file", certs.join("server.pem").display())
            .set("tls key file", certs.join("server.key").display())
            .set("tls ca file", certs.join("ca.pem").display());
        conf.module(MODULE)
            .set("path", self.dst().display())
            .set("read only", "no")
            .set("use chroot", "no")
            .set("munge symlinks", "no")
            .set("uid", rustix::process::geteuid().as_raw())
            .set("gid", rustix::process::getegid().as_raw())
            .set("hosts allow", "127.0.0.1 ::1")
            .set("auth users", USER)
            .set("secrets file", self.secrets_file().display());
        conf
    }

    /// The directory with all of it.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What the agent watches.
    pub fn src(&self) -> PathBuf {
        self.path().join("src")
    }

    /// What the receiver writes.
    pub fn dst(&self) -> PathBuf {
        self.path().join("dst")
    }

    /// `ca.pem`, `server.*` and `agent.*`.
    pub fn certs(&self) -> PathBuf {
        self.path().join("certs")
    }

    /// The authority of those certificates, to issue more.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The receiver's `secrets file`.
    pub fn secrets_file(&self) -> PathBuf {
        self.path().join("rsyncd.secrets")
    }

    /// The agent's `--password-file`.
    pub fn password_file(&self) -> PathBuf {
        self.path().join("password")
    }

    /// The configuration, to change before a receiver is started.
    pub fn conf(&mut self) -> &mut Conf {
        &mut self.conf
    }

    /// Where the configuration is written.
    pub fn conf_file(&self) -> PathBuf {
        self.path().join("rsyncd.conf")
    }

    /// Writes the configuration as it is now, and gives its path.
    pub fn write_conf(&self) -> PathBuf {
        let path = self.conf_file();
        fs::write(&path, self.conf.to_string()).expect("rsyncd.conf");
        path
    }

    /// A receiver with this sandbox's configuration, not started yet.
    pub fn receiver(&self) -> ReceiverBuilder {
        ReceiverBuilder::new(self)
    }

    /// An agent from `src/` to the module of `receiver`, not started yet.
    pub fn agent(&self, receiver: &Receiver) -> AgentBuilder {
        self.agent_to(receiver.port())
    }

    /// An agent to whatever listens, or does not, on `port`.
    pub fn agent_to(&self, port: u16) -> AgentBuilder {
        AgentBuilder::new(self, port)
    }

    /// Waits until `dst/` equals `src/` in everything; panics with the remaining differences.
    #[track_caller]
    pub fn wait_equal(&self, timeout: Duration) {
        wait_equal(&self.src(), &self.dst(), &Options::default(), timeout);
    }

    /// Panics with the differences unless `dst/` equals `src/` now.
    #[track_caller]
    pub fn assert_equal(&self) {
        self.wait_equal(Duration::ZERO);
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

/// Waits until two trees are equal; panics with the remaining differences. A tree that changes while it is looked at
/// counts as not equal yet.
#[track_caller]
pub fn wait_equal(left: &Path, right: &Path, options: &Options, timeout: Duration) {
    let equal = || {
        let scan = |root| Tree::scan(root, options).map_err(|error: TreeError| error.to_string());
        let differences = diff(&scan(left)?, &scan(right)?);
        if differences.is_empty() {
            return Ok(());
        }
        let shown: Vec<_> = differences
            .iter()
            .take(DIFFERENCES_SHOWN_MAX)
            .map(ToString::to_string)
            .collect();
        Err(format!(
            "{} differences:\n{}",
            differences.len(),
            shown.join("\n")
        ))
    };
    if let Err(reason) = try_wait_for(timeout, equal) {
        panic!(
            "{} and {} are not equal after {timeout:?}: {reason}",
            left.display(),
            right.display()
        );
    }
}

/// A port of 127.0.0.1 that nobody listened on a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its number").port()
}

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    io::Write::write_all(&mut file, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_has_what_both_programs_need_and_leaves_nothing() {
        let mut sandbox = Sandbox::new();
        sandbox.conf().module(MODULE).set("read only", "yes");
        let text = fs::read_to_string(sandbox.write_conf()).unwrap();
        assert!(
            text.contains("[demo]\n") && text.contains("read only = yes\n"),
            "{text}"
        );
        for name in [
            "src",
            "dst",
            "certs/ca.pem",
            "certs/server.key",
            "certs/agent.pem",
            "rsyncd.secrets",
            "password",
        ] {
            assert!(sandbox.path().join(name).exists(), "{name}");
        }
        let mode = fs::metadata(sandbox.secrets_file())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let path = sandbox.path().to_owned();
        drop(sandbox);
        assert!(!path.exists() || std::env::var_os(KEEP_VARIABLE).is_some());
    }

    #[test]
    #[should_panic(expected = "new: missing on the right, File on the left")]
    fn unequal_trees_fail_with_the_difference() {
        let sandbox = Sandbox::new();
        fs::write(sandbox.src().join("new"), "x").unwrap();
        sandbox.assert_equal();
    }
}
