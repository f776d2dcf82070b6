//! What blocks on the file system.

pub mod credentials;
pub mod password;
