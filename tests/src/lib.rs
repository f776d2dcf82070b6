//! The harness of the black-box tests: both programs as real processes, real directories, real certificates.
//!
//! - [`Sandbox`]: a temporary directory with a source, a destination, certificates and a configuration
//! - [`Receiver`], [`Agent`]: child processes that are killed and reaped when they go out of scope
//! - [`Control`]: questions to a running agent
//! - [`proxy`]: cuts connections between them
//! - [`tree`]: compares two directory trees, strictly; written apart from the programs, so that their errors are
//!   not its errors
//! - [`workload`]: changes to a tree, random ones by seed and the habits of known programs
//! - [`isolate`], [`volume`]: tests that mount things, in namespaces of their own
//! - [`queue`]: the kernel's queue of events, made short
//! - [`wait_until`], [`wait_for`], [`wait_growing`]: the only places where time passes
//!
//! It panics where a test should fail, with the reason and, through the processes' destructors, their logs.

pub mod binaries;
pub mod conf;
pub mod control;
pub mod isolate;
pub mod port;
mod process;
pub mod programs;
pub mod proxy;
pub mod queue;
pub mod require;
pub mod sandbox;
pub mod tree;
pub mod volume;
pub mod wait;
pub mod workload;

pub use binaries::Binaries;
pub use conf::Conf;
pub use control::{Control, ControlError};
pub use port::ReservedPort;
pub use process::{Exit, Process};
pub use programs::{Agent, Receiver};
pub use require::require;
pub use sandbox::Sandbox;
pub use tree::{Difference, Options, Tree, diff};
pub use wait::{wait_for, wait_growing, wait_until};
