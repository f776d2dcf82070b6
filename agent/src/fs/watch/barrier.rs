//! [`BarrierDir`]: a private directory outside the source, watched by the same instance. The kernel's
//! queue keeps order, so when the event of a file made there arrives, all earlier ones have.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The directory, and the number of the last barrier.
#[derive(Debug)]
pub(super) struct BarrierDir {
    dir: TempDir,
    issued: u64,
    told: u64,
}

impl BarrierDir {
    /// Makes one outside `root` if there is a place for it.
    pub(super) fn new(root: &Path) -> io::Result<Self> {
        Ok(Self {
            dir: make(root)?,
            issued: 0,
            told: 0,
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The next number.
    pub(super) fn issue(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }

    /// Makes the event of the last number.
    pub(super) fn touch(&self) -> io::Result<()> {
        let file = self.path().join(self.issued.to_string());
        fs::File::create(&file)?;
        fs::remove_file(&file)
    }

    /// After an overflow: makes the event of the last number again if it may have been lost.
    pub(super) fn touch_again(&self) -> io::Result<()> {
        if self.told < self.issued {
            self.touch()
        } else {
            Ok(())
        }
    }

    /// The number to tell when the file `name` appeared; `None` if it was told before.
    pub(super) fn arrived(&mut self, name: &[u8]) -> Option<u64> {
        let number: u64 = std::str::from_utf8(name).ok()?.parse().ok()?;
        let is_new = number > self.told && number <= self.issued;
        is_new.then(|| {
            self.told = number;
            number
        })
    }

    /// Makes another directory, since somebody cleaned this one away.
    pub(super) fn renew(&mut self, root: &Path) -> io::Result<()> {
        self.dir = make(root)?;
        Ok(())
    }
}

/// How the names of such directories begin; the namespace of the process and its number there follow.
const PREFIX: &str = "syncd-barrier-";

/// The namespace of this process's number: who is in another one, and shares no more than `/dev/shm`, has numbers of its
/// own. Nothing if `/proc` does not tell of it, or of another one.
fn namespace() -> Option<u64> {
    let own = fs::read_link("/proc/self").ok()?;
    if own.to_str()? != std::process::id().to_string() {
        return None;
    }
    // `pid:[4026531836]`
    let name = fs::read_link("/proc/self/ns/pid").ok()?;
    let number = name.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?;
    number.parse().ok()
}

fn make(root: &Path) -> io::Result<TempDir> {
    // In memory if possible: a barrier makes and removes a file.
    let in_memory = ["/dev/shm", "/run"].map(PathBuf::from);
    let on_disk = [std::env::temp_dir(), PathBuf::from("/var/tmp")];
    let places = in_memory.into_iter().chain(on_disk);
    let (outside, inside): (Vec<_>, Vec<_>) = places
        .filter_map(|place| place.canonicalize().ok())
        .partition(|place| !place.starts_with(root));
    let namespace = namespace();
    let (number, pid) = (namespace.unwrap_or_default(), std::process::id());
    let prefix = format!("{PREFIX}{number}-{pid}-");
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    // Inside the source only if there is no other place, as when it is `/`.
    for place in outside.into_iter().chain(inside) {
        match tempfile::Builder::new().prefix(&prefix).tempdir_in(&place) {
            Ok(dir) => {
                if let Some(number) = namespace {
                    clean(&place, number);
                }
                return Ok(dir);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Takes away what agents of this namespace left that were killed. Nobody else's: whether those live is not known here.
fn clean(place: &Path, namespace: u64) {
    let prefix = format!("{PREFIX}{namespace}-");
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        let pid = rest.and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            // It is empty, or not one of ours.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_agent_left_is_taken_away() {
        let place = tempfile::tempdir().unwrap();
        let own = namespace().unwrap();
        let nobody = format!("syncd-barrier-{own}-4294967295-abc");
        let others = [
            format!("syncd-barrier-{own}-{}-abc", std::process::id()),
            format!("syncd-barrier-{own}-4294967295"),
            format!("syncd-else-{own}-4294967295-abc"),
            format!("syncd-barrier-{}-4294967295-abc", own + 1),
            "syncd-barrier-4294967295-abc".to_owned(),
            "syncd-tests-abc".to_owned(),
        ];
        for name in others.iter().chain([&nobody]) {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        let used = format!("syncd-barrier-{own}-4294967294-abc/in use");
        fs::create_dir_all(place.path().join(used)).unwrap();
        clean(place.path(), own);
        assert!(!place.path().join(nobody).exists());
        let left = fs::read_dir(place.path()).unwrap().count();
        assert_eq!(left, others.len() + 1);
    }
}
