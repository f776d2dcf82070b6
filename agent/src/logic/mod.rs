//! Parse, decide, order, count: plain functions and small state machines. No I/O, no clock, no async.

pub mod coalesce;
pub mod outbox;
pub mod plan;
