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
        maker.prepare(op, Some(content), |_| None, false).unwrap()
    }

    fn perform(&self, op: &Op, prepared: Prepared) -> Done {
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
        assert_eq!(done.is_ok(), !touched.is_empty());
        touched.sync(self.area.stage()).unwrap();
        done
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.at(".syncd/stage")).unwrap().count()
    }
}

fn put(name: &str, content: &[u8]) -> Op {
    Op::Put {
        path: WirePath::from_relative(name.as_ref()).unwrap(),
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
        Prepared::Nothing => panic!("nothing was prepared"),
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
