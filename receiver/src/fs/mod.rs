//! The files the receiver reads and writes, blocking.

pub mod config;
pub mod secrets;
mod trusted;
