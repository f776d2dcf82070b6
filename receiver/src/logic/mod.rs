//! Decisions: what `rsyncd.conf` says, and who may do what.
//!
//! Nothing here touches a file, a socket, a clock or a resolver. Names, addresses, groups and file
//! contents come in as values, or through the traits [`hosts::Resolver`], [`users::Accounts`] and
//! [`rsyncd_conf::ConfigSource`], which other rooms implement.

pub mod authorize;
pub mod chmod;
pub mod fake_super;
pub mod hook;
pub mod hosts;
pub mod ledger;
pub mod munge;
pub mod overhear;
pub mod proxy;
pub mod refusals;
pub mod removals;
pub mod rsyncd_conf;
pub mod secrets;
pub mod transfer_log;
pub mod trash;
pub mod users;
