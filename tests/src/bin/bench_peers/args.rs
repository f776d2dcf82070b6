//! What was typed.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::place::FileSystem;
use super::scenario::Scenario;

/// What `--help` prints.
pub(crate) const HELP: &str = "\
Drives rsync, lsyncd and syncd through the same scenarios and prints medians, ranges and ratios to the first peer.

Usage: cargo bench-peers [OPTIONS]

  --peers LIST       default rsync,syncd; known: rsync rsync-fsync rsync-HAX rsync-nodelay rsync-W rsync-z
                     rsync-inplace rsync-checksum rsync-ssh rsync-tls inotify-script lsyncd lsyncd-delay0 syncd syncd-none
                     syncd-files; floor floor-none floor-HAX floor-live floor-tcp floor-tls floor-tls-none: what the
                     machine itself needs
  --scenarios LIST   default all: S1 (= S1-1k S1-10k S1-100k) S2 S2b S3 S3-mix S4 S5a S5b S5c S6 S7 S7-1M
                     (small: only if it is named) S8 S9 S9-dirs S10
                     S11 (= S11-change S11-files S11-large S11-files-loss S11-large-loss) F2 F3
  --fs NAME          ext4 (default), xfs, btrfs: loop images; tmpfs
  --images DIR       where the images are, default /dev/shm; a directory on a disk shows what flushes cost
  --scale NAME       small (default) or full
  --rounds N         default 3; the peers alternate
  --json FILE        every cell and the medians

Mounting and counting bytes need root (or --fs tmpfs in a user namespace of your own).
";

/// How much data the scenarios use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Small,
    Full,
}

impl Scale {
    /// One value for each.
    pub(crate) fn pick<T>(self, small: T, full: T) -> T {
        match self {
            Self::Small => small,
            Self::Full => full,
        }
    }
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) peers: Vec<String>,
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) fs: FileSystem,
    pub(crate) images: PathBuf,
    pub(crate) scale: Scale,
    pub(crate) rounds: u32,
    pub(crate) json: Option<PathBuf>,
}

impl Arguments {
    /// `None` if help was asked for.
    pub(crate) fn parse(mut given: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut parsed = Self {
            peers: words("rsync,syncd"),
            scenarios: Scenario::all(),
            fs: FileSystem::Ext4,
            images: PathBuf::from("/dev/shm"),
            scale: Scale::Small,
            rounds: 3,
            json: None,
        };
        let mut named = BTreeSet::new();
        while let Some(option) = given.next() {
            if option == "--help" || option == "-h" {
                return Ok(None);
            }
            let value = given.next().ok_or(format!("{option}: a value is needed"))?;
            let bad = || format!("{option} {value}: not known");
            match option.as_str() {
                "--peers" => parsed.peers = words(&value),
                "--scenarios" => {
                    parsed.scenarios = scenarios(&value)?;
                    named.extend(words(&value));
                }
                "--fs" => parsed.fs = FileSystem::parse(&value).ok_or_else(bad)?,
                "--images" => parsed.images = PathBuf::from(value),
                "--scale" if value == "small" => parsed.scale = Scale::Small,
                "--scale" if value == "full" => parsed.scale = Scale::Full,
                "--rounds" => parsed.rounds = value.parse().map_err(|_| bad())?,
                "--json" => parsed.json = Some(PathBuf::from(value)),
                _ => return Err(bad()),
            }
        }
        let huge = |scenario: &Scenario| scenario.is_huge() && !named.contains(scenario.name());
        parsed
            .scenarios
            .retain(|scenario| parsed.scale == Scale::Full || !huge(scenario));
        Ok(Some(parsed))
    }
}

fn words(text: &str) -> Vec<String> {
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

fn scenarios(text: &str) -> Result<Vec<Scenario>, String> {
    let mut found = Vec::new();
    for word in words(text) {
        let known = Scenario::parse(&word);
        if known.is_empty() {
            return Err(format!("--scenarios {word}: not known"));
        }
        // `S9,S9-dirs` means the second only once.
        found.retain(|scenario| !known.contains(scenario));
        found.extend(known);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Option<Arguments>, String> {
        Arguments::parse(words.iter().map(|&word| word.to_owned()))
    }

    #[test]
    fn lists_and_defaults_are_understood() {
        let arguments = parse(&[
            "--peers",
            "rsync,lsyncd",
            "--scenarios",
            "S1,S2b",
            "--scale",
            "full",
        ]);
        let arguments = arguments.unwrap().unwrap();
        assert_eq!(arguments.peers, ["rsync", "lsyncd"]);
        let names: Vec<_> = arguments.scenarios.iter().map(Scenario::name).collect();
        assert_eq!(names, ["S1-1k", "S1-10k", "S1-100k", "S2b"]);
        assert_eq!(arguments.scale.pick(1, 2), 2);
        assert!(parse(&["-h"]).unwrap().is_none());
    }

    #[test]
    fn a_million_files_are_asked_for_by_name_or_by_scale() {
        let names = |given: &[&str]| {
            let arguments = parse(given).unwrap().unwrap();
            let names = arguments.scenarios.iter().map(Scenario::name);
            names.filter(|name| name.starts_with("S7")).count()
        };
        assert_eq!(names(&[]), 1);
        assert_eq!(names(&["--scenarios", "S7"]), 1);
        assert_eq!(names(&["--scenarios", "S7,S7-1M"]), 2);
        assert_eq!(names(&["--scale", "full"]), 2);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for words in [
            &["--scenarios", "S99"][..],
            &["--fs", "fat"],
            &["--rounds", "x"],
            &["--json"],
        ] {
            let text = parse(words).unwrap_err();
            assert!(text.starts_with(words[0]), "{text}");
        }
    }
}
