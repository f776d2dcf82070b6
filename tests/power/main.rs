//! Power cuts at the receiver: what it acknowledged as durable is there afterwards, and no path is torn.
//!
//! The module lies on a real file system (ext4, xfs, btrfs), that on a loop device, and that on a file of
//! [`device::Device`], which remembers every write and flush. Both programs run on it while the source changes; each
//! time the agent says that all is durable, a mark goes into the same record. Then the power is cut at many moments:
//! what was written before the last flush is there, of the rest a random part ([`replay`]). The file system is mounted
//! again, and what is there is compared with what was promised ([`history`]).
//!
//! That such a test can fail is shown by a module with `durability = none`, and by writers that forget an fsync.
//! `SYNCD_TESTS_SCALE=full` makes hundreds of cuts.

mod changes;
mod cuts;
mod device;
mod fuse;
mod history;
mod killed;
mod record;
mod replay;
mod scene;
mod writers;

use std::time::Duration;

use syncd_tests::isolate::{fuse, isolated, loop_devices};
use syncd_tests::require::Need;
use syncd_tests::volume::Kind;

use cuts::Found;
use scene::Scene;

/// Far longer than anything takes; only a failure waits that long.
const LONG: Duration = Duration::from_secs(120);

/// How much is done.
#[derive(Debug, Clone, Copy)]
struct Scale {
    bursts: usize,
    cuts: usize,
    /// Of so many cuts one is gone on from.
    converge_every: usize,
}

const SMALL: Scale = Scale {
    bursts: 10,
    cuts: 24,
    converge_every: 12,
};

const FULL: Scale = Scale {
    bursts: 60,
    cuts: 400,
    converge_every: 8,
};

fn scale() -> Scale {
    match std::env::var_os("SYNCD_TESTS_SCALE") {
        Some(scale) if scale == "full" => FULL,
        _ => SMALL,
    }
}

#[test]
fn what_was_acknowledged_survives_on_ext4() {
    survives("what_was_acknowledged_survives_on_ext4", Kind::Ext4, 1);
}

#[test]
fn what_was_acknowledged_survives_on_xfs() {
    survives("what_was_acknowledged_survives_on_xfs", Kind::Xfs, 2);
}

#[test]
fn what_was_acknowledged_survives_on_btrfs() {
    survives("what_was_acknowledged_survives_on_btrfs", Kind::Btrfs, 3);
}

#[test]
fn a_killed_worker_leaves_nothing_that_is_only_called_durable() {
    let name = "a_killed_worker_leaves_nothing_that_is_only_called_durable";
    within(name, Kind::Btrfs, || {
        let found = killed::between_rename_and_sync(&mut Scene::new(Kind::Btrfs, |_| {}));
        assert!(found.bad.is_empty(), "{found}");
    });
}

/// With `durability = none` the same test has to fail.
#[test]
fn without_durability_it_does_not_survive() {
    within("without_durability_it_does_not_survive", Kind::Ext4, || {
        let mut scene = Scene::new(Kind::Ext4, |module| {
            module.set("durability", "none");
        });
        let recorded = scene.record(4, SMALL.bursts);
        let found = cuts::check(&mut scene, &recorded, 4, SMALL);
        assert!(found.bad.len() > found.cuts / 4, "{found}");
    });
}

/// Writers without any of our programs: one that does all that is needed, and two that do not.
#[test]
fn writers_that_forget_an_fsync_are_found_out() {
    within(
        "writers_that_forget_an_fsync_are_found_out",
        Kind::Ext4,
        || {
            let found = |writer| writers::try_out(Kind::Ext4, writer, 5, SMALL);
            let good = found(writers::Writer::Good);
            assert!(good.bad.is_empty(), "{good}");
            for writer in [writers::Writer::NoFileSync, writers::Writer::NoDirSync] {
                let bad = found(writer);
                assert!(!bad.bad.is_empty(), "{writer:?}: {bad}");
            }
        },
    );
}

#[track_caller]
fn survives(name: &str, kind: Kind, seed: u64) {
    within(name, kind, || {
        let mut scene = Scene::new(kind, |_| {});
        let recorded = scene.record(seed, scale().bursts);
        let found: Found = cuts::check(&mut scene, &recorded, seed, scale());
        println!("{}: {found}", kind.name());
        assert!(found.bad.is_empty(), "{found}");
    });
}

#[track_caller]
fn within(name: &str, kind: Kind, body: impl FnOnce()) {
    let mut needs = vec![loop_devices(), fuse(), Need::Tool("losetup")];
    needs.extend(kind.needs());
    isolated(name, &needs, body);
}
