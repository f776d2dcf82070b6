//! Files written under other names, renamed into place, and made durable by one `syncfs` at the end.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

/// Threads that share the work.
pub(super) const THREADS: usize = 2;
/// Larger ones would take memory in blocks that are more often cold than smaller ones, see docs/benchmarks.md.
const BUFFER_BYTES: usize = 256 << 10;
/// From here on a file is written by all threads.
const LARGE_BYTES: u64 = 64 << 20;
pub(super) const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

/// A directory below the root, and the files in it that are copied.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) path: PathBuf,
    pub(super) files: Vec<OsString>,
}

/// Copies these names of the source's root with everything below them; an empty name is the root itself. Nothing is durable
/// before [`sync`].
pub(super) fn copy(source: &Path, mirror: &Path, names: &[&str]) -> io::Result<()> {
    let mut parts = Vec::new();
    for name in names {
        list(source, Path::new(name), &mut parts)?;
    }
    for part in &parts {
        make_directory(&mirror.join(&part.path))?;
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut buffer = vec![0; BUFFER_BYTES];
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            part.copy(source, mirror, &mut buffer)?;
        }
        Ok(())
    };
    in_threads(|_| work())?;
    same_times(source, mirror)
}

/// Makes everything durable.
pub(super) fn sync(mirror: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(mirror)?)?)
}

/// A directory that may be there already.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Gives a directory of the mirror the times of the source's.
pub(super) fn same_times(source: &Path, mirror: &Path) -> io::Result<()> {
    let stat = rustix::fs::stat(source)?;
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(rustix::fs::utimensat(CWD, mirror, &times_of(&stat), flags)?)
}

/// Which directories there are, and the files in each, above before below.
pub(super) fn list(source: &Path, path: &Path, parts: &mut Vec<Part>) -> io::Result<()> {
    let full = source.join(path);
    if !fs::symlink_metadata(&full)?.is_dir() {
        parts.push(Part {
            path: path.parent().unwrap_or(path).to_owned(),
            files: path.file_name().map(OsStr::to_owned).into_iter().collect(),
        });
        return Ok(());
    }
    let (mut files, mut below) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(full)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => below.push(path.join(entry.file_name())),
            false => files.push(entry.file_name()),
        }
    }
    parts.push(Part {
        path: path.to_owned(),
        files,
    });
    below.iter().try_for_each(|path| list(source, path, parts))
}

impl Part {
    fn copy(&self, source: &Path, mirror: &Path, buffer: &mut [u8]) -> io::Result<()> {
        let (source, mirror) = (source.join(&self.path), mirror.join(&self.path));
        let from = rustix::fs::open(&source, DIRECTORY, Mode::empty())?;
        let to = rustix::fs::open(&mirror, DIRECTORY, Mode::empty())?;
        for name in &self.files {
            copy_file(&from, &to, name, buffer)?;
        }
        same_times(&source, &mirror)
    }
}

/// One file between two open directories: content, mode, times, then its name.
pub(super) fn copy_file(
    from: &OwnedFd,
    to: &OwnedFd,
    name: &OsStr,
    buffer: &mut [u8],
) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&source)?;
    let mut hidden = OsString::from(".floor-");
    hidden.push(name);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let target = rustix::fs::openat(to, &hidden, flags, mode)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size < LARGE_BYTES {
        copy_range(&source, &target, 0, size, buffer)?;
    } else {
        let share = size.div_ceil(THREADS as u64);
        in_threads(|index| {
            let start = share * index as u64;
            let mut own = vec![0; BUFFER_BYTES];
            copy_range(&source, &target, start, (start + share).min(size), &mut own)
        })?;
    }
    rustix::fs::futimens(&target, &times_of(&stat))?;
    Ok(rustix::fs::renameat(to, &hidden, to, name)?)
}

fn copy_range(
    source: &OwnedFd,
    target: &OwnedFd,
    mut at: u64,
    end: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    while at < end {
        let wanted = (end - at).min(buffer.len() as u64) as usize;
        let read = rustix::io::pread(source.as_fd(), &mut buffer[..wanted], at)?;
        if read == 0 {
            return Err(Errno::IO.into());
        }
        let mut written = 0;
        while written < read {
            let place = at + written as u64;
            written += rustix::io::pwrite(target.as_fd(), &buffer[written..read], place)?;
        }
        at += read as u64;
    }
    Ok(())
}

fn times_of(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}

/// The same work in every thread, which is told its number.
pub(super) fn in_threads(work: impl Fn(usize) -> io::Result<()> + Sync) -> io::Result<()> {
    thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = (0..THREADS)
            .map(|index| scope.spawn(move || work(index)))
            .collect();
        joined(running)
    })
}

/// Waits for threads, up to the first that failed.
pub(super) fn joined(threads: Vec<ScopedJoinHandle<'_, io::Result<()>>>) -> io::Result<()> {
    let panicked = |_| io::Error::other("a thread panicked");
    threads
        .into_iter()
        .try_for_each(|thread| thread.join().map_err(panicked)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncd_tests::sandbox::wait_equal;
    use syncd_tests::tree::Options;

    #[test]
    fn a_copy_equals_its_source_and_leaves_nothing_else() {
        let sandbox = tempfile::tempdir().unwrap();
        let (source, mirror) = (sandbox.path().join("a"), sandbox.path().join("b"));
        for path in [&source, &mirror] {
            fs::create_dir(path).unwrap();
        }
        fs::create_dir_all(source.join("d/e")).unwrap();
        for name in ["top", "d/one", "d/e/two"] {
            fs::write(source.join(name), name).unwrap();
        }
        let large = File::create(source.join("d/large")).unwrap();
        large.set_len(LARGE_BYTES + 4097).unwrap();
        copy(&source, &mirror, &["d", "top"]).unwrap();
        wait_equal(
            &source,
            &mirror,
            &Options::default(),
            std::time::Duration::ZERO,
        );
        fs::write(source.join("d/one"), "another").unwrap();
        copy(&source, &mirror, &[""]).unwrap();
        wait_equal(
            &source,
            &mirror,
            &Options::default(),
            std::time::Duration::ZERO,
        );
    }
}
