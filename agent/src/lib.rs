//! `syncd-agent`: mirrors a directory tree to `syncd-recv` as it changes.
//!
//! Data flows one way, and each step is a type of its own:
//!
//! | step | where |
//! |---|---|
//! | watch | [`fs::watch`], [`fs::scan`] |
//! | coalesce | [`logic::coalesce`] |
//! | plan | [`logic::plan`] |
//! | read, delta | [`fs::read`], [`pipeline::delta`] |
//! | send, ack | [`net::link`], [`logic::outbox`] |
//!
//! [`pipeline`] knows the whole order; nothing else does. Around it:
//!
//! | module | what |
//! |---|---|
//! | [`control`] | the socket through which a running agent is asked |
//! | [`cli`], [`commands`] | arguments, and carrying them out |
//! | [`error`] | what ends the program or a session, and what to do about it |

pub mod cli;
pub mod commands;
pub mod control;
pub mod error;
pub mod fs;
pub mod logic;
pub mod net;
pub mod pipeline;
