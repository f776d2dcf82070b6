//! The machine the vectors were recorded on: own mounts, own network, own accounts and names.
//!
//! The test starts itself once more under `unshare`, in a mount namespace whose `/etc` and `/run` are its
//! own and in a network namespace with nothing but loopback. Nothing outside changes.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitStatus};

use serde_json::Value;
use syncd_tests::Binaries;
use syncd_tests::require::{Need, require};

use crate::names;
use crate::vectors::Topic;

/// Set within: the directory for everything that is made.
const INSIDE: &str = "SYNCD_COMPAT_INSIDE";

/// Addresses beside 127.0.0.0/8 and ::1 that vectors come from.
const ADDRESSES: [&str; 8] = [
    "10.1.2.3/32",
    "2001:db8::5/128",
    "2001:db8:1::5/128",
    "2001:db8::10/128",
    "2001:db8::16/128",
    "2001:db8::18/128",
    "fe80::5/64",
    "127.0.0.53/32",
];

/// What the linker and the C library look for in `/etc`.
const COPIED: [&str; 4] = ["ld.so.cache", "ld.so.conf", "localtime", "services"];

/// Whether this process is the one within; its directory then.
pub(crate) fn inside() -> Option<String> {
    std::env::var(INSIDE).ok()
}

/// Runs one test of this program within; `None` if this machine cannot.
pub(crate) fn enter(test: &str) -> Option<ExitStatus> {
    let tools = ["unshare", "ip", "mount", "sh"].map(Need::Tool);
    if !require(&[Need::Root]) || !require(&tools) {
        return None;
    }
    let binaries = Binaries::locate().receiver.parent().expect("a directory");
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("chmod");
    make_etc(dir.path(), &Topic::read("hosts"));
    let own = std::env::current_exe().expect("own path");
    let script = script();
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--net",
            "--propagation",
            "private",
            "sh",
            "-ec",
            &script,
            "sh",
        ])
        .arg(own)
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, dir.path())
        .env("SYNCD_BIN_DIR", binaries);
    Some(command.status().expect("unshare"))
}

fn script() -> String {
    let mut script = String::from("ip link set lo up\n");
    for address in ADDRESSES {
        let family = if address.contains(':') { "-6 " } else { "" };
        let flag = if address.contains(':') { " nodad" } else { "" };
        script += &format!("ip {family}addr add {address} dev lo{flag}\n");
    }
    // Another interface, where the kernel has a type for one.
    script += "ip link add lab0 type veth peer name lab1 2>/dev/null || ip link add lab0 type dummy 2>/dev/null || :\n";
    script += &format!("mount --bind \"${INSIDE}/etc\" /etc\n");
    script += "mount -t tmpfs -o mode=755 tmpfs /run\n";
    script + "exec \"$@\"\n"
}

/// Accounts, groups, netgroups and the way to the name server.
fn make_etc(dir: &Path, topic: &Topic) {
    let etc = dir.join("etc");
    fs::create_dir(&etc).expect("etc");
    for name in COPIED {
        let from = Path::new("/etc").join(name);
        if from.exists() {
            fs::copy(&from, etc.join(name)).expect("copy");
        }
    }
    let write = |name: &str, text: String| fs::write(etc.join(name), text).expect("write");
    write("passwd", passwd(topic.part("accounts")));
    write("group", group(topic.part("accounts")));
    write("netgroup", netgroup(topic.part("netgroups")));
    write("hosts", String::new());
    let sources = "passwd: files\ngroup: files\nhosts: dns\nnetgroup: files\nservices: files\n";
    write("nsswitch.conf", sources.to_owned());
    let resolver = format!(
        "nameserver {}\nsearch .\noptions timeout:2 attempts:2\n",
        names::ADDRESS
    );
    write("resolv.conf", resolver);
}

fn passwd(accounts: &Value) -> String {
    let users = accounts["users"].as_object().expect("users");
    users
        .iter()
        .map(|(name, ids)| format!("{name}:x:{}:{}::/:/bin/sh\n", ids[0], ids[1]))
        .collect()
}

fn group(accounts: &Value) -> String {
    let groups = accounts["groups"].as_object().expect("groups");
    groups
        .iter()
        .map(|(name, group)| format!("{name}:x:{}:{}\n", group[0], joined(&group[1], ",")))
        .collect()
}

fn netgroup(netgroups: &Value) -> String {
    let groups = netgroups.as_object().expect("netgroups");
    groups
        .iter()
        .map(|(name, hosts)| {
            let hosts = hosts.as_array().expect("hosts").iter();
            let triples: Vec<_> = hosts
                .map(|host| format!("({},,)", host.as_str().expect("a host")))
                .collect();
            format!("{name} {}\n", triples.join(" "))
        })
        .collect()
}

fn joined(list: &Value, separator: &str) -> String {
    let items = list.as_array().expect("a list").iter();
    let items: Vec<_> = items.map(|item| item.as_str().expect("text")).collect();
    items.join(separator)
}
