//! Everything that touches the disk: it opens the source beneath one root, lists, reads and watches it,
//! and reads the agent's own files.
//!
//! | module | what |
//! |---|---|
//! | [`root`] | the source root, held open; every path is resolved beneath it without following symlinks |
//! | [`scan`] | directory listings and the walk that digests are built from |
//! | [`parallel`] | the same work on many things, by a few threads |
//! | [`read`] | stable reads: the file did not change underneath, or the read says so |
//! | [`ahead`] | stretches of a large file, read and hashed by a second thread |
//! | `attributes` | extended attributes, as far as both sides keep them |
//! | [`accounts`] | names of this machine's users and groups; what the process may see |
//! | [`watch`] | change detection over inotify |
//! | [`rules`] | files of filter rules |
//! | [`credentials`], [`password`] | certificate, key and password files |
//!
//! Nothing here decides what a change means. A path that is gone is an answer (`None`, `Gone`), not a
//! failure: the source is in use while it is read.

pub mod accounts;
pub mod ahead;
mod attributes;
pub mod credentials;
pub mod mounts;
pub mod parallel;
pub mod password;
pub mod read;
pub mod root;
pub mod rules;
pub mod scan;
pub mod watch;
