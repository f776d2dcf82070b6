//! `cargo bench-peers`: rsync, lsyncd and syncd through the same scenarios, side by side on this machine.
//!
//! Every cell gets fresh file systems, one for the source and one for the mirror, and both programs of the peer with
//! authentication as they would run between two machines. Peers alternate (A B A B), the trees are compared strictly
//! at the end of every cell, and all traffic runs over the loopback of a private network namespace, so that its
//! counter is the number of bytes on the wire for every peer alike.

mod bench_peers {
    pub(crate) mod args;
    pub(crate) mod data;
    pub(crate) mod floor;
    pub(crate) mod isolate;
    pub(crate) mod link;
    pub(crate) mod meter;
    pub(crate) mod peer;
    pub(crate) mod place;
    pub(crate) mod report;
    pub(crate) mod scenario;
    pub(crate) mod special;
    pub(crate) mod steps;
}

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use bench_peers::args::{Arguments, HELP};
use bench_peers::report::{Cell, Report};
use bench_peers::{floor, isolate, peer, place, scenario};

fn main() -> ExitCode {
    if let Some(code) = floor::serve(std::env::args().skip(1)) {
        return code;
    }
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            let _ = io::stdout().write_all(HELP.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            eprintln!("bench-peers: {text}\n\n{HELP}");
            return ExitCode::from(64);
        }
    };
    match isolate::enter().and_then(|()| run(&arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(text) => {
            eprintln!("bench-peers: {text}");
            ExitCode::from(3)
        }
    }
}

/// Whether every cell ended with equal trees.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let (peers, missing) = peer::available(&arguments.peers);
    for (name, reason) in &missing {
        println!("missing: {name}: {reason}");
    }
    if peers.is_empty() {
        return Err("no peer to run".to_owned());
    }
    if let Some(reason) = arguments.fs.missing() {
        return Err(format!("missing: {}: {reason}", arguments.fs.name()));
    }
    let mut report = Report::new(arguments, &peers, missing);
    for scenario in &arguments.scenarios {
        if let Some(reason) = scenario.missing() {
            println!("missing: {}: {reason}", scenario.name());
            report.miss(scenario.name(), reason);
            continue;
        }
        for kind in peers.iter().filter(|kind| !kind.takes(scenario)) {
            println!("missing: {}: not for {}", scenario.name(), kind.name());
        }
        for round in 1..=arguments.rounds {
            for kind in peers.iter().filter(|kind| kind.takes(scenario)) {
                let cell = cell(arguments, scenario, kind, round);
                println!("{}", cell.line());
                report.add(cell);
                report.save(arguments.json.as_deref())?;
            }
        }
    }
    println!("\n{}", report.table());
    Ok(report.all_equal())
}

fn cell(
    arguments: &Arguments,
    scenario: &scenario::Scenario,
    kind: &peer::Kind,
    round: u32,
) -> Cell {
    let measure = || {
        let place = place::Place::fresh(
            arguments.fs,
            &arguments.images,
            scenario.quality(),
            scenario.is_huge(),
        )?;
        scenario::run(scenario, arguments.scale, kind, place)
    };
    let result = catch_unwind(AssertUnwindSafe(measure)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| "the harness panicked".to_owned()))
    });
    Cell::new(scenario.name(), kind.name(), round, result)
}
