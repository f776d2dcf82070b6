//! `syncd-agent`: mirrors a directory tree to `syncd-recv` as it changes.
//!
//! Data flows one way, and each step is a type of its own:
//!
//! | step | where |
//! |---|---|
//! | watch | [`fs::watch`], [`fs::scan`] |
//! | coalesce | [`logic::coalesce`] |
//! | plan | [`logic::plan`] |
//! | read, delta | [`fs::read`], [`pipeline`] |
//! | send, ack | [`net::link`], [`logic::outbox`] |
//!
//! [`pipeline`] knows the whole order; nothing else does.

pub mod control;
pub mod fs;
pub mod logic;
pub mod net;
pub mod pipeline;
