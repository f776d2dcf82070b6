//! Any secrets file and any name: what is found stands in the file behind that name, and what is added behind the
//! last line changes nothing.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use syncd_recv::logic::secrets::{SECRETS_BYTES_MAX, Secrets};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    text: &'a [u8],
    more: &'a [u8],
    name: &'a [u8],
}

fn secrets(text: &[u8]) -> Secrets {
    Secrets::new(text.to_vec().into())
}

fuzz_target!(|input: Input<'_>| {
    if input.text.len() + input.more.len() >= SECRETS_BYTES_MAX {
        return;
    }
    let own = secrets(input.text);
    let found = own.user(input.name);
    let _ = own.group(input.name);
    let Some(password) = found else {
        return;
    };
    let line = [input.name, b":", password].concat();
    assert!(input.text.windows(line.len()).any(|part| part == line));
    let longer = secrets(&[input.text, b"\n", input.more].concat());
    assert_eq!(longer.user(input.name), Some(password));
});
