//! The login, and what follows it: the path, `read only`, the grant.

use std::fmt;

use syncd_proto::message::Purpose;
use syncd_proto::path::escaped;
use syncd_proto::reject::RejectCode;

use super::peer::{Peer, shown};
use super::{Authorization, Grant, Outcome, Refusal, Request, Slot, World, place};
use crate::logic::rsyncd_conf::{Located, Module, Position, Text, Variables, expanded};
use crate::logic::secrets::Secrets;
use crate::logic::users::{self, Access, RuleMatch};

/// Tried in place of a password that is not there, so that it takes the same time.
pub(super) const DECOY: &[u8] = b"no such user has a password";

/// Digests rsync knows for its login.
const LOGIN_DIGESTS: [&[u8]; 5] = [b"sha512", b"sha256", b"sha1", b"md5", b"md4"];

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
            (Ok((access, group)), _, _) => {
                self.note_proved(*access, group.as_deref());
                let login = (self.user, *access);
                return self.entry.conclude(Some(login));
            }
        };
        self.note_failed(&failure);
        self.failed(&failure)
    }

    fn note_proved(&self, access: Option<Access>, group: Option<&[u8]>) {
        let user = escaped(&self.user);
        let at = self.entry.places.auth_users.as_ref();
        self.entry.peer.note(Outcome::Passed, "auth users", at, || {
            let by = group.map_or_else(String::new, |group| format!(" by @{}", escaped(group)));
            format!("a rule matches {user}{by}{}", shown(access))
        });
        let at = self.entry.places.secrets_file.as_ref();
        self.entry
            .peer
            .note(Outcome::Passed, "secrets file", at, || {
                format!("holds a password for {user}")
            });
    }

    fn note_failed(&self, failure: &LoginFailure) {
        use LoginFailure as F;
        let places = &self.entry.places;
        let (what, at) = match failure {
            F::NoUser | F::InvalidUsername | F::NoMatchingRule | F::DeniedByRule => {
                ("auth users", &places.auth_users)
            }
            F::UnknownDigest => ("auth digest", &places.auth_digest),
            F::NoSecretsFile | F::SecretsFile(_) | F::SecretNotFound | F::PasswordMismatch => {
                ("secrets file", &places.secrets_file)
            }
        };
        let text = || match failure {
            F::NoUser => failure.to_string(),
            _ => format!("{failure}: {}", escaped(&self.user)),
        };
        self.entry
            .peer
            .note(Outcome::Refused, what, at.as_ref(), text);
    }

    fn failed(&self, failure: &LoginFailure) -> Authorization {
        let text = format!("auth failed on module {}", escaped(&self.entry.module));
        let peer = &self.entry.peer;
        let user = escaped(&self.user);
        let log = format!("{text} from {} for {user}: {failure}", peer.shown());
        Authorization::Refusal(Refusal::new(RejectCode::AuthFailed, text, log))
    }
}

/// Somebody whom hosts, certificate and limit let pass.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) peer: Peer,
    module: Vec<u8>,
    path: Option<Located<Text>>,
    purpose: Purpose,
    read_only: bool,
    write_only: bool,
    certificate_access: Option<Access>,
    slot: Option<Slot>,
    places: Places,
}

/// Where the parameters stand that are looked at from here on.
#[derive(Debug)]
struct Places {
    auth_users: Option<Position>,
    auth_digest: Option<Position>,
    secrets_file: Option<Position>,
    read_only: Option<Position>,
    write_only: Option<Position>,
}

impl Places {
    fn of(module: &Module) -> Self {
        Self {
            auth_users: place(module.auth_users.as_ref()).cloned(),
            auth_digest: place(module.auth_digest.as_ref()).cloned(),
            secrets_file: place(module.secrets_file.as_ref()).cloned(),
            read_only: module.read_only.position.clone(),
            write_only: module.write_only.position.clone(),
        }
    }
}

impl Entry {
    pub(super) fn new(
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
            places: Places::of(module),
        }
    }

    pub(super) fn note_anonymous(&self, module: &Module) {
        let text = || "not set: nobody has to log in".to_owned();
        let at = place(module.auth_users.as_ref());
        self.peer.note(Outcome::Passed, "auth users", at, text);
    }

    pub(super) fn login(
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
    pub(super) fn conclude(self, login: Option<(Vec<u8>, Option<Access>)>) -> Authorization {
        let (user, user_access) = match login {
            Some((user, access)) => (Some(user), access),
            None => (None, None),
        };
        let access = combined(self.read_only, self.certificate_access, user_access);
        self.note_access(access, user_access);
        let variables = self
            .peer
            .variables
            .clone()
            .with(b"RSYNC_USER_NAME", user.as_deref().unwrap_or_default());
        let Some(root) = root(self.path.as_ref(), &variables) else {
            let text = || "not set, or it leads up".to_owned();
            let at = place(self.path.as_ref());
            self.peer.note(Outcome::Refused, "path", at, text);
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

    fn note_access(&self, access: Access, by_user: Option<Access>) {
        let writes = self.purpose == Purpose::Mirror;
        let by_rule = self.certificate_access.or(by_user).is_some();
        let at = self.places.read_only.as_ref();
        let outcome = if writes && access == Access::ReadOnly {
            Outcome::Refused
        } else {
            Outcome::Passed
        };
        self.peer.note(outcome, "read only", at, || {
            let may = match access {
                Access::ReadOnly => "may not write",
                Access::ReadWrite => "may write",
            };
            if by_rule {
                format!("a rule of `client certs` or `auth users` stands above it: {may}")
            } else {
                may.to_owned()
            }
        });
        if !writes && self.write_only {
            let at = self.places.write_only.as_ref();
            let text = || "nothing may be read, not to compare either".to_owned();
            self.peer.note(Outcome::Refused, "write only", at, text);
        }
    }

    fn refusal(&self, code: RejectCode, text: &str) -> Authorization {
        let name = escaped(&self.module);
        let from = self.peer.shown();
        let log = format!("{text}: module {name} from {from}");
        Authorization::Refusal(Refusal::new(code, text.to_owned(), log))
    }
}

/// What the receiver grants itself, to clear up in a module while nobody is connected; `None` if where the module
/// is depends on who is.
pub fn unasked(module: &Module, variables: &Variables) -> Option<Grant> {
    let variables = variables
        .clone()
        .with(b"RSYNC_MODULE_NAME", &module.name.value);
    let depends = |text: &Option<Located<Text>>| {
        let text = expanded(text.as_ref(), &variables).unwrap_or_default();
        text.windows(7).any(|part| part == b"%RSYNC_")
    };
    if depends(&module.path) || depends(&module.trash) || depends(&module.uid) {
        return None;
    }
    Some(Grant {
        module: module.name.value.clone(),
        root: root(module.path.as_ref(), &variables)?,
        user: None,
        access: Access::ReadWrite,
        host: Vec::new(),
        variables,
        slot: None,
    })
}

/// The strictest of what certificate and user rule say; the module's own where they are silent.
pub(super) fn combined(
    read_only: bool,
    certificate: Option<Access>,
    user: Option<Access>,
) -> Access {
    let said = [certificate, user];
    if said.contains(&Some(Access::ReadOnly)) {
        Access::ReadOnly
    } else if said.contains(&Some(Access::ReadWrite)) || !read_only {
        Access::ReadWrite
    } else {
        Access::ReadOnly
    }
}

/// The module's directory: absolute, without slashes at its end. What a variable stands for may
/// name directories, but not lead up.
fn root(path: Option<&Located<Text>>, variables: &Variables) -> Option<Vec<u8>> {
    let climbs = |path: &[u8]| path.split(|byte| *byte == b'/').any(|name| name == b"..");
    let mut directory = expanded(path, variables)?;
    if climbs(&directory) && !path.is_some_and(|path| climbs(path.value.as_written())) {
        return None;
    }
    while directory.len() > 1 && directory.ends_with(b"/") {
        directory.pop();
    }
    if !directory.starts_with(b"/") {
        directory.insert(0, b'/');
    }
    Some(directory)
}
