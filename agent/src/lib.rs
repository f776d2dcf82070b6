//! `syncd-agent`: mirrors a directory tree to `syncd-recv` as it changes.
//!
//! | module | room |
//! |---|---|
//! | [`logic`] | decides: configuration, destinations, delays; no I/O |
//! | [`fs`] | blocks on the file system |
//! | [`net`] | sockets and TLS |
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
