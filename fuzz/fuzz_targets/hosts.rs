//! Any lists of patterns and any client: decided without a panic, and a longer `hosts deny` or a shorter
//! `hosts allow` never lets more in.
#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use syncd_recv::logic::hosts::{
    PeerAddr, Resolver, Rules, Verdict, client_name, decide, trap, words,
};
use syncd_proto::wildmatch::{Case, matches};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    address: IpAddr,
    scope: u32,
    forward_lookup: bool,
    allow: Option<&'a [u8]>,
    deny: Option<&'a [u8]>,
    more: &'a [u8],
    claimed: Option<&'a [u8]>,
}

struct World<'a>(&'a Input<'a>);

impl Resolver for World<'_> {
    fn reverse(&self, _: IpAddr) -> Option<Vec<u8>> {
        self.0.claimed.map(<[u8]>::to_vec)
    }

    fn forward(&self, name: &[u8]) -> Vec<IpAddr> {
        match name.len() % 3 {
            0 => Vec::new(),
            1 => vec![self.0.address],
            _ => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        }
    }

    fn netgroup_holds(&self, group: &[u8], _: &[u8]) -> Option<bool> {
        [None, Some(false), Some(true)][group.len() % 3]
    }

    fn interface(&self, name: &[u8]) -> Option<u32> {
        (name.len() % 2 == 0).then_some(2)
    }
}

fuzz_target!(|input: Input<'_>| {
    let world = World(&input);
    let peer = PeerAddr::new(input.address, input.scope);
    let name = client_name(peer, &world);
    let set = |list: Option<&'_ [u8]>| list.is_some_and(|list| !list.is_empty());
    let allow = input.allow.filter(|_| set(input.allow));
    let deny = input.deny.filter(|_| set(input.deny));
    let accepted = |allow, deny| {
        let rules = Rules {
            allow,
            deny,
            forward_lookup: input.forward_lookup,
        };
        decide(rules, peer, &name, &world) == Verdict::Accept
    };
    let now = accepted(allow, deny);
    if let Some(deny) = deny {
        let longer = [deny, b" ", input.more].concat();
        assert!(now || !accepted(allow, Some(&longer)));
        if let Some(allow) = allow {
            let longer = [allow, b" ", input.more].concat();
            assert!(!now || accepted(Some(&longer), Some(deny)));
        }
    }
    for word in words(input.more) {
        let _ = trap(word);
        let _ = matches(word, &name, Case::Ignored);
    }
});
