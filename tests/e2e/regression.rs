//! One test for each fixed bug that the other suites would not find again by themselves.
