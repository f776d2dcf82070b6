//! The configuration applied to one peer: who may come in, which modules it sees, and what the worker
//! of a module is told.
//!
//! The decisions are in `logic/`; here they get their resolver, accounts and files. Look-ups block.

use syncd_proto::filter::Filter;
use syncd_proto::limits::{LABEL_BYTES_MAX, MODULES_MAX, TEXT_BYTES_MAX};
use syncd_proto::message::{ModuleLine, Modules, Purpose};
use syncd_proto::reject::RejectCode;

use crate::front::accounts::{self, Me};
use crate::front::reload::Generation;
use crate::front::workers::Unavailable;
use crate::fs::logbook::Target;
use crate::fs::{config, secrets};
use crate::logic::authorize::{
    self, Admission, Authorization, Grant, Journal, Refusal, Request, Slots, Step, World,
};
use crate::logic::chmod::Chmod;
use crate::logic::hosts::{self, PeerAddr, Verdict};
use crate::logic::refusals;
use crate::logic::rsyncd_conf::{Config, Located, Module, Text, Variables};
use crate::logic::secrets::Secrets;
use crate::logic::transfer_log::{self, Who};
use crate::logic::trash::{self, Trash};
use crate::logic::users::{Accounts, CertIdentity};
use crate::net::resolver::System;
use crate::relay::{Chroot, Filters, ModuleSetup, Rules};

/// A peer and what it asks for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its address.
    pub peer: PeerAddr,
    /// The names in its certificate.
    pub identities: Vec<CertIdentity>,
    /// The module.
    pub module: Vec<u8>,
    /// The user it says it is.
    pub user: Option<Vec<u8>>,
    /// What it wants to do.
    pub purpose: Purpose,
}

struct SystemAccounts;

impl Accounts for SystemAccounts {
    fn groups_of(&self, user: &[u8]) -> Vec<Vec<u8>> {
        accounts::groups_of(user)
    }
}

/// How far the peer comes without a password.
pub fn admit(generation: &Generation, asked: &Asked, slots: &Slots) -> Admission {
    let journal = Journal::default();
    ask(
        &generation.config,
        asked,
        slots,
        &System::default(),
        &journal,
    )
}

/// Whether a PROXY header from there counts.
#[must_use]
pub fn is_proxy(config: &Config, peer: PeerAddr) -> bool {
    let hosts = expand(
        config.globals.proxy_protocol_hosts.as_ref(),
        &config.variables,
    );
    // No list is not everybody here, but nobody.
    let rules = hosts::Rules {
        allow: Some(hosts.as_deref().unwrap_or_default()),
        deny: None,
        forward_lookup: false,
    };
    let verdict = hosts::decide(rules, peer, hosts::UNDETERMINED, &System::default());
    verdict == Verdict::Accept
}

/// Reads a secrets file.
///
/// # Errors
/// Why it cannot be used.
pub fn read_secrets(file: Option<(&[u8], bool)>) -> Result<Secrets, String> {
    let Some((path, strict)) = file else {
        return Err("not set".to_owned());
    };
    secrets::read(path, strict).map_err(|error| error.to_string())
}

/// The modules the peer may know of, in the order of the configuration.
#[must_use]
pub fn visible(generation: &Generation, asked: &Asked) -> Modules {
    let resolver = System::default();
    let named = |module: &Module| Asked {
        purpose: Purpose::Mirror,
        module: module.name.value.clone(),
        ..asked.clone()
    };
    let modules = generation
        .config
        .modules
        .iter()
        // A longer name cannot be asked for either.
        .filter(|module| module.list.value && module.name.value.len() <= LABEL_BYTES_MAX)
        .filter(|module| {
            // Slots of its own: looking does not count as a connection.
            let slots = Slots::default();
            let (asked, journal) = (named(module), Journal::default());
            may_know_of(ask(&generation.config, &asked, &slots, &resolver, &journal))
        })
        .take(MODULES_MAX)
        .map(|module| line(generation, module))
        .collect();
    Modules { modules }
}

fn ask(
    config: &Config,
    asked: &Asked,
    slots: &Slots,
    resolver: &System,
    journal: &Journal,
) -> Admission {
    let request = Request {
        peer: asked.peer,
        identities: &asked.identities,
        module: &asked.module,
        user: asked.user.as_deref(),
        purpose: asked.purpose,
    };
    let world = World {
        resolver,
        accounts: &SystemAccounts,
        slots,
        journal,
    };
    authorize::admit(config, &request, &world)
}

/// The decision on a peer that knows its password, and each step to it.
pub fn explain(config: &Config, asked: &Asked) -> (Authorization, Vec<Step>) {
    let journal = Journal::kept();
    let slots = Slots::default();
    let admission = ask(config, asked, &slots, &System::default(), &journal);
    (proved(admission), journal.steps())
}

/// The end of a decision where passwords are taken for granted: rules and names count.
fn proved(admission: Admission) -> Authorization {
    match admission {
        Admission::Decided(authorization) => authorization,
        Admission::Challenge(pending) => {
            let secrets = read_secrets(pending.secrets_file());
            pending.finish(secrets.as_ref().map_err(String::clone), |_| true)
        }
    }
}

/// Hosts and certificate let it pass, whatever stops it later.
fn may_know_of(admission: Admission) -> bool {
    match admission {
        Admission::Challenge(_) | Admission::Decided(Authorization::Grant(_)) => true,
        Admission::Decided(Authorization::Refusal(refusal)) => matches!(
            refusal.code,
            RejectCode::ReadOnly | RejectCode::TooManyConnections
        ),
    }
}

fn line(generation: &Generation, module: &Module) -> ModuleLine {
    let comment = expand(module.comment.as_ref(), &generation.config.variables);
    let mut comment = comment.unwrap_or_default();
    comment.truncate(TEXT_BYTES_MAX);
    ModuleLine {
        name: module.name.value.clone(),
        comment,
    }
}

/// Whether a session admitted earlier would still be.
///
/// # Errors
/// Why not.
pub fn still_admitted(generation: &Generation, asked: &Asked) -> Result<Box<Grant>, Refusal> {
    let slots = Slots::default();
    // The password was proved when the session began.
    match proved(admit(generation, asked, &slots)) {
        Authorization::Grant(grant) => Ok(grant),
        Authorization::Refusal(refusal) => Err(refusal),
    }
}

/// What the module's worker is told.
///
/// # Errors
/// Its user or group cannot be taken.
pub fn setup(config: &Config, me: Me, grant: &Grant) -> Result<ModuleSetup, Unavailable> {
    let Some(module) = config.module(&grant.module) else {
        return Err(Unavailable {
            text: "the module has gone".to_owned(),
            log: "the module has gone".to_owned(),
        });
    };
    let text = |value: Option<&Located<Text>>| expand(value, &grant.variables);
    let uid = text(module.uid.as_ref());
    let gid = text(module.gid.as_ref());
    // A value that cannot be read is void as a whole, as in rsync; `check` and the log of the load say so.
    let chmod = text(module.incoming_chmod.as_ref()).filter(|text| Chmod::parse(text).is_ok());
    let chroot = match module.use_chroot.value {
        Some(true) => Chroot::Required,
        None => Chroot::Tried,
        Some(false) => Chroot::Off,
    };
    Ok(ModuleSetup {
        name: grant.module.clone(),
        path: grant.root.clone(),
        run_as: me.run_as(uid.as_deref(), gid.as_deref())?,
        chroot,
        durability: module.durability.value,
        shared_writers: module.shared_writers.value,
        keep_dirlinks: module.keep_dirlinks.value,
        devices: module.devices.value,
        numeric_ids: module.numeric_ids.value.unwrap_or(chroot != Chroot::Off),
        munge_symlinks: module.munge_symlinks.value,
        rules: Rules {
            trash: trash(module, grant)?.map(Box::new),
            ..rules(module, &grant.variables)?
        },
        incoming_chmod: chmod,
        log: log_target(
            text(module.log_file.as_ref()),
            text(module.syslog_facility.as_ref()),
            text(module.syslog_tag.as_ref()),
        ),
        timeout_s: module.timeout_s.value,
    })
}

/// The modules that have a trash, as their workers are told; without those whose place depends on who asks.
#[must_use]
pub fn with_trash(config: &Config, me: Me) -> Vec<ModuleSetup> {
    let served = config.modules.iter().filter(|module| {
        let is_set = expand(module.trash.as_ref(), &config.variables).is_some();
        is_set && module.refusals.is_empty()
    });
    let grants = served.filter_map(|module| authorize::unasked(module, &config.variables));
    grants
        .filter_map(|grant| setup(config, me, &grant).ok())
        .filter(|setup| setup.rules.trash.is_some())
        .collect()
}

/// Where the log of everything goes beside standard error.
#[must_use]
pub fn global_log(config: &Config) -> Target {
    let globals = &config.globals;
    let text = |value: &Option<Located<Text>>| expand(value.as_ref(), &config.variables);
    log_target(
        text(&globals.log_file),
        text(&globals.syslog_facility),
        text(&globals.syslog_tag),
    )
}

fn log_target(file: Option<Vec<u8>>, facility: Option<Vec<u8>>, tag: Option<Vec<u8>>) -> Target {
    match (file, facility, tag) {
        (Some(file), ..) => Target::File(file),
        (None, None, None) => Target::Nowhere,
        (None, facility, tag) => Target::System {
            facility: facility
                .and_then(|text| transfer_log::facility(&text))
                .unwrap_or(FACILITY_DEFAULT),
            tag: tag.unwrap_or_else(|| b"rsyncd".to_vec()),
        },
    }
}

/// `daemon`.
const FACILITY_DEFAULT: u8 = 3;

/// What the lines of a session's transfers say of it, if the module wants any.
#[must_use]
pub fn transfer_log(config: &Config, grant: &Grant, address: String) -> Option<Who> {
    let module = config.module(&grant.module)?;
    module.transfer_logging.value.then(|| Who {
        format: expand(module.log_format.as_ref(), &grant.variables)
            .unwrap_or_else(|| transfer_log::DEFAULT_FORMAT.to_vec()),
        host: grant.host.clone(),
        address,
        user: grant.user.clone().unwrap_or_default(),
        module: grant.module.clone(),
        root: grant.root.clone(),
    })
}

fn rules(module: &Module, variables: &Variables) -> Result<Rules, Unavailable> {
    let refused = expand(module.refuse_options.as_ref(), variables);
    let filters = filters(module, variables).map_err(|why| Unavailable {
        text: "the filter rules of the module cannot be used".to_owned(),
        log: why,
    })?;
    Ok(Rules {
        refuses_deletes: refused.as_deref().is_some_and(refusals::refuses_deletes),
        refuses_compression: refused.is_some_and(|words| refusals::refuses_compression(&words)),
        max_delete: module.max_delete.as_ref().map(|limit| limit.value),
        filters: filters.map(Box::new),
        fake_super: module.fake_super.value,
        trash: None,
    })
}

/// Where a module keeps what is replaced or removed.
fn trash(module: &Module, grant: &Grant) -> Result<Option<Trash>, Unavailable> {
    let Some(text) = expand(module.trash.as_ref(), &grant.variables) else {
        return Ok(None);
    };
    let place = trash::place(&text, &grant.root).map_err(|why| Unavailable {
        text: "the module's trash cannot be used".to_owned(),
        log: format!("`trash`: {why}"),
    })?;
    Ok(place.map(|place| Trash {
        place,
        keep_s: module
            .trash_keep_s
            .as_ref()
            .map_or(trash::KEEP_DEFAULT_S, |keep| keep.value),
    }))
}

/// The filter rules of a module, if it has any, with the texts of the files they name.
///
/// # Errors
/// A rule that cannot be used, or a file that cannot be read.
pub fn filters(module: &Module, variables: &Variables) -> Result<Option<Filters>, String> {
    let text =
        |value: &Option<Located<Text>>| expand(value.as_ref(), variables).unwrap_or_default();
    let mut filters = Filters {
        filter: text(&module.filter),
        include_from: text(&module.include_from),
        include: text(&module.include),
        exclude_from: text(&module.exclude_from),
        exclude: text(&module.exclude),
        files: Vec::new(),
    };
    let rules = filters.rules();
    if rules.is_empty() {
        return Ok(None);
    }
    let mut files = Vec::new();
    let compiled = Filter::of_daemon(&rules, &mut |path| {
        let text = config::read_rules(path)?;
        let name = path.as_os_str().as_encoded_bytes().to_vec();
        files.push((name, text.clone()));
        Ok(text)
    });
    compiled.map_err(|error| error.to_string())?;
    let sizes = files.iter().map(|(_, text)| text.len());
    if sizes.sum::<usize>() > FILTERS_BYTES_MAX {
        return Err(format!(
            "its files are larger than {FILTERS_BYTES_MAX} bytes together"
        ));
    }
    filters.files = files;
    Ok(Some(filters))
}

/// All files of rules of a module together.
const FILTERS_BYTES_MAX: usize = 512 << 10;

fn expand(text: Option<&Located<Text>>, variables: &Variables) -> Option<Vec<u8>> {
    text.map(|text| text.value.expand(variables))
        .filter(|text| !text.is_empty())
}
