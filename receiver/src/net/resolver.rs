//! Host names and addresses, asked of the system (hosts file, DNS, whatever it is set up with).
//!
//! Blocking: the system's own resolver has no other form. Call it where blocking is allowed. What an
//! answer means is decided by whoever reads `hosts allow`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, ToSocketAddrs};

use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use crate::logic::hosts::Resolver;

/// Most addresses taken from one answer.
const ADDRESSES_MAX: usize = 256;

/// The system's resolver. Answers are kept as long as the value, which is one decision: a list that
/// names a host twice asks once, and all of it sees the same answer.
#[derive(Debug, Default)]
pub struct System {
    names: RefCell<HashMap<IpAddr, Option<Vec<u8>>>>,
    addresses: RefCell<HashMap<Vec<u8>, Vec<IpAddr>>>,
}

impl Resolver for System {
    fn reverse(&self, address: IpAddr) -> Option<Vec<u8>> {
        let mut names = self.names.borrow_mut();
        names
            .entry(address)
            .or_insert_with(|| reverse(address))
            .clone()
    }

    fn forward(&self, name: &[u8]) -> Vec<IpAddr> {
        let mut addresses = self.addresses.borrow_mut();
        let found = addresses.entry(name.to_vec());
        found.or_insert_with(|| forward(name)).clone()
    }

    /// Netgroups cannot be asked without unsafe code; the lists take that as doubt.
    fn netgroup_holds(&self, _: &[u8], _: &[u8]) -> Option<bool> {
        None
    }

    fn interface(&self, name: &[u8]) -> Option<u32> {
        let name = std::str::from_utf8(name).ok()?;
        let socket = socket_with(
            AddressFamily::INET6,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        );
        netdevice::name_to_index(socket.ok()?, name).ok()
    }
}

fn reverse(address: IpAddr) -> Option<Vec<u8>> {
    let name = dns_lookup::lookup_addr(&address).ok()?;
    // A record may claim anything, an address in letters too.
    let is_name = !name.is_empty() && name.parse::<IpAddr>().is_err();
    is_name.then(|| name.into_bytes())
}

fn forward(name: &[u8]) -> Vec<IpAddr> {
    let Ok(name) = std::str::from_utf8(name) else {
        return Vec::new();
    };
    if is_number(name) {
        return Vec::new();
    }
    let Ok(found) = (name, 0).to_socket_addrs() else {
        return Vec::new();
    };
    found
        .take(ADDRESSES_MAX)
        .map(|address| address.ip().to_canonical())
        .collect()
}

/// A name that ends in a number is no name; the C library would take it for an address in some old form
/// (`0x7f.1`).
fn is_number(name: &str) -> bool {
    let last = name.trim_end_matches('.').rsplit('.').next();
    let last = last.unwrap_or_default().to_ascii_lowercase();
    let hex = last.strip_prefix("0x");
    hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        || !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_machine_knows_its_own_name() {
        let system = System::default();
        let local = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert!(system.forward(b"localhost").contains(&local));
        assert!(system.forward(b"no such name.invalid").is_empty());
        assert!(system.forward(b"\xff\0").is_empty());
        for number in [
            "0x7f.0.0.1",
            "0x7f000001",
            "127.1",
            "127.0.0.1.",
            "0x7F.0x1",
        ] {
            assert!(system.forward(number.as_bytes()).is_empty(), "{number}");
        }
    }

    #[test]
    fn interfaces_have_numbers() {
        let system = System::default();
        assert!(system.interface(b"lo").is_some());
        assert_eq!(system.interface(b"no-such-interface"), None);
    }
}
