//! Files made without a name, and what comes between making and naming them: all ends as with names.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::Mode;
use syncd_proto::attributes::Attributes;
use syncd_proto::digest::Digest;
use syncd_proto::message::Durability;
use syncd_proto::meta::{Mtime, Times};
use syncd_proto::op::Content;

use super::*;
use crate::fs::guard::Guard;
use crate::fs::meta::Powers;
use crate::fs::nameless::Guess;
use crate::fs::nest::Nests;
use crate::fs::root::HANDLE;
use crate::relay::Rules;

struct Scene {
    dir: tempfile::TempDir,
    root: Root,
    area: Arc<Area>,
    keeper: Keeper,
}

impl Scene {
    fn new(names_all: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(dir.path(), HANDLE, Mode::empty()).unwrap();
        let root = Root::new(fd, false).unwrap();
        let area = Area::open(&root).unwrap();
        let area = if names_all { area.naming_all() } else { area };
        let keeper = Keeper {
            powers: Powers {
                chown: false,
                any_mode: false,
                mknod: false,
                trusted: false,
                capabilities: false,
            },
            attributes: Attributes::default(),
            chmod: None,
            umask: 0o022,
            munges: false,
            times: Times::Nanos,
            guard: Arc::new(Guard::new(&Rules::default())),
        };
        Self {
            dir,
            root,
            area: Arc::new(area),
            keeper,
        }
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn prepare(&self, op: &Op, content: &[u8]) -> Prepared {
        let guess = Guess::default();
        let maker = Maker {
            root: &self.root,
            area: &self.area,
            keeper: &self.keeper,
            guess: Some(&guess),
        };
        maker
            .prepare(op, Some(content), |_| None, false, None)
            .unwrap()
    }

    /// Makes what these operations install, as for a group of commits.
    fn prepare_all<'o>(&self, ops: &'o [Op]) -> Vec<(&'o Op, Prepared)> {
        let mut nests = Nests::new(&self.root, &self.area);
        let maker = Maker {
            root: &self.root,
            area: &self.area,
            keeper: &self.keeper,
            guess: None,
        };
        let mut prepared = Vec::new();
        for (index, op) in ops.iter().enumerate() {
            let nest = nests.of(op, ops.get(index + 1));
            let made = maker.prepare(op, Some(NEW), |_| None, false, nest.as_ref());
            let made = made.unwrap();
            nests.note(&made);
            prepared.push((op, made));
        }
        prepared
    }

    fn perform(&self, op: &Op, prepared: Prepared) -> Done {
        let (done, is_touched) = self.perform_and_see(op, prepared);
        assert_eq!(done.is_ok(), is_touched);
        done
    }

    fn perform_and_see(&self, op: &Op, prepared: Prepared) -> (Done, bool) {
        let home = self.root.identity().dev;
        let mut touched = Touched::new(Durability::Batch, home);
        let mut applier = Applier {
            root: &self.root,
            area: &self.area,
            base: &WirePath::root(),
            keeper: &self.keeper,
            touched: &mut touched,
            spares: false,
        };
        let done = applier.perform(op, prepared);
        let is_touched = !touched.is_empty();
        touched.sync(self.area.stage()).unwrap();
        (done, is_touched)
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.at(".syncd/stage")).unwrap().count()
    }
}

const NEW: &[u8] = b"new";

fn path(name: &str) -> WirePath {
    WirePath::from_relative(name.as_ref()).unwrap()
}

fn put(name: &str, content: &[u8]) -> Op {
    Op::Put {
        path: path(name),
        meta: Meta {
            mode: 0o640,
            uid: 0,
            gid: 0,
            mtime: Mtime::new(1_000, 5).unwrap(),
            xattrs: None,
        },
        content: Content::Inline {
            len: content.len() as u32,
            digest: Digest::of(content),
        },
    }
}

fn temp_of(prepared: &Prepared) -> &Temp {
    match prepared {
        Prepared::Entry(temp, _) => temp,
        Prepared::Nest(_) | Prepared::Nothing => panic!("no entry was prepared"),
    }
}

/// Makes `name`; `between` happens when it is made and has not got it. Both ways.
fn twice(between: impl Fn(&Scene)) -> [(Scene, Done); 2] {
    [false, true].map(|names_all| {
        let scene = Scene::new(names_all);
        let op = put("name", b"new");
        let prepared = scene.prepare(&op, b"new");
        let is_unnamed = temp_of(&prepared).unnamed().is_some();
        assert_eq!(is_unnamed, scene.area.nameless().works());
        assert_eq!(scene.staged(), usize::from(!is_unnamed));
        between(&scene);
        let done = scene.perform(&op, prepared);
        assert_eq!(scene.staged(), 0);
        (scene, done)
    })
}

fn is_new(scene: &Scene) {
    assert_eq!(fs::read(scene.at("name")).unwrap(), b"new");
    let meta = fs::metadata(scene.at("name")).unwrap();
    let found = (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec());
    assert_eq!((found, meta.nlink()), ((0o640, 1_000, 5), 1));
}

#[test]
fn a_free_name_is_taken() {
    for (scene, done) in twice(|_| {}) {
        done.unwrap();
        is_new(&scene);
    }
}

#[test]
fn what_took_the_name_meanwhile_is_replaced() {
    for (scene, done) in twice(|scene| {
        fs::write(scene.at("name"), "old").unwrap();
        fs::hard_link(scene.at("name"), scene.at("other")).unwrap();
    }) {
        done.unwrap();
        is_new(&scene);
        assert_eq!(fs::read(scene.at("other")).unwrap(), b"old");
    }
    for (scene, done) in twice(|scene| symlink("other", scene.at("name")).unwrap()) {
        done.unwrap();
        assert!(!scene.at("name").is_symlink() && !scene.at("other").exists());
        is_new(&scene);
    }
    for (scene, done) in twice(|scene| fs::create_dir_all(scene.at("name/d")).unwrap()) {
        done.unwrap();
        is_new(&scene);
    }
}

#[test]
fn where_it_cannot_be_linked_it_is_made_again_with_a_name() {
    let scene = Scene::new(false);
    if !scene.area.nameless().works() {
        return;
    }
    let op = put("name", b"new");
    let prepared = scene.prepare(&op, b"new");
    fs::write(scene.at("name"), "old").unwrap();
    let planted = scene.at(".syncd/stage").join(temp_of(&prepared).name());
    fs::write(&planted, "").unwrap();
    scene.perform(&op, prepared).unwrap();
    is_new(&scene);
    assert!(planted.exists() && scene.staged() == 1, "not ours");
    assert!(!scene.area.nameless().works());
    let prepared = scene.prepare(&put("second", b"2"), b"2");
    assert!(temp_of(&prepared).unnamed().is_none());
}

#[test]
fn what_is_not_installed_leaves_nothing() {
    for scene in [false, true].map(Scene::new) {
        let op = put("none/f", b"new");
        let prepared = scene.prepare(&op, b"new");
        assert!(scene.perform(&op, prepared).is_err());
        drop(scene.prepare(&op, b"new"));
        let given = scene.prepare(&op, b"new");
        temp_of(&given).give_name().unwrap();
        assert_eq!(scene.staged(), 1);
        let mut copy = Vec::new();
        let opened = temp_of(&given).open().unwrap();
        std::io::Read::read_to_end(&mut fs::File::from(opened), &mut copy).unwrap();
        assert_eq!(copy, b"new");
        drop(given);
        assert_eq!(scene.staged(), 0);
    }
}

#[test]
fn above_the_share_files_have_names() {
    let scene = Scene::new(false);
    let mut open = Vec::new();
    while scene.area.nameless().take() {
        open.push(());
    }
    let op = put("name", b"new");
    let prepared = scene.prepare(&op, b"new");
    assert!(temp_of(&prepared).unnamed().is_none() && scene.staged() == 1);
    scene.perform(&op, prepared).unwrap();
    is_new(&scene);
    if open.pop().is_none() {
        return;
    }
    scene.area.nameless().give();
    let one = scene.prepare(&put("second", b"2"), b"2");
    let other = scene.prepare(&put("third", b"3"), b"3");
    assert!(temp_of(&one).unnamed().is_some() && temp_of(&other).unnamed().is_none());
    drop(one);
    let next = scene.prepare(&put("third", b"3"), b"3");
    assert!(temp_of(&next).unnamed().is_some());
}

fn meta() -> Meta {
    Meta {
        mode: 0o750,
        uid: 0,
        gid: 0,
        mtime: Mtime::new(2_000, 7).unwrap(),
        xattrs: None,
    }
}

fn mkdir(name: &str) -> Op {
    let (path, meta) = (path(name), meta());
    Op::Mkdir { path, meta }
}

fn symlink_at(name: &str) -> Op {
    let (path, meta, target) = (path(name), meta(), b"anywhere".to_vec());
    Op::Symlink { path, meta, target }
}

/// The names in a directory of the mirror.
fn names_in(scene: &Scene, dir: &str) -> Vec<String> {
    let found = fs::read_dir(scene.at(dir)).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
    let mut names: Vec<_> = found.map(|entry| name(entry).unwrap()).collect();
    names.sort();
    names
}

fn filled() -> [Op; 4] {
    [
        mkdir("d"),
        put("d/a", NEW),
        put("d/b", NEW),
        put("d/c", NEW),
    ]
}

/// Performs what was prepared; `after_first` when the directory is there.
fn perform_all(scene: &Scene, prepared: Vec<(&Op, Prepared)>, after_first: impl FnOnce()) {
    let mut after_first = Some(after_first);
    for (op, prepared) in prepared {
        scene.perform_and_see(op, prepared).0.unwrap();
        if let Some(after_first) = after_first.take() {
            after_first();
        }
    }
}

#[test]
fn a_new_directory_comes_with_its_first_files() {
    let scene = Scene::new(false);
    let ops = filled();
    let prepared = scene.prepare_all(&ops);
    assert!(!scene.at("d").exists());
    assert_eq!(scene.staged(), 1, "the directory, and nothing beside it");
    perform_all(&scene, prepared, || {
        assert_eq!(names_in(&scene, "d"), ["a", "b", "c"]);
        let meta = fs::metadata(scene.at("d")).unwrap();
        let found = (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec());
        assert_eq!(found, (0o750, 2_000, 7));
    });
    assert_eq!(names_in(&scene, "d"), ["a", "b", "c"]);
    let meta = fs::metadata(scene.at("d/b")).unwrap();
    let found = (meta.mode() & 0o7777, meta.mtime(), meta.nlink());
    assert_eq!(found, (0o640, 1_000, 1));
    assert_eq!(fs::read(scene.at("d/c")).unwrap(), NEW);
    assert_eq!(scene.staged(), 0);
}

#[test]
fn only_what_follows_without_a_gap_comes_with_its_directory() {
    let gaps = [
        put("other", NEW),
        symlink_at("d/l"),
        mkdir("d/e"),
        put("d/e/f", NEW),
    ];
    for gap in gaps {
        let scene = Scene::new(false);
        let is_below = gap.path() == &path("d/e/f");
        let ops = [mkdir("d"), put("d/a", NEW), gap, put("d/b", NEW)];
        let mut prepared = scene.prepare_all(&ops);
        let first = prepared.remove(0);
        perform_all(&scene, vec![first], || {
            assert_eq!(names_in(&scene, "d"), ["a"]);
        });
        for (op, prepared) in prepared {
            let done = scene.perform_and_see(op, prepared).0;
            assert_eq!(done.is_err(), is_below && op.path() == &path("d/e/f"));
        }
        assert!(scene.at("d/b").exists());
        assert_eq!(scene.staged(), 0);
    }
}

#[test]
fn where_the_directory_is_there_by_then_its_files_come_one_by_one() {
    let scene = Scene::new(false);
    let ops = filled();
    let prepared = scene.prepare_all(&ops);
    fs::create_dir(scene.at("d")).unwrap();
    fs::write(scene.at("d/b"), "old").unwrap();
    fs::write(scene.at("d/kept"), "kept").unwrap();
    perform_all(&scene, prepared, || {
        assert_eq!(names_in(&scene, "d"), ["b", "kept"]);
    });
    assert_eq!(names_in(&scene, "d"), ["a", "b", "c", "kept"]);
    assert_eq!(fs::read(scene.at("d/b")).unwrap(), NEW);
    assert_eq!(scene.staged(), 0);
    // Seen in time, no nest is made.
    let prepared = scene.prepare_all(&ops);
    assert!(matches!(prepared[0].1, Prepared::Nothing));
}

#[test]
fn a_file_makes_way_for_a_directory_and_its_files() {
    let scene = Scene::new(false);
    let ops = filled();
    let prepared = scene.prepare_all(&ops);
    fs::write(scene.at("d"), "in the way").unwrap();
    perform_all(&scene, prepared, || {});
    assert_eq!(names_in(&scene, "d"), ["a", "b", "c"]);
}

#[test]
fn without_its_directory_nothing_is_installed_and_nothing_left() {
    let scene = Scene::new(false);
    let ops = [mkdir("none/d"), put("none/d/a", NEW), put("none/d/b", NEW)];
    let prepared = scene.prepare_all(&ops);
    assert_eq!(scene.staged(), 1);
    for (op, prepared) in prepared {
        assert!(scene.perform_and_see(op, prepared).0.is_err());
    }
    assert_eq!(scene.staged(), 0);
    drop(scene.prepare_all(&ops));
    assert_eq!(scene.staged(), 0);
}

#[test]
fn what_was_published_is_not_taken_back() {
    let scene = Scene::new(false);
    let ops = filled();
    let mut prepared = scene.prepare_all(&ops);
    let first = prepared.remove(0);
    perform_all(&scene, vec![first], || {});
    fs::remove_file(scene.at("d/a")).unwrap();
    // The session ends here.
    drop(prepared);
    assert_eq!(names_in(&scene, "d"), ["b", "c"]);
    assert_eq!(scene.staged(), 0);
}

#[test]
fn a_name_that_does_not_fit_into_the_nest_ends_it() {
    let scene = Scene::new(false);
    let ops = [
        mkdir("d"),
        put("d/a", NEW),
        put("d/a", NEW),
        put("d/b", NEW),
    ];
    let mut prepared = scene.prepare_all(&ops);
    let first = prepared.remove(0);
    perform_all(&scene, vec![first], || {
        assert_eq!(names_in(&scene, "d"), ["a"]);
    });
    for (op, prepared) in prepared {
        scene.perform_and_see(op, prepared).0.unwrap();
    }
    assert_eq!(names_in(&scene, "d"), ["a", "b"]);
    assert_eq!(scene.staged(), 0);
}

#[test]
fn above_their_share_directories_come_empty() {
    let scene = Scene::new(false);
    while scene.area.nests().take() {}
    let ops = filled();
    let prepared = scene.prepare_all(&ops);
    assert!(matches!(prepared[0].1, Prepared::Nothing));
    perform_all(&scene, prepared, || {
        assert!(names_in(&scene, "d").is_empty());
    });
    assert_eq!(names_in(&scene, "d"), ["a", "b", "c"]);
    scene.area.nests().give();
    let ops = [mkdir("e"), put("e/a", NEW)];
    assert!(matches!(scene.prepare_all(&ops)[0].1, Prepared::Nest(_)));
}
