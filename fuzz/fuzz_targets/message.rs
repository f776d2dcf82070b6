//! A frame of any type with any body: an error, or a message whose one encoding it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use syncd_proto::frame::Frame;
use syncd_proto::message::{AgentMessage, ReceiverMessage};

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (kind, payload_len, body) = input;
    let frame = Frame {
        seq: 0,
        kind: u16::from(kind),
        body: body.to_vec(),
        payload: vec![0; usize::from(payload_len)], packed: false, };
    let mut again = Vec::new();
    if let Ok(message) = AgentMessage::from_frame(&frame) {
        message.encode_body(&mut again).expect("it was decoded");
        assert_eq!(again, body);
    } else if let Ok(message) = ReceiverMessage::from_frame(&frame) {
        message.encode_body(&mut again).expect("it was decoded");
        assert_eq!(again, body);
    }
});
