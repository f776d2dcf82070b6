//! Placeholder.

pub mod fs;
