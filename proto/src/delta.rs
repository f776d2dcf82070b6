//! Two-tier delta.
