//! Namespaces of our own for network, mounts and processes: the loopback counter then counts nobody else, and daemons
//! and mounts go with this process, however it ends.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::Command;

const INSIDE: &str = "SYNCD_BENCH_INSIDE";
const SCRIPT: &str = "ip link set lo up && mount --make-rprivate / && exec \"$0\" \"$@\"";

/// Becomes this program again inside new namespaces, if it is root and not there yet.
pub(crate) fn enter() -> Result<(), String> {
    if is_private() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        println!("not root: bytes on the wire are those of the machine's whole loopback");
        return Ok(());
    }
    let own = env::current_exe().map_err(|error| format!("own path: {error}"))?;
    let error = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--mount-proc",
            "--fork",
            "--kill-child",
        ])
        .args(["sh", "-c", SCRIPT])
        .arg(own)
        .args(env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(format!("unshare: {error}"))
}

/// Whether the counters are ours alone.
pub(crate) fn is_private() -> bool {
    env::var_os(INSIDE).is_some()
}
