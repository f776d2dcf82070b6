//! Compressed payloads: one zstd frame (RFC 8878) each, never larger than a payload may be.
//!
//! Only an agent packs, only after [`FEATURE_ZSTD`](crate::message::FEATURE_ZSTD) was agreed on, and only what
//! it pays for. Digests, signatures, lengths and the window all speak of the payload as it was before.

use zstd::zstd_safe::{find_frame_compressed_size, get_frame_content_size};

use crate::error::DecodeError;
use crate::frame::Frame;
use crate::limits::PAYLOAD_BYTES_MAX;

/// Payloads below this are not worth it, in bytes.
pub const PACK_BYTES_MIN: usize = 512;

/// zstd's own default: some 200 MB/s on one core, and two thirds of what the highest levels save.
const LEVEL: i32 = 3;

/// A larger payload is judged by so much of it, in bytes.
const PROBE_BYTES: usize = 16 << 10;

/// Compresses the payload, unless it is small or its beginning hardly shrinks.
#[must_use]
pub fn pack(mut frame: Frame) -> Frame {
    if frame.packed || frame.payload.len() < PACK_BYTES_MIN {
        return frame;
    }
    let is_long = frame.payload.len() > 2 * PROBE_BYTES;
    if is_long && shrunk(&frame.payload[..PROBE_BYTES]).is_none() {
        return frame;
    }
    if let Some(payload) = shrunk(&frame.payload) {
        frame.payload = payload;
        frame.packed = true;
    }
    frame
}

/// What saves at least an eighth.
fn shrunk(bytes: &[u8]) -> Option<Vec<u8>> {
    let packed = zstd::bulk::compress(bytes, LEVEL).ok()?;
    (packed.len() <= bytes.len() / 8 * 7).then_some(packed)
}

/// The frame as it was before [`pack`].
///
/// # Errors
/// [`DecodeError::Invalid`] for anything but one zstd frame that tells its length, [`DecodeError::TooLarge`] if
/// that is above [`PAYLOAD_BYTES_MAX`]; nothing larger is ever allocated.
pub fn unpack(mut frame: Frame) -> Result<Frame, DecodeError> {
    if !frame.packed {
        return Ok(frame);
    }
    const INVALID: DecodeError = DecodeError::Invalid("compressed payload");
    let packed = &frame.payload;
    if find_frame_compressed_size(packed) != Ok(packed.len()) {
        return Err(INVALID);
    }
    let told = get_frame_content_size(packed).map_err(|_| INVALID)?;
    let size = told.filter(|size| *size > 0).ok_or(INVALID)?;
    if size > PAYLOAD_BYTES_MAX as u64 {
        return Err(DecodeError::TooLarge {
            what: "compressed payload",
            size,
            limit: PAYLOAD_BYTES_MAX as u64,
        });
    }
    let payload = zstd::bulk::decompress(packed, size as usize).map_err(|_| INVALID)?;
    if payload.len() as u64 != size {
        return Err(INVALID);
    }
    frame.payload = payload;
    frame.packed = false;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(payload: Vec<u8>, packed: bool) -> Frame {
        Frame {
            seq: 3,
            kind: 4,
            body: vec![1, 2],
            payload,
            packed,
        }
    }

    fn text(len: usize) -> Vec<u8> {
        let lines = (0u32..).flat_map(|line| format!("line {line} of a log\n").into_bytes());
        lines.take(len).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut noise = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        noise
    }

    #[test]
    fn what_shrinks_is_packed_and_comes_back() {
        for len in [PACK_BYTES_MIN, 40_000, PAYLOAD_BYTES_MAX] {
            let plain = frame(text(len), false);
            let packed = pack(plain.clone());
            assert!(packed.packed && packed.payload.len() < len / 2, "{len}");
            assert_eq!(packed.body, plain.body);
            assert_eq!(unpack(packed), Ok(plain));
        }
    }

    #[test]
    fn what_does_not_shrink_stays() {
        let photo = [text(100), noise(200_000)].concat();
        for payload in [
            text(PACK_BYTES_MIN - 1),
            noise(5_000),
            noise(100_000),
            photo,
        ] {
            let plain = frame(payload, false);
            assert_eq!(pack(plain.clone()), plain);
            assert_eq!(unpack(plain.clone()), Ok(plain));
        }
    }

    #[test]
    fn only_one_whole_frame_within_the_limit_is_read() {
        let whole = pack(frame(text(5_000), false)).payload;
        let refused = |payload: Vec<u8>| unpack(frame(payload, true)).unwrap_err();
        let invalid = DecodeError::Invalid("compressed payload");
        assert_eq!(refused(Vec::new()), invalid);
        assert_eq!(refused(b"not zstd at all".to_vec()), invalid);
        assert_eq!(refused(whole[..whole.len() - 1].to_vec()), invalid);
        assert_eq!(refused([&whole[..], &[0]].concat()), invalid);
        assert_eq!(refused([&whole[..], &whole[..]].concat()), invalid);
        // A skippable frame has no content.
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7];
        assert_eq!(refused(skippable.to_vec()), invalid);
        let bomb = zstd::bulk::compress(&vec![0; PAYLOAD_BYTES_MAX + 1], LEVEL).unwrap();
        assert!(matches!(refused(bomb), DecodeError::TooLarge { .. }));
        let mut silent = zstd::bulk::Compressor::new(LEVEL).unwrap();
        silent.include_contentsize(false).unwrap();
        assert_eq!(refused(silent.compress(&text(5_000)).unwrap()), invalid);
    }

    proptest! {
        #[test]
        fn any_bytes_end_well(payload in prop::collection::vec(any::<u8>(), 0..300), flip in any::<(prop::sample::Index, u8)>()) {
            let _ = unpack(frame(payload, true));
            let mut torn = pack(frame(text(3_000), false));
            let at = flip.0.index(torn.payload.len());
            torn.payload[at] ^= flip.1;
            if let Ok(found) = unpack(torn) {
                prop_assert!(found.payload.len() <= PAYLOAD_BYTES_MAX);
            }
        }
    }
}
