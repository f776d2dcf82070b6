//! A file system mounted below the module: the mirror is whole, moves across it lose nothing, and kills leave nothing.

use std::fs;
use std::path::Path;

use syncd_tests::require::Need;
use syncd_tests::workload::{Rng, many_small};
use syncd_tests::{ReservedPort, Sandbox, require, wait_for};

use crate::common::{Disk, LONG, code, may_mount, noise, once, patient, wait_content};

fn wait_empty(area: &Path) {
    wait_for(LONG, "nothing is left in staging", || {
        for place in ["stage", "trash"] {
            let names = fs::read_dir(area.join(place)).map_err(|error| error.to_string())?;
            if names.count() > 0 {
                return Err(place.to_owned());
            }
        }
        Ok(())
    });
}

#[test]
fn a_mirror_with_another_file_system_in_it_is_whole_whatever_is_killed() {
    if !require(&[Need::Root, Need::Tool("mount")]) || !may_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.dst().join("m")).expect("mkdir");
    let disk = Disk::on(&sandbox.dst().join("m"), 64);
    let src = sandbox.src();
    many_small(&src.join("m/tree"), 5, 20, 300).expect("files");
    many_small(&src.join("plain"), 3, 10, 300).expect("files");
    let port = ReservedPort::take();
    let receivers = sandbox.receiver().port(port.number());
    let mut receiver = receivers.start();
    let builder = patient(sandbox.agent(&receiver));
    let agent = builder.start();
    agent.wait_synced(LONG);
    let mut rng = Rng::new(3);
    for round in 0..6_u64 {
        let text = format!("round {round}");
        fs::write(src.join("m/f"), &text).expect("write");
        fs::write(src.join("m/large"), noise(700_000, round)).expect("write");
        // Across, both ways, over what is there and whole trees.
        fs::write(src.join("x"), noise(5_000, round)).expect("write");
        fs::rename(src.join("x"), src.join("m/x")).expect("rename");
        if round % 2 == 0 {
            fs::rename(src.join("m/tree/d00001"), src.join("plain/moved")).expect("rename");
        } else {
            fs::rename(src.join("plain/moved"), src.join("m/tree/d00001")).expect("rename");
        }
        fs::rename(src.join("m/tree/d00002"), src.join("m/tree/renamed")).expect("rename");
        fs::rename(src.join("m/tree/renamed"), src.join("m/tree/d00002")).expect("rename");
        match rng.below(3) {
            0 => receiver.kill_workers(),
            1 => {
                receiver.kill9();
                receiver = receivers.start();
            }
            _ => {}
        }
        wait_content(&sandbox.dst().join("m/f"), text.as_bytes());
    }
    fs::remove_dir_all(src.join("m/tree")).expect("remove");
    agent.wait_synced(LONG);
    once(&sandbox, &builder, "verify").expect(code::DONE, &["identical"]);
    assert!(!sandbox.dst().join("m/tree").exists());
    wait_empty(&sandbox.dst().join(".syncd"));
    wait_empty(&sandbox.dst().join("m/.syncd"));
    drop(agent);
    drop(receiver);
    drop(disk);
}

#[test]
fn names_of_one_file_on_two_file_systems_become_two_files() {
    if !require(&[Need::Root, Need::Tool("mount")]) || !may_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.dst().join("m")).expect("mkdir");
    let disk = Disk::on(&sandbox.dst().join("m"), 16);
    let src = sandbox.src();
    fs::create_dir(src.join("m")).expect("mkdir");
    fs::write(src.join("here"), "one file").expect("write");
    fs::hard_link(src.join("here"), src.join("m/there")).expect("link");
    let receiver = sandbox.receiver().start();
    let agent = patient(sandbox.agent(&receiver)).start();
    for name in ["here", "m/there"] {
        wait_content(&sandbox.dst().join(name), b"one file");
    }
    fs::write(src.join("here"), "changed").expect("write");
    for name in ["here", "m/there"] {
        wait_content(&sandbox.dst().join(name), b"changed");
    }
    drop(agent);
    drop(receiver);
    drop(disk);
}
