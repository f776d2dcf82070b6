//! Carries out a command line: joins arguments, files, the control socket and the pipeline.

mod check;
mod explain;
mod migrate;

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use nix::sys::signal::{SigSet, Signal};
use rustls::pki_types::UnixTime;
use syncd_proto::attributes::Attributes;
use syncd_proto::meta::EntryMeta;
use syncd_proto::path::{WirePath, escaped};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command, ControlArgs, FilterCommand, ModulesArgs, RunArgs};
use crate::control::protocol::{self, Reply};
use crate::control::{self, ControlServer, client, metrics as numbers, render};
use crate::error::{EXIT_FAILED, EXIT_USAGE, Fatal};
use crate::fs::{credentials, password};
use crate::logic::config::{Access, Config, Log, LogFormat, LogLevel};
use crate::logic::password::Password;
use crate::logic::target::Address;
use crate::net::handshake::{self, Dial};
use crate::net::tls::TlsSettings;
use crate::pipeline::oneshot::{self, Outcome};
use crate::pipeline::reconcile::Difference;
use crate::pipeline::stop::{Stop, Stopper};
use crate::pipeline::{self, Mirror};

/// Largest configuration file, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Work of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Mirror until told to stop.
    Run,
    /// Mirror once.
    Sync {
        /// Change nothing.
        dry_run: bool,
    },
    /// Compare content.
    Verify,
}

/// Runs the program with these arguments.
#[must_use]
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    end_with_main_thread();
    // A log that may not grow is no reason to end.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match execute(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// A panic of the main thread, as where no thread can be started, ends the process: what is left of it would only look
/// alive.
fn end_with_main_thread() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        if std::thread::current().name() == Some("main") {
            std::process::exit(SOFTWARE);
        }
    }));
}

/// As in `sysexits.h`: what nobody expected.
const SOFTWARE: i32 = 70;

/// Help and version are no errors; everything else is a wrong command line.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(EXIT_USAGE),
    }
}

fn report(error: &Fatal) {
    let mut text = format!("syncd-agent: {error}\n");
    if let Some(hint) = error.hint() {
        text.push_str(&format!("  -> {hint}\n"));
    }
    let _ = io::stderr().write_all(text.as_bytes());
}

fn execute(cli: Cli) -> Result<u8, Fatal> {
    let (level, format) = (cli.log_level, cli.log_format);
    let log = |mut config: Config| {
        config.log.level = level.unwrap_or(config.log.level);
        config.log.format = format.unwrap_or(config.log.format);
        config
    };
    match cli.command {
        Command::Run(args) => start(Job::Run, log(run_config(args)?)),
        Command::Sync(args) => {
            let job = Job::Sync {
                dry_run: args.dry_run,
            };
            start(job, log(args.line.config()?))
        }
        Command::Verify(line) => start(Job::Verify, log(line.config()?)),
        Command::Status(args) => status(&args.agent, args.json),
        Command::Metrics(args) => metrics(&args.agent),
        Command::Wait(args) => wait(&args.agent, args.path.as_deref(), args.timeout),
        Command::Rescan(args) => {
            let path = args.path.as_deref().map(absolute).transpose()?;
            done(&args.agent, &protocol::Command::Rescan { path })
        }
        Command::Approve(args) => done(&args.agent, &protocol::Command::Approve { id: args.id }),
        Command::Reject(args) => done(&args.agent, &protocol::Command::Reject { id: args.id }),
        Command::Filter(FilterCommand::Explain(args)) => explain::run(args),
        Command::Modules(args) => modules(args),
        Command::Check(args) => check::run(args),
        Command::Migrate(what) => migrate::run(&what),
    }
}

/// The one place where the pipeline is called.
fn start(job: Job, config: Config) -> Result<u8, Fatal> {
    start_logging(&config.log);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let code = runtime.block_on(carry_out(job, config));
    // Threads that still wait for something have been told to stop.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn carry_out(job: Job, config: Config) -> Result<u8, Fatal> {
    let (stopper, stop) = Stopper::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopper.stop();
    });
    let mirrors = pipeline::prepare(&config)?;
    let outcome = match job {
        Job::Run => return run_agent(config, mirrors, stop).await,
        Job::Sync { dry_run: false } => oneshot::sync(&mirrors, &stop).await?,
        Job::Sync { dry_run: true } => oneshot::compare(&mirrors, false, print_plan, &stop).await?,
        Job::Verify => oneshot::compare(&mirrors, true, print_difference, &stop).await?,
    };
    report_outcome(&outcome, job == Job::Sync { dry_run: true })
}

async fn run_agent(config: Config, mirrors: Vec<Mirror>, stop: Stop) -> Result<u8, Fatal> {
    let (channels, requests) = control::Channels::new();
    let events = channels.events.clone();
    let path = match &config.control {
        Some(path) => Some(path.clone()),
        None => control::default_path().ok(),
    };
    let serving = match path {
        Some(path) => {
            let server = ControlServer::bind(&path)?;
            tracing::info!("control socket {}", path.display());
            Some(tokio::spawn(server.serve(channels)))
        }
        None => {
            tracing::warn!(
                "no control socket: {}",
                control::ControlError::NoPath.hint()
            );
            None
        }
    };
    let result = pipeline::run(mirrors, requests, events, stop).await;
    if let Some(serving) = serving {
        serving.abort();
        // The socket is removed when the task has ended.
        let _ = serving.await;
    }
    result.map(|()| 0)
}

fn report_outcome(outcome: &Outcome, planned: bool) -> Result<u8, Fatal> {
    match outcome {
        Outcome::Identical => print("identical\n").map(|()| 0),
        Outcome::Differences(count) if planned => {
            print(&format!("{count} to be changed\n")).map(|()| 1)
        }
        Outcome::Differences(count) => print(&format!("{count} differences\n")).map(|()| 1),
        Outcome::Incomplete(failed) => {
            let lines: String = failed.iter().map(|line| format!("{line}\n")).collect();
            print(&format!("{lines}{} paths not mirrored\n", failed.len())).map(|()| 2)
        }
        Outcome::Held(reason) => print(&format!("deletes are held: {reason}\n")).map(|()| 2),
        Outcome::Stopped => Ok(EXIT_FAILED),
    }
}

fn print_difference(path: &WirePath, difference: &Difference) {
    let line = match difference {
        Difference::Missing(_) => format!("missing at the target: {path}\n"),
        Difference::Extra(_) => format!("only at the target: {path}\n"),
        Difference::Changed(here, there) => {
            format!("differs ({}): {path}\n", what_differs(here, there))
        }
        Difference::Links { .. } => format!("differs (hard links): {path}\n"),
    };
    let _ = print(&line);
}

fn print_plan(path: &WirePath, difference: &Difference) {
    let line = match difference {
        Difference::Missing(entry) => format!("create {} {path}\n", entry.kind.word()),
        Difference::Extra(entry) => format!("remove {} {path}\n", entry.kind.word()),
        Difference::Changed(here, there) => {
            format!("update {path} ({})\n", what_differs(here, there))
        }
        Difference::Links { .. } => format!("update {path} (hard links)\n"),
    };
    let _ = print(&line);
}

fn what_differs(here: &EntryMeta, there: &EntryMeta) -> String {
    let aspects = [
        ("type", here.kind != there.kind),
        ("size", here.size != there.size),
        ("content", here.content != there.content),
        ("mode", here.mode != there.mode),
        ("owner", (here.uid, here.gid) != (there.uid, there.gid)),
        ("mtime", here.mtime != there.mtime),
        ("device", here.rdev != there.rdev),
        ("attributes", here.xattrs != there.xattrs),
    ];
    let differing: Vec<&str> = aspects
        .iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| *name)
        .collect();
    differing.join(", ")
}

/// Logs to standard error; `RUST_LOG` has the last word.
fn start_logging(log: &Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .from_env_lossy();
    let builder = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        // Where nothing can be written, that cannot be either.
        .log_internal_errors(false)
        .with_env_filter(filter);
    // It fails where logging has been set up already; that one is as good.
    let _ = match log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

fn run_config(args: RunArgs) -> Result<Config, Fatal> {
    let control = args.control.clone();
    let mut config = match args.one_line()? {
        Ok(line) => line.config()?,
        Err(file) => read_config(&file)?,
    };
    config.control = control.or(config.control);
    Ok(config)
}

fn read_config(file: &Path) -> Result<Config, Fatal> {
    let failed = |error| Fatal::ReadConfig(file.to_owned(), error);
    if fs::metadata(file).map_err(failed)?.len() > CONFIG_BYTES_MAX {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let text = fs::read_to_string(file).map_err(failed)?;
    let file = std::path::absolute(file).map_err(failed)?;
    let base = file.parent().unwrap_or(Path::new("/"));
    Config::parse(&text, base).map_err(|error| Fatal::Config(Some(file.clone()), error))
}

fn socket_of(agent: &ControlArgs) -> Result<PathBuf, Fatal> {
    match &agent.control {
        Some(socket) => Ok(socket.clone()),
        None => Ok(control::default_path()?),
    }
}

fn ask(agent: &ControlArgs, command: &protocol::Command) -> Result<Reply, Fatal> {
    match client::ask(&socket_of(agent)?, command)? {
        Reply::Error { text, hint } => Err(Fatal::Answered(text, hint)),
        reply => Ok(reply),
    }
}

fn status(agent: &ControlArgs, json: bool) -> Result<u8, Fatal> {
    let reply = ask(agent, &protocol::Command::Status {})?;
    let Reply::Status { verdict, status } = &reply else {
        return Err(surprise());
    };
    let text = match json {
        true => serde_json::to_string_pretty(&reply).map_err(io::Error::from)? + "\n",
        false => render::status(status),
    };
    print(&text)?;
    Ok(verdict.exit_code())
}

/// Nobody to answer is a number as well: whoever collects them must not go on with those of yesterday.
fn metrics(agent: &ControlArgs) -> Result<u8, Fatal> {
    let socket = protocol::path_text(&socket_of(agent)?);
    match ask(agent, &protocol::Command::Status {}) {
        Ok(Reply::Status { status, .. }) => {
            print(&numbers::of_status(&status, &socket)).map(|()| 0)
        }
        Ok(_) => Err(surprise()),
        Err(error) => {
            print(&numbers::of_nobody(&socket))?;
            Err(error)
        }
    }
}

fn wait(agent: &ControlArgs, path: Option<&Path>, timeout_s: u32) -> Result<u8, Fatal> {
    let command = protocol::Command::Wait {
        path: path.map(absolute).transpose()?,
        timeout_ms: u64::from(timeout_s) * 1_000,
    };
    match ask(agent, &command)? {
        Reply::Wait { verdict, text } => {
            print(&format!("{}: {text}\n", verdict.name()))?;
            Ok(verdict.exit_code())
        }
        _ => Err(surprise()),
    }
}

fn done(agent: &ControlArgs, command: &protocol::Command) -> Result<u8, Fatal> {
    match ask(agent, command)? {
        Reply::Done { text } => print(&format!("{text}\n")).map(|()| 0),
        _ => Err(surprise()),
    }
}

fn surprise() -> Fatal {
    let hint = "check that the agent has the same version".into();
    Fatal::Answered("the agent answered something else".into(), Some(hint))
}

fn modules(args: ModulesArgs) -> Result<u8, Fatal> {
    let address = Address::parse(args.host.as_bytes(), args.link.port)?;
    let access = args
        .link
        .options()
        .build(address.user.as_deref())
        .map_err(|error| Fatal::Config(None, error))?;
    let (tls, password) = load(&access)?;
    let dial = Dial {
        tls: &tls,
        password: password.as_ref(),
        timeout: access.connect_timeout,
        compress: access.compress,
        spare: false,
        attributes: Attributes::NONE,
        names: &[],
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let modules = runtime.block_on(handshake::modules(&dial, &address))?;
    let lines: String = modules
        .iter()
        .map(|module| {
            format!(
                "{:<15}\t{}\n",
                escaped(&module.name),
                escaped(&module.comment)
            )
        })
        .collect();
    print(&lines)?;
    Ok(0)
}

/// Reads the files that a connection needs.
///
/// # Errors
/// The first that cannot be used.
pub fn load(access: &Access) -> Result<(TlsSettings, Option<Password>), Fatal> {
    let files = credentials::read(&access.ca, &access.cert, &access.key)?;
    let tls = TlsSettings::new(&files, access.server_name.as_deref(), UnixTime::now())?;
    let password = access.password_file.as_deref().map(password::read);
    Ok((tls, password.transpose()?))
}

fn absolute(path: &Path) -> Result<PathBuf, Fatal> {
    Ok(std::path::absolute(path)?)
}

/// A reader that has gone away is no error.
fn print(text: &str) -> Result<(), Fatal> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
