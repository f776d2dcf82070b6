//! Parse, decide, order, count: plain functions and small state machines. No I/O, no clock, no async.

pub mod backoff;
pub mod brake;
pub mod bucket;
pub mod coalesce;
pub mod config;
pub mod cron;
pub mod held;
pub mod packing;
pub use syncd_proto::filter;
pub mod links;
pub mod migrate;
pub mod outbox;
pub mod password;
pub mod plan;
pub mod rate;
pub mod target;
pub mod terms;
pub mod unread;
pub mod uploads;
