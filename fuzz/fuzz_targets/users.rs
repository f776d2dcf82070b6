//! Any `auth users` and `client certs`, any user: the first rule that matches decides, so what is added behind it
//! changes nothing, and a denial put in front of all denies.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use syncd_recv::logic::users::{
    Accounts, CertIdentity, CertRules, RuleMatch, is_user_name, match_user, traps,
};

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    list: &'a [u8],
    more: &'a [u8],
    user: &'a [u8],
    groups: Vec<&'a [u8]>,
    name: &'a str,
}

struct World<'a>(&'a [&'a [u8]]);

impl Accounts for World<'_> {
    fn groups_of(&self, _: &[u8]) -> Vec<Vec<u8>> {
        self.0.iter().map(|group| group.to_vec()).collect()
    }
}

fuzz_target!(|input: Input<'_>| {
    let world = World(&input.groups);
    let first = match_user(input.list, input.user, &world);
    if first != RuleMatch::NoRule {
        let longer = [input.list, b",", input.more].concat();
        assert_eq!(match_user(&longer, input.user, &world), first);
    }
    let plain = input.user.iter().all(u8::is_ascii_alphanumeric) && !input.user.is_empty();
    let blank = input.list.first().is_none_or(|byte| !b", \t".contains(byte));
    if plain && blank && is_user_name(input.user) {
        let denied = [input.user, b":deny ", input.list].concat();
        assert_eq!(match_user(&denied, input.user, &world), RuleMatch::Denied);
    }
    let _ = traps(input.list);
    if let Ok(rules) = CertRules::parse(input.list) {
        let names = [
            CertIdentity::Dns(input.name.to_owned()),
            CertIdentity::Uri(input.name.to_owned()),
        ];
        let _ = rules.find(&names);
    }
});
