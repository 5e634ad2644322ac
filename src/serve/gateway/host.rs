//! The `Host` field of a request. A page of another site can lead its own name to the loopback address (DNS rebinding) and then read
//! what listens there; its requests still name that site.

use std::net::SocketAddr;

use axum::http::{header, request::Parts};

/// The port that a URL of http may leave out.
const HTTP_PORT: u16 = 80;

/// The names under which a gateway may be addressed, each with its port.
pub struct OwnHosts(Vec<String>);

impl OwnHosts {
    /// Those of a server that listens at this address: the address itself, and `localhost`.
    pub fn of(address: SocketAddr) -> OwnHosts {
        let port = address.port();
        // An IPv6 address has brackets in a URL, as in the text of the socket address.
        let with_port = [address.to_string(), format!("localhost:{port}")];
        let without_port = with_port
            .iter()
            .filter_map(|host| host.strip_suffix(":80"))
            .filter(|_| port == HTTP_PORT);
        OwnHosts(
            with_port
                .iter()
                .map(String::as_str)
                .chain(without_port)
                .map(str::to_owned)
                .collect(),
        )
    }

    /// Whether a request is for this server: it has one `Host`, of the list, and so has its target if that is a whole URL.
    pub fn are_named_by(&self, request: &Parts) -> bool {
        let is_own = |host: &str| self.0.iter().any(|own| own.eq_ignore_ascii_case(host));
        let mut fields = request.headers.get_all(header::HOST).iter();
        let (Some(host), None) = (fields.next(), fields.next()) else {
            return false;
        };
        let target = request.uri.authority();
        host.to_str().is_ok_and(is_own) && target.is_none_or(|target| is_own(target.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn is_accepted(listening: &str, target: &str, hosts: &[&str]) -> bool {
        let mut request = Request::builder().uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        let (request, ()) = request.body(()).unwrap().into_parts();
        OwnHosts::of(listening.parse().unwrap()).are_named_by(&request)
    }

    #[test]
    fn only_its_own_hosts() {
        for (listening, host) in [
            ("127.0.0.1:4711", "127.0.0.1:4711"),
            ("127.0.0.1:4711", "localhost:4711"),
            ("127.0.0.1:4711", "LocalHost:4711"),
            ("127.0.0.2:4711", "127.0.0.2:4711"),
            ("[::1]:4711", "[::1]:4711"),
            ("[::1]:4711", "localhost:4711"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("127.0.0.1:80", "localhost"),
            ("[::1]:80", "[::1]"),
        ] {
            assert!(is_accepted(listening, "/", &[host]), "{listening} {host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:4711",
            "localhost.evil.example:4711",
            "localhost.evil.com",
            "127.0.0.1.evil.example:4711",
            "127.0.0.1",
            "localhost",
            "127.0.0.1:80",
            "127.0.0.1:04711",
            "127.0.0.1:4711 ",
            "127.0.0.1:4711,evil.example",
            "user@127.0.0.1:4711",
            "127.1:4711",
            "2130706433:4711",
            "0.0.0.0:4711",
            "[::1]:4711",
            "localhost.:4711",
            "\u{131}ocalhost:4711",
        ] {
            assert!(!is_accepted("127.0.0.1:4711", "/", &[host]), "{host:?}");
        }
        let own = "127.0.0.1:4711";
        assert!(!is_accepted(own, "/", &[]), "no Host");
        assert!(!is_accepted(own, "/", &[own, own]), "two of them");
        assert!(!is_accepted(own, "/", &[own, "evil.example"]));
        // A target that is a URL overrides Host (RFC 9112, 3.2.2), so both must be ours.
        assert!(is_accepted(own, "http://localhost:4711/", &[own]));
        assert!(!is_accepted(own, "http://evil.example/", &[own]));
        assert!(!is_accepted(
            own,
            "http://127.0.0.1:4711/",
            &["evil.example"]
        ));
    }
}
