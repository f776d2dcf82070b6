//! Placeholder.
pub mod logic;
