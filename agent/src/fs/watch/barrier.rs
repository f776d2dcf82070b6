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

fn make(root: &Path) -> io::Result<TempDir> {
    // In memory if possible: a barrier makes and removes a file.
    let in_memory = ["/dev/shm", "/run"].map(PathBuf::from);
    let on_disk = [std::env::temp_dir(), PathBuf::from("/var/tmp")];
    let places = in_memory.into_iter().chain(on_disk);
    let (outside, inside): (Vec<_>, Vec<_>) = places
        .filter_map(|place| place.canonicalize().ok())
        .partition(|place| !place.starts_with(root));
    let mut failed = io::Error::from(io::ErrorKind::NotFound);
    // Inside the source only if there is no other place, as when it is `/`.
    for place in outside.into_iter().chain(inside) {
        match tempfile::Builder::new().prefix("syncd-").tempdir_in(place) {
            Ok(dir) => return Ok(dir),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}
