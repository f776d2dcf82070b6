//! Where things are: a receiver whose name leads elsewhere, two modules in one place, snapshots that come and go.

use std::fs;
use std::process::Command;

use certs_dev::Request;
use syncd_tests::isolate::{isolated, loop_devices};
use syncd_tests::require::Need;
use syncd_tests::sandbox::USER;
use syncd_tests::volume::{self, Kind, Volume};
use syncd_tests::workload::many_small;
use syncd_tests::{ReservedPort, Sandbox, wait_until};

use crate::common::{LONG, assert_same, patient, target_of, wait_content};

/// Whoever asks for names here is told by a file of the test.
const HOSTS: &str = "/etc/hosts";

#[test]
fn a_receiver_that_moves_is_found_by_its_name() {
    isolated(
        "places::a_receiver_that_moves_is_found_by_its_name",
        &[],
        || {
            let mut sandbox = Sandbox::new();
            let hosts = sandbox.path().join("hosts");
            let name = |addresses: &[&str]| {
                let lines = addresses.iter().map(|at| format!("{at} receiver.test\n"));
                fs::write(&hosts, lines.collect::<String>()).expect("hosts");
            };
            name(&["127.0.0.2"]);
            let mut bind = Command::new("mount");
            bind.arg("--bind").arg(&hosts).arg(HOSTS);
            volume::run(&mut bind).expect("mount");
            let request = Request::server(&["receiver.test"]).file_stem("moves");
            let issued = sandbox.authority().issue(&request).expect("a certificate");
            let port = ReservedPort::take();
            let globals = sandbox.conf().globals();
            globals
                .set("tls cert file", issued.cert_path.display())
                .set("tls key file", issued.key_path.display())
                .set("address", "127.0.0.2");
            let receiver = sandbox.receiver().port(port.number()).start();
            let agent = sandbox.agent_to(port.number());
            let agent = patient(agent.destination("mirror@receiver.test::demo")).start();
            fs::write(sandbox.src().join("first"), "here").expect("write");
            agent.wait_synced(LONG);
            // It goes, and the name leads nowhere for a while, then to two places, of which one is right.
            drop(receiver);
            name(&[]);
            fs::write(sandbox.src().join("second"), "meanwhile").expect("write");
            wait_until(LONG, "it is told that the name leads nowhere", || {
                let error = target_of(&agent)["last_error"].to_string();
                error.contains("receiver.test") && !error.contains("127.0.0.2")
            });
            sandbox.conf().globals().set("address", "127.0.0.3");
            let receiver = sandbox.receiver().port(port.number()).start();
            name(&["127.0.0.4", "127.0.0.3"]);
            agent.wait_synced(LONG);
            sandbox.assert_equal();
            assert_eq!((agent.exit(), receiver.exit()), (None, None));
        },
    );
}

#[test]
fn two_modules_with_one_path_leave_each_other_alone() {
    let mut sandbox = Sandbox::new();
    let (path, secrets) = (sandbox.dst(), sandbox.secrets_file());
    let twin = sandbox.conf().module("twin");
    twin.set("path", path.display())
        .set("read only", "no")
        .set("use chroot", "no")
        .set("munge symlinks", "no")
        .set("uid", rustix::process::geteuid().as_raw())
        .set("gid", rustix::process::getegid().as_raw())
        .set("auth users", USER)
        .set("secrets file", secrets.display());
    for name in ["one", "two"] {
        fs::create_dir(sandbox.dst().join(name)).expect("mkdir");
    }
    let receiver = sandbox.receiver().start();
    let other = tempfile::tempdir().expect("directory");
    let to = |destination: &str| patient(sandbox.agent(&receiver)).destination(destination);
    let first = to("mirror@localhost::demo/one").start();
    let second = to("mirror@localhost::twin/two")
        .source(other.path())
        .start();
    for round in 0..5 {
        many_small(&sandbox.src().join(format!("{round}")), 3, 20, 200).expect("files");
        many_small(&other.path().join(format!("{round}")), 3, 20, 200).expect("files");
        let large = crate::common::noise(2 << 20, round);
        fs::write(sandbox.src().join("large"), &large).expect("write");
        fs::write(other.path().join("large"), &large).expect("write");
        // A worker that ends and begins anew sweeps up what it finds.
        receiver.kill_workers();
    }
    first.wait_synced(LONG);
    second.wait_synced(LONG);
    assert_same(&sandbox.src(), &sandbox.dst().join("one"));
    assert_same(other.path(), &sandbox.dst().join("two"));
    receiver.wait_line(LONG, "two modules with one path?");
}

#[test]
fn snapshots_of_a_source_come_and_go() {
    let [tool, kernel] = Kind::Btrfs.needs();
    let needs = [loop_devices(), tool, kernel, Need::Tool("btrfs")];
    isolated("places::snapshots_of_a_source_come_and_go", &needs, || {
        for backend in ["inotify", "notify"] {
            let sandbox = Sandbox::new();
            let image = sandbox.path().join("disk.img");
            Kind::Btrfs.make(&image, Kind::Btrfs.size_mib());
            let disk = Volume::mount(Kind::Btrfs, &image, &sandbox.src()).expect("mount");
            let btrfs = |args: &[&str]| {
                let mut command = Command::new("btrfs");
                command.current_dir(sandbox.src()).args(["subvolume"]);
                volume::run(command.args(args)).expect("btrfs");
            };
            btrfs(&["create", "data"]);
            many_small(&sandbox.src().join("data/files"), 3, 5, 100).expect("files");
            let receiver = sandbox.receiver().start();
            let agent = patient(sandbox.agent(&receiver))
                .arg("--backend")
                .arg(backend);
            let agent = agent.start();
            let settle = || {
                agent.wait_synced(LONG);
                sandbox.assert_equal();
            };
            settle();
            btrfs(&["snapshot", "data", "before"]);
            btrfs(&["snapshot", "-r", "data", "frozen"]);
            settle();
            // Each is a tree of its own, and watched as one.
            fs::write(sandbox.src().join("data/files/d00000/f00000"), "new").expect("write");
            fs::write(sandbox.src().join("before/files/d00001/f00001"), "old").expect("write");
            fs::create_dir(sandbox.src().join("before/more")).expect("mkdir");
            fs::write(sandbox.src().join("before/more/f"), "more").expect("write");
            settle();
            btrfs(&["delete", "frozen"]);
            wait_until(LONG, "a snapshot is gone", || {
                !sandbox.dst().join("frozen").exists()
            });
            // Back to what it was before, as it is done: by names.
            fs::rename(sandbox.src().join("data"), sandbox.src().join("away")).expect("mv");
            fs::rename(sandbox.src().join("before"), sandbox.src().join("data")).expect("mv");
            settle();
            btrfs(&["delete", "away"]);
            fs::write(sandbox.src().join("data/files/d00002/f00002"), "heard").expect("write");
            wait_content(&sandbox.dst().join("data/files/d00002/f00002"), b"heard");
            settle();
            let status = agent.control().status().expect("status");
            assert_eq!(
                status["status"]["sources"][0]["held"],
                serde_json::Value::Null
            );
            drop((agent, receiver, disk));
        }
    });
}
