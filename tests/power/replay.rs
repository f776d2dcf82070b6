//! A power cut: what was written before the last flush is there, of the rest some is lost and some is torn.
//!
//! [`survivors`] decides, and nothing else: the same records, cut and seed give the same disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use syncd_tests::workload::Rng;

use crate::record::{Log, Record};

/// Disks write that many bytes whole.
const SECTOR_BYTES: u64 = 512;

/// Nothing before is torn: file systems keep superblocks there, and rely on each being written whole.
const TORN_FROM: u64 = 128 << 10;

/// Of ten writes that no flush has covered, how many are kept: one of these for a whole cut.
const KEPT_OF_TEN: [u64; 5] = [0, 3, 5, 9, 10];

/// Of this many kept writes one is torn.
const TORN_OF: u64 = 8;

/// A part of a write that reached the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Survivor {
    /// Where on the disk.
    pub(crate) offset: u64,
    /// How much.
    pub(crate) length: u64,
    /// Where in the log's file.
    pub(crate) at: u64,
}

/// Number of records that a flush before `cut` has covered.
pub(crate) fn flushed(records: &[Record], cut: usize) -> usize {
    let before = &records[..cut.min(records.len())];
    before
        .iter()
        .rposition(|record| *record == Record::Flush)
        .map_or(0, |last| last + 1)
}

/// What reaches the disk of the writes that no flush before `cut` has covered. They may have been reordered: any
/// subset, each of it whole or torn between sectors.
pub(crate) fn survivors(records: &[Record], cut: usize, seed: u64) -> Vec<Survivor> {
    let mut rng = Rng::new(seed ^ (cut as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
    let kept = *rng.pick(&KEPT_OF_TEN).unwrap_or(&0);
    let open = &records[flushed(records, cut)..cut.min(records.len())];
    let mut found = Vec::new();
    for record in open {
        let Record::Write { offset, length, at } = *record else {
            continue;
        };
        if rng.below(10) >= kept {
            continue;
        }
        let whole = Survivor { offset, length, at };
        found.push(if rng.below(TORN_OF) == 0 && offset >= TORN_FROM {
            torn(whole, &mut rng)
        } else {
            whole
        });
    }
    found
}

/// Its beginning or its end, in sectors; perhaps nothing.
fn torn(whole: Survivor, rng: &mut Rng) -> Survivor {
    let sectors = rng.below(whole.length / SECTOR_BYTES + 1);
    let length = sectors * SECTOR_BYTES;
    let skipped = if rng.below(2) == 0 {
        0
    } else {
        whole.length - length
    };
    Survivor {
        offset: whole.offset + skipped,
        length,
        at: whole.at + skipped,
    }
}

/// Makes images of the disk after cuts that come later and later.
#[derive(Debug)]
pub(crate) struct Replayer<'a> {
    log: &'a Log,
    /// What is safe, as far as it was followed.
    safe: PathBuf,
    followed: usize,
}

impl<'a> Replayer<'a> {
    /// Begins with the disk as it was before the first record; the image is worked on.
    pub(crate) fn new(log: &'a Log, before: PathBuf) -> Self {
        Self {
            log,
            safe: before,
            followed: 0,
        }
    }

    /// Writes the disk after a cut at this record to `out`.
    pub(crate) fn cut(&mut self, cut: usize, seed: u64, out: &Path) -> io::Result<()> {
        let records = self.log.records();
        let safe = flushed(records, cut);
        let image = File::options().write(true).open(&self.safe)?;
        for record in records.get(self.followed..safe).unwrap_or_default() {
            if let Record::Write { offset, length, at } = *record {
                self.put(&image, Survivor { offset, length, at })?;
            }
        }
        self.followed = self.followed.max(safe);
        copy_sparse(&self.safe, out)?;
        let image = File::options().write(true).open(out)?;
        for survivor in survivors(records, cut, seed) {
            self.put(&image, survivor)?;
        }
        Ok(())
    }

    fn put(&self, image: &File, part: Survivor) -> io::Result<()> {
        image.write_all_at(&self.log.bytes(part.at, part.length)?, part.offset)
    }
}

/// Copies a file and leaves its holes.
pub(crate) fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::open(from)?;
    let _ = fs::remove_file(to);
    let target = File::create_new(to)?;
    let size = source.metadata()?.len();
    target.set_len(size)?;
    let mut at = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let start = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        at = rustix::fs::seek(&source, SeekFrom::Hole(start))?;
        let mut next = start;
        while next < at {
            let want =
                usize::try_from(at - next).map_or(buffer.len(), |left| left.min(buffer.len()));
            let count = source.read_at(&mut buffer[..want], next)?;
            target.write_all_at(&buffer[..count], next)?;
            next += count as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Mark;

    const FIRST: Record = Record::Write {
        offset: TORN_FROM,
        length: 4096,
        at: 0,
    };
    const SECOND: Record = Record::Write {
        offset: TORN_FROM + 8192,
        length: 8192,
        at: 4096,
    };

    fn log() -> Vec<Record> {
        vec![FIRST, Record::Flush, SECOND, Record::Mark(Mark::Begun(1))]
    }

    #[test]
    fn what_was_flushed_is_never_asked_for_again() {
        assert_eq!(flushed(&log(), 0), 0);
        assert_eq!(flushed(&log(), 1), 0);
        assert_eq!(flushed(&log(), 2), 2);
        assert_eq!(flushed(&log(), 4), 2);
        for seed in 0..100 {
            assert!(survivors(&log(), 2, seed).is_empty());
            let found = survivors(&log(), 4, seed);
            assert!(found.iter().all(|part| part.at >= 4096), "{found:?}");
        }
    }

    #[test]
    fn the_rest_is_lost_kept_or_torn_between_sectors() {
        let (mut lost, mut whole, mut torn) = (0, 0, 0);
        for seed in 0..500 {
            match survivors(&log(), 4, seed)[..] {
                [] => lost += 1,
                [part] if part.length == 8192 => whole += 1,
                [part] => {
                    torn += 1;
                    assert_eq!(part.length % SECTOR_BYTES, 0);
                    let skipped = part.offset - (TORN_FROM + 8192);
                    assert_eq!(part.at, 4096 + skipped);
                    assert!(skipped + part.length <= 8192);
                }
                ref more => panic!("one write became {more:?}"),
            }
        }
        assert!(
            lost > 50 && whole > 50 && torn > 10,
            "{lost} {whole} {torn}"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_disk() {
        for cut in 0..5 {
            assert_eq!(survivors(&log(), cut, 7), survivors(&log(), cut, 7));
        }
    }

    #[test]
    fn an_image_has_what_was_flushed_and_its_holes() {
        let dir = tempfile::tempdir().unwrap();
        let before = dir.path().join("before");
        File::create(&before).unwrap().set_len(4 << 20).unwrap();
        let mut log = Log::create(&dir.path().join("log")).unwrap();
        log.write(1 << 20, &[7; 4096]).unwrap();
        log.flush();
        log.write(2 << 20, &[9; 512]).unwrap();
        let out = dir.path().join("out");
        let mut replayer = Replayer::new(&log, before);
        let mut seen = Vec::new();
        for seed in 0..40 {
            replayer.cut(3, seed, &out).unwrap();
            let image = fs::read(&out).unwrap();
            assert_eq!(image.len(), 4 << 20);
            assert!(image[1 << 20..][..4096].iter().all(|byte| *byte == 7));
            seen.push(image[2 << 20] == 9);
        }
        assert!(seen.contains(&true) && seen.contains(&false));
        let stat = rustix::fs::stat(&out).unwrap();
        assert!(stat.st_blocks < 2048, "{} blocks", stat.st_blocks);
    }
}
