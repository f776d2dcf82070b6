//! Host names and addresses, asked of the system (hosts file, DNS, whatever it is set up with).
//!
//! Blocking: the system's own resolver has no other form. Call it where blocking is allowed. What an
//! answer means is decided by whoever reads `hosts allow`.

use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};

/// Most addresses taken from one answer.
const ADDRESSES_MAX: usize = 256;

/// The name an address claims, if its own look-up confirms that the address belongs to it.
#[must_use]
pub fn confirmed_name(address: IpAddr) -> Option<String> {
    let name = dns_lookup::lookup_addr(&address).ok()?;
    // Without a name the resolver answers with the address in letters.
    if name.parse::<IpAddr>().is_ok() || name.is_empty() {
        return None;
    }
    addresses(&name).contains(&address).then_some(name)
}

/// The IPv4 addresses of a name; `None` if it does not resolve to any.
#[must_use]
pub fn ipv4_of(name: &str) -> Option<Vec<Ipv4Addr>> {
    let found: Vec<Ipv4Addr> = addresses(name)
        .into_iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
        .collect();
    (!found.is_empty()).then_some(found)
}

fn addresses(name: &str) -> Vec<IpAddr> {
    let Ok(found) = (name, 0).to_socket_addrs() else {
        return Vec::new();
    };
    found
        .take(ADDRESSES_MAX)
        .map(|address| address.ip().to_canonical())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_knows_its_own_name() {
        let local = Ipv4Addr::LOCALHOST;
        assert!(ipv4_of("localhost").unwrap().contains(&local));
        assert_eq!(ipv4_of("no such name.invalid"), None);
    }
}
