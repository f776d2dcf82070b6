//! `syncd-recv`: applies what `syncd-agent` sends, under the rules of an rsyncd.conf.
//!
//! accept -> authenticate -> authorise -> decode -> stage -> commit -> ack
//!
//! | module | what |
//! |---|---|
//! | [`cli`], [`check`], [`explain`], [`logging`], [`error`] | arguments, `check`, `acl explain`, messages, exit codes |
//! | [`front`] | the process that faces the network: who may come in |
//! | [`worker`] | the process that touches one module's files |
//! | [`confine`] | what a worker gives up before it serves |
//! | [`relay`] | what the two say to each other |
//! | [`net`] | sockets, TLS, frames as they pass |
//! | [`logic`] | decisions, without I/O |
//! | [`fs`] | files |
//!
//! Invariants: nothing of a module is touched before certificate, hosts and login have said yes; the
//! front never opens a module's files and the worker never opens a socket of its own; every refusal is
//! told to the agent and logged, and no secret is.

pub mod check;
pub mod cli;
pub mod confine;
pub mod error;
pub mod explain;
pub mod front;
pub mod fs;
pub mod logging;
pub mod logic;
pub mod net;
pub mod relay;
pub mod status;
pub mod worker;
