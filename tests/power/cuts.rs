//! Many power cuts of one recording, and what was found after them.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use syncd_tests::volume::{Kind, Volume};
use syncd_tests::workload::Rng;
use syncd_tests::{Options, Tree};

use crate::Scale;
use crate::history::Bounds;
use crate::record::{Mark, Record};
use crate::replay::Replayer;
use crate::scene::{Recorded, Scene};

/// What was found after all cuts.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// How many there were.
    pub(crate) cuts: usize,
    /// After how many it was gone on.
    pub(crate) converged: usize,
    /// What was wrong, for each that was.
    pub(crate) bad: Vec<String>,
    records: usize,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} cuts in {} records are bad, {} gone on from",
            self.bad.len(),
            self.cuts,
            self.records,
            self.converged
        )?;
        self.bad
            .iter()
            .take(4)
            .try_for_each(|bad| write!(f, "\n{bad}"))
    }
}

/// Cuts the power at many moments of a recording, and looks at the mirror after each.
pub(crate) fn check(scene: &mut Scene, recorded: &Recorded, seed: u64, scale: Scale) -> Found {
    let dir = scene.sandbox.path().to_owned();
    let records = recorded.log.records();
    let mut number = 0;
    each(
        scene.kind,
        &dir,
        (&recorded.log, recorded.before.clone()),
        &choose(records, recorded.start, scale.cuts, seed),
        seed,
        |found, cut, root| {
            let bounds = Bounds::at(records, cut);
            let module = root.join("mirror");
            let mut problems = match Tree::scan(&module, &Options::default()) {
                Ok(mirror) => recorded.history.judge(&mirror, bounds),
                Err(error) => vec![error.to_string()],
            };
            number += 1;
            if problems.is_empty() && number % scale.converge_every == 0 {
                found.converged += 1;
                problems.extend(scene.converge(&module).err());
            }
            if !problems.is_empty() {
                problems.push(recorded.history.story(bounds));
            }
            problems
        },
    )
}

/// Mounts the disk after each of these cuts and asks `judge` what is wrong.
pub(crate) fn each(
    kind: Kind,
    dir: &Path,
    (log, before): (&crate::record::Log, std::path::PathBuf),
    cuts: &BTreeSet<usize>,
    seed: u64,
    mut judge: impl FnMut(&mut Found, usize, &Path) -> Vec<String>,
) -> Found {
    let mut found = Found {
        records: log.records().len(),
        ..Found::default()
    };
    let mut replayer = Replayer::new(log, before);
    let (image, root) = (dir.join("cut.img"), dir.join("cut.mnt"));
    for &cut in cuts {
        replayer.cut(cut, seed, &image).expect("make an image");
        found.cuts += 1;
        let problems = match Volume::mount(kind, &image, &root) {
            Ok(volume) => {
                let problems = judge(&mut found, cut, &root);
                volume.unmount();
                problems
            }
            Err(reason) => vec![reason],
        };
        if !problems.is_empty() {
            let head = format!("cut {cut} seed {seed} {:?}", Bounds::at(log.records(), cut));
            found
                .bad
                .push(format!("{head}\n    {}", problems.join("\n    ")));
        }
    }
    found
}

/// Where to cut: half of them at once after a promise, when nothing that was promised later can help; the others
/// anywhere.
pub(crate) fn choose(records: &[Record], start: usize, count: usize, seed: u64) -> BTreeSet<usize> {
    let promise = |record: &Record| matches!(record, Record::Mark(Mark::Durable(_)));
    let after = (start..records.len()).filter(|&at| promise(&records[at]));
    let after: Vec<usize> = after.map(|at| at + 1).collect();
    let mut rng = Rng::new(seed);
    let mut chosen = BTreeSet::new();
    for _ in 0..count / 2 {
        chosen.extend(rng.pick(&after).copied());
    }
    let span = (records.len() - start) as u64;
    while chosen.len() < count && chosen.len() < records.len() - start {
        let at = usize::try_from(rng.below(span)).unwrap_or(0);
        chosen.insert(start + 1 + at);
    }
    chosen
}
