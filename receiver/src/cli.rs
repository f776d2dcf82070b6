//! Arguments, logging and exit codes; nothing is decided here.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::sys::signal::{SigSet, Signal};
use syncd_proto::message::Purpose;
use tracing::{error, level_filters::LevelFilter};

use crate::check;
use crate::error::{Fatal, exit};
use crate::explain::{self, Question};
use crate::front::{self, Options};
use crate::logging;
use crate::status::{self, Form};
use crate::worker;

/// Threads for name look-ups, secrets files and the like.
const BLOCKING_THREADS_MAX: usize = 64;

#[derive(Debug, Parser)]
#[command(
    name = "syncd-recv",
    version,
    about = "Applies what syncd-agent sends, atomically, under the rules of an rsyncd.conf",
    after_help = "Exit codes: 0 done, 64 wrong arguments, 69 cannot listen, or nobody answers, 71 system error, 78 wrong configuration; check: 0 all is well, 1 dangers, 2 something is not served; acl explain: 0 admitted, 1 refused."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the modules of a configuration.
    Run(Run),
    /// Who is connected to a running receiver, how far they are, and what failed.
    Status(Status),
    /// The same in numbers, for Prometheus.
    Metrics(Metrics),
    /// Say what a configuration means: what is honoured, what differs, what is dangerous.
    Check(Check),
    /// Say who may come in, and why.
    #[command(subcommand)]
    Acl(Acl),
    /// Serve one module; started by `run` with a socket as standard input.
    #[command(hide = true)]
    Worker(Logging),
}

#[derive(Debug, Subcommand)]
enum Acl {
    /// Walk through the decision on one peer, line by line of the configuration; exit code 0: admitted, 1: refused.
    Explain(Explain),
}

#[derive(Debug, Args)]
struct Explain {
    /// Where the peer comes from.
    #[arg(value_name = "IP")]
    peer: IpAddr,
    /// The module it asks for.
    module: OsString,
    /// The user it says it is; its password is taken to be right.
    #[arg(long, value_name = "USER")]
    user: Option<OsString>,
    /// Its certificate, PEM, with intermediate ones behind it.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// It only wants to compare.
    #[arg(long)]
    compare: bool,
    /// The rsyncd.conf that decides.
    #[arg(long, value_name = "FILE", default_value = "/etc/rsyncd.conf")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Run {
    /// The rsyncd.conf to serve.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Listen on this port instead of `syncd port` (0: any free one).
    #[arg(long)]
    port: Option<u16>,
    /// Listen on this address or host name instead of `address`.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// Answer `status` and `metrics` at this socket.
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    #[command(flatten)]
    logging: Logging,
}

#[derive(Debug, Args)]
struct Status {
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
    /// Control socket of the receiver.
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Metrics {
    /// Control socket of the receiver.
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Check {
    /// The rsyncd.conf to look at.
    #[arg(long, value_name = "FILE", default_value = "/etc/rsyncd.conf")]
    config: PathBuf,
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, Args)]
struct Logging {
    /// How log lines look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// What is logged.
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogLevel {
    /// What must be mended.
    Error,
    /// And what was refused.
    Warn,
    /// And what was done.
    Info,
    /// And how.
    Debug,
    /// Everything.
    Trace,
}

impl From<Explain> for Question {
    fn from(explain: Explain) -> Self {
        Self {
            config: explain.config,
            peer: explain.peer,
            module: explain.module.into_encoded_bytes(),
            user: explain.user.map(OsString::into_encoded_bytes),
            certificate: explain.cert,
            purpose: if explain.compare {
                Purpose::Compare
            } else {
                Purpose::Mirror
            },
        }
    }
}

impl From<LogLevel> for LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

impl Logging {
    fn start(self) {
        logging::start(self.log_level.into(), self.log_format == LogFormat::Json);
    }

    /// The arguments of a worker that logs the same way.
    fn arguments(self) -> Vec<String> {
        let name = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        vec![
            "worker".to_owned(),
            "--log-format".to_owned(),
            name(self.log_format.to_possible_value()),
            "--log-level".to_owned(),
            name(self.log_level.to_possible_value()),
        ]
    }
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    end_with_main_thread();
    // A file that may not grow is then an error of one write, and not the end.
    let _ = SigSet::from(Signal::SIGXFSZ).thread_block();
    dispatch(std::env::args_os())
}

/// A panic of the main thread, as where no thread can be started, ends the process: what is left of it would only look
/// alive.
fn end_with_main_thread() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        if std::thread::current().name() == Some("main") {
            std::process::exit(OS_ERROR);
        }
    }));
}

/// As in `sysexits.h`: the system refuses the ordinary.
const OS_ERROR: i32 = 71;

fn dispatch(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(exit::USAGE),
            };
        }
    };
    match cli.command {
        Command::Run(run) => serve(run),
        Command::Status(asked) => {
            let form = if asked.json { Form::Json } else { Form::Text };
            status::run(asked.control.as_deref(), form)
        }
        Command::Metrics(asked) => status::run(asked.control.as_deref(), Form::Metrics),
        Command::Check(check) => check::run(&check.config, check.json),
        Command::Acl(Acl::Explain(explain)) => explain::run(&explain.into()),
        Command::Worker(logging) => {
            logging.start();
            worker::run()
        }
    }
}

fn serve(run: Run) -> ExitCode {
    run.logging.start();
    let options = Options {
        config: run.config.into_os_string(),
        port: run.port,
        address: run.address,
        control: run.control,
        worker_arguments: run.logging.arguments(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(front::run(options));
            // A name look-up that hangs must not keep the process.
            runtime.shutdown_background();
            ended
        }
        Err(source) => Err(Fatal::System {
            what: "cannot start the runtime",
            source,
        }),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            error!("{fatal}");
            ExitCode::from(fatal.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_worker_logs_as_its_front_does() {
        let logging = Logging {
            log_format: LogFormat::Json,
            log_level: LogLevel::Debug,
        };
        let mut line = vec!["syncd-recv".to_owned()];
        line.extend(logging.arguments());
        let Command::Worker(parsed) = Cli::try_parse_from(line).unwrap().command else {
            panic!("not a worker");
        };
        assert_eq!(parsed.log_format, LogFormat::Json);
        assert_eq!(parsed.log_level, LogLevel::Debug);
    }
}
