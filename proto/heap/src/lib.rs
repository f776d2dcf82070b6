//! Freed memory, given back to the system. A crate of its own, since no other may have `unsafe`.

/// Has the C library give back what was freed. glibc keeps it, in an area for each thread that ever used as much: who read
/// a tree of a million names, and rests since, would hold what that took. It takes about a millisecond for each 10 MB that
/// are given back, in which threads wait that allocate: for who is at rest. Other C libraries are not asked.
#[cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "no crate offers this call as a safe one")
)]
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) takes a number and no pointer, may be called by any thread at any time, and touches no memory
    // that is in use.
    unsafe {
        libc::malloc_trim(0);
    }
}
