//! Who may come in: hosts, certificate, connection limit, login; in this order.
//!
//! [`admit`] goes as far as it can without a password. Where one is needed it gives a [`PendingLogin`],
//! and the caller runs the challenge in between; [`PendingLogin::finish`] then decides. A [`Grant`]
//! cannot be had otherwise. Refusals use rsync's words.

mod journal;
mod login;
mod peer;
mod slots;

use syncd_proto::limits::TEXT_BYTES_MAX;
use syncd_proto::message::Purpose;
use syncd_proto::reject::RejectCode;

use super::hosts::{PeerAddr, Resolver};
use super::rsyncd_conf::{Config, Variables, expanded};
use super::users::{Access, Accounts, CertIdentity};

pub use journal::{Journal, Outcome, Step};
pub use login::{LoginFailure, PendingLogin, unasked};
pub use slots::{HeldPlace, NoSlot, Places, Slot, Slots};

use journal::place;
use login::Entry;
use peer::Peer;

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
    /// Who wants to know why.
    pub journal: &'a Journal,
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

/// Decides what can be decided without a password.
pub fn admit(config: &Config, request: &Request<'_>, world: &World<'_>) -> Admission {
    let mut peer = Peer::connect(config, request, world);
    let Some(module) = config.module(request.module) else {
        let unknown = peer.unknown_module(request.module);
        peer.note(Outcome::Refused, "module", None, || unknown.text.clone());
        return refuse(unknown);
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
        Err(why) => return refuse(peer.no_slot(module, limit, why)),
    };
    peer.note_limit(module);
    let entry = Entry::new(module, request, peer, access, slot);
    match expanded(module.auth_users.as_ref(), &entry.peer.variables) {
        None => {
            entry.note_anonymous(module);
            Admission::Decided(entry.conclude(None))
        }
        Some(rules) => Admission::Challenge(Box::new(entry.login(module, request, &rules, world))),
    }
}

impl Refusal {
    /// The peer's text is cut to what a message can carry.
    fn new(code: RejectCode, mut text: String, log: String) -> Self {
        while text.len() > TEXT_BYTES_MAX {
            text.pop();
        }
        Self { code, text, log }
    }
}

fn refuse(refusal: Refusal) -> Admission {
    Admission::Decided(Authorization::Refusal(refusal))
}

#[cfg(test)]
mod tests;
