//! Sockets and TLS: how an agent gets a session, and how frames travel on it.

mod connect_error;
pub mod framing;
pub mod handshake;
pub mod link;
pub mod threads;
pub mod tls;
