//! Everything of the receiver that touches a disk, blocking.
//!
//! | module | what |
//! |---|---|
//! | [`root`] | opens beneath a module root, by descriptor; no symlink leads out |
//! | [`area`] | `.syncd`: temporary names, leftovers, what is being deleted |
//! | [`elsewhere`] | staging areas of file systems mounted below a module |
//! | [`attic`] | `trash`: versions that were replaced or removed |
//! | [`nameless`], [`nest`] | small files that get no name before their own |
//! | [`stage`] | transfers: content with its length and digest checked |
//! | [`known`] | versions whose content was verified here |
//! | [`apply`] | one operation at a time: names change |
//! | [`commit`] | groups of commits: data sync, operations in order, directory sync |
//! | [`touched`] | what must be synced before it can be acknowledged |
//! | [`recover`] | at start: what a crash left; and the deletion of whole trees |
//! | [`fake`] | what cannot be made is said in an attribute |
//! | [`guard`], [`hidden`] | what a module forbids, and what it hides |
//! | [`meta`], [`ids`] | metadata: read, mapped, set |
//! | [`tree`], [`signature`] | what an agent may ask of the tree |
//! | [`config`], [`secrets`], [`lock_file`], [`logbook`], [`pid_file`], [`control_socket`] | the front's own files |
//! | [`parallel`] | the same work on many things, by a few threads |
//! | [`refusal`] | errno to the closed list of reasons a peer is told |

pub mod apply;
pub mod area;
pub mod attic;
pub mod attributes;
pub mod commit;
pub mod config;
pub mod control_socket;
pub mod elsewhere;
pub mod fake;
pub mod guard;
pub mod hidden;
pub mod ids;
pub mod known;
pub mod lock_file;
pub mod logbook;
pub mod meta;
pub mod nameless;
pub mod nest;
pub mod own;
pub mod parallel;
pub mod pid_file;
pub mod prepare;
pub mod recover;
pub mod refusal;
pub mod root;
pub mod secrets;
pub mod signature;
pub mod stage;
pub mod touched;
pub mod tree;
pub mod trusted;
