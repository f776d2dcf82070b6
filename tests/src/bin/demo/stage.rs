//! The private directory with everything both programs need, and their command lines.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use certs_dev::Authority;
use syncd_tests::sandbox::write_private;
use tempfile::TempDir;

use super::place::Places;

const BIN_DIR_VARIABLE: &str = "SYNCD_BIN_DIR";
const NAME: &str = "demo";
const PASSWORD_BYTES: usize = 16;

/// Both programs.
#[derive(Debug)]
pub(crate) struct Programs {
    agent: PathBuf,
    receiver: PathBuf,
}

/// Builds both programs in release mode; `SYNCD_BIN_DIR` names a directory that has them instead.
pub(crate) fn build_programs() -> Result<Programs, String> {
    let dir = match env::var_os(BIN_DIR_VARIABLE) {
        Some(dir) => PathBuf::from(dir),
        None => build()?,
    };
    let [agent, receiver] = ["syncd-agent", "syncd-recv"].map(|name| dir.join(name));
    match [&agent, &receiver].iter().find(|path| !path.is_file()) {
        Some(missing) => Err(format!("{}: no such program", missing.display())),
        None => Ok(Programs { agent, receiver }),
    }
}

/// Builds next to this program.
fn build() -> Result<PathBuf, String> {
    let own = env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
    let release = own.parent().ok_or("cannot find my directory")?;
    let target = release.parent().ok_or("cannot find the target directory")?;
    let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "build",
            "--release",
            "-p",
            "syncd-agent",
            "-p",
            "syncd-recv",
        ])
        .arg("--manifest-path")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    match status.success() {
        true => Ok(target.join("release")),
        false => Err("the programs do not build".into()),
    }
}

/// The directory; removed when dropped.
#[derive(Debug)]
pub(crate) struct Stage {
    dir: TempDir,
}

impl Stage {
    /// Makes certificates, configuration and passwords.
    pub(crate) fn set(places: &Places) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("syncd-demo-").tempdir();
        let failed = |error: &dyn std::fmt::Display| format!("cannot prepare: {error}");
        let stage = Self {
            dir: dir.map_err(|error| failed(&error))?,
        };
        let ca = Authority::create(stage.file("certs")).map_err(|error| failed(&error))?;
        ca.issue_server::<&str>(&[])
            .map_err(|error| failed(&error))?;
        ca.issue_agent(NAME).map_err(|error| failed(&error))?;
        stage.write(places).map_err(|error| failed(&error))?;
        Ok(stage)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The agent's control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.file("agent.sock")
    }

    /// The receiver, on any free port of 127.0.0.1.
    pub(crate) fn receiver(&self, programs: &Programs) -> Command {
        let mut command = Command::new(&programs.receiver);
        command
            .arg("run")
            .arg("--config")
            .arg(self.file("rsyncd.conf"));
        command.args(["--port", "0"]);
        command
    }

    /// The agent.
    pub(crate) fn agent(&self, programs: &Programs, places: &Places, port: u16) -> Command {
        let mut command = Command::new(&programs.agent);
        command.arg("run");
        for (option, file) in [
            ("--ca", "certs/ca.pem"),
            ("--cert", "certs/demo.pem"),
            ("--key", "certs/demo.key"),
            ("--password-file", "password"),
            ("--control", "agent.sock"),
        ] {
            command.arg(option).arg(self.file(file));
        }
        command.args(["--port", &port.to_string(), "--"]);
        command.arg(&places.source).arg("demo@127.0.0.1::demo");
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, places: &Places) -> std::io::Result<()> {
        let password = random_password()?;
        write_private(&self.file("secrets"), &format!("{NAME}:{password}\n"))?;
        write_private(&self.file("password"), &format!("{password}\n"))?;
        let mut conf = Vec::new();
        let file = |name: &str| self.file(name).display().to_string();
        writeln!(conf, "address = 127.0.0.1")?;
        writeln!(conf, "tls cert file = {}", file("certs/server.pem"))?;
        writeln!(conf, "tls key file = {}", file("certs/server.key"))?;
        writeln!(conf, "tls ca file = {}", file("certs/ca.pem"))?;
        writeln!(conf, "\n[{NAME}]\ncomment = a demonstration")?;
        conf.extend_from_slice(b"path = ");
        conf.extend_from_slice(places.dest.as_os_str().as_bytes());
        writeln!(
            conf,
            "\nread only = no\nuse chroot = no\nmunge symlinks = no"
        )?;
        writeln!(conf, "hosts allow = 127.0.0.1 ::1")?;
        writeln!(
            conf,
            "auth users = {NAME}\nsecrets file = {}",
            file("secrets")
        )?;
        if rustix::process::geteuid().is_root() {
            writeln!(conf, "uid = root\ngid = root")?;
        }
        fs::write(self.file("rsyncd.conf"), conf)
    }
}

fn random_password() -> std::io::Result<String> {
    let mut bytes = [0; PASSWORD_BYTES];
    let mut source = fs::File::open("/dev/urandom")?;
    std::io::Read::read_exact(&mut source, &mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
