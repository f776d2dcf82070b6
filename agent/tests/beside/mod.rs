//! What the comparisons with rsync share: numbers by chance, the same for the same seed, and what is in a directory.

use std::fs;
use std::path::Path;
use std::process::Command;

use syncd_proto::path::WirePath;

/// A small generator, the same everywhere (SplitMix64).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// One of these.
    pub(crate) fn pick(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Whether rsync can be asked; it must be there where the tests require everything.
pub(crate) fn rsync_is_here() -> bool {
    let here = Command::new("rsync").arg("--version").output().is_ok();
    let required = std::env::var_os("SYNCD_TESTS_REQUIRE").is_some_and(|value| value == "all");
    assert!(
        here || !required,
        "SYNCD_TESTS_REQUIRE=all, but there is no rsync"
    );
    if !here {
        eprintln!("skipped, missing here: rsync");
    }
    here
}

/// Names in a directory of a tree, and which of them are directories.
pub(crate) fn entries(root: &Path, dir: &WirePath) -> Vec<(WirePath, bool)> {
    let listing = fs::read_dir(root.join(dir.to_path_buf())).unwrap();
    listing
        .map(|entry| {
            let entry = entry.unwrap();
            let path = dir.to_path_buf().join(entry.file_name());
            let is_dir = entry.file_type().unwrap().is_dir();
            (WirePath::from_relative(&path).unwrap(), is_dir)
        })
        .collect()
}
