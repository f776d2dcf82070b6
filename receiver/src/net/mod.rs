//! Everything that awaits a socket: listening, TLS, frames, name look-ups, the pair to a worker.
//!
//! Nothing here decides who may do what, and nothing here touches a module's files.

pub mod connection;
pub mod gate;
pub mod listen;
pub mod relay_io;
pub mod resolver;
pub mod tls;
