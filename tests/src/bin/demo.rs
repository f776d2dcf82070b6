//! `cargo demo SRC DST`: both programs on loopback, live, with progress.
//!
//! Everything they need (certificates, configuration, passwords, sockets) is made in a private temporary
//! directory and goes with the demo. SRC is only read. DST is only touched if it is empty, comes from an
//! earlier demo, or `--into-non-empty` says so.

mod demo {
    pub(crate) mod child;
    pub(crate) mod live;
    pub(crate) mod place;
    pub(crate) mod progress;
    pub(crate) mod stage;
}

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use demo::child::Child;
use demo::place::{Arguments, Places};
use demo::progress::Outcome;
use demo::stage::Stage;

const HELP: &str = "\
Mirrors SRC to DST with both programs of syncd on this machine, until Ctrl-C.

Usage: cargo demo SRC DST [--into-non-empty]

  SRC               directory to mirror; only read
  DST               directory that becomes its mirror; made if it is missing
  --into-non-empty  use DST although it has files: those that are not in SRC ARE DELETED
";

/// Set when somebody asks the demo to stop.
pub(crate) type Stop = Arc<AtomicBool>;

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            let _ = io::stdout().write_all(HELP.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(text) => {
            eprintln!("demo: {text}\n\n{HELP}");
            return ExitCode::from(64);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("demo: {text}");
            ExitCode::from(3)
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let places = Places::check(arguments)?;
    let stop = Stop::default();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|error| format!("cannot handle signals: {error}"))?;
    }
    let programs = demo::stage::build_programs()?;
    let places = places.create()?;
    let stage = Stage::set(&places)?;
    let mut receiver = Child::start("receiver", stage.receiver(&programs), stage.path())?;
    let port = receiver.listening_port(&stop);
    let mut agent = port.and_then(|port| {
        let Some(port) = port else { return Ok(None) };
        println!(
            "mirroring {} to {}; Ctrl-C ends it",
            places.source.display(),
            places.dest.display()
        );
        let command = stage.agent(&programs, &places, port);
        Child::start("agent", command, stage.path()).map(Some)
    });
    let shown = match &mut agent {
        Ok(Some(agent)) => show(&stage, agent, &mut receiver, &stop),
        Ok(None) => Ok(()),
        Err(text) => Err(text.clone()),
    };
    // The agent first, so that it can say goodbye.
    if let Ok(Some(agent)) = &mut agent {
        agent.stop();
    }
    receiver.stop();
    println!("stopped; {} stays as it is", places.dest.display());
    shown
}

fn show(stage: &Stage, agent: &mut Child, receiver: &mut Child, stop: &Stop) -> Result<(), String> {
    let mut alive = || {
        agent.check()?;
        receiver.check()?;
        Ok(!stop.load(Ordering::Relaxed))
    };
    match demo::progress::first_sync(&stage.control(), &mut alive)? {
        Outcome::Stopped => Ok(()),
        Outcome::InSync => demo::live::follow(&stage.control(), &mut alive),
    }
}
