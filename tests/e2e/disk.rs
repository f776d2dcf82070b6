//! Disks that are full, read only, taken away or too small: said with path, reason and remedy, waited for, and nothing
//! that was acknowledged is lost. When the trouble is over it goes on by itself.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use syncd_tests::isolate::{isolated, loop_devices};
use syncd_tests::require::Need;
use syncd_tests::sandbox::MODULE;
use syncd_tests::volume::{self, Kind, Volume};
use syncd_tests::wait::try_wait_for;
use syncd_tests::{Agent, Binaries, Receiver, Sandbox, wait_for, wait_until};

use crate::common::{LONG, Said, assert_same, code, noise, patient, run, target_of};

const PAGES: usize = 30;
const OLD_BYTES: usize = 40_000;
const NEW_BYTES: usize = 120_000;

/// A mirror whose module is the directory `mirror` on a disk of its own.
struct Scene {
    agent: Agent,
    _receiver: Receiver,
    disk: PathBuf,
    sandbox: Sandbox,
}

impl Scene {
    /// `mount` puts the disk on a directory. The first version of every page is in sync.
    #[track_caller]
    fn on(mount: impl FnOnce(&Sandbox, &Path)) -> Self {
        Self::with(|_| {}, mount)
    }

    /// The same with a sandbox that is changed.
    #[track_caller]
    fn with(change: impl FnOnce(&mut Sandbox), mount: impl FnOnce(&Sandbox, &Path)) -> Self {
        let mut sandbox = Sandbox::new();
        let disk = sandbox.path().join("disk");
        fs::create_dir(&disk).expect("mkdir");
        mount(&sandbox, &disk);
        let module = disk.join("mirror");
        fs::create_dir(&module).expect("mkdir");
        sandbox.conf().module(MODULE).set("path", module.display());
        change(&mut sandbox);
        let receiver = sandbox.receiver().start();
        let agent = patient(sandbox.agent(&receiver)).start();
        let scene = Self {
            agent,
            _receiver: receiver,
            disk,
            sandbox,
        };
        for page in 0..PAGES {
            scene.write(page, &old(page));
        }
        scene.settle();
        scene
    }

    fn src(&self, name: &str) -> PathBuf {
        self.sandbox.src().join(name)
    }

    fn mirror(&self, name: &str) -> PathBuf {
        self.disk.join("mirror").join(name)
    }

    /// Replaces a page at the source.
    fn write(&self, page: usize, content: &[u8]) {
        let beside = self.sandbox.path().join("beside");
        fs::write(&beside, content).expect("write");
        fs::rename(beside, self.src(&name(page))).expect("rename");
    }

    /// Replaces all pages but the first.
    fn write_new(&self) {
        for page in 1..PAGES {
            self.write(page, &new(page));
        }
    }

    /// Waits until `status` says each of these, and that it is no longer well.
    #[track_caller]
    fn wait_said(&self, parts: &[&str]) -> Said {
        wait_for(LONG, "the status says what is wrong", || {
            let said = self.status();
            let missing = parts.iter().find(|part| !said.text.contains(**part));
            match missing {
                None if said.exit == code::DEGRADED || said.exit == code::FAILED => Ok(said),
                missing => Err(format!(
                    "{missing:?} is not in ({:?}): {}",
                    said.exit, said.text
                )),
            }
        })
    }

    fn status(&self) -> Said {
        let mut command = Command::new(&Binaries::locate().agent);
        command.arg("status").arg("--control");
        run(&self.sandbox, command.arg(self.agent.control().path()))
    }

    /// Every page of the mirror is an old one or a new one.
    #[track_caller]
    fn expect_whole(&self) {
        for page in 0..PAGES {
            let found = fs::read(self.mirror(&name(page))).expect("the page is there");
            let whole = found == old(page) || found == new(page);
            assert!(whole, "page {page} has {} bytes", found.len());
        }
    }

    /// All is in sync, nothing is left over, and another agent finds it so too.
    #[track_caller]
    fn settle(&self) {
        self.agent.wait_synced(LONG);
        assert_same(&self.sandbox.src(), &self.disk.join("mirror"));
        let said = self.status();
        assert_eq!(said.exit, code::DONE, "{}", said.text);
        wait_for(LONG, "nothing is left in staging", || {
            let area = self.mirror(".syncd");
            for place in ["stage", "trash"] {
                let left = fs::read_dir(area.join(place)).map_err(|error| error.to_string())?;
                match left.count() {
                    0 => {}
                    count => return Err(format!("{count} in {place}")),
                }
            }
            Ok(())
        });
    }
}

fn name(page: usize) -> String {
    format!("page-{page:02}")
}

fn old(page: usize) -> Vec<u8> {
    noise(OLD_BYTES, page as u64)
}

fn new(page: usize) -> Vec<u8> {
    noise(NEW_BYTES, (PAGES + page) as u64)
}

/// Fills a disk until only this much is left.
fn fill(disk: &Path, left_bytes: u64) {
    let mut file = File::create_new(disk.join("ballast")).expect("ballast");
    let piece = noise(64 << 10, 0);
    while file.write_all(&piece).is_ok() {}
    let _ = file.sync_all();
    let length = file.metadata().expect("ballast").len();
    file.set_len(length.saturating_sub(left_bytes))
        .expect("make room");
    file.sync_all().expect("sync");
}

fn mounted(kind: Kind, size_mib: u64, sandbox: &Sandbox, at: &Path) -> Volume {
    let image = sandbox.path().join("disk.img");
    kind.make(&image, size_mib);
    Volume::mount(kind, &image, at).expect("mount")
}

/// A file system in memory, gone with the namespace of the test.
fn in_memory(at: &Path, options: &str) {
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", options, "syncd-tests"]);
    volume::run(command.arg(at)).expect("mount");
}

fn remount(at: &Path, options: &str) {
    // Somebody may be writing just now.
    let done = try_wait_for(LONG, || {
        let mut command = Command::new("mount");
        volume::run(command.args(["-o", &format!("remount,{options}")]).arg(at))
    });
    done.expect("remount");
}

#[track_caller]
fn full(kind: Kind, size_mib: u64) {
    let mut disk = None;
    let scene = Scene::on(|sandbox, at| disk = Some(mounted(kind, size_mib, sandbox, at)));
    fill(&scene.disk, 1 << 20);
    scene.write_new();
    fs::write(scene.src("large"), noise(5 << 20, 99)).expect("write");
    let said = scene.wait_said(&["No space left on device", "make room"]);
    // Whichever comes last does not fit.
    let named = ["page-", "large"]
        .iter()
        .any(|name| said.text.contains(name));
    assert!(named, "{}", said.text);
    scene.expect_whole();
    // What needs no room goes on.
    fs::remove_file(scene.src(&name(0))).expect("remove");
    wait_until(LONG, "a page goes", || !scene.mirror(&name(0)).exists());
    fs::remove_file(scene.disk.join("ballast")).expect("make room");
    scene.settle();
    drop((scene, disk));
}

#[test]
fn a_full_ext4_is_waited_for() {
    let [tool, kernel] = Kind::Ext4.needs();
    isolated(
        "disk::a_full_ext4_is_waited_for",
        &[loop_devices(), tool, kernel],
        || {
            full(Kind::Ext4, 24);
        },
    );
}

/// What cannot arrive is not sent again from its start, to the end of the disk, each time it is tried.
#[test]
fn a_large_file_for_which_there_is_no_room_is_not_sent_again_and_again() {
    let [tool, kernel] = Kind::Ext4.needs();
    let name = "disk::a_large_file_for_which_there_is_no_room_is_not_sent_again_and_again";
    isolated(name, &[loop_devices(), tool, kernel], || {
        const ROOM_BYTES: u64 = 100 << 20;
        let mut disk = None;
        let scene = Scene::on(|sandbox, at| disk = Some(mounted(Kind::Ext4, 256, sandbox, at)));
        fill(&scene.disk, ROOM_BYTES);
        fs::write(
            scene.src("large"),
            noise(ROOM_BYTES as usize + (9 << 20), 99),
        )
        .expect("write");
        let target = || target_of(&scene.agent);
        let tries = || target()["failed"][0]["attempts"].as_u64().unwrap_or(0);
        wait_until(LONG, "it was tried once", || tries() > 0);
        let first = target()["bytes_sent"].as_u64().expect("a number");
        wait_until(LONG, "it was tried again and again", || tries() > 3);
        let sent = target()["bytes_sent"].as_u64().expect("a number") - first;
        // It is refused at its beginning; what was under way by then does not count.
        assert!(sent < 3 * ROOM_BYTES / 2, "{sent} bytes more");
        scene.wait_said(&["No space left on device", "make room", "large"]);
        fs::remove_file(scene.disk.join("ballast")).expect("make room");
        scene.settle();
        drop((scene, disk));
    });
}

/// A version that was replaced is held until that is durable, and no longer.
#[test]
fn the_room_of_large_versions_that_were_replaced_is_given_back() {
    let [tool, kernel] = Kind::Ext4.needs();
    let name = "disk::the_room_of_large_versions_that_were_replaced_is_given_back";
    isolated(name, &[loop_devices(), tool, kernel], || {
        const BYTES: usize = 9 << 20;
        let mut disk = None;
        let scene = Scene::on(|sandbox, at| disk = Some(mounted(Kind::Ext4, 32, sandbox, at)));
        for seed in 0..4 {
            fs::write(scene.src("large"), noise(BYTES, seed)).expect("write");
            scene.settle();
        }
        wait_until(LONG, "one version takes room", || {
            let found = rustix::fs::statvfs(&scene.disk).expect("statvfs");
            (found.f_blocks - found.f_bfree) * found.f_frsize < 2 * BYTES as u64
        });
        drop((scene, disk));
    });
}

/// Here a sync may fail for want of room, long after a write has succeeded.
#[test]
fn a_full_btrfs_is_waited_for() {
    let [tool, kernel] = Kind::Btrfs.needs();
    isolated(
        "disk::a_full_btrfs_is_waited_for",
        &[loop_devices(), tool, kernel],
        || {
            full(Kind::Btrfs, 128);
        },
    );
}

#[test]
fn a_disk_without_inodes_is_waited_for() {
    isolated("disk::a_disk_without_inodes_is_waited_for", &[], || {
        let scene = Scene::on(|_, at| in_memory(at, "size=64m,nr_inodes=100"));
        for number in 0..100 {
            fs::write(scene.src(&format!("more-{number:02}")), "more").expect("write");
        }
        scene.wait_said(&["No space left on device", "more-", "df -i"]);
        scene.expect_whole();
        for number in 0..60 {
            fs::remove_file(scene.src(&format!("more-{number:02}"))).expect("remove");
        }
        scene.settle();
    });
}

#[test]
fn a_disk_that_is_read_only_for_a_while() {
    let [tool, kernel] = Kind::Ext4.needs();
    let name = "disk::a_disk_that_is_read_only_for_a_while";
    isolated(name, &[loop_devices(), tool, kernel], || {
        let mut disk = None;
        let scene = Scene::on(|sandbox, at| disk = Some(mounted(Kind::Ext4, 64, sandbox, at)));
        scene.write_new();
        remount(&scene.disk, "ro");
        fs::write(scene.src("later"), "later").expect("write");
        fs::remove_file(scene.src("page-00")).expect("remove");
        scene.wait_said(&["Read-only file system", "remount"]);
        scene.expect_whole();
        remount(&scene.disk, "rw");
        scene.settle();
        drop((scene, disk));
    });
}

/// The disk loses its journal, and is read only from then on: no session is worth anything, and each costs a comparison.
#[test]
fn a_disk_that_fails_is_told_with_its_remedy_and_called_less_and_less_often() {
    let [tool, kernel] = Kind::Ext4.needs();
    let name = "disk::a_disk_that_fails_is_told_with_its_remedy_and_called_less_and_less_often";
    isolated(name, &[loop_devices(), tool, kernel], || {
        let mut disk = None;
        let mut below = PathBuf::new();
        let scene = Scene::on(|sandbox, at| {
            below = sandbox.path().join("below");
            fs::create_dir(&below).expect("mkdir");
            in_memory(&below, "size=40m");
            let image = below.join("disk.img");
            Kind::Ext4.make(&image, 64);
            disk = Some(Volume::mount(Kind::Ext4, &image, at).expect("mount"));
        });
        fill(&below, 64 << 10);
        scene.write_new();
        wait_until(LONG, "it is called less often, and said why", || {
            let target = target_of(&scene.agent);
            let told = target["last_error"]["text"].to_string();
            let hint = target["last_error"]["hint"].to_string();
            let waits_ms = target["next_try_ms"].as_u64().unwrap_or(0);
            let is_told = told.contains("failed to make changes durable");
            is_told && hint.contains("it goes on by itself") && waits_ms > 1_000
        });
        scene.expect_whole();
        drop((scene, disk));
    });
}

#[test]
fn a_quota_is_waited_for() {
    let [tool, kernel] = Kind::Btrfs.needs();
    let needs = [loop_devices(), tool, kernel, Need::Tool("btrfs")];
    isolated("disk::a_quota_is_waited_for", &needs, || {
        let btrfs = |args: &[&str], at: &Path| {
            let mut command = Command::new("btrfs");
            volume::run(command.args(args).arg(at)).expect("btrfs");
        };
        let mut disk = None;
        let scene = Scene::on(|sandbox, at| {
            disk = Some(mounted(Kind::Btrfs, Kind::Btrfs.size_mib(), sandbox, at));
            btrfs(&["quota", "enable"], at);
        });
        btrfs(&["qgroup", "limit", "4M"], &scene.disk);
        scene.write_new();
        fs::write(scene.src("large"), noise(5 << 20, 99)).expect("write");
        scene.wait_said(&["quota exceeded", "raise the quota", "large"]);
        scene.expect_whole();
        btrfs(&["qgroup", "limit", "none"], &scene.disk);
        scene.settle();
        drop((scene, disk));
    });
}

/// A shell sets a limit and becomes the program.
pub(crate) fn limited(sandbox: &Sandbox, name: &str, limit: &str, program: &Path) -> PathBuf {
    let script = sandbox.path().join(name);
    let text = format!("#!/bin/sh\n{limit}\nexec {} \"$@\"\n", program.display());
    fs::write(&script, text).expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).expect("chmod");
    script
}

#[test]
fn a_file_larger_than_the_receiver_may_write() {
    isolated(
        "disk::a_file_larger_than_the_receiver_may_write",
        &[],
        || {
            let sandbox = Sandbox::new();
            // 2048 blocks of 512 bytes.
            let program = &Binaries::locate().receiver;
            let program = limited(&sandbox, "limited", "ulimit -f 2048", program);
            let receiver = sandbox.receiver().program(program).start();
            let agent = patient(sandbox.agent(&receiver)).start();
            fs::write(sandbox.src().join("too-large"), noise(3 << 20, 1)).expect("write");
            for number in 0..20 {
                let path = sandbox.src().join(format!("small-{number}"));
                fs::write(path, noise(30_000, number)).expect("write");
            }
            wait_until(LONG, "the others go on", || {
                (0..20).all(|number| sandbox.dst().join(format!("small-{number}")).exists())
            });
            wait_for(LONG, "the status says what is wrong", || {
                let status = agent.control().status().expect("status").to_string();
                let said = status.contains("File too large") && status.contains("too-large");
                if said { Ok(()) } else { Err(status) }
            });
            assert!(!sandbox.dst().join("too-large").exists());
            let file = File::options()
                .write(true)
                .open(sandbox.src().join("too-large"));
            file.expect("open").set_len(100_000).expect("cut");
            agent.wait_synced(LONG);
            sandbox.assert_equal();
            assert_eq!(receiver.exit(), None);
        },
    );
}

/// The disk is mounted on the module itself.
fn taken_away(name: &str, take: impl FnOnce(&Path), give_back: impl FnOnce(&Path, &Path)) {
    let [tool, kernel] = Kind::Ext4.needs();
    isolated(name, &[loop_devices(), tool, kernel], || {
        let sandbox = Sandbox::new();
        let dst = sandbox.dst();
        let disk = mounted(Kind::Ext4, 64, &sandbox, &dst);
        fs::remove_dir(dst.join("lost+found")).expect("rmdir");
        let receiver = sandbox.receiver().start();
        let agent = patient(sandbox.agent(&receiver)).start();
        fs::write(sandbox.src().join("first"), "first").expect("write");
        agent.wait_synced(LONG);
        sandbox.assert_equal();
        take(&dst);
        fs::write(sandbox.src().join("second"), "second").expect("write");
        wait_for(LONG, "the status says what is wrong", || {
            let status = agent.control().status().expect("status");
            let said = status.to_string().contains("unmounted, moved or replaced");
            if said {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
        // Also for an agent that comes anew.
        let said = crate::common::once(&sandbox, &sandbox.agent(&receiver), "sync");
        said.expect(code::FAILED, &["unmounted, moved or replaced"]);
        let found: Vec<_> = fs::read_dir(&dst).expect("list").collect();
        assert!(found.is_empty(), "{found:?}");
        give_back(&sandbox.path().join("disk.img"), &dst);
        agent.wait_synced(LONG);
        sandbox.assert_equal();
        drop((agent, receiver, disk));
    });
}

#[test]
fn a_module_that_is_unmounted_is_not_written_to_below() {
    taken_away(
        "disk::a_module_that_is_unmounted_is_not_written_to_below",
        |dst| volume::run(Command::new("umount").arg("-l").arg(dst)).expect("umount"),
        |image, dst| {
            // The old one may still be held.
            let again = Volume::mount(Kind::Ext4, image, dst).expect("mount");
            std::mem::forget(again);
        },
    );
}

#[test]
fn another_disk_on_the_module_is_not_written_to() {
    taken_away(
        "disk::another_disk_on_the_module_is_not_written_to",
        |dst| in_memory(dst, "size=1m"),
        |_, dst| {
            // Workers that have looked are about to end.
            let done = try_wait_for(LONG, || volume::run(Command::new("umount").arg(dst)));
            done.expect("umount");
        },
    );
}

#[test]
fn an_agent_without_room_for_its_socket_says_so() {
    isolated(
        "disk::an_agent_without_room_for_its_socket_says_so",
        &[],
        || {
            let sandbox = Sandbox::new();
            let place = sandbox.path().join("run");
            fs::create_dir(&place).expect("mkdir");
            in_memory(&place, "size=64k,nr_inodes=1");
            let receiver = sandbox.receiver().start();
            let socket = place.join("agent.sock");
            let agent = sandbox.agent(&receiver);
            let mut command = agent.once_command("run");
            run(&sandbox, command.arg("--control").arg(&socket)).expect(
                syncd_tests::Exit::Code(69),
                &[&socket.display().to_string(), "No space left on device"],
            );
        },
    );
}

/// Whatever is logged gets lost, and nothing else.
#[test]
fn logs_without_room_stop_nothing() {
    isolated("disk::logs_without_room_stop_nothing", &[], || {
        let mut sandbox = Sandbox::new();
        let place = sandbox.path().join("log");
        fs::create_dir(&place).expect("mkdir");
        in_memory(&place, "size=64k");
        let log = place.join("receiver.log");
        File::create(&log).expect("log");
        fill(&place, 0);
        sandbox.conf().globals().set("log file", log.display());
        sandbox.conf().module(MODULE).set("transfer logging", "yes");
        let receiver = sandbox.receiver().start();
        let program = &Binaries::locate().agent;
        let program = limited(&sandbox, "silent", "exec >/dev/full 2>&1", program);
        let agent = patient(sandbox.agent(&receiver)).program(program).start();
        for number in 0..50 {
            fs::write(sandbox.src().join(format!("{number}")), "text").expect("write");
        }
        agent.wait_synced(LONG);
        sandbox.assert_equal();
        assert_eq!((agent.exit(), receiver.exit()), (None, None));
    });
}

/// More strangers than descriptors: they are shed, and when they are gone all is as before.
#[test]
fn few_descriptors_are_enough() {
    isolated("disk::few_descriptors_are_enough", &[], || {
        let sandbox = Sandbox::new();
        let limit = "ulimit -n 64";
        let both = Binaries::locate();
        let receiver = limited(&sandbox, "receiver", limit, &both.receiver);
        let receiver = sandbox.receiver().program(receiver).start();
        let program = limited(&sandbox, "agent", limit, &both.agent);
        let agent = patient(sandbox.agent(&receiver)).program(program).start();
        for number in 0..100 {
            let dir = sandbox.src().join(format!("{number}/below"));
            fs::create_dir_all(&dir).expect("mkdir");
            fs::write(dir.join("file"), noise(20_000, number)).expect("write");
        }
        agent.wait_synced(LONG);
        sandbox.assert_equal();
        let strangers: Vec<_> = (0..100)
            .filter_map(|_| std::net::TcpStream::connect(receiver.address()).ok())
            .collect();
        fs::write(sandbox.src().join("meanwhile"), "meanwhile").expect("write");
        agent.wait_synced(LONG);
        drop(strangers);
        let again = crate::common::once(&sandbox, &sandbox.agent(&receiver), "verify");
        again.expect(code::DONE, &[]);
        let lines = receiver.log().matches("too many open files").count();
        assert!(lines < 100, "{lines} lines");
        assert_eq!((agent.exit(), receiver.exit()), (None, None));
    });
}
