//! `cargo run -p certs-dev -- OUT`: writes a throwaway authority with a server's and agents' certificates.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use certs_dev::{Authority, CertError, Issued, Request, Validity, occupied};
use clap::Parser;

const AGENT_DEFAULT: &str = "agent";
const EXIT_FAILED: u8 = 3;

/// Writes a throwaway CA, a server certificate and agent certificates. For tests and for trying syncd out,
/// never for production: the keys are not encrypted and nothing here revokes or renews.
///
/// If OUT holds an authority already, --agent adds agents to it; --force replaces everything.
#[derive(Debug, Parser)]
#[command(name = "certs-dev", version)]
struct Cli {
    /// The directory to write to; created with mode 0700 if it is not there
    out: PathBuf,
    /// An agent to make NAME.pem and NAME.key for; repeatable [default: agent]
    #[arg(long = "agent", value_name = "NAME")]
    agents: Vec<String>,
    /// One more DNS name or IP address of the server, besides localhost, 127.0.0.1 and ::1; repeatable
    #[arg(long = "server-name", value_name = "NAME")]
    server_names: Vec<String>,
    /// How long the certificates are valid
    #[arg(long, default_value_t = 365, value_name = "N")]
    days: u32,
    /// Replace an authority that is there; its certificates are worth nothing from then on
    #[arg(long)]
    force: bool,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("certs-dev: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run(cli: &Cli) -> Result<(), CertError> {
    let validity = Validity::Days(cli.days);
    let present = occupied(&cli.out, &Authority::file_names());
    match present {
        Some(_) if !cli.force && !cli.agents.is_empty() => add_agents(cli, validity),
        Some(path) if !cli.force => Err(CertError::Exists(path)),
        _ => create_all(cli, validity),
    }
}

fn create_all(cli: &Cli, validity: Validity) -> Result<(), CertError> {
    let default = [AGENT_DEFAULT.to_owned()];
    let agents = if cli.agents.is_empty() {
        &default[..]
    } else {
        &cli.agents
    };
    let mut requests = vec![Request::server(&cli.server_names).validity(validity)];
    requests.extend(
        agents
            .iter()
            .map(|name| Request::agent(name).validity(validity)),
    );
    check_all(&cli.out, &requests, cli.force)?;
    let authority = Authority::create_with(&cli.out, validity, cli.force)?;
    println!("{}: new authority", authority.cert_path().display());
    issue_all(&authority, &requests)?;
    println!("throwaway keys: for tests and trials, not for production");
    Ok(())
}

fn add_agents(cli: &Cli, validity: Validity) -> Result<(), CertError> {
    let authority = Authority::open(&cli.out)?;
    let mut requests = Vec::new();
    if !cli.server_names.is_empty() {
        requests.push(Request::server(&cli.server_names).validity(validity));
    }
    requests.extend(
        cli.agents
            .iter()
            .map(|name| Request::agent(name).validity(validity)),
    );
    check_all(&cli.out, &requests, false)?;
    println!(
        "{}: existing authority, kept",
        authority.cert_path().display()
    );
    issue_all(&authority, &requests)
}

/// Finds what would fail before anything is written.
fn check_all(out: &Path, requests: &[Request], force: bool) -> Result<(), CertError> {
    for request in requests {
        request.check()?;
        if let Some(path) = occupied(out, &request.file_names()).filter(|_| !force) {
            return Err(CertError::Exists(path));
        }
    }
    Ok(())
}

fn issue_all(authority: &Authority, requests: &[Request]) -> Result<(), CertError> {
    for request in requests {
        let Issued {
            cert_path,
            key_path,
            ..
        } = authority.issue(request)?;
        println!(
            "{}: issued, key in {}",
            cert_path.display(),
            key_path.display()
        );
    }
    Ok(())
}
