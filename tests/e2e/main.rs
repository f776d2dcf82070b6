//! Both programs as real processes on real directories: what reaches the mirror, and what never may.
