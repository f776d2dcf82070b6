//! Placeholder.
pub mod fs;
pub mod logic;
pub mod relay;
