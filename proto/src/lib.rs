//! The `syncd/1` protocol: what an agent and a receiver say to each other, and nothing about how they
//! get the bytes or what they do with a disk.
//!
//! Everything here is plain data and small state machines. There is no I/O, no clock, no randomness
//! and no async: nonces, time and channel secrets come in as arguments, frames go in and come out.
//!
//! | module | what |
//! |---|---|
//! | [`limits`] | every maximum on the wire, with its reason |
//! | [`codec`] | bincode behind `encode`/`decode`, with a limit and no byte left over |
//! | [`frame`] | header and incremental deframer |
//! | [`message`] | one enum per direction |
//! | [`path`], [`meta`], [`attributes`], [`digest`] | the values messages are made of |
//! | [`op`] | the operations of a commit |
//! | [`chain`] | the signed commit chain |
//! | [`auth`] | the password challenge |
//! | [`merkle`], [`tree`] | directory digests, for reconcile and verify |
//! | [`delta`] | two-tier delta |
//! | [`accounts`], [`wildmatch`] | account files and rsync's wildcards, which both programs read |
//! | [`filter`] | rsync's include, exclude and filter rules: the agent's and those of a module |
//! | [`pack`], [`spares`] | compressed payloads, and buffers of payloads |
//! | [`exposition`] | the text of metrics, which both programs print |
//! | [`exchange`] | both sides of a session, one step at a time |
//!
//! Invariants: a decoded value is valid (no path that climbs, no nanosecond above 999,999,999, no list
//! above its limit); decoding never allocates more than the limit of its frame; nothing panics on any
//! input; what was signed is the received bytes, never a re-encoding.

pub mod accounts;
pub mod attributes;
pub mod auth;
pub mod chain;
pub mod codec;
pub mod delta;
pub mod digest;
pub mod error;
pub mod exchange;
pub mod exposition;
pub mod filter;
pub mod frame;
pub mod limits;
pub mod links;
pub mod merkle;
pub mod message;
pub mod meta;
pub mod op;
pub mod pack;
pub mod path;
pub mod reject;
pub mod spares;
pub mod tree;
pub mod wildmatch;

/// ALPN protocol name; a TLS peer that does not offer it is not one of ours.
pub const ALPN: &[u8] = b"syncd/1";

/// Protocol version this crate speaks.
pub const VERSION: u16 = 1;

/// Label of the TLS exporter that names a session (RFC 9266, `tls-exporter`).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// Name reserved at the root of a module for the receiver's own staging area.
pub const RESERVED_NAME: &[u8] = b".syncd";
