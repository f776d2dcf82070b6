//! The commands a module runs around a session: `early exec`, `pre-xfer exec`, `post-xfer exec`.
//!
//! They run in the front, as its user and outside of any chroot, once per session. `early exec` comes before the
//! module is entered, `pre-xfer exec` when its worker is ready; either failing refuses the session, and
//! `post-xfer exec` runs however it ends.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use syncd_proto::path::escaped;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::front::workers::Unavailable;
use crate::logic::authorize::Grant;
use crate::logic::hook;
use crate::logic::rsyncd_conf::{Config, Located, Text, Variables};

/// How long a command before the session may take; the handshake has a deadline of its own.
const BEFORE_MAX: Duration = Duration::from_secs(15);

/// How long the command after it may take.
const AFTER_MAX: Duration = Duration::from_secs(600);

/// So much of what a command says is shown.
const OUTPUT_BYTES_MAX: u64 = 4 << 10;

/// In the receiver's environment: nothing is run at all.
const DISABLED: &str = "RSYNC_NO_XFER_EXEC";

/// How a session ended, as rsync's exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// In order.
    Done = 0,
    /// The agent broke the protocol.
    Protocol = 2,
    /// `pre-xfer exec` refused it.
    Refused = 4,
    /// It could not begin.
    NotBegun = 5,
}

/// The commands of one session.
#[derive(Debug, Default)]
pub struct Hooks {
    module: String,
    early: Option<Vec<u8>>,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    environment: Vec<(&'static [u8], Vec<u8>)>,
}

impl Hooks {
    /// Those of a session that is about to begin; `request` is module and path as rsync writes them.
    ///
    /// # Errors
    /// A command cannot be made for this peer.
    pub fn of(
        config: &Config,
        grant: &Grant,
        (id, address, request): (u64, String, Vec<u8>),
    ) -> Result<Self, Unavailable> {
        let Some(module) = config.module(&grant.module) else {
            return Ok(Self::default());
        };
        let texts = [
            &module.early_exec,
            &module.pre_xfer_exec,
            &module.post_xfer_exec,
        ];
        if texts.iter().all(|text| text.is_none()) || std::env::var_os(DISABLED).is_some() {
            return Ok(Self::default());
        }
        let mut environment: Vec<(&'static [u8], Vec<u8>)> = vec![
            (b"RSYNC_MODULE_NAME", grant.module.clone()),
            (b"RSYNC_MODULE_PATH", grant.root.clone()),
            (b"RSYNC_HOST_NAME", grant.host.clone()),
            (b"RSYNC_HOST_ADDR", address.into_bytes()),
            (b"RSYNC_USER_NAME", grant.user.clone().unwrap_or_default()),
            (b"RSYNC_PID", id.to_string().into_bytes()),
        ];
        let [early, before, after] = texts.map(|text| made(text, &environment, &config.variables));
        environment.push((b"RSYNC_REQUEST", request));
        Ok(Self {
            module: escaped(&grant.module),
            early: early?,
            before: before?,
            after: after?,
            environment,
        })
    }

    /// Runs `early exec`.
    ///
    /// # Errors
    /// It failed.
    pub async fn early(&self) -> Result<(), Unavailable> {
        let Some(command) = &self.early else {
            return Ok(());
        };
        let ran = self.run("early exec", command).await;
        ran.map(drop).map_err(|why| Unavailable {
            text: "early exec failed".to_owned(),
            log: why.log,
        })
    }

    /// Runs `pre-xfer exec`.
    ///
    /// # Errors
    /// It failed: with the first line of what it said.
    pub async fn before(&self) -> Result<(), Unavailable> {
        match &self.before {
            Some(command) => self.run("pre-xfer exec", command).await,
            None => Ok(()),
        }
    }

    /// Runs `post-xfer exec`.
    pub async fn after(&self, status: Status) {
        let Some(command) = &self.after else {
            return;
        };
        let mut process = self.shell(command);
        process
            .env("RSYNC_EXIT_STATUS", (status as u8).to_string())
            .env(
                "RSYNC_RAW_STATUS",
                (i32::from(status as u8) << 8).to_string(),
            )
            .stdout(Stdio::null())
            .kill_on_drop(false);
        let module = &self.module;
        let mut child = match process.spawn() {
            Ok(child) => child,
            Err(error) => {
                warn!(module, "post-xfer exec: {error}");
                return;
            }
        };
        match timeout(AFTER_MAX, child.wait()).await {
            Ok(Ok(ended)) if ended.success() => info!(module, "post-xfer exec done"),
            Ok(Ok(ended)) => warn!(module, "post-xfer exec: {ended}"),
            Ok(Err(error)) => warn!(module, "post-xfer exec: {error}"),
            Err(_) => {
                end(&mut child).await;
                warn!(module, "post-xfer exec: killed after {AFTER_MAX:?}");
            }
        }
    }

    /// Runs a command whose failure refuses the session.
    async fn run(&self, name: &str, command: &[u8]) -> Result<(), Unavailable> {
        let broken = |why: String| Unavailable {
            text: format!("{name} failed"),
            log: format!("{name}: {why}"),
        };
        let mut process = self.shell(command);
        let spawned = process.stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = spawned.map_err(|error| broken(error.to_string()))?;
        let Ok(ended) = timeout(BEFORE_MAX, finished(&mut child)).await else {
            end(&mut child).await;
            return Err(broken(format!("not done within {BEFORE_MAX:?}")));
        };
        let (status, said) = ended.map_err(|error| broken(error.to_string()))?;
        if status.success() {
            info!(module = self.module, "{name} done");
            return Ok(());
        }
        Err(failure(name, status, &said))
    }

    /// A shell that gets the command as one argument.
    fn shell(&self, command: &[u8]) -> Command {
        let mut process = Command::new("/bin/sh");
        process
            .arg("-c")
            .arg(OsString::from_vec(command.to_vec()))
            .stdin(Stdio::null())
            .current_dir("/")
            .process_group(0);
        for (name, value) in &self.environment {
            let [name, value] = [name.to_vec(), value.clone()].map(OsString::from_vec);
            process.env(name, value);
        }
        process
    }
}

fn made(
    text: &Option<Located<Text>>,
    environment: &[(&'static [u8], Vec<u8>)],
    variables: &Variables,
) -> Result<Option<Vec<u8>>, Unavailable> {
    let Some(text) = text else {
        return Ok(None);
    };
    let command = hook::command(&text.value, environment, variables);
    let command = command.map_err(|error| Unavailable {
        text: "a command of the module cannot be run for this peer".to_owned(),
        log: error.to_string(),
    })?;
    // Neither can be given to a program at all.
    Ok(Some(command).filter(|command| !command.is_empty() && !command.contains(&0)))
}

/// How it ended, and the beginning of what it said. All of it is read, so that nothing blocks.
async fn finished(child: &mut Child) -> std::io::Result<(ExitStatus, Vec<u8>)> {
    let mut said = Vec::new();
    if let Some(output) = &mut child.stdout {
        output.take(OUTPUT_BYTES_MAX).read_to_end(&mut said).await?;
        tokio::io::copy(output, &mut tokio::io::sink()).await?;
    }
    Ok((child.wait().await?, said))
}

/// Kills a command and what it started.
async fn end(child: &mut Child) {
    let group = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(group) = group.and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait().await;
}

fn failure(name: &str, status: ExitStatus, said: &[u8]) -> Unavailable {
    use std::os::unix::process::ExitStatusExt;
    let mut text = format!("{name} returned failure ({})", status.into_raw());
    let first = said.split(|byte| *byte == b'\n').next();
    if let Some(line) = first.filter(|line| !line.is_empty()) {
        text.push_str(": ");
        text.push_str(&escaped(line));
    }
    Unavailable {
        log: text.clone(),
        text,
    }
}
