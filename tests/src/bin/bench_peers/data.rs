//! The trees and changes of the scenarios: random content, so that nothing compresses.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;

use syncd_tests::workload::Rng;

/// The size of every small file.
pub(crate) const SMALL: usize = 4096;
const CHUNK: usize = 1 << 20;

/// The path of the file of this number in a tree of directories with `per_dir` files each.
pub(crate) fn path_of(root: &Path, index: usize, per_dir: usize) -> PathBuf {
    root.join(format!("d{:05}", index / per_dir))
        .join(format!("f{index:06}"))
}

/// Makes `count` files of 4 KiB.
pub(crate) fn tree(root: &Path, count: usize, per_dir: usize, seed: u64) -> io::Result<()> {
    files(root, count, per_dir, seed, |_| SMALL)
}

/// Makes files of sizes as they are found on disks: most are small, most bytes are in a few.
pub(crate) fn mixed(root: &Path, count: usize, per_dir: usize, seed: u64) -> io::Result<()> {
    files(root, count, per_dir, seed, lognormal)
}

/// Makes files without content, where only their number matters, in two threads.
pub(crate) fn empty(root: &Path, count: usize, per_dir: usize) -> io::Result<()> {
    let half = |first: usize| {
        for start in (first * per_dir..count).step_by(2 * per_dir) {
            fs::create_dir(root.join(format!("d{:05}", start / per_dir)))?;
            for index in start..(start + per_dir).min(count) {
                File::create(path_of(root, index, per_dir))?;
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        half(0)?;
        let panicked = |_| Err(io::Error::other("a thread panicked"));
        other.join().unwrap_or_else(panicked)
    })
}

/// Makes that many directories in directories of `per_dir`, and no file.
pub(crate) fn directories(root: &Path, count: usize, per_dir: usize) -> io::Result<()> {
    (0..count).try_for_each(|index| fs::create_dir_all(path_of(root, index, per_dir)))
}

fn files(
    root: &Path,
    count: usize,
    per_dir: usize,
    seed: u64,
    mut size: impl FnMut(&mut Rng) -> usize,
) -> io::Result<()> {
    let mut rng = Rng::new(seed);
    fs::create_dir_all(root)?;
    for index in 0..count {
        let path = path_of(root, index, per_dir);
        if index % per_dir == 0 {
            fs::create_dir(root.join(format!("d{:05}", index / per_dir)))?;
        }
        let bytes = size(&mut rng);
        fs::write(path, rng.bytes(bytes))?;
    }
    Ok(())
}

/// A size whose logarithm is normally distributed (Box and Muller): the median is 4 KiB, the mean about 20 KiB.
fn lognormal(rng: &mut Rng) -> usize {
    const SIGMA: f64 = 1.8;
    const SIZE_MAX: f64 = (16 << 20) as f64;
    let mut uniform = || (rng.below(1 << 53) + 1) as f64 / (1u64 << 53) as f64;
    let (radius, angle) = (uniform(), uniform() * std::f64::consts::TAU);
    let normal = (-2.0 * radius.ln()).sqrt() * angle.cos();
    ((normal * SIGMA).exp() * SMALL as f64).min(SIZE_MAX) as usize
}

/// Replaces files by a new one and a rename, as editors and deployments do.
pub(crate) fn replace(root: &Path, count: usize, per_dir: usize, seed: u64) -> io::Result<()> {
    let mut rng = Rng::new(seed);
    for index in 0..count {
        let path = path_of(root, index, per_dir);
        let new = path.with_extension("new");
        fs::write(&new, rng.bytes(SMALL))?;
        fs::rename(&new, &path)?;
    }
    Ok(())
}

/// One large file.
pub(crate) fn large(path: &Path, size: u64, seed: u64) -> io::Result<()> {
    let mut rng = Rng::new(seed);
    let mut file = File::create(path)?;
    let mut left = size;
    while left > 0 {
        let part = left.min(CHUNK as u64);
        file.write_all(&rng.bytes(part as usize))?;
        left -= part;
    }
    Ok(())
}

/// Overwrites blocks of 4 KiB in place.
pub(crate) fn blocks(path: &Path, count: usize, seed: u64) -> io::Result<()> {
    let mut rng = Rng::new(seed);
    let mut file = File::options().write(true).open(path)?;
    let total = file.metadata()?.len() / SMALL as u64;
    for _ in 0..count {
        file.seek(SeekFrom::Start(rng.below(total) * SMALL as u64))?;
        file.write_all(&rng.bytes(SMALL))?;
    }
    Ok(())
}

/// Writes a copy with one byte in front.
pub(crate) fn shifted(from: &Path, to: &Path) -> io::Result<()> {
    let mut target = File::create(to)?;
    target.write_all(b"+")?;
    io::copy(&mut File::open(from)?, &mut target)?;
    Ok(())
}

/// Appends that many random bytes.
pub(crate) fn append(path: &Path, size: usize, seed: u64) -> io::Result<()> {
    let mut file = File::options().append(true).open(path)?;
    file.write_all(&Rng::new(seed).bytes(size))
}

/// How many entries there are below `root`, at most two levels deep.
pub(crate) fn count(root: &Path) -> usize {
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let inner = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => list(&entry.path()).count(),
        _ => 1,
    };
    list(root).map(inner).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_mixed_files_are_smaller_than_the_median() {
        let mut rng = Rng::new(3);
        let mut sizes: Vec<usize> = (0..10_000).map(|_| lognormal(&mut rng)).collect();
        sizes.sort_unstable();
        assert!((3_700..4_500).contains(&sizes[5_000]), "{}", sizes[5_000]);
        let mean = sizes.iter().sum::<usize>() / sizes.len();
        assert!((15_000..28_000).contains(&mean), "{mean}");
        assert!(sizes[0] < 64 && sizes[9_999] > 1 << 20);
    }

    #[test]
    fn directories_are_as_many_as_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        directories(dir.path(), 25, 10).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(count(dir.path()), 25);
    }

    #[test]
    fn empty_files_are_as_many_as_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        empty(dir.path(), 25, 10).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(count(dir.path()), 25);
        assert!(path_of(dir.path(), 24, 10).exists());
    }
}
