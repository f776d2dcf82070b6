//! bincode 2.0.1 behind two functions: one fixed configuration, a limit, and every byte used.
//!
//! Little-endian, variable-length integers (bincode's `standard` configuration). Bulk payload never
//! passes through here. A hostile length prefix meets the limit before anything is allocated.

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use bincode::enc::write::Writer;
use bincode::error::EncodeError;
use bincode::{Decode, Encode};

use crate::error::DecodeError;
use crate::limits::BODY_BYTES_MAX;

/// Memory a decoded body may claim: collections account for their element size, which is above the
/// encoded size, so the decode limit is a multiple of the body's.
const DECODE_LIMIT: usize = 8 * BODY_BYTES_MAX;

const CONFIG: Configuration<LittleEndian, Varint, Limit<DECODE_LIMIT>> =
    config::standard().with_limit::<DECODE_LIMIT>();

/// Appends the encoding of `value` to `out`.
///
/// # Errors
/// [`DecodeError::TooLarge`] if the encoding exceeds [`BODY_BYTES_MAX`]; callers split before that.
pub fn encode<T: Encode>(value: &T, out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let start = out.len();
    bincode::encode_into_std_write(value, out, CONFIG)
        .map_err(|error| DecodeError::Codec(error.to_string()))?;
    let size = out.len() - start;
    if size > BODY_BYTES_MAX {
        return Err(DecodeError::TooLarge {
            what: "frame body",
            size: size as u64,
            limit: BODY_BYTES_MAX as u64,
        });
    }
    Ok(())
}

/// Decodes a whole body.
///
/// # Errors
/// Anything that is not exactly one valid value of `T` in its one encoding: bincode also reads an
/// integer written longer than need be, and such bytes would mean one thing and hash as another.
pub fn decode<T: Decode<()> + Encode>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, used) = bincode::decode_from_slice::<T, _>(bytes, CONFIG)
        .map_err(|error| DecodeError::Codec(error.to_string()))?;
    let left = bytes.len() - used;
    if left > 0 {
        return Err(DecodeError::TrailingBytes(left));
    }
    bincode::encode_into_writer(&value, Expect(bytes), CONFIG)
        .map_err(|_| DecodeError::Invalid("encoding: not the shortest"))?;
    Ok(value)
}

/// Takes only the bytes it expects.
struct Expect<'a>(&'a [u8]);

impl Writer for Expect<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0 = self
            .0
            .strip_prefix(bytes)
            .ok_or(EncodeError::Other("differs"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_length_is_an_error_not_an_abort() {
        let hostile = [253u8, 0, 0, 0, 0, 0, 1, 0, 0];
        assert!(matches!(
            decode::<Vec<u8>>(&hostile),
            Err(DecodeError::Codec(_))
        ));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = Vec::new();
        encode(&7u32, &mut bytes).unwrap();
        bytes.push(0);
        assert_eq!(decode::<u32>(&bytes), Err(DecodeError::TrailingBytes(1)));
    }

    #[test]
    fn an_integer_longer_than_need_be_is_refused() {
        for long in [&[251u8, 5, 0][..], &[252, 255, 255, 0, 0], &[251, 250, 0]] {
            let found = decode::<u32>(long);
            assert!(matches!(found, Err(DecodeError::Invalid(_))), "{long:?}");
        }
        assert_eq!(decode::<u32>(&[251, 251, 0]), Ok(251));
    }

    #[test]
    fn an_oversized_value_is_not_encoded() {
        let big = vec![0u8; BODY_BYTES_MAX + 1];
        assert!(encode(&big, &mut Vec::new()).is_err());
    }
}
