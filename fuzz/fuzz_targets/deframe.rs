//! Any bytes, in any pieces: the deframer gives the same frames or the same error, never more than its
//! limits, frames written again are the bytes that came, and a compressed payload is at most as large.
#![no_main]

use libfuzzer_sys::fuzz_target;
use syncd_proto::frame::{Deframer, Frame, FrameLimits};
use syncd_proto::pack;

fn frames(bytes: &[u8], piece: usize) -> (Vec<Frame>, bool) {
    let mut deframer = Deframer::new(FrameLimits::PACKED, 0);
    let mut found = Vec::new();
    for piece in bytes.chunks(piece) {
        deframer.feed(piece);
        loop {
            match deframer.next_frame() {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let (found, failed) = frames(bytes, usize::from(piece) + 1);
    assert_eq!((&found, failed), (&frames(bytes, usize::MAX).0, failed));
    let mut wire = Vec::new();
    for frame in &found {
        assert!(frame.body.len() <= FrameLimits::SESSION.body);
        assert!(frame.payload.len() <= FrameLimits::SESSION.payload);
        frame.write_to(&mut wire);
    }
    assert_eq!(wire, bytes[..wire.len()]);
    for frame in found {
        if let Ok(whole) = pack::unpack(frame) {
            assert!(whole.payload.len() <= FrameLimits::SESSION.payload);
            assert_eq!(pack::unpack(pack::pack(whole.clone())), Ok(whole));
        }
    }
});
