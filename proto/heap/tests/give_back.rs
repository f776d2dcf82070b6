//! That freed memory is given back, in a process of its own: nothing else allocates meanwhile.

#![cfg(target_env = "gnu")]

use std::fs;

/// Bytes of memory that this process has for itself.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: Vec<usize> = statm.split(' ').map_while(|n| n.parse().ok()).collect();
    (pages[1] - pages[2]) * 4096
}

#[test]
fn what_was_freed_between_what_is_in_use_is_given_back() {
    let mut all: Vec<Vec<u8>> = (0..100_000).map(|_| vec![1; 1_000]).collect();
    // The last one keeps those before it from being the end of the heap.
    all.drain(..99_999);
    let before = resident();
    syncd_heap::give_back();
    assert!(resident() + (50 << 20) < before, "{before}");
}
