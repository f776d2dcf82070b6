//! Placeholder.

pub mod fs;
pub mod logic;
