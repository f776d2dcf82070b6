//! Placeholder.
pub mod logic;
pub mod relay;
