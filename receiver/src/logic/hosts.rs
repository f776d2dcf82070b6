//! `hosts allow` and `hosts deny`, decided as rsync does; doubt refuses.
//!
//! Look-ups come in through [`Resolver`]. Patterns are tried in order: netgroup, wildcard against the
//! client's *name*, forward look-up of the pattern, address with mask. A pattern in `hosts deny` that
//! does not resolve hits everybody; a malformed address hits nobody, in either list. [`decide_aloud`] says
//! of each pattern what it did.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use syncd_proto::wildmatch::{self, Case};

/// What a client is called whose name is not confirmed.
pub const UNKNOWN: &[u8] = b"UNKNOWN";
/// What a client is called whose name was not looked up.
pub const UNDETERMINED: &[u8] = b"UNDETERMINED";

/// The longest name a host can have.
const HOST_BYTES_MAX: usize = 255;

/// Names and addresses of the world outside.
pub trait Resolver {
    /// The name that the address claims, not yet confirmed.
    fn reverse(&self, address: IpAddr) -> Option<Vec<u8>>;
    /// All addresses of a name, of both families; none if it does not resolve.
    fn forward(&self, name: &[u8]) -> Vec<IpAddr>;
    /// Whether the netgroup holds the host; `None` if netgroups cannot be asked.
    fn netgroup_holds(&self, group: &[u8], host: &[u8]) -> Option<bool>;
    /// Number of the network interface of this name.
    fn interface(&self, name: &[u8]) -> Option<u32>;
}

/// Where a client comes from. An IPv4 client on an IPv6 socket is an IPv4 client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr {
    ip: IpAddr,
    scope: u32,
}

impl PeerAddr {
    /// An address as a socket tells it; `scope` is 0 where there is none.
    #[must_use]
    pub const fn new(ip: IpAddr, scope: u32) -> Self {
        Self {
            ip: ip.to_canonical(),
            scope,
        }
    }

    /// An address as a proxy tells it: an IPv4 address in IPv6 form stays what it is.
    #[must_use]
    pub const fn told(ip: IpAddr) -> Self {
        Self { ip, scope: 0 }
    }

    /// The address.
    #[must_use]
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }
}

/// What to look up, and how.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// `hosts allow`, if set and not empty.
    pub allow: Option<&'a [u8]>,
    /// `hosts deny`, if set and not empty.
    pub deny: Option<&'a [u8]>,
    /// `forward lookup`.
    pub forward_lookup: bool,
}

/// The decision, with the name to show for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Let in.
    Accept,
    /// Turned away.
    Refuse {
        /// The client's name, or the pattern that hit it where names were not looked up.
        shown: Vec<u8>,
    },
}

/// The client's confirmed name: what its address claims, if that name in turn has the address.
#[must_use]
pub fn client_name(peer: PeerAddr, resolver: &dyn Resolver) -> Vec<u8> {
    resolver
        .reverse(peer.ip)
        .filter(|name| is_host_name(name))
        .filter(|name| {
            resolver
                .forward(name)
                .iter()
                .any(|address| address.to_canonical() == peer.ip)
        })
        .unwrap_or_else(|| UNKNOWN.to_vec())
}

/// Letters, digits, hyphens, underscores and dots: a peer chooses its name, and names end up in logs
/// and, by `%RSYNC_HOST_NAME%`, in paths.
fn is_host_name(name: &[u8]) -> bool {
    name.first().is_some_and(u8::is_ascii_alphanumeric)
        && name.len() <= HOST_BYTES_MAX
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// One pattern that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried<'a> {
    /// The list it is on.
    pub list: List,
    /// The pattern, in lower case.
    pub pattern: &'a [u8],
    /// What about it hit the client, if anything did.
    pub hit: Option<&'static str>,
}

/// Whether this client may speak to a module.
pub fn decide(rules: Rules<'_>, peer: PeerAddr, name: &[u8], resolver: &dyn Resolver) -> Verdict {
    decide_aloud(rules, peer, name, resolver, &mut |_| {})
}

/// As [`decide`]; `tried` hears of each pattern.
pub fn decide_aloud(
    rules: Rules<'_>,
    peer: PeerAddr,
    name: &[u8],
    resolver: &dyn Resolver,
    tried: &mut dyn FnMut(Tried<'_>),
) -> Verdict {
    let mut client = Client {
        peer,
        shown: name.to_vec(),
        name,
        forward_lookup: rules.forward_lookup,
        resolver,
        tried,
    };
    if let Some(allow) = rules.allow {
        if client.is_on(allow, List::Allow) {
            return Verdict::Accept;
        }
        if rules.deny.is_none() {
            return client.refused();
        }
    }
    match rules.deny {
        Some(deny) if client.is_on(deny, List::Deny) => client.refused(),
        _ => Verdict::Accept,
    }
}

/// The patterns of a list.
pub fn words(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| matches!(byte, b' ' | b',' | b'\t'))
        .filter(|word| !word.is_empty())
}

/// What is treacherous about a pattern, if anything.
#[must_use]
pub fn trap(word: &[u8]) -> Option<&'static str> {
    let text = word.split(|byte| *byte == b'/').next().unwrap_or(word);
    let numeric = looks_numeric(text) && !text.is_empty();
    let dots = text.iter().filter(|byte| **byte == b'.').count();
    if matches!(word, b"0.0.0.0" | b"0.0.0.0/32") {
        return Some("is one address, which nobody has: everybody is `*`");
    }
    if word.starts_with(b"#") {
        return Some("is no comment: it and the words after it are patterns");
    }
    if ["all", "local", "except", "none"]
        .iter()
        .any(|keyword| word.eq_ignore_ascii_case(keyword.as_bytes()))
    {
        return Some("is no keyword but a host name; in `hosts deny` it refuses everybody");
    }
    if word.starts_with(b".") || numeric && text.ends_with(b".") {
        return Some("is no prefix or suffix form and matches nobody as an address");
    }
    if numeric && dots < 3 {
        return Some(
            "is a short form: missing parts are filled in before the last one (10/8 is 0.0.0.10/8)",
        );
    }
    if numeric
        && text
            .split(|byte| *byte == b'.')
            .any(|part| part.len() > 1 && part.starts_with(b"0"))
    {
        return Some("has a part with a leading zero, which is read as octal");
    }
    if text.contains(&b'*') && text.iter().all(|byte| b"0123456789.*?".contains(byte)) && dots > 0 {
        return Some("is matched against host names, never against addresses");
    }
    None
}

/// Which of the two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// `hosts allow`.
    Allow,
    /// `hosts deny`.
    Deny,
}

struct Client<'a> {
    peer: PeerAddr,
    name: &'a [u8],
    shown: Vec<u8>,
    forward_lookup: bool,
    resolver: &'a dyn Resolver,
    tried: &'a mut dyn FnMut(Tried<'_>),
}

impl Client<'_> {
    fn refused(self) -> Verdict {
        Verdict::Refuse { shown: self.shown }
    }

    fn is_on(&mut self, list: &[u8], which: List) -> bool {
        let list = list.to_ascii_lowercase();
        words(&list).any(|word| {
            let named = self.is_named(word, which);
            let hit = named.or_else(|| self.is_at(word).then_some("its address"));
            (self.tried)(Tried {
                list: which,
                pattern: word,
                hit,
            });
            hit.is_some()
        })
    }

    fn is_named(&mut self, word: &[u8], which: List) -> Option<&'static str> {
        if let Some(group) = word.strip_prefix(b"@").filter(|group| !group.is_empty()) {
            return match self.resolver.netgroup_holds(group, self.name) {
                Some(held) => held.then_some("its netgroup"),
                None => (which == List::Deny).then_some("netgroups cannot be asked"),
            };
        }
        if wildmatch::matches(word, self.name, Case::Ignored) {
            return Some("its name");
        }
        let plain_name = !looks_numeric(word) && !word.iter().any(|byte| b":/*?[".contains(byte));
        if self.forward_lookup && plain_name {
            return self.has_address_of(word, which);
        }
        None
    }

    fn has_address_of(&mut self, word: &[u8], which: List) -> Option<&'static str> {
        let addresses: Vec<IpAddr> = self
            .resolver
            .forward(word)
            .into_iter()
            .filter(IpAddr::is_ipv4)
            .collect();
        let hit = if addresses.is_empty() {
            (which == List::Deny).then_some("it does not resolve")
        } else {
            let among = addresses.contains(&self.peer.ip);
            among.then_some("an address of that name")
        };
        if hit.is_some() && self.name == UNDETERMINED {
            self.shown = word.to_vec();
        }
        hit
    }

    fn is_at(&self, word: &[u8]) -> bool {
        let mut parts = word.splitn(2, |byte| *byte == b'/');
        let address = parts.next().unwrap_or_default();
        let mask = parts.next();
        if !looks_numeric(address) && !address.contains(&b':') {
            return false;
        }
        match self.peer.ip {
            IpAddr::V4(peer) => parse_v4(address).is_some_and(|wanted| {
                mask_v4(mask).is_some_and(|mask| (u32::from(peer) ^ u32::from(wanted)) & mask == 0)
            }),
            IpAddr::V6(peer) => self.parse_v6(address).is_some_and(|(wanted, scope)| {
                let same_scope = scope == 0 || scope == self.peer.scope;
                let differing = u128::from(peer) ^ u128::from(wanted);
                same_scope && mask_v6(mask).is_some_and(|mask| differing & mask == 0)
            }),
        }
    }

    fn parse_v6(&self, text: &[u8]) -> Option<(Ipv6Addr, u32)> {
        let mut parts = text.splitn(2, |byte| *byte == b'%');
        let address = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let scope = match parts.next() {
            None => 0,
            Some(scope) => self
                .resolver
                .interface(scope)
                .or_else(|| std::str::from_utf8(scope).ok()?.parse().ok())?,
        };
        Some((address, scope))
    }
}

/// Nothing but digits and dots.
fn looks_numeric(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| byte.is_ascii_digit() || *byte == b'.')
}

/// The classic forms: one to four parts, octal with a leading zero, the last part filling the rest.
fn parse_v4(text: &[u8]) -> Option<Ipv4Addr> {
    let parts = text
        .split(|byte| *byte == b'.')
        .map(number)
        .collect::<Option<Vec<u64>>>()?;
    let (&last, heads) = parts.split_last()?;
    let room = 32
        - 8 * u32::try_from(heads.len())
            .ok()
            .filter(|heads| *heads <= 3)?;
    if heads.iter().any(|head| *head > 255) || last >> room != 0 {
        return None;
    }
    let address = heads
        .iter()
        .zip([24, 16, 8])
        .fold(last, |address, (head, shift)| address | head << shift);
    u32::try_from(address).ok().map(Ipv4Addr::from)
}

fn number(part: &[u8]) -> Option<u64> {
    let radix = if part.len() > 1 && part[0] == b'0' {
        8
    } else {
        10
    };
    if part.is_empty() || !part.iter().all(u8::is_ascii_digit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(part).ok()?, radix).ok()
}

fn mask_v4(mask: Option<&[u8]>) -> Option<u32> {
    let Some(mask) = mask else {
        return Some(u32::MAX);
    };
    let text = std::str::from_utf8(mask).ok()?;
    if let Ok(mask) = text.parse::<Ipv4Addr>() {
        return Some(mask.into());
    }
    let bits = bits(text, 32)?;
    Some(u32::MAX.checked_shl(32 - bits).unwrap_or(0))
}

fn mask_v6(mask: Option<&[u8]>) -> Option<u128> {
    let Some(mask) = mask else {
        return Some(u128::MAX);
    };
    let text = std::str::from_utf8(mask).ok()?;
    if let Ok(mask) = text.parse::<Ipv6Addr>() {
        return Some(mask.into());
    }
    let bits = bits(text, 128)?;
    Some(u128::MAX.checked_shl(128 - bits).unwrap_or(0))
}

/// A decimal number of bits, a `+` and leading zeros allowed.
fn bits(text: &str, most: u32) -> Option<u32> {
    text.parse::<u32>().ok().filter(|bits| *bits <= most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Nobody;

    impl Resolver for Nobody {
        fn reverse(&self, _: IpAddr) -> Option<Vec<u8>> {
            None
        }
        fn forward(&self, _: &[u8]) -> Vec<IpAddr> {
            Vec::new()
        }
        fn netgroup_holds(&self, _: &[u8], _: &[u8]) -> Option<bool> {
            None
        }
        fn interface(&self, name: &[u8]) -> Option<u32> {
            (name == b"lo").then_some(1)
        }
    }

    fn accepted(allow: Option<&str>, deny: Option<&str>, peer: &str) -> bool {
        let rules = Rules {
            allow: allow.map(str::as_bytes),
            deny: deny.map(str::as_bytes),
            forward_lookup: true,
        };
        let peer = PeerAddr::new(peer.parse().expect("an address"), 1);
        decide(rules, peer, UNKNOWN, &Nobody) == Verdict::Accept
    }

    #[test]
    fn classic_address_forms_are_read() {
        for (text, address) in [
            ("127.0.0.1", Some([127, 0, 0, 1])),
            ("127.1", Some([127, 0, 0, 1])),
            ("127.0.258", Some([127, 0, 1, 2])),
            ("10", Some([0, 0, 0, 10])),
            ("2130706433", Some([127, 0, 0, 1])),
            ("127.0.0.010", Some([127, 0, 0, 8])),
            ("127.0.0.08", None),
            ("127.0.0.256", None),
            ("127.0.0.1.1", None),
            ("4294967296", None),
            ("127.0.1.", None),
            ("", None),
        ] {
            assert_eq!(
                parse_v4(text.as_bytes()),
                address.map(Ipv4Addr::from),
                "{text}"
            );
        }
    }

    #[test]
    fn masks_apply_to_their_own_family() {
        assert!(!accepted(None, Some("0.0.0.0/0"), "127.0.0.1"));
        assert!(accepted(None, Some("0.0.0.0/0"), "::1"));
        assert!(!accepted(None, Some("::/0"), "::1"));
        assert!(!accepted(None, Some("10.0.0.0/8"), "::ffff:10.0.0.1"));
        assert!(accepted(Some("fe80::%lo/64"), None, "fe80::5"));
        assert!(!accepted(Some("fe80::%2/64"), None, "fe80::5"));
        assert!(!accepted(Some("fe80::%nosuch/64"), None, "fe80::5"));
    }

    #[test]
    fn names_that_are_no_host_names_are_not_believed() {
        struct Claims(&'static str);
        impl Resolver for Claims {
            fn reverse(&self, _: IpAddr) -> Option<Vec<u8>> {
                Some(self.0.into())
            }
            fn forward(&self, _: &[u8]) -> Vec<IpAddr> {
                vec![IpAddr::from([10, 0, 0, 1])]
            }
            fn netgroup_holds(&self, _: &[u8], _: &[u8]) -> Option<bool> {
                None
            }
            fn interface(&self, _: &[u8]) -> Option<u32> {
                None
            }
        }
        let peer = PeerAddr::new(IpAddr::from([10, 0, 0, 1]), 0);
        for (claimed, believed) in [
            ("web-01.example_x.org", "web-01.example_x.org"),
            ("../../etc", "UNKNOWN"),
            (".example.org", "UNKNOWN"),
            ("a/b", "UNKNOWN"),
            ("", "UNKNOWN"),
        ] {
            assert_eq!(
                client_name(peer, &Claims(claimed)),
                believed.as_bytes(),
                "{claimed}"
            );
        }
        let other = PeerAddr::new(IpAddr::from([10, 0, 0, 2]), 0);
        assert_eq!(client_name(other, &Claims("web")), UNKNOWN);
    }

    #[test]
    fn netgroups_that_cannot_be_asked_are_doubt() {
        assert!(!accepted(Some("@trusted"), None, "10.0.0.1"));
        assert!(!accepted(None, Some("@evil"), "10.0.0.1"));
    }

    #[test]
    fn traps_are_named() {
        for word in [
            "#",
            "ALL",
            "10/8",
            "192.168.",
            ".example",
            "10.0.0.*",
            "10.0.0.010",
        ] {
            assert!(trap(word.as_bytes()).is_some(), "{word}");
        }
        for word in [
            "10.0.0.0/8",
            "*",
            "*.example",
            "db?.example",
            "::1",
            "@trusted",
            "alpha",
        ] {
            assert!(trap(word.as_bytes()).is_none(), "{word}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_end_well(allow: Option<Vec<u8>>, deny: Option<Vec<u8>>, ip: IpAddr, name: Vec<u8>) {
            let rules = Rules { allow: allow.as_deref(), deny: deny.as_deref(), forward_lookup: true };
            let _ = decide(rules, PeerAddr::new(ip, 0), &name, &Nobody);
            let _ = words(&name).map(trap).count();
        }

        #[test]
        fn likely_lists_end_well(list in r"[0-9a-f.:/%, @*\[\]+-]{0,60}", ip: IpAddr) {
            let rules = Rules { allow: Some(list.as_bytes()), deny: None, forward_lookup: true };
            let _ = decide(rules, PeerAddr::new(ip, 0), UNKNOWN, &Nobody);
        }

        #[test]
        fn a_network_holds_what_its_bits_say(net: u32, host: u32, bits in 0_u32..=32) {
            let list = format!("{}/{bits}", Ipv4Addr::from(net));
            let same = bits == 0 || net >> (32 - bits) == host >> (32 - bits);
            let host = Ipv4Addr::from(host).to_string();
            prop_assert_eq!(accepted(Some(&list), None, &host), same);
        }
    }
}
