//! Who may come in: hosts, certificate, connection limit, login; in this order.
//!
//! [`admit`] goes as far as it can without a password. Where one is needed it gives a [`PendingLogin`],
//! and the caller runs the challenge in between; [`PendingLogin::finish`] then decides. A [`Grant`]
//! cannot be had otherwise. Refusals use rsync's words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use syncd_proto::message::Purpose;
use syncd_proto::path::escaped;
use syncd_proto::reject::RejectCode;

use super::hosts::{self, PeerAddr, Resolver, Verdict};
use super::rsyncd_conf::{Config, Located, Module, Text, Variables, expanded};
use super::secrets::Secrets;
use super::users::{self, Access, Accounts, CertIdentity, CertRules, RuleMatch};

/// Tried in place of a password that is not there, so that it takes the same time.
const DECOY: &[u8] = b"no such user has a password";

/// Digests rsync knows for its login.
const LOGIN_DIGESTS: [&[u8]; 5] = [b"sha512", b"sha256", b"sha1", b"md5", b"md4"];

/// What a peer asks for, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its address.
    pub peer: PeerAddr,
    /// The names in its certificate.
    pub identities: &'a [CertIdentity],
    /// The module it names.
    pub module: &'a [u8],
    /// The user it says it is.
    pub user: Option<&'a [u8]>,
    /// What it wants to do.
    pub purpose: Purpose,
}

/// What a decision may ask.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// Names and addresses.
    pub resolver: &'a dyn Resolver,
    /// Accounts.
    pub accounts: &'a dyn Accounts,
    /// Connections held.
    pub slots: &'a Slots,
}

/// How far a request came without a password.
#[derive(Debug)]
#[must_use]
pub enum Admission {
    /// The peer has to log in.
    Challenge(Box<PendingLogin>),
    /// Nothing more is needed.
    Decided(Authorization),
}

/// The decision.
#[derive(Debug)]
#[must_use]
pub enum Authorization {
    /// Come in.
    Grant(Box<Grant>),
    /// Go away.
    Refusal(Refusal),
}

/// What a peer may do.
#[derive(Debug)]
#[must_use]
pub struct Grant {
    /// The module's name.
    pub module: Vec<u8>,
    /// Its directory, absolute.
    pub root: Vec<u8>,
    /// Who logged in; `None` if nobody had to.
    pub user: Option<Vec<u8>>,
    /// What it may do.
    pub access: Access,
    /// The peer's name as far as it is known.
    pub host: Vec<u8>,
    /// What `%VAR%` in the module's text stands for in this session.
    pub variables: Variables,
    /// Its place among `max connections`, free again when dropped.
    pub slot: Option<Slot>,
}

/// Why a peer is turned away.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Refusal {
    /// For programs.
    pub code: RejectCode,
    /// For the peer.
    pub text: String,
    /// For the log: more than the peer may know.
    pub log: String,
}

/// Why a login failed. The peer is never told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginFailure {
    /// It named no user.
    NoUser,
    /// Nobody can have this name.
    InvalidUsername,
    /// No rule of `auth users` matches.
    NoMatchingRule,
    /// A `:deny` rule matches.
    DeniedByRule,
    /// `auth digest` names no digest.
    UnknownDigest,
    /// `secrets file` is not set.
    NoSecretsFile,
    /// The secrets file cannot be used.
    SecretsFile(String),
    /// The secrets file has no line for the user, or one with an empty password.
    SecretNotFound,
    /// The answer is wrong.
    PasswordMismatch,
}

impl fmt::Display for LoginFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoUser => "no user name given",
            Self::InvalidUsername => "invalid username",
            Self::NoMatchingRule => "no matching rule",
            Self::DeniedByRule => "denied by rule",
            Self::UnknownDigest => "unknown auth digest",
            Self::NoSecretsFile => "no secrets file",
            Self::SecretsFile(why) => return write!(f, "ignoring secrets file: {why}"),
            Self::SecretNotFound => "secret not found",
            Self::PasswordMismatch => "password mismatch",
        })
    }
}

impl std::error::Error for LoginFailure {}

/// Decides what can be decided without a password.
pub fn admit(config: &Config, request: &Request<'_>, world: &World<'_>) -> Admission {
    let mut peer = Peer::connect(config, request, world);
    let Some(module) = config.module(request.module) else {
        return refuse(peer.unknown_module(request.module));
    };
    peer.enter(module, world);
    let step = || {
        peer.check_hosts(module, world)?;
        peer.check_served(module)?;
        peer.check_certificate(module, request.identities)
    };
    let access = match step() {
        Ok(access) => access,
        Err(refusal) => return refuse(refusal),
    };
    let limit = module.max_connections.value;
    let lock = module.lock_file.value.expand(&peer.variables);
    let slot = match world.slots.take(&lock, limit) {
        Ok(slot) => slot,
        Err(Full) => return refuse(peer.too_many(module, limit)),
    };
    let entry = Entry::new(module, request, peer, access, slot);
    match expanded(module.auth_users.as_ref(), &entry.peer.variables) {
        None => Admission::Decided(entry.conclude(None)),
        Some(rules) => Admission::Challenge(Box::new(entry.login(module, request, &rules, world))),
    }
}

fn refuse(refusal: Refusal) -> Admission {
    Admission::Decided(Authorization::Refusal(refusal))
}

/// What is known of the other side, for messages and variables.
#[derive(Debug)]
struct Peer {
    address: PeerAddr,
    host: Vec<u8>,
    variables: Variables,
}

impl Peer {
    fn connect(config: &Config, request: &Request<'_>, world: &World<'_>) -> Self {
        let host = if config.globals.reverse_lookup {
            hosts::client_name(request.peer, world.resolver)
        } else {
            hosts::UNDETERMINED.to_vec()
        };
        Self {
            address: request.peer,
            host,
            variables: config.variables.clone(),
        }
    }

    /// The module's own wish for a look-up, and the variables known from here on.
    fn enter(&mut self, module: &Module, world: &World<'_>) {
        if module.reverse_lookup.value && self.host == hosts::UNDETERMINED {
            self.host = hosts::client_name(self.address, world.resolver);
        }
        let address = self.address.ip().to_string();
        self.variables = std::mem::take(&mut self.variables)
            .with(b"RSYNC_MODULE_NAME", &module.name.value)
            .with(b"RSYNC_HOST_NAME", &self.host)
            .with(b"RSYNC_HOST_ADDR", address.as_bytes());
    }

    fn from(&self, host: &[u8]) -> String {
        format!("{} ({})", escaped(host), self.address.ip())
    }

    fn unknown_module(&self, module: &[u8]) -> Refusal {
        let module = escaped(module);
        Refusal {
            code: RejectCode::UnknownModule,
            text: format!("Unknown module '{module}'"),
            log: format!(
                "unknown module '{module}' tried from {}",
                self.from(&self.host)
            ),
        }
    }

    /// A refusal, told as if the module did not exist if it is not listed.
    fn denied(&self, module: &Module, code: RejectCode, text: String, log: String) -> Refusal {
        if module.list.value {
            Refusal { code, text, log }
        } else {
            Refusal {
                log,
                ..self.unknown_module(&module.name.value)
            }
        }
    }

    fn check_hosts(&self, module: &Module, world: &World<'_>) -> Result<(), Refusal> {
        self.check_lists(module)?;
        let allow = expanded(module.hosts_allow.as_ref(), &self.variables);
        let deny = expanded(module.hosts_deny.as_ref(), &self.variables);
        let rules = hosts::Rules {
            allow: allow.as_deref(),
            deny: deny.as_deref(),
            forward_lookup: module.forward_lookup.value,
        };
        match hosts::decide(rules, self.address, &self.host, world.resolver) {
            Verdict::Accept => Ok(()),
            Verdict::Refuse { shown } => {
                let name = escaped(&module.name.value);
                let from = self.from(&shown);
                let text = format!("access denied to {name} from {from}");
                let log = format!("denied on module {name} from {from}");
                Err(self.denied(module, RejectCode::HostDenied, text, log))
            }
        }
    }

    /// A list that is written but comes to nothing, because a variable is empty, protects nothing.
    fn check_lists(&self, module: &Module) -> Result<(), Refusal> {
        let lists = [
            ("hosts allow", &module.hosts_allow),
            ("hosts deny", &module.hosts_deny),
            ("auth users", &module.auth_users),
            ("client certs", &module.client_certs),
        ];
        for (name, list) in lists {
            if comes_to_nothing(list.as_ref(), &self.variables) {
                return Err(self.unavailable(module, &format!("`{name}` comes to nothing")));
            }
        }
        Ok(())
    }

    fn check_served(&self, module: &Module) -> Result<(), Refusal> {
        match module.refusals.first() {
            None => Ok(()),
            Some(reason) => Err(self.unavailable(module, &reason.to_string())),
        }
    }

    fn check_certificate(
        &self,
        module: &Module,
        identities: &[CertIdentity],
    ) -> Result<Option<Access>, Refusal> {
        let Some(list) = expanded(module.client_certs.as_ref(), &self.variables) else {
            return Ok(None);
        };
        let rules = match CertRules::parse(&list) {
            Ok(rules) => rules,
            Err(error) => return Err(self.unavailable(module, &error.to_string())),
        };
        let reason = match rules.find(identities) {
            RuleMatch::Allowed { access, .. } => return Ok(access),
            RuleMatch::Denied => "denied by rule",
            RuleMatch::NoRule => "no matching rule",
        };
        let name = escaped(&module.name.value);
        let names: Vec<String> = identities.iter().map(ToString::to_string).collect();
        let text = format!("certificate not allowed on module {name}");
        let from = self.from(&self.host);
        let log = format!("{text} from {from} for {}: {reason}", names.join(", "));
        Err(self.denied(module, RejectCode::CertificateDenied, text, log))
    }

    fn unavailable(&self, module: &Module, why: &str) -> Refusal {
        let name = escaped(&module.name.value);
        let from = self.from(&self.host);
        let text = format!("module {name} is not available");
        let log = format!("module {name} is not served to {from}: {why}");
        self.denied(module, RejectCode::ModuleUnavailable, text, log)
    }

    fn too_many(&self, module: &Module, limit: i32) -> Refusal {
        let name = escaped(&module.name.value);
        let text = format!("max connections ({limit}) reached -- try again later");
        Refusal {
            code: RejectCode::TooManyConnections,
            log: format!("{text}: module {name} from {}", self.from(&self.host)),
            text,
        }
    }
}

fn comes_to_nothing(list: Option<&Located<Text>>, variables: &Variables) -> bool {
    list.is_some_and(|list| {
        !list.value.as_written().is_empty() && list.value.expand(variables).is_empty()
    })
}

/// Somebody whom hosts, certificate and limit let pass.
#[derive(Debug)]
struct Entry {
    peer: Peer,
    module: Vec<u8>,
    path: Option<Located<Text>>,
    purpose: Purpose,
    read_only: bool,
    write_only: bool,
    certificate_access: Option<Access>,
    slot: Option<Slot>,
}

impl Entry {
    fn new(
        module: &Module,
        request: &Request<'_>,
        peer: Peer,
        certificate_access: Option<Access>,
        slot: Option<Slot>,
    ) -> Self {
        Self {
            peer,
            module: module.name.value.clone(),
            path: module.path.clone(),
            purpose: request.purpose,
            read_only: module.read_only.value,
            write_only: module.write_only.value,
            certificate_access,
            slot,
        }
    }

    fn login(
        self,
        module: &Module,
        request: &Request<'_>,
        rules: &[u8],
        world: &World<'_>,
    ) -> PendingLogin {
        let user = request.user.unwrap_or_default().to_vec();
        let secrets_file = expanded(module.secrets_file.as_ref(), &self.peer.variables);
        let digest = expanded(module.auth_digest.as_ref(), &self.peer.variables);
        let known_digest = digest.is_none_or(|digest| {
            LOGIN_DIGESTS
                .iter()
                .any(|known| known.eq_ignore_ascii_case(&digest))
        });
        let verdict = match users::match_user(rules, &user, world.accounts) {
            _ if request.user.is_none() => Err(LoginFailure::NoUser),
            _ if !users::is_user_name(&user) => Err(LoginFailure::InvalidUsername),
            _ if !known_digest => Err(LoginFailure::UnknownDigest),
            RuleMatch::NoRule => Err(LoginFailure::NoMatchingRule),
            RuleMatch::Denied => Err(LoginFailure::DeniedByRule),
            RuleMatch::Allowed { access, group } => Ok((access, group)),
        };
        PendingLogin {
            entry: self,
            user,
            verdict,
            secrets_file,
            strict_modes: module.strict_modes.value,
        }
    }

    /// The last checks, and the grant.
    fn conclude(self, login: Option<(Vec<u8>, Option<Access>)>) -> Authorization {
        let (user, user_access) = match login {
            Some((user, access)) => (Some(user), access),
            None => (None, None),
        };
        let access = combined(self.read_only, self.certificate_access, user_access);
        let variables = self
            .peer
            .variables
            .clone()
            .with(b"RSYNC_USER_NAME", user.as_deref().unwrap_or_default());
        let Some(root) = root(self.path.as_ref(), &variables) else {
            return self.refusal(RejectCode::ModuleUnavailable, "no path setting.");
        };
        let writes = self.purpose == Purpose::Mirror;
        if writes && access == Access::ReadOnly {
            return self.refusal(RejectCode::ReadOnly, "module is read only");
        }
        if !writes && self.write_only {
            return self.refusal(RejectCode::ModuleUnavailable, "module is write only");
        }
        Authorization::Grant(Box::new(Grant {
            module: self.module,
            root,
            user,
            access,
            host: self.peer.host,
            variables,
            slot: self.slot,
        }))
    }

    fn refusal(&self, code: RejectCode, text: &str) -> Authorization {
        let name = escaped(&self.module);
        let from = self.peer.from(&self.peer.host);
        Authorization::Refusal(Refusal {
            code,
            text: text.to_owned(),
            log: format!("{text}: module {name} from {from}"),
        })
    }
}

/// The strictest of what certificate and user rule say; the module's own where they are silent.
fn combined(read_only: bool, certificate: Option<Access>, user: Option<Access>) -> Access {
    let said = [certificate, user];
    if said.contains(&Some(Access::ReadOnly)) {
        Access::ReadOnly
    } else if said.contains(&Some(Access::ReadWrite)) || !read_only {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    }
}

/// The module's directory: absolute, without slashes at its end.
fn root(path: Option<&Located<Text>>, variables: &Variables) -> Option<Vec<u8>> {
    let mut path = expanded(path, variables)?;
    while path.len() > 1 && path.ends_with(b"/") {
        path.pop();
    }
    if !path.starts_with(b"/") {
        path.insert(0, b'/');
    }
    Some(path)
}

/// Somebody who has to prove a password first. The way is the same whether the user exists or not:
/// challenge, read the secrets file if there is one, [`finish`](Self::finish).
#[derive(Debug)]
#[must_use]
pub struct PendingLogin {
    entry: Entry,
    user: Vec<u8>,
    verdict: Result<(Option<Access>, Option<Vec<u8>>), LoginFailure>,
    secrets_file: Option<Vec<u8>>,
    strict_modes: bool,
}

impl PendingLogin {
    /// The secrets file to read, and whether `strict modes` apply to it.
    #[must_use]
    pub fn secrets_file(&self) -> Option<(&[u8], bool)> {
        Some((self.secrets_file.as_deref()?, self.strict_modes))
    }

    /// Decides. `verify` says whether the peer's answer was made with a password; it is called twice,
    /// with a decoy where there is no password. `secrets` is the file's content, or why there is none.
    pub fn finish(
        self,
        secrets: Result<&Secrets, String>,
        mut verify: impl FnMut(&[u8]) -> bool,
    ) -> Authorization {
        let found = secrets.as_ref().ok();
        let group = self
            .verdict
            .as_ref()
            .ok()
            .and_then(|(_, group)| group.as_deref());
        let passwords = [
            found.and_then(|secrets| secrets.user(&self.user)),
            found.and_then(|secrets| secrets.group(group?)),
        ]
        .map(|password| password.filter(|password| !password.is_empty()));
        let mut proved = false;
        for password in passwords {
            let answered = verify(password.unwrap_or(DECOY));
            proved |= answered & password.is_some();
        }
        let nothing_found = passwords.iter().all(Option::is_none);
        let failure = match (&self.verdict, &self.secrets_file, secrets) {
            (Err(failure), _, _) => failure.clone(),
            (_, None, _) => LoginFailure::NoSecretsFile,
            (_, _, Err(why)) => LoginFailure::SecretsFile(why),
            _ if nothing_found => LoginFailure::SecretNotFound,
            _ if !proved => LoginFailure::PasswordMismatch,
            (Ok((access, _)), _, _) => {
                let login = (self.user, *access);
                return self.entry.conclude(Some(login));
            }
        };
        self.failed(&failure)
    }

    fn failed(&self, failure: &LoginFailure) -> Authorization {
        let text = format!("auth failed on module {}", escaped(&self.entry.module));
        let peer = &self.entry.peer;
        let user = escaped(&self.user);
        Authorization::Refusal(Refusal {
            code: RejectCode::AuthFailed,
            log: format!(
                "{text} from {} for {user}: {failure}",
                peer.from(&peer.host)
            ),
            text,
        })
    }
}

/// Connections held, as rsync counts them: modules that name the same lock file share its slots, and
/// each may use the first so many. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Slots(Arc<Mutex<BTreeMap<Vec<u8>, BTreeSet<i32>>>>);

/// No slot is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// One connection's place; free again when dropped.
#[derive(Debug)]
#[must_use]
pub struct Slot {
    slots: Slots,
    lock: Vec<u8>,
    number: i32,
}

impl Slots {
    /// The first free slot below `limit`. 0 is no limit and takes none; a negative limit is full.
    ///
    /// # Errors
    /// [`Full`] if there is none.
    pub fn take(&self, lock: &[u8], limit: i32) -> Result<Option<Slot>, Full> {
        if limit == 0 {
            return Ok(None);
        }
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = held.entry(lock.to_vec()).or_default();
        let number = (0..limit)
            .find(|number| !taken.contains(number))
            .ok_or(Full)?;
        taken.insert(number);
        Ok(Some(Slot {
            slots: self.clone(),
            lock: lock.to_vec(),
            number,
        }))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = held.get_mut(&self.lock) {
            taken.remove(&self.number);
            if taken.is_empty() {
                held.remove(&self.lock);
            }
        }
    }
}

#[cfg(test)]
mod tests;
