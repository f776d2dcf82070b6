//! `migrate`: another program's settings as an `agent.toml` on standard output.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::print;
use crate::cli::MigrateCommand;
use crate::error::Fatal;
use crate::logic::config::{Config, ConfigError};
use crate::logic::migrate::{self, Draft, INPUT_BYTES_MAX};

/// Somebody has to look at it first.
const EXIT_DANGER: u8 = 1;
/// There is nothing in it that an agent could run.
const EXIT_NOTHING: u8 = 2;

/// Prints what comes out. Exit codes: 0 it can be used, 1 something in it is a DANGER, 2 there is nothing to use; 66 a
/// file cannot be read, 78 it is not what it should be.
pub(super) fn run(what: &MigrateCommand) -> Result<u8, Fatal> {
    let draft = match what {
        MigrateCommand::Sersync { files } => {
            let mut whole: Option<Draft> = None;
            for file in files {
                let draft = sersync(file)?;
                match &mut whole {
                    Some(whole) => whole.extend(draft),
                    None => whole = Some(draft),
                }
            }
            whole.ok_or_else(|| Fatal::Usage("no file to read".into()))?
        }
        MigrateCommand::Lsyncd { file } => migrate::lsyncd(&name(file), &text(file)?),
        MigrateCommand::Script { file } => migrate::script(&name(file), &text(file)?),
    };
    let toml = draft.to_string();
    print(&toml)?;
    if !draft.is_usable() {
        return Ok(EXIT_NOTHING);
    }
    // What an agent would not take must not look finished.
    Config::parse(&toml, Path::new("/etc/syncd")).map_err(|error| Fatal::Config(None, error))?;
    Ok(if draft.is_dangerous() { EXIT_DANGER } else { 0 })
}

fn sersync(file: &Path) -> Result<Draft, Fatal> {
    migrate::sersync(&name(file), &text(file)?).map_err(|what| {
        let what = ConfigError { line: None, what };
        Fatal::Config(Some(file.to_owned()), what)
    })
}

fn name(file: &Path) -> String {
    let last = file.file_name().unwrap_or(file.as_os_str());
    last.to_string_lossy().into_owned()
}

/// The text; bytes that are no UTF-8 are marked, since guides have remarks in any encoding.
fn text(file: &Path) -> Result<String, Fatal> {
    let failed = |error| Fatal::ReadConfig(file.to_owned(), error);
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(failed)?;
    opened
        .take(INPUT_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > INPUT_BYTES_MAX {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    Ok(String::from_utf8_lossy(text).into_owned())
}
