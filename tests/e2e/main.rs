//! Both programs as real processes on real directories: what reaches the mirror, and what never may.
//!
//! Sizes are small enough for every run; `SYNCD_TESTS_SCALE=full` makes them those of real trees.

mod atomic;
mod attributes;
mod careful;
mod check;
mod common;
mod compress;
mod crowd;
mod daemon;
mod disk;
mod fake;
mod faults;
mod fidelity;
mod filter;
mod kill;
mod large;
mod late;
mod limits;
mod links;
mod live;
mod long_paths;
mod mounts;
mod network;
mod order;
mod overflow;
mod owners;
mod places;
mod preflight;
mod processes;
mod protected;
mod race;
mod refuse;
mod regression;
mod same;
mod sync;
mod targets;
mod times;
mod tls;
mod trash;
mod truth;
mod watch;
mod writers;
