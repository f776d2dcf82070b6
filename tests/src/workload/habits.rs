//! What known programs do to files, system call by system call as far as a watcher can see it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::rng::Rng;

/// The name vim creates and removes to see whether it may write to a directory.
const VIM_PROBE: &str = "4913";
const SED_NAME: &str = "sedA1b2C3";

/// Makes `dirs` directories with `files_per_dir` files of `size` bytes each, all different; gives their number.
pub fn many_small(dir: &Path, dirs: usize, files_per_dir: usize, size: usize) -> io::Result<usize> {
    let mut rng = Rng::new(1);
    for d in 0..dirs {
        let parent = dir.join(format!("d{d:05}"));
        fs::create_dir_all(&parent)?;
        for f in 0..files_per_dir {
            fs::write(parent.join(format!("f{f:05}")), rng.bytes(size))?;
        }
    }
    Ok(dirs * files_per_dir)
}

/// Saves as vim does with `backupcopy=no`: swap file, a probe, the old file renamed away, the new one written in its
/// place, the old one removed.
pub fn vim_save(path: &Path, content: &[u8]) -> io::Result<()> {
    let swap = sibling(path, ".", ".swp");
    let probe = path.with_file_name(VIM_PROBE);
    let backup = sibling(path, "", "~");
    let permissions = fs::metadata(path)
        .ok()
        .map(|metadata| metadata.permissions());
    fs::write(&swap, b"b0VIM 9.0")?;
    File::create_new(&probe)?;
    fs::remove_file(&probe)?;
    if permissions.is_some() {
        fs::rename(path, &backup)?;
    }
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.sync_all()?;
    if let Some(permissions) = permissions {
        file.set_permissions(permissions)?;
        drop(file);
        fs::remove_file(&backup)?;
    }
    fs::remove_file(&swap)
}

/// Saves as nano does: a lock file, and the file cut and written as it lies.
pub fn nano_save(path: &Path, content: &[u8]) -> io::Result<()> {
    let lock = sibling(path, ".", ".swp");
    fs::write(&lock, b"b0nano 8.0")?;
    fs::write(path, content)?;
    fs::remove_file(&lock)
}

/// Saves as emacs does: a lock that is a link to nowhere, the old file renamed to its backup, the new one written in
/// its place.
pub fn emacs_save(path: &Path, content: &[u8]) -> io::Result<()> {
    let lock = sibling(path, ".#", "");
    symlink("user@host.4711:1700000000", &lock)?;
    let permissions = fs::metadata(path)?.permissions();
    fs::rename(path, sibling(path, "", "~"))?;
    let mut file = File::create_new(path)?;
    file.write_all(content)?;
    file.set_permissions(permissions)?;
    file.sync_all()?;
    drop(file);
    fs::remove_file(&lock)
}

/// Saves as LibreOffice does: a lock file beside it while it is open, the new version in pieces under a name of its
/// own, renamed over the old one.
pub fn libreoffice_save(path: &Path, content: &[u8]) -> io::Result<()> {
    let lock = sibling(path, ".~lock.", "#");
    fs::write(&lock, b",user,host,21.11.2026 12:00,file:///home;")?;
    let beside = path.with_file_name("lu4711abc.tmp");
    let mut file = File::create_new(&beside)?;
    for piece in content.chunks(32 << 10) {
        file.write_all(piece)?;
    }
    file.set_permissions(fs::metadata(path)?.permissions())?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)?;
    fs::remove_file(&lock)
}

/// Saves as careful programs do: beside it, synced, renamed over it, and the directory synced.
pub fn atomic_save(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = sibling(path, ".", ".new");
    let mut file = File::create_new(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Edits as `sed -i` does: a temporary file in the same directory, made private at first, given the old one's mode and
/// renamed over it. Every ASCII letter changes its case.
pub fn sed_i(path: &Path) -> io::Result<()> {
    let beside = path.with_file_name(SED_NAME);
    let mut content = fs::read(path)?;
    for byte in &mut content {
        if byte.is_ascii_alphabetic() {
            *byte ^= 0x20;
        }
    }
    let mut file = File::create_new(&beside)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(&content)?;
    file.set_permissions(fs::metadata(path)?.permissions())?;
    drop(file);
    fs::rename(beside, path)
}

/// Writes `n` random blocks of `block_size` bytes into a file as it lies, as databases and disk images do; its
/// length stays.
pub fn rewrite_random_blocks(
    path: &Path,
    n: usize,
    block_size: usize,
    seed: u64,
) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    let blocks = file.metadata()?.len() / block_size as u64;
    if blocks == 0 {
        let problem = format!("{}: shorter than one block of {block_size}", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    let mut rng = Rng::new(seed);
    for _ in 0..n {
        let offset = rng.below(blocks) * block_size as u64;
        file.write_all_at(&rng.bytes(block_size), offset)?;
    }
    Ok(())
}

fn sibling(path: &Path, before: &str, after: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(before);
    name.push(path.file_name().unwrap_or_default());
    name.push(after);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn editors_leave_a_new_inode_of_the_old_mode_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        vim_save(&path, b"first").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        for edit in [|path: &Path| vim_save(path, b"Second"), sed_i] {
            // A second name keeps the old inode in use, so its number cannot come back.
            let kept = tempfile::tempdir_in(dir.path()).unwrap();
            fs::hard_link(&path, kept.path().join("old")).unwrap();
            let before = fs::metadata(&path).unwrap();
            edit(&path).unwrap();
            let after = fs::metadata(&path).unwrap();
            assert_ne!(before.ino(), after.ino());
            assert_eq!(after.mode() & 0o7777, 0o640);
            drop(kept);
            assert_eq!(names(dir.path()), ["file"]);
        }
        assert_eq!(fs::read(&path).unwrap(), b"sECOND");
    }

    #[test]
    fn blocks_are_rewritten_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        fs::write(&path, vec![0; 10 * 4096 + 5]).unwrap();
        let before = fs::metadata(&path).unwrap();
        rewrite_random_blocks(&path, 3, 4096, 5).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((before.ino(), before.len()), (after.ino(), after.len()));
        let content = fs::read(&path).unwrap();
        let changed = content
            .chunks(4096)
            .filter(|block| block.iter().any(|&byte| byte != 0))
            .count();
        assert!((1..=3).contains(&changed), "{changed}");
        fs::write(&path, b"short").unwrap();
        assert!(rewrite_random_blocks(&path, 1, 4096, 5).is_err());
    }

    #[test]
    fn many_small_files_are_all_there_and_all_different() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(many_small(dir.path(), 3, 4, 10).unwrap(), 12);
        let contents = (0..3).flat_map(|d| (0..4).map(move |f| format!("d{d:05}/f{f:05}")));
        let contents: std::collections::BTreeSet<_> = contents
            .map(|name| fs::read(dir.path().join(name)).unwrap())
            .collect();
        assert_eq!(contents.len(), 12);
    }
}
