//! The comparer is only worth something if it sees each kind of difference: one test per kind, each on two trees
//! that were equal a moment before.

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};
use tempfile::TempDir;

use super::*;
use crate::require::{Need, require};

struct Pair {
    _dir: TempDir,
    left: PathBuf,
    right: PathBuf,
}

impl Pair {
    /// Two equal trees with one of everything that needs no privilege.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [left, right] = ["left", "right"].map(|name| dir.path().join(name));
        for root in [&left, &right] {
            fs::create_dir_all(root.join("dir/sub")).unwrap();
            fs::write(root.join("dir/file"), "content").unwrap();
            fs::write(root.join("linked"), "twice").unwrap();
            fs::hard_link(root.join("linked"), root.join("dir/again")).unwrap();
            fs::write(root.join("alone"), "twice").unwrap();
            symlink("dir/file", root.join("symlink")).unwrap();
            rustix::fs::mknodat(
                CWD,
                root.join("fifo"),
                FileType::Fifo,
                Mode::from_raw_mode(0o644),
                0,
            )
            .unwrap();
            for path in [
                "dir/sub", "dir/file", "linked", "alone", "symlink", "fifo", "dir", ".",
            ] {
                set_mtime(&root.join(path), 1_000_000_000, 123_456_789);
            }
        }
        let pair = Self {
            _dir: dir,
            left,
            right,
        };
        assert_eq!(pair.diff(), [], "equal at first");
        pair
    }

    fn right(&self, path: &str) -> PathBuf {
        self.right.join(path)
    }

    /// Changes the right tree and restores the times that this changes in passing.
    fn change(&self, path: &str, change: impl FnOnce(&Path)) -> Vec<(String, Aspect)> {
        let path = self.right(path);
        change(&path);
        for path in [&*path, path.parent().unwrap()]
            .into_iter()
            .filter(|path| path.symlink_metadata().is_ok())
        {
            set_mtime(path, 1_000_000_000, 123_456_789);
        }
        self.diff()
    }

    fn diff(&self) -> Vec<(String, Aspect)> {
        self.diff_with(&Options::default())
    }

    fn diff_with(&self, options: &Options) -> Vec<(String, Aspect)> {
        let [left, right] =
            [&self.left, &self.right].map(|root| Tree::scan(root, options).unwrap());
        diff(&left, &right)
            .into_iter()
            .map(|found| (escape(&found.path), found.aspect))
            .collect()
    }
}

fn one(path: &str, aspect: Aspect) -> Vec<(String, Aspect)> {
    vec![(path.to_owned(), aspect)]
}

#[test]
fn content_of_the_same_size_and_time() {
    let found = Pair::new().change("dir/file", |path| fs::write(path, "Content").unwrap());
    assert_eq!(found, one("dir/file", Aspect::Content));
}

#[test]
fn the_last_byte_of_a_large_file() {
    let pair = Pair::new();
    let mut content = vec![7; 3_000_001];
    fs::write(pair.left.join("alone"), &content).unwrap();
    *content.last_mut().unwrap() = 8;
    set_mtime(&pair.left.join("alone"), 1_000_000_000, 123_456_789);
    let found = pair.change("alone", |path| fs::write(path, &content).unwrap());
    assert_eq!(found, one("alone", Aspect::Content));
}

#[test]
fn size() {
    let found = Pair::new().change("dir/file", |path| fs::write(path, "content\0").unwrap());
    assert_eq!(found, one("dir/file", Aspect::Size));
}

#[test]
fn an_empty_stand_in() {
    let found = Pair::new().change("dir/file", |path| fs::write(path, "").unwrap());
    assert_eq!(found, one("dir/file", Aspect::Size));
}

#[test]
fn each_of_the_twelve_mode_bits() {
    let readable_anyway = rustix::process::geteuid().is_root();
    for bit in (0..12).filter(|&bit| bit != 8 || readable_anyway) {
        let found = Pair::new().change("dir/file", |path| {
            let mode = fs::metadata(path).unwrap().permissions().mode() ^ (1 << bit);
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        });
        assert_eq!(found, one("dir/file", Aspect::Mode), "bit {bit}");
    }
}

#[test]
fn the_mode_of_a_directory_and_of_the_root() {
    let restrict = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
    let pair = Pair::new();
    assert_eq!(pair.change("dir", restrict), one("dir", Aspect::Mode));
    restrict(&pair.right);
    assert!(pair.diff().contains(&(".".to_owned(), Aspect::Mode)));
    let below = pair.diff_with(&Options {
        root: false,
        ..Options::default()
    });
    assert_eq!(below, one("dir", Aspect::Mode));
}

#[test]
fn one_nanosecond_of_a_file_a_directory_a_symlink_a_fifo_and_the_root() {
    for (path, name) in [
        ("dir/file", "dir/file"),
        ("dir", "dir"),
        ("symlink", "symlink"),
        ("fifo", "fifo"),
        ("", "."),
    ] {
        let pair = Pair::new();
        set_mtime(&pair.right(path), 1_000_000_000, 123_456_790);
        assert_eq!(pair.diff(), one(name, Aspect::Mtime));
    }
}

#[test]
fn a_time_before_the_epoch() {
    let pair = Pair::new();
    set_mtime(&pair.right("dir/file"), -1, 0);
    let [left, right] =
        [&pair.left, &pair.right].map(|root| Tree::scan(root, &Options::default()).unwrap());
    let text = diff(&left, &right)[0].to_string();
    assert_eq!(text, "dir/file: Mtime: 1000000000.123456789 | -1.000000000");
}

#[test]
fn where_a_symlink_points() {
    let found = Pair::new().change("symlink", |path| {
        fs::remove_file(path).unwrap();
        symlink("dir/fil\u{e9}", path).unwrap();
    });
    assert_eq!(found, one("symlink", Aspect::Target));
}

#[test]
fn a_missing_and_an_extra_entry() {
    let pair = Pair::new();
    let found = pair.change("dir/sub", |path| fs::remove_dir(path).unwrap());
    assert_eq!(found, one("dir/sub", Aspect::Missing));
    let found = pair.change("more", |path| fs::write(path, "").unwrap());
    assert_eq!(
        found,
        [
            ("dir/sub".to_owned(), Aspect::Missing),
            ("more".to_owned(), Aspect::Extra)
        ]
    );
}

#[test]
fn another_type_with_the_same_look() {
    let pair = Pair::new();
    let found = pair.change("symlink", |path| {
        fs::remove_file(path).unwrap();
        fs::copy(pair.right("dir/file"), path).unwrap();
    });
    assert_eq!(found, one("symlink", Aspect::Kind));
    let found = Pair::new().change("fifo", |path| {
        fs::remove_file(path).unwrap();
        drop(UnixListener::bind(path).unwrap());
    });
    assert_eq!(found, one("fifo", Aspect::Kind));
}

#[test]
fn a_broken_hard_link_and_one_too_many() {
    let found = Pair::new().change("linked", |path| {
        fs::remove_file(path).unwrap();
        fs::write(path, "twice").unwrap();
    });
    assert_eq!(found, one("linked", Aspect::HardLinks));
    let pair = Pair::new();
    let found = pair.change("alone", |path| {
        fs::remove_file(path).unwrap();
        fs::hard_link(pair.right("linked"), path).unwrap();
    });
    // The first path of the group is now another one.
    assert!(
        found.iter().all(|(_, aspect)| *aspect == Aspect::HardLinks) && !found.is_empty(),
        "{found:?}"
    );
}

#[test]
fn a_missing_name_of_a_linked_file_is_only_missing() {
    let found = Pair::new().change("dir/again", |path| fs::remove_file(path).unwrap());
    assert_eq!(found, one("dir/again", Aspect::Missing));
}

#[test]
fn owner_and_group() {
    if !require(&[Need::Root]) {
        return;
    }
    let found = Pair::new().change("alone", |path| {
        std::os::unix::fs::chown(path, Some(12_345), None).unwrap()
    });
    assert_eq!(found, one("alone", Aspect::Uid));
    let found = Pair::new().change("symlink", |path| {
        std::os::unix::fs::lchown(path, None, Some(12_345)).unwrap();
    });
    assert_eq!(found, one("symlink", Aspect::Gid));
}

#[test]
fn device_numbers() {
    let pair = Pair::new();
    let make = |root: &Path, minor| {
        let device = rustix::fs::makedev(1, minor);
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(
            CWD,
            root.join("device"),
            FileType::CharacterDevice,
            mode,
            device,
        )
    };
    let made = [make(&pair.left, 3), make(&pair.right, 5)];
    if !require(&[
        Need::Root,
        Need::Other("mknod", made.iter().all(Result::is_ok)),
    ]) {
        return;
    }
    for root in [&pair.left, &pair.right] {
        set_mtime(&root.join("device"), 1, 0);
        set_mtime(root, 1, 0);
    }
    assert_eq!(pair.diff(), one("device", Aspect::Device));
}

#[test]
fn extended_attributes_unless_asked_not_to() {
    let pair = Pair::new();
    let set = |path: &Path| rustix::fs::lsetxattr(path, "user.note", b"x", XattrFlags::empty());
    if !require(&[Need::Other(
        "user.* attributes in the temporary directory",
        set(&pair.right("dir/file")).is_ok(),
    )]) {
        return;
    }
    let blind = Options {
        xattrs: false,
        ..Options::default()
    };
    assert_eq!(pair.diff_with(&blind), []);
    let strict = Options::default();
    assert_eq!(pair.diff_with(&strict), one("dir/file", Aspect::Xattrs));
    rustix::fs::lsetxattr(
        pair.left.join("dir/file"),
        "user.note",
        b"y",
        XattrFlags::empty(),
    )
    .unwrap();
    let [left, right] = [&pair.left, &pair.right].map(|root| Tree::scan(root, &strict).unwrap());
    assert_eq!(
        diff(&left, &right)[0].to_string(),
        "dir/file: Xattrs: user.note=y | user.note=x"
    );
    set(&pair.right("dir")).unwrap();
    set(&pair.left.join("dir/file")).unwrap();
    assert_eq!(pair.diff_with(&strict), one("dir", Aspect::Xattrs));
}

#[test]
fn the_receivers_own_directory_is_ignored_in_the_root_only() {
    let pair = Pair::new();
    fs::create_dir_all(pair.right(".syncd/tmp")).unwrap();
    set_mtime(&pair.right, 1_000_000_000, 123_456_789);
    assert_eq!(pair.diff(), []);
    let found = pair.change("dir/.syncd", |path| fs::create_dir(path).unwrap());
    assert_eq!(found, one("dir/.syncd", Aspect::Extra));
}

#[test]
fn names_are_bytes_and_are_shown_escaped() {
    let pair = Pair::new();
    let name = std::ffi::OsStr::from_bytes(b"new\nline \xff");
    fs::write(pair.right.join(name), "").unwrap();
    set_mtime(&pair.right, 1_000_000_000, 123_456_789);
    assert_eq!(pair.diff(), one("new\\nline \\xff", Aspect::Extra));
}

#[test]
fn a_tree_far_deeper_than_the_longest_path() {
    let dir = tempfile::tempdir().unwrap();
    let open = |dir: &std::os::fd::OwnedFd, name: &str| {
        rustix::fs::openat(dir, name, OFlags::DIRECTORY, Mode::empty()).unwrap()
    };
    let name = "n".repeat(50);
    let root = rustix::fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut at = root;
    for _ in 0..400 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = open(&at, &name);
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    drop(rustix::fs::openat(&at, "last", flags, Mode::RUSR | Mode::WUSR).unwrap());
    let tree = Tree::scan(dir.path(), &Options::default()).unwrap();
    assert_eq!(tree.len(), 402);
    let (path, entry) = tree.entries().last_key_value().unwrap();
    assert_eq!((path.len(), entry.kind), (400 * 51 + 4, Kind::File));
    assert_eq!(entry.content, Some(blake3::hash(b"")));
}

#[test]
fn a_root_that_is_missing_or_a_file_is_an_error() {
    let pair = Pair::new();
    for path in ["absent", "alone"] {
        let error = Tree::scan(pair.left.join(path), &Options::default()).unwrap_err();
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[test]
fn a_copy_by_rsync_of_a_wild_tree_is_equal() {
    if !require(&[Need::Tool("rsync")]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [left, right] = ["left", "right"].map(|name| dir.path().join(name));
    fs::create_dir(&left).unwrap();
    let mut workload = crate::workload::Workload::new(&left, 2026).unwrap();
    workload.run(800).unwrap();
    // -1: otherwise rsync leaves a directory's time alone when the whole seconds agree.
    let mut rsync = std::process::Command::new("rsync");
    let copied = rsync
        .args(["-aHX", "--modify-window=-1"])
        .arg(left.join(""))
        .arg(&right)
        .status();
    assert!(copied.unwrap().success());
    let [a, b] = [&left, &right].map(|root| Tree::scan(root, &Options::default()).unwrap());
    assert_eq!(diff(&a, &b), [], "{}", workload.story());
    assert!(a.len() > 100, "{} entries", a.len());
}
