//! What front and worker say to each other over their socket pair.
//!
//! The front starts one worker per active module: the same binary, re-executed, with a Unix stream
//! socket as its standard input. On it travel length-prefixed messages of these types; `Open` carries
//! one descriptor beside it, the worker's end of a second socket pair on which the session's frames
//! then flow, as they are on the wire. The worker is the only one to write frames to the agent from
//! `Welcome` on; the front copies bytes. [`crate::net::relay_io`] is the wire form.
//!
//! The end of the front's messages tells the worker to finish and exit. After `Close` or `Drain` the
//! front may have stopped reading from the agent, so the worker ends the session by closing its
//! descriptor and does not wait for the agent to do so.

use bincode::{Decode, Encode};
use syncd_proto::attributes::Attributes;
use syncd_proto::digest::Digest;
use syncd_proto::filter::{DaemonRules, Filter, FilterError};
use syncd_proto::message::{Durability, Purpose};
use syncd_proto::op::IdName;
use syncd_proto::path::WirePath;

use crate::fs::logbook::Target;
use crate::logic::removals::MaxDelete;
use crate::logic::transfer_log::Who;
use crate::logic::trash::Trash;

/// Which user and groups a worker becomes before it reads anything from the network.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RunAs {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// How a module's path is made the root of everything the worker can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Chroot {
    /// `use chroot = yes`: must succeed.
    Required,
    /// Unset: tried; if not permitted, logged and off.
    Tried,
    /// `use chroot = no`.
    Off,
}

/// Everything a worker must know of its module.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ModuleSetup {
    /// Name as configured.
    pub name: Vec<u8>,
    /// Its `path`, absolute.
    pub path: Vec<u8>,
    /// Identity to take; `None` stays as started (not root).
    pub run_as: Option<RunAs>,
    /// Chroot.
    pub chroot: Chroot,
    /// Durability of acknowledgements.
    pub durability: Durability,
    /// Whether several agents may write to the same sub-path.
    pub shared_writers: bool,
    /// Whether a directory symlink inside the module may be walked through.
    pub keep_dirlinks: bool,
    /// Whether devices are made, if the process may.
    pub devices: bool,
    /// Whether ids are kept as numbers; otherwise the agent's names are looked up.
    pub numeric_ids: bool,
    /// `munge symlinks`; unset depends on whether the chroot took.
    pub munge_symlinks: Option<bool>,
    /// What it forbids.
    pub rules: Rules,
    /// `incoming chmod` as written, checked at load.
    pub incoming_chmod: Option<Vec<u8>>,
    /// Where the lines of its transfers go: the front's affair.
    pub log: Target,
    /// Seconds without a sign of life after which a session ends; 0 is the default of 60.
    pub timeout_s: u32,
}

/// What a module forbids and keeps in its own way, whoever asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Rules {
    /// Whether `refuse options` names the deletes.
    pub refuses_deletes: bool,
    /// Whether it names compression.
    pub refuses_compression: bool,
    /// `max delete`.
    pub max_delete: Option<MaxDelete>,
    /// Its filter rules.
    pub filters: Option<Box<Filters>>,
    /// Whether what cannot be made is said in an attribute.
    pub fake_super: bool,
    /// Where versions that are replaced or removed are kept, if they are.
    pub trash: Option<Box<Trash>>,
}

/// The filter rules of a module, and the texts of all files they name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Filters {
    /// `filter`.
    pub filter: Vec<u8>,
    /// `include from`.
    pub include_from: Vec<u8>,
    /// `include`.
    pub include: Vec<u8>,
    /// `exclude from`.
    pub exclude_from: Vec<u8>,
    /// `exclude`.
    pub exclude: Vec<u8>,
    /// Names and texts.
    pub files: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Filters {
    /// The rules alone.
    #[must_use]
    pub fn rules(&self) -> DaemonRules {
        DaemonRules {
            filter: self.filter.clone(),
            include_from: self.include_from.clone(),
            include: self.include.clone(),
            exclude_from: self.exclude_from.clone(),
            exclude: self.exclude.clone(),
        }
    }

    /// The rules compiled with these texts.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn compile(&self) -> Result<Filter, FilterError> {
        Filter::of_daemon(&self.rules(), &mut |file| {
            let name = file.as_os_str().as_encoded_bytes();
            let found = self.files.iter().find(|(known, _)| known == name);
            found
                .map(|(_, text)| text.clone())
                .ok_or_else(|| "it was not read".to_owned())
        })
    }
}

/// A session handed to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SessionOpen {
    /// Number of the session, chosen by the front.
    pub id: u64,
    /// Who it is, for messages and the second writer's refusal: identity, user, address.
    pub label: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Root of the mirror within the module.
    pub sub_path: WirePath,
    /// Features it has.
    pub features: u64,
    /// Extended attributes it wants to mirror.
    pub attributes: Attributes,
    /// Whether it may write.
    pub writable: bool,
    /// Number of the next frame to send.
    pub next_out: u64,
    /// Number of the next frame to come.
    pub next_in: u64,
    /// TLS exporter.
    pub session: [u8; 32],
    /// The receiver's proof for `Welcome`.
    pub proof: Option<Digest>,
    /// What the lines of its transfers say of it, if there are to be any.
    pub log: Option<Who>,
    /// The agent's end-entity certificate, DER: its key signs the commits.
    pub certificate: Vec<u8>,
}

/// What tells one copy of a module from another, as when a disk is not mounted where it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Whereabouts {
    /// The name of the copy, kept in its staging area.
    pub instance: [u8; 16],
    /// Device of its root.
    pub device: u64,
    /// Inode of its root.
    pub inode: u64,
}

/// From front to worker.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ToWorker {
    /// First message.
    Setup(ModuleSetup),
    /// The copy that an earlier worker served: no other one is.
    Expect(Whereabouts),
    /// A session; its descriptor comes with this message.
    Open(SessionOpen),
    /// End one session: finish what was received, say `Draining` with this text, close.
    Close {
        /// Which.
        id: u64,
        /// Why, for the agent.
        text: String,
    },
    /// The numbers of users and groups that were asked for; `None` where there is no such name.
    Numbers {
        /// Which question.
        ticket: u64,
        /// In its order.
        numbers: Vec<Option<u32>>,
    },
    /// End all sessions likewise and exit.
    Drain {
        /// Why, for the agents.
        text: String,
    },
}

/// From worker to front.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum FromWorker {
    /// Set up and waiting.
    Ready,
    /// It cannot serve the module: why. It exits.
    Failed {
        /// rsync's words where it has them, for the agent.
        text: String,
        /// The whole reason, for the log.
        log: String,
    },
    /// It writes to this copy of the module.
    Serving(Whereabouts),
    /// What it opened is not the module, or not any more: another worker has to look again.
    Misplaced,
    /// Asks for the numbers of users and groups: a worker may be where no name can be looked up.
    Names {
        /// Number of the question.
        ticket: u64,
        /// Whose.
        names: Vec<IdName>,
    },
    /// What was done, in lines for the module's log.
    Log(Vec<String>),
    /// A session is over; nothing of it remains open.
    Ended {
        /// Which.
        id: u64,
        /// Bytes of content installed.
        content_bytes: u64,
        /// Operations applied.
        ops: u64,
        /// Why it ended, for the log.
        text: String,
    },
}
