//! What other programs' settings become here: text in, a [`Draft`] of an `agent.toml` out, with a remark on each
//! setting that was read.
//!
//! Nothing is guessed in silence: what cannot be translated, or not be read at all, is a remark too, with its
//! line. Files are read by the caller.

mod draft;
mod flags;
mod lsyncd;
mod lua;
mod pattern;
mod place;
mod script;
mod sersync;
mod shell;
mod toml;

pub use draft::{At, Draft, Remark, SourceDraft, TargetDraft, Verdict};
pub use lsyncd::read as lsyncd;
pub use script::read as script;
pub use sersync::read as sersync;

/// So much of a file is read, in bytes.
pub const INPUT_BYTES_MAX: u64 = 1 << 20;
