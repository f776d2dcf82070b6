//! Arguments only: what can be written, and the typed command that comes out.

use std::ffi::OsString;
use std::num::{NonZeroU16, NonZeroU64};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand};

use crate::error::Fatal;
use crate::logic::config::{
    AccessOptions, Backend, Config, LogFormat, LogLevel, MaxDelete, SourceOptions,
};
use crate::logic::filter::{Origin, Preset, Rules, Statement};
use crate::logic::rate::{self, Bwlimit, RateError};
use crate::logic::target::Target;

/// Mirrors a directory tree to syncd-recv as it changes.
#[derive(Debug, Parser)]
#[command(name = "syncd-agent", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log from this level on: error, warn, info, debug, trace
    #[arg(long, global = true, value_name = "LEVEL", value_parser = log_level)]
    pub log_level: Option<LogLevel>,
    /// Form of log lines on standard error: text, json
    #[arg(long, global = true, value_name = "FORM", value_parser = log_format)]
    pub log_format: Option<LogFormat>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mirror, and go on as things change, until told to stop
    Run(RunArgs),
    /// Mirror once: exit 0 when both sides are identical and durable
    Sync(SyncArgs),
    /// Compare the content of both sides and list what differs: exit 1 if anything does
    Verify(OneLine),
    /// What a running agent is doing: exit 0 in sync, 1 behind, 2 degraded, 3 failed
    Status(StatusArgs),
    /// The same in numbers, for Prometheus: exit 0 if an agent answered, 69 if none did
    Metrics(MetricsArgs),
    /// Wait until a path, or everything, is durable at every target
    Wait(WaitArgs),
    /// Have a running agent look at a path, or everything, again
    Rescan(RescanArgs),
    /// Let held deletes go
    Approve(HeldArgs),
    /// Drop held deletes
    Reject(HeldArgs),
    /// Ask about filter rules
    #[command(subcommand)]
    Filter(FilterCommand),
    /// List the modules of a receiver that this agent may see
    Modules(ModulesArgs),
    /// Try a configuration without mirroring anything: exit 0 if it works, 1 warnings, 2 something does not work
    Check(CheckArgs),
    /// Print an agent.toml that does what another program's settings do: exit 0, 1 DANGER in it, 2 nothing to use
    #[command(subcommand)]
    Migrate(MigrateCommand),
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", conflicts_with = "source")]
    pub config: Option<PathBuf>,
    /// Directory to mirror; what is in it goes to the destination
    #[arg(value_name = "SRC")]
    pub source: Option<PathBuf>,
    /// The destination.
    #[arg(
        help = "Where to: [USER@]HOST::MODULE[/DIR] or syncd://[USER@]HOST[:PORT]/MODULE[/DIR]",
        value_name = "DEST"
    )]
    pub dest: Option<OsString>,
    /// How to mirror.
    #[command(flatten)]
    pub source_args: SourceArgs,
    /// How to connect.
    #[command(flatten)]
    pub link: LinkArgs,
    /// Control socket of this agent
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
}

/// Arguments of `sync`.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Source, destination and how.
    #[command(flatten)]
    pub line: OneLine,
    /// Say what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// One source and one destination.
#[derive(Debug, Args)]
pub struct OneLine {
    /// Directory to mirror; what is in it goes to the destination
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// The destination.
    #[arg(
        help = "Where to: [USER@]HOST::MODULE[/DIR] or syncd://[USER@]HOST[:PORT]/MODULE[/DIR]",
        value_name = "DEST"
    )]
    pub dest: OsString,
    /// How to mirror.
    #[command(flatten)]
    pub source_args: SourceArgs,
    /// How to connect.
    #[command(flatten)]
    pub link: LinkArgs,
}

/// How to mirror.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// Keep at the destination what is gone here
    #[arg(long)]
    pub no_delete: bool,
    /// Leave extended attributes (user.*; trusted.* as root) out
    #[arg(long)]
    pub no_xattrs: bool,
    /// Leave POSIX ACLs out
    #[arg(long)]
    pub no_acls: bool,
    /// Leave file capabilities out
    #[arg(long)]
    pub no_capabilities: bool,
    /// Quiet time in ms after which a file counts as settled when its close was not seen
    #[arg(long, value_name = "MS")]
    pub settle_ms: Option<u64>,
    /// Longest time in ms a file that keeps changing is held back
    #[arg(long, value_name = "MS")]
    pub hold_max_ms: Option<u64>,
    /// How changes are noticed: auto, notify, inotify
    #[arg(long, value_name = "NAME", value_parser = backend)]
    pub backend: Option<Backend>,
    /// Hold deletes above this: a share like 50%, a number, or unlimited
    #[arg(long, value_name = "LIMIT", value_parser = max_delete)]
    pub max_delete: Option<MaxDelete>,
    /// What takes part.
    #[command(flatten)]
    pub rules: RuleArgs,
}

/// Filter rules, in the order of the command line, as with rsync.
#[derive(Debug, Clone, Default)]
pub struct RuleArgs(Rules);

/// An option whose values are rules.
struct RuleOption {
    id: &'static str,
    long: &'static str,
    value: &'static str,
    help: &'static str,
    statement: fn(OsString) -> Option<Statement>,
}

const RULE_OPTIONS: [RuleOption; 6] = [
    RuleOption {
        id: "rules-exclude",
        long: "exclude",
        value: "PATTERN",
        help: "Leave out what matches, and leave it alone at the destination",
        statement: |text| Some(Statement::Exclude(text.into_vec())),
    },
    RuleOption {
        id: "rules-include",
        long: "include",
        value: "PATTERN",
        help: "Take what matches, whatever later rules say",
        statement: |text| Some(Statement::Include(text.into_vec())),
    },
    RuleOption {
        id: "rules-filter",
        long: "filter",
        value: "RULE",
        help: "Add a rule in rsync's filter language, such as '- *.o' or ': /.rsync-filter' (-F)",
        statement: |text| Some(Statement::Filter(text.into_vec())),
    },
    RuleOption {
        id: "rules-exclude-from",
        long: "exclude-from",
        value: "FILE",
        help: "Read patterns to leave out from a file",
        statement: |text| Some(Statement::ExcludeFrom(text.into())),
    },
    RuleOption {
        id: "rules-include-from",
        long: "include-from",
        value: "FILE",
        help: "Read patterns to take from a file",
        statement: |text| Some(Statement::IncludeFrom(text.into())),
    },
    RuleOption {
        id: "rules-preset",
        long: "preset",
        value: "NAME",
        help: "Leave out what is known by a name: editor-temp",
        statement: |text| {
            let found = Preset::NAMES.iter().find(|(name, _)| text == *name);
            found.map(|&(_, preset)| Statement::Preset(preset))
        },
    },
];

impl Args for RuleArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        RULE_OPTIONS.iter().fold(command, |command, option| {
            let arg = clap::Arg::new(option.id)
                .long(option.long)
                .value_name(option.value)
                .help(option.help)
                .action(ArgAction::Append)
                .allow_hyphen_values(true)
                .value_parser(clap::value_parser!(OsString));
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for RuleArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut found = Vec::new();
        for option in &RULE_OPTIONS {
            let values = matches.get_many::<OsString>(option.id).unwrap_or_default();
            let places = matches.indices_of(option.id).unwrap_or_default();
            for (place, value) in places.zip(values) {
                let statement = (option.statement)(value.clone()).ok_or_else(|| {
                    let text = format!("--{}: {value:?} is not known\n", option.long);
                    clap::Error::raw(ErrorKind::InvalidValue, text)
                })?;
                found.push((place, statement, option.long));
            }
        }
        found.sort_by_key(|(place, ..)| *place);
        let mut rules = Rules::default();
        for (_, statement, long) in found {
            rules.push(statement, Origin::option(&format!("--{long}")));
        }
        Ok(Self(rules))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Arguments of `filter explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Path below a source, absolute or from the source; a trailing / says that it is a directory
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// What would be mirrored, as for `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What to ask about filter rules.
#[derive(Debug, Subcommand)]
pub enum FilterCommand {
    /// Say whether a path takes part, and by which rule: exit 0 if it does, 1 if not
    Explain(ExplainArgs),
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Call nobody: look at this machine only
    #[arg(long)]
    pub offline: bool,
    /// Read the configuration and nothing else
    #[arg(long)]
    pub syntax: bool,
    /// What would be mirrored, as for `run`.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Whose settings to read.
#[derive(Debug, Subcommand)]
pub enum MigrateCommand {
    /// sersync's confxml.xml; several files become one configuration
    Sersync {
        /// Files to read
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// lsyncd's configuration
    Lsyncd {
        /// File to read; nothing in it is run
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// A shell script with inotifywait and rsync
    Script {
        /// File to read; nothing in it is run
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// How to connect.
#[derive(Debug, Clone, Args)]
pub struct LinkArgs {
    /// Authority the receiver's certificate comes from (PEM)
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// This agent's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// File with the password for `auth users`, as for rsync
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Port of the receiver [default: 8730]
    #[arg(long)]
    pub port: Option<NonZeroU16>,
    /// Name in the receiver's certificate, if it is not the host
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Most bytes per second on the wire, like 1000000 or 10M
    #[arg(long, value_name = "BYTES", value_parser = bwlimit)]
    pub bwlimit: Option<NonZeroU64>,
    /// Time in ms to reach the receiver and be welcome
    #[arg(long, value_name = "MS")]
    pub connect_timeout_ms: Option<u64>,
    /// Send everything as it is, also where the link is slow
    #[arg(long)]
    pub no_compress: bool,
}

/// Which agent is asked.
#[derive(Debug, Args)]
pub struct ControlArgs {
    /// Control socket of the agent
    #[arg(long, value_name = "SOCKET")]
    pub control: Option<PathBuf>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// As JSON
    #[arg(long)]
    pub json: bool,
    /// Which agent.
    #[command(flatten)]
    pub agent: ControlArgs,
}

/// Arguments of `metrics`.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Which agent.
    #[command(flatten)]
    pub agent: ControlArgs,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Path below a source
    #[arg(value_name = "PATH", conflicts_with = "all")]
    pub path: Option<PathBuf>,
    /// Wait for everything (the default)
    #[arg(long)]
    pub all: bool,
    /// Give up after so many seconds
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub timeout: u32,
    /// Which agent.
    #[command(flatten)]
    pub agent: ControlArgs,
}

/// Arguments of `rescan`.
#[derive(Debug, Args)]
pub struct RescanArgs {
    /// Path below a source [default: everything]
    #[arg(value_name = "PATH")]
    pub path: Option<PathBuf>,
    /// Which agent.
    #[command(flatten)]
    pub agent: ControlArgs,
}

/// Arguments of `approve` and `reject`.
#[derive(Debug, Args)]
pub struct HeldArgs {
    /// As `status` shows it
    pub id: String,
    /// Which agent.
    #[command(flatten)]
    pub agent: ControlArgs,
}

/// Arguments of `modules`.
#[derive(Debug, Args)]
pub struct ModulesArgs {
    /// The receiver, and the user if it wants one.
    #[arg(
        help = "Receiver: [USER@]HOST or syncd://[USER@]HOST[:PORT]",
        value_name = "HOST"
    )]
    pub host: OsString,
    /// How to connect.
    #[command(flatten)]
    pub link: LinkArgs,
}

impl SourceArgs {
    fn is_given(&self) -> bool {
        self.no_delete
            || self.settle_ms.is_some()
            || self.hold_max_ms.is_some()
            || self.backend.is_some()
            || self.max_delete.is_some()
            || self.no_xattrs
            || self.no_acls
            || self.no_capabilities
            || !self.rules.0.is_empty()
    }

    /// The filter rules alone.
    #[must_use]
    pub fn into_rules(self) -> Rules {
        self.rules.0
    }

    fn options(self, path: PathBuf) -> SourceOptions {
        SourceOptions {
            path,
            delete: self.no_delete.then_some(false),
            settle_ms: self.settle_ms,
            hold_max_ms: self.hold_max_ms,
            backend: self.backend,
            max_delete: self.max_delete,
            xattrs: self.no_xattrs.then_some(false),
            acls: self.no_acls.then_some(false),
            capabilities: self.no_capabilities.then_some(false),
            full_check: None,
            idle_check_s: None,
            rules: self.rules.0,
        }
    }
}

fn bwlimit(text: &str) -> Result<NonZeroU64, RateError> {
    NonZeroU64::new(rate::parse(text)?).ok_or(RateError::Zero)
}

impl LinkArgs {
    fn is_given(&self) -> bool {
        let paths = [&self.ca, &self.cert, &self.key, &self.password_file];
        paths.iter().any(|path| path.is_some())
            || self.port.is_some()
            || self.server_name.is_some()
            || self.bwlimit.is_some()
            || self.connect_timeout_ms.is_some()
            || self.no_compress
    }

    /// As the configuration takes it.
    #[must_use]
    pub fn options(self) -> AccessOptions {
        AccessOptions {
            ca: self.ca,
            cert: self.cert,
            key: self.key,
            password_file: self.password_file,
            server_name: self.server_name,
            connect_timeout_ms: self.connect_timeout_ms,
            compress: self.no_compress.then_some(false),
        }
    }
}

impl OneLine {
    /// The configuration it stands for.
    ///
    /// # Errors
    /// The first value that is missing or cannot be.
    pub fn config(self) -> Result<Config, Fatal> {
        let to = Target::parse(self.dest.as_bytes(), self.link.port)?;
        let bwlimit = self.link.bwlimit.map(Bwlimit::always);
        let source = self.source_args.options(self.source);
        Config::one_line(source, to, self.link.options(), bwlimit)
            .map_err(|error| Fatal::Config(None, error))
    }
}

impl RunArgs {
    /// The one line it stands for, if it names no file.
    ///
    /// # Errors
    /// If it names neither a file nor a source, or mixes both.
    pub fn one_line(self) -> Result<Result<OneLine, PathBuf>, Fatal> {
        match (self.config, self.source, self.dest) {
            (Some(_), ..) if self.link.is_given() || self.source_args.is_given() => {
                Err(Fatal::Usage(
                    "with --config, everything but --control and logging is set in the file".into(),
                ))
            }
            (Some(file), ..) => Ok(Err(file)),
            (None, Some(source), Some(dest)) => Ok(Ok(OneLine {
                source,
                dest,
                source_args: self.source_args,
                link: self.link,
            })),
            _ => Err(Fatal::Usage(
                "nothing to mirror: give --config FILE, or SRC and DEST".into(),
            )),
        }
    }
}

fn log_level(text: &str) -> Result<LogLevel, String> {
    choose(text, &LogLevel::NAMES)
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    choose(text, &LogFormat::NAMES)
}

fn backend(text: &str) -> Result<Backend, String> {
    choose(text, &Backend::NAMES)
}

fn max_delete(text: &str) -> Result<MaxDelete, String> {
    MaxDelete::parse(text).map_err(|error| error.what)
}

fn choose<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|&(_, value)| value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        format!("not one of {}", names.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn rules_keep_the_order_of_the_command_line() {
        let line = "syncd-agent sync /d h::m --include a --exclude *.o --filter=-_b --include c \
                    --exclude-from f --preset editor-temp";
        let Command::Sync(args) = Cli::parse_from(line.split_whitespace()).command else {
            panic!("not sync");
        };
        let mut wanted = Rules::default();
        for (statement, long) in [
            (Statement::Include(b"a".to_vec()), "--include"),
            (Statement::Exclude(b"*.o".to_vec()), "--exclude"),
            (Statement::Filter(b"-_b".to_vec()), "--filter"),
            (Statement::Include(b"c".to_vec()), "--include"),
            (Statement::ExcludeFrom("f".into()), "--exclude-from"),
            (Statement::Preset(Preset::EditorTemp), "--preset"),
        ] {
            wanted.push(statement, Origin::option(long));
        }
        assert_eq!(args.line.source_args.into_rules(), wanted);
        let bad = ["syncd-agent", "sync", "/d", "h::m", "--preset", "x"];
        assert!(Cli::try_parse_from(bad).is_err());
    }

    #[test]
    fn one_line_needs_no_file() {
        let line = "syncd-agent run /data/www rsync_backup@10.0.0.11::web/sub --ca ca.pem \
                    --cert web01.pem --key web01.key --password-file /etc/syncd.pass --no-delete --port 99";
        let Command::Run(args) = Cli::parse_from(line.split_whitespace()).command else {
            panic!("not run");
        };
        let config = args.one_line().unwrap().unwrap().config().unwrap();
        let source = &config.sources[0];
        assert!(!source.delete);
        assert_eq!(
            source.targets[0].to.to_string(),
            "rsync_backup@10.0.0.11::web/sub (port 99)"
        );
    }
}
