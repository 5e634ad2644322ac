//! Private addresses. A URL that the user typed may lead to one; a redirect from a public host may not.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::timeout;

use super::{CONNECT_MS, location::Location};

/// Whether the public internet does not reach this address: loopback, private, link-local (cloud metadata services), shared,
/// reserved, or such an address inside an IPv6 one.
pub fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_private_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_private_v4(v4),
            None => {
                let first = v6.segments()[0];
                // Global unicast is 2000::/3. Of that, protocol assignments (Teredo, benchmarking), documentation and 6to4 lead
                // nowhere, or to an IPv4 address.
                first & 0xE000 != 0x2000
                    || (first == 0x2001
                        && (v6.segments()[1] < 0x0200 || v6.segments()[1] == 0x0DB8))
                    || first == 0x2002
            }
        },
    }
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19))
}

/// The IPv4 address inside an IPv6 one: mapped, or NAT64 (`64:ff9b::/96`).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xFFFF, high, low] => Some(v4(high, low)),
        [0x64, 0xFF9B, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        _ => None,
    }
}

/// Whether the URL itself has a private address as its host.
pub fn is_private_literal(location: &Location) -> bool {
    match location.url().host() {
        Some(url::Host::Ipv4(address)) => is_private(address.into()),
        Some(url::Host::Ipv6(address)) => is_private(address.into()),
        Some(url::Host::Domain(_)) | None => false,
    }
}

/// A name resolves to private addresses only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it resolves to a private address")]
pub struct OnlyPrivate;

/// Resolves names for guarded requests: it leaves private addresses out.
#[derive(Debug)]
pub struct PublicResolver;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> =
                found.filter(|address| !is_private(address.ip())).collect();
            match public.is_empty() {
                true => Err(OnlyPrivate.into()),
                false => Ok(Box::new(public.into_iter()) as Addrs),
            }
        })
    }
}

/// Whether a name resolves to a private address; no, if it does not resolve here.
pub async fn resolves_to_private(name: &str) -> bool {
    let limit = Duration::from_millis(CONNECT_MS);
    match timeout(limit, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(mut found)) => found.any(|address| is_private(address.ip())),
        Ok(Err(_)) | Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_public() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:a00:1::",
            "2002:101:101::",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "ff02::1",
            "2001:db8::1",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in [
            "1.1.1.1",
            "93.184.216.34",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
        ] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }
}
