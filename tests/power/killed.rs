//! A worker that is killed between making something visible and making it durable. An agent that comes after that finds
//! the trees equal; it must not be told that this is durable before it is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use syncd_tests::{wait_for, wait_until};

use crate::LONG;
use crate::cuts::{self, Found};
use crate::history::{History, look};
use crate::record::Mark;
use crate::scene::{Disk, Scene};

/// Fewer than the receiver syncs one by one.
const FILES: usize = 8;
const SEEDS: u64 = 12;

/// Changes the mode of a few files, kills the worker while it syncs the first of them, and cuts the power when the
/// agent has called everything durable. On btrfs the sync of one file says nothing about another.
pub(crate) fn between_rename_and_sync(scene: &mut Scene) -> Found {
    let src = scene.sandbox.src();
    let files: Vec<_> = (0..FILES).map(|number| format!("d{number}/file")).collect();
    for name in &files {
        fs::create_dir(src.join(name).parent().expect("a parent")).expect("mkdir");
        fs::write(src.join(name), name).expect("write");
    }
    fs::write(src.join("first"), "first").expect("write");
    let disk = Disk::start(scene.kind, scene.sandbox.path());
    let mirror = scene.sandbox.path().join("disk.mnt/mirror");
    let receiver = scene.sandbox.receiver().start();
    let builder = scene.sandbox.agent(&receiver);
    let agent = builder.start();
    agent.wait_synced(LONG);

    disk.device.hold_flushes();
    set_mode(&src.join("first"));
    wait_until(LONG, "the worker syncs the first one", || {
        has_mode(&mirror.join("first")) && disk.device.flushes_held() > 0
    });
    for name in &files {
        set_mode(&src.join(name));
    }
    // One flush after the other goes through, until the others are visible.
    wait_for(LONG, "the others are visible", || {
        disk.device.release_flushes();
        disk.device.hold_flushes();
        let missing = files.iter().filter(|name| !has_mode(&mirror.join(name)));
        match missing.count() {
            0 => Ok(()),
            count => Err(format!("{count} are not")),
        }
    });
    // Another agent does not know what was not acknowledged, and finds it equal.
    agent.kill9();
    receiver.kill_workers();
    disk.device.release_flushes();
    let agent = builder.start();
    agent.wait_synced(LONG);
    let history = History::begin(&src);
    let problems = history.judge(&look(&mirror), history.now());
    assert!(problems.is_empty(), "{problems:#?}");
    disk.device.mark(Mark::Durable(0));
    let cut = [disk.device.len()].into();
    drop(agent);
    receiver.terminate(LONG);

    let (before, log) = disk.finish();
    let dir = scene.sandbox.path().to_owned();
    let mut all = Found::default();
    // Of the writes that no flush has covered some are kept: with another seed others, or none.
    for seed in 0..SEEDS {
        let again = dir.join(format!("before-{seed}.img"));
        crate::replay::copy_sparse(&before, &again).expect("copy the image");
        let judge = |_: &mut Found, _: usize, root: &Path| {
            history.judge(&look(&root.join("mirror")), history.now())
        };
        let found = cuts::each(scene.kind, &dir, (&log, again.clone()), &cut, seed, judge);
        all.cuts += found.cuts;
        all.bad.extend(found.bad);
        fs::remove_file(again).expect("remove the image");
    }
    all
}

fn set_mode(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
}

fn has_mode(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|stat| stat.permissions().mode() & 0o777 == 0o600)
}
