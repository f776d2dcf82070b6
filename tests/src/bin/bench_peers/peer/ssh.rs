//! An sshd of our own, with its own host key and configuration, for `rsync -e ssh`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::place::{Place, run};
use super::installed;
use super::rsync::Server;
use super::service::Service;

const PRIVILEGE_SEPARATION: &str = "/run/sshd";

/// sshd and the keys of both sides.
pub(super) struct Sshd {
    service: Service,
    shell: String,
    user: String,
    /// Made for it, and taken away again.
    made: bool,
}

impl Sshd {
    pub(super) fn start(place: &Place, port: u16) -> Result<Self, String> {
        let dir = place.sandbox.path();
        let (host, user) = (key(dir, "ssh-host")?, key(dir, "ssh-user")?);
        let known = dir.join("ssh-known");
        let public = |key: &Path| text(&key.with_extension("pub"));
        let line = format!("[{}]:{port} {}", place.host(), public(&host)?);
        fs::write(&known, line).map_err(|error| error.to_string())?;
        let conf = dir.join("sshd.conf");
        let text = format!(
            "Port {port}\nListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             PidFile none\nLogLevel ERROR\nPrintMotd no\n",
            place.listens(),
            host.display(),
            user.with_extension("pub").display()
        );
        fs::write(&conf, text).map_err(|error| error.to_string())?;
        let made = fs::create_dir(PRIVILEGE_SEPARATION).is_ok();
        // It wants to be called by its whole path.
        let program = installed("sshd").ok_or("sshd is not installed")?;
        let words = [&program.display().to_string(), "-D", "-e", "-f"].map(str::to_owned);
        let words = [&words[..], &[conf.display().to_string()]].concat();
        Ok(Self {
            service: Service::start(place, "sshd", port, words)?,
            shell: format!(
                "ssh -F none -i {} -p {port} -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes \
                 -o StrictHostKeyChecking=yes -o UserKnownHostsFile={}",
                user.display(),
                known.display()
            ),
            user: own_name()?,
            made,
        })
    }
}

fn key(dir: &Path, name: &str) -> Result<PathBuf, String> {
    let path = dir.join(name);
    let mut command = Command::new("ssh-keygen");
    run(command
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&path))?;
    Ok(path)
}

fn text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn own_name() -> Result<String, String> {
    let output = Command::new("id").arg("-un").output();
    let output = output.map_err(|error| format!("id: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Server for Sshd {
    fn client(&self, place: &Place) -> (Command, String) {
        let mut command = Command::new("rsync");
        command.args(["-e", &self.shell]);
        let to = format!(
            "{}@{}:{}/",
            self.user,
            place.host(),
            place.mirror().display()
        );
        (command, to)
    }

    fn service(&mut self) -> &mut Service {
        &mut self.service
    }

    fn pid(&self) -> u32 {
        self.service.pid()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_dir(PRIVILEGE_SEPARATION);
        }
    }
}
