//! Which addresses the worker connects to.
//!
//! Whoever controls the name of the app's host could have jobs, with whatever secrets they carry, POSTed to a machine
//! inside the operator's network, or read a cloud's metadata by what it answers. So every address that a name resolves to
//! is judged, each time a connection is made, and the connection goes to the address that was judged.
//!
//! | address | connected to |
//! |---|---|
//! | public | yes |
//! | loopback | where the operator wrote an address of it, or `localhost`; else if the name is listed |
//! | private, CGNAT | if the name is listed, or the address |
//! | everything else: link-local, metadata, IPv4 inside of IPv6, multicast, reserved | if the address itself is listed |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::HttpError;

/// On other machines, ports below 1024 belong to services that were not made to be sent jobs, except these.
const LOW_PORTS: [u16; 2] = [80, 443];
const FIRST_HIGH_PORT: u16 = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Public,
    Loopback,
    Private(&'static str),
    Never(&'static str),
}

/// An address that is not connected to, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address} is not connected to: it is {kind}, which must be allowed explicitly (--app-allow, worker.http.allow)"
)]
pub struct RefusedAddress {
    pub address: IpAddr,
    pub kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Net { network: IpAddr, prefix: u32 },
    Host { name: String, port: Option<u16> },
}

/// What the operator allows beyond the public addresses, and the host that jobs are sent to.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    entries: Vec<Entry>,
    host: String,
}

impl Guard {
    /// `allow`: names (`app.internal`, `app.internal:25`), addresses and networks (`10.1.0.0/16`).
    pub(super) fn new(host: &str, port: u16, allow: &[String]) -> Result<Self, HttpError> {
        let entries: Vec<Entry> = allow.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let guard = Self {
            entries,
            host: host.trim_end_matches('.').to_ascii_lowercase(),
        };
        guard.check_port(port)?;
        if let Some(address) = guard.literal() {
            guard.check(address)?;
        }
        Ok(guard)
    }

    fn literal(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether the operator wrote that the app is on this machine.
    pub(super) fn is_local(&self) -> bool {
        self.host == "localhost" || self.literal().is_some_and(|address| address.is_loopback())
    }

    fn check_port(&self, port: u16) -> Result<(), HttpError> {
        let listed = self.entries.iter().any(
            |entry| matches!(entry, Entry::Host { name, port: Some(listed) } if *listed == port && *name == self.host),
        );
        if listed || self.is_local() || LOW_PORTS.contains(&port) || port >= FIRST_HIGH_PORT {
            return Ok(());
        }
        Err(HttpError::Port {
            port,
            host: self.host.clone(),
        })
    }

    pub(super) fn check(&self, address: IpAddr) -> Result<(), RefusedAddress> {
        let refused = |kind| Err(RefusedAddress { address, kind });
        if self.entries.iter().any(|entry| entry.covers(address)) {
            return Ok(());
        }
        let is_listed = || {
            let lists = |entry: &Entry| matches!(entry, Entry::Host { name, .. } if *name == self.host);
            self.entries.iter().any(lists)
        };
        match kind(address) {
            Kind::Public => Ok(()),
            Kind::Loopback if self.is_local() || is_listed() => Ok(()),
            Kind::Loopback => refused("loopback"),
            Kind::Private(_) if is_listed() => Ok(()),
            Kind::Private(kind) | Kind::Never(kind) => refused(kind),
        }
    }
}

impl Entry {
    fn covers(&self, address: IpAddr) -> bool {
        match (self, address) {
            (
                Self::Net {
                    network: IpAddr::V4(network),
                    prefix,
                },
                IpAddr::V4(address),
            ) => {
                let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
                u32::from(*network) & mask == u32::from(address) & mask
            }
            (
                Self::Net {
                    network: IpAddr::V6(network),
                    prefix,
                },
                IpAddr::V6(address),
            ) => {
                let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
                u128::from(*network) & mask == u128::from(address) & mask
            }
            _ => false,
        }
    }
}

fn parse(text: &str) -> Result<Entry, HttpError> {
    let invalid = || HttpError::InvalidAllow {
        text: text.to_owned(),
    };
    let text = text.trim().to_ascii_lowercase();
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text.as_str(), None),
    };
    if let Ok(network) = address.parse::<IpAddr>() {
        let longest = if network.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| invalid())?,
            None => longest,
        };
        return match prefix <= longest {
            true => Ok(Entry::Net { network, prefix }),
            false => Err(invalid()),
        };
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port.parse().map_err(|_| invalid())?)),
        None => (text.as_str(), None),
    };
    let name = name.trim_end_matches('.');
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(invalid());
    }
    Ok(Entry::Host {
        name: name.to_owned(),
        port,
    })
}

fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

/// By the IANA registry of special addresses, and what clouds use for their metadata.
fn kind_v4(address: Ipv4Addr) -> Kind {
    match address.octets() {
        // Azure, Alibaba; most others are link-local. Oracle's is in 192.0.0.0/24.
        [168, 63, 129, 16] | [100, 100, 100, 200] => Kind::Never("a cloud's metadata service"),
        [127, ..] => Kind::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Kind::Private("private"),
        [100, 64..=127, ..] => Kind::Private("shared (CGNAT)"),
        [169, 254, ..] => Kind::Never("link-local, where clouds have their metadata"),
        [0, ..] => Kind::Never("unspecified"),
        [224..=239, ..] => Kind::Never("multicast"),
        [192, 88, 99, _] => Kind::Never("6to4"),
        [192, 0, 0 | 2, _] | [198, 18..=19, ..] | [198, 51, 100, _] | [203, 0, 113, _] | [240..=255, ..] => {
            Kind::Never("reserved")
        }
        _ => Kind::Public,
    }
}

fn kind_v6(address: Ipv6Addr) -> Kind {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Loopback,
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Kind::Never("a cloud's metadata service"),
        [0xfc00..=0xfdff, ..] => Kind::Private("private"),
        [0xfe80..=0xfebf, ..] => Kind::Never("link-local"),
        [0xff00..=0xffff, ..] => Kind::Never("multicast"),
        [0, 0, 0, 0, 0, 0xffff, ..] => Kind::Never("IPv4 inside of IPv6 (mapped)"),
        [0x64, 0xff9b, ..] => Kind::Never("IPv4 inside of IPv6 (NAT64)"),
        [0x2002, ..] => Kind::Never("IPv4 inside of IPv6 (6to4)"),
        [0x2001, 0, ..] => Kind::Never("IPv4 inside of IPv6 (Teredo)"),
        [0x2001, 0x1..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Kind::Never("reserved"),
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Never("reserved"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(host: &str, allow: &[&str]) -> Guard {
        let allow: Vec<String> = allow.iter().map(|text| (*text).to_owned()).collect();
        Guard::new(host, 443, &allow).expect("valid")
    }

    #[test]
    fn only_public_addresses_without_a_word_of_the_operator() {
        let guard = guard("app.example", &[]);
        for address in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert_eq!(guard.check(address.parse().expect(address)), Ok(()), "{address}");
        }
        for (address, kind) in [
            ("127.0.0.1", "loopback"),
            ("127.9.9.9", "loopback"),
            ("::1", "loopback"),
            ("10.0.0.1", "private"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.168.1.1", "private"),
            ("fd12::1", "private"),
            ("100.64.0.1", "CGNAT"),
            ("169.254.169.254", "metadata"),
            ("100.100.100.200", "metadata"),
            ("168.63.129.16", "metadata"),
            ("fd00:ec2::254", "metadata"),
            ("fe80::1", "link-local"),
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("::", "reserved"),
            ("192.0.0.192", "reserved"),
            ("192.0.2.1", "reserved"),
            ("198.19.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("::ffff:127.0.0.1", "mapped"),
            ("::ffff:1.1.1.1", "mapped"),
            ("::127.0.0.1", "reserved"),
            ("64:ff9b::a9fe:a9fe", "NAT64"),
            ("64:ff9b:1::1", "NAT64"),
            ("2002:7f00:1::1", "6to4"),
            ("192.88.99.1", "6to4"),
            ("2001::1", "Teredo"),
            ("2001:db8::1", "reserved"),
            ("fec0::1", "reserved"),
        ] {
            let refused = guard.check(address.parse().expect(address)).expect_err(address);
            assert!(refused.kind.contains(kind), "{address}: {refused}");
        }
    }

    #[test]
    fn the_operator_may_write_a_loopback_address_but_a_name_may_not_lead_there() {
        for host in ["127.0.0.1", "[::1]", "localhost", "LOCALHOST."] {
            assert_eq!(
                guard(host, &[]).check(Ipv4Addr::LOCALHOST.into()),
                Ok(()),
                "{host}"
            );
            assert!(
                guard(host, &[]).check(Ipv4Addr::new(10, 0, 0, 1).into()).is_err(),
                "{host}"
            );
        }
        assert!(
            guard("localhost.example", &[])
                .check(Ipv4Addr::LOCALHOST.into())
                .is_err()
        );
    }

    #[test]
    fn a_listed_name_may_be_private_and_a_listed_address_anything() {
        let named = guard("app.internal", &["app.internal", "other"]);
        for (address, allowed) in [
            ("10.0.0.1", true),
            ("100.64.0.1", true),
            ("127.0.0.1", true),
            ("169.254.169.254", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(
                named.check(address.parse().expect(address)).is_ok(),
                allowed,
                "{address}"
            );
        }
        assert!(
            guard("third", &["app.internal"])
                .check(Ipv4Addr::new(10, 0, 0, 1).into())
                .is_err()
        );
        let netted = guard(
            "app",
            &["10.1.0.0/16", "169.254.169.254", "fd00::/8", "64:ff9b::/96"],
        );
        for (address, allowed) in [
            ("10.1.255.1", true),
            ("10.2.0.1", false),
            ("169.254.169.254", true),
            ("169.254.169.253", false),
            ("fd12::1", true),
            ("64:ff9b::1", true),
            ("127.0.0.1", false),
        ] {
            assert_eq!(
                netted.check(address.parse().expect(address)).is_ok(),
                allowed,
                "{address}"
            );
        }
        assert!(
            guard("app", &["0.0.0.0/0"])
                .check(Ipv4Addr::LOCALHOST.into())
                .is_ok()
        );
    }

    #[test]
    fn hosts_and_ports_are_judged_at_the_start() {
        let new = |host: &str, port, allow: &[&str]| {
            let allow: Vec<String> = allow.iter().map(|text| (*text).to_owned()).collect();
            Guard::new(host, port, &allow).map(drop)
        };
        for (host, port, allow, text) in [
            ("10.0.0.1", 80, &[][..], "it is private"),
            ("[fe80::1]", 80, &[], "it is link-local"),
            ("169.254.169.254", 80, &["other"], "it is link-local"),
            ("app", 22, &[], "port 22"),
            ("app", 22, &["app", "app:25", "other:22"], "port 22"),
            ("app", 80, &["10.0.0.0/33"], "\"10.0.0.0/33\""),
            ("app", 80, &["10.0.0.0/x"], "\"10.0.0.0/x\""),
            ("app", 80, &["http://app/"], "\"http://app/\""),
            ("app", 80, &[""], "\"\""),
        ] {
            let error = new(host, port, allow).expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
        for (host, port, allow) in [
            ("10.0.0.1", 80, &["10.0.0.1"][..]),
            ("app", 22, &["app:22"]),
            ("app", 8_080, &[]),
        ] {
            new(host, port, allow).expect("allowed");
        }
    }
}
