//! Files read and digested by several threads, as anybody needs who must find what changed in them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::copy::{THREADS, in_threads};

/// Read at once, and by each thread in turn.
const PIECE_BYTES: usize = 1 << 20;
/// Digested by itself.
const GROUP_BYTES: usize = 64 << 10;

/// Digests these files of the source.
pub(super) fn hash(source: &Path, names: &[&str]) -> io::Result<()> {
    for name in names.iter().filter(|name| !name.is_empty()) {
        let path = &source.join(name);
        in_threads(|turn| pieces(path, turn as u64))?;
    }
    Ok(())
}

/// This piece of a file, and each that is as many further on as there are threads.
fn pieces(path: &Path, first: u64) -> io::Result<()> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut piece = vec![0; PIECE_BYTES];
    let step = PIECE_BYTES as u64;
    let mut at = first * step;
    while at < len {
        let here = step.min(len - at) as usize;
        file.read_exact_at(&mut piece[..here], at)?;
        for group in piece[..here].chunks(GROUP_BYTES) {
            std::hint::black_box(blake3::hash(group));
        }
        at += THREADS as u64 * step;
    }
    Ok(())
}
