//! Files.
pub mod config;
pub mod secrets;
