//! [`Ahead`]: stretches of a large file, read and hashed by a thread beside the one that goes through it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, Builder, JoinHandle};

use syncd_proto::delta::{GroupDigest, group_digests};

use super::read::{ReadError, read_exact};

/// Smaller files are read before a thread has begun, in bytes.
const FILE_BYTES_MIN: u64 = 8 << 20;

/// A stretch that was read and hashed.
#[derive(Debug)]
pub struct Hashed {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Digests of the whole groups that it begins with; none if it begins within one.
    pub groups: Vec<GroupDigest>,
}

/// See the module.
#[derive(Debug)]
pub struct Ahead {
    /// `None` when nothing more will be asked.
    asks: Option<SyncSender<Ask>>,
    answers: Receiver<Result<Hashed, ReadError>>,
    thread: Option<JoinHandle<()>>,
    /// To be used again.
    spare: Vec<u8>,
}

#[derive(Debug)]
struct Ask {
    start: u64,
    len: usize,
    buffer: Vec<u8>,
}

impl Ahead {
    /// A thread for a file of `size` bytes with groups of `group_bytes`. `None` where it would not pay: for a small file,
    /// or on one processor; and where none can be started.
    pub(super) fn begin(file: &OwnedFd, size: u64, group_bytes: u64) -> Option<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        if size < FILE_BYTES_MIN || cores < 2 {
            return None;
        }
        let file = file.try_clone().ok()?;
        let (asks, asked) = sync_channel::<Ask>(1);
        let (answer, answers) = sync_channel(1);
        let run = move || {
            for ask in asked {
                if answer.send(ask.answer(&file, group_bytes)).is_err() {
                    return;
                }
            }
        };
        let thread = Builder::new().name("ahead".to_owned()).spawn(run).ok()?;
        Some(Self {
            asks: Some(asks),
            answers,
            thread: Some(thread),
            spare: Vec::new(),
        })
    }

    /// Has a stretch read. It must be waited for before the next is asked for; `false` if nobody reads it.
    pub fn ask(&mut self, start: u64, len: usize) -> bool {
        let buffer = std::mem::take(&mut self.spare);
        let ask = Ask { start, len, buffer };
        let asks = self.asks.as_ref();
        asks.is_some_and(|asks| asks.send(ask).is_ok())
    }

    /// Waits for what was asked for.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn wait(&self) -> Result<Hashed, ReadError> {
        let gone = |_| ReadError::Io(io::Error::other("the thread that reads ahead is gone"));
        self.answers.recv().map_err(gone)?
    }

    /// Gives back what is done with.
    pub fn give(&mut self, hashed: Hashed) {
        self.spare = hashed.bytes;
    }
}

impl Ask {
    fn answer(self, file: &OwnedFd, group_bytes: u64) -> Result<Hashed, ReadError> {
        let mut bytes = self.buffer;
        read_exact(file, self.start, self.len, &mut bytes)?;
        let groups = group_digests(self.start, &bytes, group_bytes);
        Ok(Hashed { bytes, groups })
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.asks = None;
        if let Some(thread) = self.thread.take() {
            // It ends after what it reads now, and has nothing to say.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use syncd_proto::delta::GroupHasher;

    use super::*;

    const GROUP: usize = 64 << 10;

    #[test]
    fn what_was_read_ahead_has_the_groups_of_the_file() {
        let bytes: Vec<u8> = (0..8 * GROUP as u32 + 100)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), &bytes).unwrap();
        let file = OwnedFd::from(fs::File::open(dir.path().join("f")).unwrap());
        let mut hasher = GroupHasher::for_len(bytes.len() as u64);
        hasher.update(&bytes);
        let (groups, _) = hasher.finish();
        let Some(mut ahead) = Ahead::begin(&file, FILE_BYTES_MIN, GROUP as u64) else {
            assert!(thread::available_parallelism().unwrap().get() < 2);
            return;
        };
        for (start, len, expected) in [
            (GROUP, 3 * GROUP, &groups.digests()[1..4]),
            (4 * GROUP, 4 * GROUP + 100, &groups.digests()[4..8]),
            (GROUP + 1, 2 * GROUP, &[]),
            (2 * GROUP, GROUP - 1, &[]),
        ] {
            assert!(ahead.ask(start as u64, len));
            let hashed = ahead.wait().unwrap();
            assert_eq!(hashed.groups, expected, "{start} {len}");
            assert!(hashed.bytes == bytes[start..start + len]);
            ahead.give(hashed);
        }
        assert!(ahead.ask(8 * GROUP as u64, 101));
        assert!(matches!(ahead.wait(), Err(ReadError::Changed)));
        assert!(Ahead::begin(&file, FILE_BYTES_MIN - 1, GROUP as u64).is_none());
    }
}
