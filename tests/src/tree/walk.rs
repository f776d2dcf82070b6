//! The walk: directories one after another from a list, then file contents on all cores.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Entry, Kind, Options, RelPath, TreeError};

/// Longer paths are opened in pieces of at most this length; the kernel's limit is 4096.
const PIECE_LENGTH_MAX: usize = 3000;
const READ_SIZE_BYTES: usize = 256 * 1024;
const XATTR_SIZE_BYTES_MAX: usize = 64 * 1024;
const THREADS_MAX: usize = 8;
const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const FILE: OFlags = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

type Entries = BTreeMap<RelPath, Entry>;

pub(super) fn scan(root: &Path, options: &Options) -> Result<Entries, TreeError> {
    // The root alone may be reached through a symlink: it is the caller's own word.
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root =
        rustix::fs::open(root, flags, Mode::empty()).map_err(|errno| at_root(root, errno))?;
    let mut entries = walk(&root, options)?;
    let hashes = hash_all(&root, &entries)?;
    for entry in entries
        .values_mut()
        .filter(|entry| entry.kind == Kind::File)
    {
        entry.content = hashes.get(&entry.inode).copied();
    }
    Ok(entries)
}

fn at_root(root: &Path, errno: Errno) -> TreeError {
    TreeError::io("open", root.as_os_str().as_encoded_bytes(), errno)
}

fn walk(root: &OwnedFd, options: &Options) -> Result<Entries, TreeError> {
    let mut entries = Entries::new();
    if options.root {
        let stat = rustix::fs::fstat(root).map_err(|errno| TreeError::io("stat", b"", errno))?;
        entries.insert(RelPath::new(), look(root, c".", b"", &stat, options)?);
    }
    let mut pending = vec![RelPath::new()];
    while let Some(path) = pending.pop() {
        let fd = open_beneath(root, &path, DIRECTORY)?;
        let listing = Dir::read_from(&fd).map_err(|errno| TreeError::io("list", &path, errno))?;
        for found in listing {
            let found = found.map_err(|errno| TreeError::io("list", &path, errno))?;
            let name = found.file_name();
            let child = join(&path, name.to_bytes());
            if [&b"."[..], b".."].contains(&name.to_bytes()) || options.ignore.contains(&child) {
                continue;
            }
            let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|errno| TreeError::io("stat", &child, errno))?;
            let entry = look(&fd, name, &child, &stat, options)?;
            if entry.kind == Kind::Directory {
                pending.push(child.clone());
            }
            entries.insert(child, entry);
        }
    }
    Ok(entries)
}

/// Everything about `name` in the directory `dir`, except the content of a file.
fn look(
    dir: &OwnedFd,
    name: &CStr,
    path: &[u8],
    stat: &Stat,
    options: &Options,
) -> Result<Entry, TreeError> {
    let kind = kind_of(stat, path)?;
    let device = matches!(kind, Kind::BlockDevice | Kind::CharDevice);
    let target = match kind {
        Kind::Symlink => Some(
            rustix::fs::readlinkat(dir, name, Vec::new())
                .map_err(|errno| TreeError::io("read the link", path, errno))?
                .into_bytes(),
        ),
        _ => None,
    };
    Ok(Entry {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: mtime_of(stat),
        size: if kind == Kind::File {
            u64::try_from(stat.st_size).unwrap_or(0)
        } else {
            0
        },
        rdev: if device {
            (
                rustix::fs::major(stat.st_rdev),
                rustix::fs::minor(stat.st_rdev),
            )
        } else {
            (0, 0)
        },
        target,
        content: None,
        xattrs: if options.xattrs {
            xattrs_of(dir, name, path)?
        } else {
            BTreeMap::new()
        },
        inode: (stat.st_dev, stat.st_ino),
    })
}

fn kind_of(stat: &Stat, path: &[u8]) -> Result<Kind, TreeError> {
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::Unknown => return Err(TreeError::io("name the type of", path, Errno::NOTSUP)),
    })
}

#[expect(
    clippy::unnecessary_cast,
    reason = "the types of stat's fields differ between platforms"
)]
fn mtime_of(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime as i64, stat.st_mtime_nsec as u32)
}

/// Symlinks and special files cannot be opened, so attributes go by a path through the directory's descriptor.
fn xattrs_of(
    dir: &OwnedFd,
    name: &CStr,
    path: &[u8],
) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, TreeError> {
    let mut place = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    place.extend_from_slice(name.to_bytes());
    let failed = |errno| TreeError::io("read attributes of", path, errno);
    let mut names = vec![0; XATTR_SIZE_BYTES_MAX];
    let length = match rustix::fs::llistxattr(&place[..], &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        other => other.map_err(failed)?,
    };
    let mut found = BTreeMap::new();
    for name in names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty() && name != b"security.selinux")
    {
        let mut value = vec![0; XATTR_SIZE_BYTES_MAX];
        let length = rustix::fs::lgetxattr(&place[..], name, &mut value[..]).map_err(failed)?;
        value.truncate(length);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

/// Hashes each inode once, however many names it has.
fn hash_all(
    root: &OwnedFd,
    entries: &Entries,
) -> Result<HashMap<(u64, u64), blake3::Hash>, TreeError> {
    let mut files: HashMap<(u64, u64), (&RelPath, &Entry)> = HashMap::new();
    for (path, entry) in entries.iter().filter(|(_, entry)| entry.kind == Kind::File) {
        files.entry(entry.inode).or_insert((path, entry));
    }
    let files: Vec<_> = files.into_values().collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<_>, TreeError> {
        let mut hashes = Vec::new();
        while let Some((path, entry)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            hashes.push((entry.inode, hash_file(root, path, entry)?));
        }
        Ok(hashes)
    };
    let threads = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(THREADS_MAX)
        .min(files.len());
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut hashes = HashMap::new();
        for thread in running {
            let part = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            hashes.extend(part);
        }
        Ok(hashes)
    })
}

fn hash_file(root: &OwnedFd, path: &RelPath, entry: &Entry) -> Result<blake3::Hash, TreeError> {
    let fd = open_beneath(root, path, FILE)?;
    let mut file = std::fs::File::from(fd);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_SIZE_BYTES];
    let mut size = 0;
    loop {
        let length = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(TreeError::io("read", path, error)),
        };
        hasher.update(&buffer[..length]);
        size += length as u64;
    }
    let after = rustix::fs::fstat(&file).map_err(|errno| TreeError::io("stat", path, errno))?;
    let same = (after.st_dev, after.st_ino) == entry.inode
        && mtime_of(&after) == entry.mtime
        && size == entry.size;
    if same {
        Ok(hasher.finalize())
    } else {
        Err(TreeError::Changed(path.clone()))
    }
}

/// Opens `path` below `root`, by as many steps as its length needs.
fn open_beneath(root: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, TreeError> {
    let open = |dir: BorrowedFd<'_>, piece: &[u8], flags| {
        rustix::fs::openat(dir, piece, flags, Mode::empty())
            .map_err(|errno| TreeError::io("open", path, errno))
    };
    let mut rest = path;
    let mut dir: Option<OwnedFd> = None;
    while rest.len() > PIECE_LENGTH_MAX {
        let Some(cut) = rest[..PIECE_LENGTH_MAX]
            .iter()
            .rposition(|&byte| byte == b'/')
        else {
            break;
        };
        dir = Some(open(
            dir.as_ref().map_or(borrow(root), borrow),
            &rest[..cut],
            DIRECTORY,
        )?);
        rest = &rest[cut + 1..];
    }
    let last = if rest.is_empty() { b"." } else { rest };
    open(dir.as_ref().map_or(borrow(root), borrow), last, flags)
}

fn borrow(fd: &OwnedFd) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(fd)
}

fn join(parent: &[u8], name: &[u8]) -> RelPath {
    if parent.is_empty() {
        name.to_vec()
    } else {
        [parent, b"/", name].concat()
    }
}
