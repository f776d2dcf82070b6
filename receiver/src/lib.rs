//! Placeholder.
pub mod relay;
