//! Mirrors on file systems that hold less of times than the source.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use syncd_tests::isolate::{isolated, loop_devices};
use syncd_tests::sandbox::MODULE;
use syncd_tests::tree::set_mtime;
use syncd_tests::volume::{self, Kind, Volume};
use syncd_tests::{Agent, Binaries, Sandbox, wait_until};

use crate::common::{LONG, code, noise, once, patient, run, target_of};

/// An ext4 with small inodes: seconds and no more, from 1901 to 2038.
pub(crate) fn with_small_inodes(sandbox: &Sandbox, at: &Path) -> Volume {
    let image = sandbox.path().join("disk.img");
    let file = File::create_new(&image).expect("image");
    file.set_len(32 << 20).expect("size of the image");
    let mut command = Command::new("mkfs.ext4");
    volume::run(command.args(["-q", "-F", "-I", "128"]).arg(&image)).expect("mkfs");
    Volume::mount(Kind::Ext4, &image, at).expect("mount")
}

/// Waits until the two trees were compared and found equal, and tells how many files were sent until then.
#[track_caller]
fn sent_until_identical(agent: &Agent) -> u64 {
    wait_until(LONG, "the trees are found equal", || {
        target_of(agent)["identical_at"].is_string()
    });
    target_of(agent)["files"].as_u64().expect("a number")
}

#[test]
fn times_that_are_held_to_the_second_are_compared_to_the_second() {
    let [tool, kernel] = Kind::Ext4.needs();
    let needs = [loop_devices(), tool, kernel];
    let name = "times::times_that_are_held_to_the_second_are_compared_to_the_second";
    isolated(name, &needs, || {
        let mut sandbox = Sandbox::new();
        let disk = sandbox.path().join("disk");
        fs::create_dir(&disk).expect("mkdir");
        let volume = with_small_inodes(&sandbox, &disk);
        let module = disk.join("mirror");
        fs::create_dir(&module).expect("mkdir");
        sandbox.conf().module(MODULE).set("path", module.display());
        let src = sandbox.src();
        fs::create_dir(src.join("dir")).expect("mkdir");
        for (name, size) in [("small", 10), ("dir/below", 10), ("large", 700_000)] {
            fs::write(src.join(name), noise(size, 1)).expect("write");
        }
        std::os::unix::fs::symlink("small", src.join("link")).expect("symlink");
        for (name, secs) in [("dir/below", 1_001), ("large", 1_002), ("link", -5)] {
            set_mtime(&src.join(name), secs, 999_999_999);
        }
        let receiver = sandbox.receiver().start();
        let agent = patient(sandbox.agent(&receiver)).start();
        agent.wait_synced(LONG);
        // A renamed file is known again by its time, and not sent again.
        let sent = target_of(&agent)["files"].clone();
        fs::rename(src.join("large"), src.join("dir/renamed")).expect("rename");
        agent.wait_synced(LONG);
        assert_eq!(target_of(&agent)["files"], sent);
        drop(agent);
        let agent = patient(sandbox.agent(&receiver)).start();
        assert_eq!(sent_until_identical(&agent), 0, "nothing is sent again");
        let mut command = Command::new(&Binaries::locate().agent);
        let command = command.arg("status").arg("--control");
        let said = run(&sandbox, command.arg(agent.control().path()));
        said.expect(code::DONE, &["compared to the second"]);
        drop(agent);
        let verify = || once(&sandbox, &sandbox.agent(&receiver), "verify");
        verify().expect(code::DONE, &["identical", "compared to the second"]);
        set_mtime(&src.join("small"), 1_003, 0);
        verify().expect(code::DIFFERENT, &["mtime", "small"]);
        drop((receiver, volume));
    });
}
