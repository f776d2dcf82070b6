//! Any `incoming chmod`: what can be read gives modes of twelve bits, and the same ones each time.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use syncd_recv::logic::chmod::Chmod;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    text: &'a [u8],
    mode: u32,
    is_directory: bool,
    umask: u32,
}

fuzz_target!(|input: Input<'_>| {
    let Ok(rules) = Chmod::parse(input.text) else {
        return;
    };
    let (mode, umask) = (input.mode & 0o7777, input.umask & 0o777);
    let mapped = rules.apply(mode, input.is_directory, umask);
    assert!(mapped & 0o7777 == mapped, "{mapped:o}");
    assert_eq!(rules.apply(mode, input.is_directory, umask), mapped);
});
