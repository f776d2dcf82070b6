//! A name server that knows what the vectors say and nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::thread;

use serde_json::Value;

/// Where it answers, within the tests' own network.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_PTR: u16 = 12;
const TYPE_AAAA: u16 = 28;
const NO_SUCH_NAME: u8 = 3;

/// Answers for as long as the process lives.
pub(crate) fn serve(resolver: Value) {
    let socket = UdpSocket::bind((ADDRESS, 53)).expect("bind the name server");
    thread::spawn(move || {
        let mut packet = [0; 1_024];
        while let Ok((length, client)) = socket.recv_from(&mut packet) {
            if let Some(answer) = answer(&packet[..length], &resolver) {
                let _ = socket.send_to(&answer, client);
            }
        }
    });
}

/// The answer to one question.
fn answer(packet: &[u8], resolver: &Value) -> Option<Vec<u8>> {
    let (name, end) = question_name(packet)?;
    let kind = u16::from_be_bytes([*packet.get(end)?, *packet.get(end + 1)?]);
    let (known, records) = records(&name, kind, resolver);
    let mut answer = packet.get(..2)?.to_vec();
    answer.extend([0x85, if known { 0x80 } else { 0x80 | NO_SUCH_NAME }]);
    answer.extend([0, 1]);
    answer.extend(u16::try_from(records.len()).ok()?.to_be_bytes());
    answer.extend([0; 4]);
    answer.extend(packet.get(12..end + 4)?);
    for (owner, kind, data) in records {
        answer.extend(encoded(&owner));
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1, 0, 0, 0, 0]);
        answer.extend(u16::try_from(data.len()).ok()?.to_be_bytes());
        answer.extend(data);
    }
    Some(answer)
}

/// The name asked for in lower case, and where it ends in the packet.
fn question_name(packet: &[u8]) -> Option<(String, usize)> {
    let mut at = 12;
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*packet.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join(".").to_ascii_lowercase(), at));
        }
        let label = packet.get(at..at + length)?;
        labels.push(
            label
                .iter()
                .map(|byte| char::from(*byte))
                .collect::<String>(),
        );
        at += length;
    }
}

type Record = (String, u16, Vec<u8>);

/// Whether the name exists, and its records of this type.
fn records(name: &str, kind: u16, resolver: &Value) -> (bool, Vec<Record>) {
    if let Some(address) = reversed(name) {
        let found = resolver["ptr"][address.to_string()].as_str();
        let records = found.map(|found| (name.to_owned(), TYPE_PTR, encoded(found)));
        return (found.is_some(), records.into_iter().collect());
    }
    let mut records = Vec::new();
    let mut owner = name;
    if let Some(target) = resolver["cname"][name].as_str() {
        records.push((name.to_owned(), TYPE_CNAME, encoded(target)));
        owner = target;
    }
    let all = |table: &str| resolver[table][owner].as_array().cloned();
    let known = all("a").is_some() || all("aaaa").is_some();
    let wanted = match kind {
        TYPE_A => all("a"),
        TYPE_AAAA => all("aaaa"),
        _ => None,
    };
    for address in wanted.into_iter().flatten() {
        let data = match address.as_str().expect("text").parse().expect("an address") {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        records.push((owner.to_owned(), kind, data));
    }
    (known, records)
}

/// The address in a name below `in-addr.arpa` or `ip6.arpa`.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(labels) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = labels
            .rsplit('.')
            .map_while(|label| label.parse().ok())
            .collect();
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into());
    }
    let labels = name.strip_suffix(".ip6.arpa")?;
    let digits: String = labels.rsplit('.').collect();
    Some(Ipv6Addr::from(u128::from_str_radix(&digits, 16).ok()?).into())
}

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("a label"));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered_from_the_table() {
        let resolver = serde_json::json!({
            "a": {"host.example": ["127.0.0.9"]},
            "aaaa": {},
            "cname": {"alias.example": "host.example"},
            "ptr": {"127.0.0.9": "host.example", "2001:db8::1": "six.example"},
        });
        let found = |name: &str, kind| records(name, kind, &resolver);
        assert_eq!(found("host.example", TYPE_A).1[0].2, [127, 0, 0, 9]);
        assert_eq!(found("host.example", TYPE_AAAA), (true, Vec::new()));
        assert_eq!(found("alias.example", TYPE_A).1.len(), 2);
        assert!(!found("other.example", TYPE_A).0);
        assert_eq!(
            found("9.0.0.127.in-addr.arpa", TYPE_PTR).1[0].2,
            encoded("host.example")
        );
        let six = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
        assert_eq!(found(&six, TYPE_PTR).1[0].2, encoded("six.example"));
        let mut packet = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        packet.extend(encoded("Host.Example"));
        packet.extend([0, 1, 0, 1]);
        let answer = answer(&packet, &resolver).expect("an answer");
        assert!(answer.ends_with(&[0, 4, 127, 0, 0, 9]));
    }
}
