//! Any bytes as a peer's signature of any ranges: refused, or searched without a copy from beyond the
//! basis.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use syncd_proto::delta::{BlockSignature, BlockSize, GroupList, SUM_BYTES};
use syncd_proto::message::PatchOp;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    block: u32,
    ranges: Vec<(u64, u64)>,
    len: u64,
    new: &'a [u8],
    payload: &'a [u8],
}

fn search(signature: &BlockSignature, new: &[u8], len: u64) {
    let found = signature
        .index()
        .diff_window(new, 0, true)
        .expect("a small window");
    assert_eq!(found.consumed, new.len());
    for op in found.ops {
        if let PatchOp::Copy { from, len: copied } = op {
            assert!(from + copied <= len);
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let block = BlockSize::new(input.block).unwrap_or(BlockSize::MIN);
    let _ = GroupList::from_payload(input.payload, input.len);
    if let Ok(signature) =
        BlockSignature::from_ranges(input.payload, block, &input.ranges, input.len)
    {
        search(&signature, input.new, input.len);
    }
    // And once with a length that fits the payload, so that most inputs get past the checks.
    let blocks = input.payload.len() / SUM_BYTES;
    let len = blocks as u64 * u64::from(block.bytes());
    let payload = &input.payload[..blocks * SUM_BYTES];
    let new: Vec<u8> = input
        .new
        .iter()
        .copied()
        .cycle()
        .take(input.new.len() * 9)
        .collect();
    let signature = BlockSignature::from_peer(payload, block, len).expect("of the right length");
    search(&signature, &new, len);
});
