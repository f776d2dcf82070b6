//! Decisions: plain functions and data, without I/O, clock or randomness.

pub mod backoff;
pub mod config;
pub mod password;
pub mod target;
