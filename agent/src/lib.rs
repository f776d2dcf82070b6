//! `syncd-agent`: mirrors a directory tree to `syncd-recv` as it changes.
//!
//! | module | room |
//! |---|---|
//! | [`logic`] | decides: configuration, destinations, delays; no I/O |
//! | [`fs`] | blocks on the file system |
//! | [`net`] | sockets and TLS |

pub mod fs;
pub mod logic;
pub mod net;
