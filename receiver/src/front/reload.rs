//! A [`Generation`] is everything read from files at one moment; SIGHUP makes a new one, or changes
//! nothing.

use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::UnixTime;
use syncd_proto::path::escaped;
use tracing::{error, warn};

use crate::front::Front;
use crate::front::accounts::Me;
use crate::front::credentials::{self, Files};
use crate::front::policy::{self, Asked};
use crate::front::sessions::Live;
use crate::front::threads::apart;
use crate::fs::config;
use crate::logic::rsyncd_conf::{Config, Diagnostic, Located, Severity, Text};
use crate::net::tls::Tls;

/// Configuration and TLS files of one moment.
pub struct Generation {
    /// The configuration.
    pub config: Config,
    /// TLS.
    pub tls: Tls,
    /// Who we are.
    pub me: Me,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Generation({} modules, {:?})",
            self.config.modules.len(),
            self.tls
        )
    }
}

impl Generation {
    /// `address` and `syncd port`.
    #[must_use]
    pub fn listens_on(&self) -> (Option<String>, u16) {
        let globals = &self.config.globals;
        let address = expanded(&self.config, globals.address.as_ref());
        let address = address.map(|address| String::from_utf8_lossy(&address).into_owned());
        (address, globals.syncd_port.value)
    }
}

/// Reads everything; remarks on the configuration go to the log.
///
/// # Errors
/// Why it cannot be used, for people.
pub fn load(path: &OsStr) -> Result<Generation, String> {
    let config = match config::read(Path::new(path)) {
        Ok(loaded) => {
            log(&loaded.diagnostics);
            loaded.config
        }
        Err(unusable) => {
            log(&unusable.diagnostics);
            return Err(unusable.to_string());
        }
    };
    let me = Me::now();
    let tls = credentials::load(&files(&config), me)?;
    Ok(Generation { config, tls, me })
}

/// The TLS files a configuration names.
#[must_use]
pub fn files(config: &Config) -> Files {
    let globals = &config.globals;
    Files {
        certificate: expanded(config, globals.tls_cert_file.as_ref()),
        key: expanded(config, globals.tls_key_file.as_ref()),
        authorities: expanded(config, globals.tls_ca_file.as_ref()),
        revocations: expanded(config, globals.tls_crl_file.as_ref()),
    }
}

/// Ends the sessions that would not be admitted any more, or not with these settings; their agents are told why.
pub async fn review(front: &Front) {
    for live in front.sessions.live() {
        // Always the newest: another reload may have come meanwhile.
        judge(&front.generation(), live).await;
    }
}

/// Ends one session if it would not be admitted now, as it was.
pub async fn judge(generation: &Arc<Generation>, live: Arc<Live>) {
    let generation = Arc::clone(generation);
    let judged = Arc::clone(&live);
    let judged = apart(move || {
        let live = judged;
        if let Err(why) = admitted(&generation, &live) {
            let module = escaped(&live.module);
            let identity = &live.identity;
            warn!(session = live.id, %module, %identity, "closed after a reload: {}", why.log);
            live.worker.close(live.id, why.text);
        }
    });
    if let Err(error) = judged.await {
        // It may be one that would not be let in any more.
        error!(
            session = live.id,
            "closed after a reload, it could not be judged: {error}"
        );
        let text = "the receiver could not tell whether it is still allowed after a reload";
        live.worker.close(live.id, text.to_owned());
    }
}

struct Closed {
    text: String,
    log: String,
}

fn admitted(generation: &Generation, live: &Live) -> Result<(), Closed> {
    if let Err(error) = generation.tls.recheck(&live.identity, UnixTime::now()) {
        return Err(Closed {
            text: "certificate not accepted any more".to_owned(),
            log: error.to_string(),
        });
    }
    let asked = Asked {
        peer: live.peer,
        identities: live.identity.names().to_vec(),
        module: live.module.clone(),
        user: live.user.clone(),
        purpose: live.purpose,
    };
    let grant = policy::still_admitted(generation, &asked).map_err(|refusal| Closed {
        text: refusal.text,
        log: refusal.log,
    })?;
    let setup = policy::setup(&generation.config, generation.me, &grant);
    let setup = setup.map_err(|why| Closed {
        text: why.text,
        log: why.log,
    })?;
    if live.worker.serves(&setup) {
        return Ok(());
    }
    // It comes back, to a worker that knows them.
    let text = "the settings of the module have changed; reconnect";
    Err(Closed {
        text: text.to_owned(),
        log: text.to_owned(),
    })
}

fn log(diagnostics: &[Diagnostic]) {
    for diagnostic in diagnostics {
        match diagnostic.severity {
            Severity::Error | Severity::Refused => error!("{diagnostic}"),
            Severity::Danger | Severity::Warning => warn!("{diagnostic}"),
            Severity::Note => tracing::info!("{diagnostic}"),
        }
    }
}

pub(super) fn expanded(config: &Config, text: Option<&Located<Text>>) -> Option<Vec<u8>> {
    text.map(|text| text.value.expand(&config.variables))
        .filter(|text| !text.is_empty())
}
