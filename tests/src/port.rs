//! Ports that stay ours while nobody listens on them.
//!
//! A program that is killed and started again on its port may find that an outgoing connection of somebody else has
//! it meanwhile. Those ports come from the kernel's own range; these are below it, and locked among the tests: by an
//! abstract socket, whose name is known as far as the port is, whatever directories a test uses.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Below the range that Linux takes ports of outgoing connections from (`ip_local_port_range`, from 32,768).
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A port that no other test takes until this is dropped.
#[derive(Debug)]
pub struct ReservedPort {
    number: u16,
    _lock: UnixDatagram,
}

impl ReservedPort {
    /// Takes one that is free.
    ///
    /// # Panics
    /// If all are taken.
    #[must_use]
    pub fn take() -> Self {
        let count = u32::from(PORTS.end - PORTS.start);
        let first = std::process::id().wrapping_mul(37) % count;
        let mut numbers = (first..first + count)
            .map(|at| PORTS.start + u16::try_from(at % count).expect("a port"));
        let found = numbers.find_map(|number| {
            let name = format!("syncd-tests-port-{number}");
            let name = SocketAddr::from_abstract_name(name).ok()?;
            let lock = UnixDatagram::bind_addr(&name).ok()?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
            Some(Self {
                number,
                _lock: lock,
            })
        });
        found.expect("a free port")
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_never_the_same() {
        let (one, other) = (ReservedPort::take(), ReservedPort::take());
        assert_ne!(one.number(), other.number());
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, one.number())).is_ok());
    }
}
