//! Any bytes before TLS: a PROXY header is found or refused within its limit, and nothing behind it matters.
#![no_main]

use libfuzzer_sys::fuzz_target;
use syncd_recv::logic::proxy::Header;

/// Longer than any header.
const LIMIT: usize = 16 + 216;

fuzz_target!(|bytes: &[u8]| {
    let mut header = Header::default();
    for (at, &byte) in bytes.iter().enumerate() {
        assert!(at < LIMIT, "no end");
        if !matches!(header.push(byte), Ok(None)) {
            return;
        }
    }
});
