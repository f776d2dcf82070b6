//! Everything that touches the disk of the source: it opens beneath one root, lists, reads and watches.
//!
//! | module | what |
//! |---|---|
//! | [`root`] | the source root, held open; every path is resolved beneath it without following symlinks |
//! | [`scan`] | directory listings and the walk that digests are built from |
//! | [`read`] | stable reads: the file did not change underneath, or the read says so |
//! | [`watch`] | inotify events of single directories, through two backends |
//!
//! Nothing here decides what a change means. A path that is gone is an answer (`None`, `Gone`), not a
//! failure: the source is in use while it is read.

pub mod read;
pub mod root;
pub mod scan;
pub mod watch;
