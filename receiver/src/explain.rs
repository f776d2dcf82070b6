//! `syncd-recv acl explain`: walks through the decision on one peer, line by line.
//!
//! The decision is the front's own ([`policy::explain`]), with what it looked at noted on the way.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustls_pki_types::UnixTime;
use syncd_proto::message::Purpose;
use syncd_proto::path::escaped;

use crate::error::exit;
use crate::front::accounts::Me;
use crate::front::policy::{self, Asked};
use crate::front::{credentials, reload};
use crate::fs::config;
use crate::logic::authorize::{Authorization, Grant, Outcome, Step};
use crate::logic::hosts::PeerAddr;
use crate::logic::rsyncd_conf::Config;
use crate::net::tls::Identity;

/// A certificate file is not larger.
const CERTIFICATE_BYTES_MAX: u64 = 1 << 20;

/// The peer is turned away.
const REFUSED: u8 = 1;

/// Whose admission is to be explained.
#[derive(Debug, Clone)]
pub struct Question {
    /// The configuration.
    pub config: PathBuf,
    /// Where the peer comes from.
    pub peer: IpAddr,
    /// The module it names.
    pub module: Vec<u8>,
    /// The user it says it is.
    pub user: Option<Vec<u8>>,
    /// Its certificate, PEM.
    pub certificate: Option<PathBuf>,
    /// What it wants to do.
    pub purpose: Purpose,
}

/// Prints the way and its end. Exit codes: 0 admitted, 1 refused, 66 the certificate cannot be read, 78 the
/// configuration cannot be used.
#[must_use]
pub fn run(question: &Question) -> ExitCode {
    let (text, code) = match explained(question) {
        Ok(answer) => answer,
        Err((text, code)) => {
            eprintln!("{text}");
            return ExitCode::from(code);
        }
    };
    print!("{text}");
    ExitCode::from(code)
}

type Failure = (String, u8);

fn explained(question: &Question) -> Result<(String, u8), Failure> {
    let loaded = config::read(&question.config);
    let config = loaded
        .map_err(|unusable| (unusable.to_string(), exit::CONFIG))?
        .config;
    let identity = match &question.certificate {
        None => None,
        Some(path) => Some(identity(path).map_err(|why| (why, exit::NO_INPUT))?),
    };
    let mut text = String::new();
    let accepted = tell_tls(&config, identity.as_ref(), &mut text);
    let asked = Asked {
        peer: PeerAddr::new(question.peer, 0),
        identities: identity.map_or_else(Vec::new, |identity| identity.names().to_vec()),
        module: question.module.clone(),
        user: question.user.clone(),
        purpose: question.purpose,
    };
    if !accepted {
        text.push_str("refused: TLS ends before anything else is asked\n");
        return Ok((text, REFUSED));
    }
    let (authorization, steps) = policy::explain(&config, &asked);
    for step in &steps {
        text.push_str(&line(step));
    }
    let code = match authorization {
        Authorization::Grant(grant) => tell_grant(&config, &asked, &grant, &mut text),
        Authorization::Refusal(refusal) => {
            let _ = writeln!(
                text,
                "refused: the agent is told \"{}\"; the log says \"{}\"",
                refusal.text, refusal.log
            );
            REFUSED
        }
    };
    Ok((text, code))
}

/// `file:line:column: parameter: what was found`, marked with what follows.
fn line(step: &Step) -> String {
    let mark = match step.outcome {
        Outcome::Seen => "     ",
        Outcome::Passed => "ok   ",
        Outcome::Refused => "NO   ",
    };
    let at = match &step.position {
        Some(position) => position.to_string(),
        None => "(default)".to_owned(),
    };
    format!("{mark}{at}: {}: {}\n", step.what, step.text)
}

/// Whether the certificate gets through TLS; without one, that is taken for granted.
fn tell_tls(config: &Config, identity: Option<&Identity>, text: &mut String) -> bool {
    let Some(identity) = identity else {
        text.push_str(
            "     certificate: none given (--cert): one that TLS accepts, without names, is assumed\n",
        );
        return true;
    };
    let tls = match credentials::load(&reload::files(config), Me::now()) {
        Ok(tls) => tls,
        Err(why) => {
            let _ = writeln!(text, "     certificate: TLS cannot be tried here: {why}");
            return true;
        }
    };
    match tls.recheck(identity, UnixTime::now()) {
        Ok(()) => {
            let _ = writeln!(text, "ok   certificate: {identity}: accepted by TLS");
            true
        }
        Err(error) => {
            let _ = writeln!(text, "NO   certificate: {identity}: {error}");
            false
        }
    }
}

/// What the peer may do, or why its module cannot be entered all the same.
fn tell_grant(config: &Config, asked: &Asked, grant: &Grant, text: &mut String) -> u8 {
    let setup = match policy::setup(config, Me::now(), grant) {
        Ok(setup) => setup,
        Err(why) => {
            let _ = writeln!(
                text,
                "refused: the agent is told \"{}\"; the log says \"{}\"",
                why.text, why.log
            );
            return REFUSED;
        }
    };
    let who = setup.run_as.map_or_else(String::new, |ids| {
        format!(", as uid {} and gid {}", ids.uid, ids.gid)
    });
    let proof = match &grant.user {
        Some(user) => format!(", if the password of {} is right", escaped(user)),
        None => String::new(),
    };
    let what = match asked.purpose {
        Purpose::Mirror => "may write to",
        _ => "may compare with",
    };
    let _ = writeln!(
        text,
        "admitted{proof}: {what} {}{who}",
        escaped(&grant.root)
    );
    0
}

fn identity(path: &Path) -> Result<Identity, String> {
    let failed = |why: String| format!("{}: {why}", escaped(path.as_os_str().as_encoded_bytes()));
    let mut text = Vec::new();
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut limited = file.take(CERTIFICATE_BYTES_MAX);
    limited
        .read_to_end(&mut text)
        .map_err(|error| failed(error.to_string()))?;
    Identity::from_pem(&text).map_err(failed)
}
