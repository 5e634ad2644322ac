//! Errors of requests: the [`Failure`] that decides what follows, and the text for the user.

use std::io;

use crate::policy::recovery::{BadResponse, Changed, Failure};

use super::{address::OnlyPrivate, location::Location};

/// A request that failed. Its text has no secrets of the URL.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}{detail}", self.place())]
#[allow(missing_docs, reason = "place and cause, as in its message")]
pub struct NetError {
    pub location: Box<Location>,
    pub failure: Failure,
    /// The length of the object, if a 416 declares it.
    pub length: Option<u64>,
    detail: String,
}

impl NetError {
    /// A failure at this place.
    pub fn new(location: &Location, failure: Failure) -> NetError {
        NetError {
            location: Box::new(location.clone()),
            failure,
            length: None,
            detail: describe(failure),
        }
    }

    /// The object changed.
    pub fn changed(location: &Location, how: Changed) -> NetError {
        NetError::new(location, Failure::Changed(how))
    }

    /// A failure with a text of its own, mostly from the libraries below.
    pub fn with_detail(
        location: &Location,
        failure: Failure,
        detail: impl Into<String>,
    ) -> NetError {
        NetError {
            location: Box::new(location.clone()),
            failure,
            length: None,
            detail: detail.into(),
        }
    }

    /// A refusal, with the reason of the server.
    pub(super) fn refused(location: &Location, failure: Failure, reason: &str) -> NetError {
        let detail = format!("{}: {reason}", describe(failure));
        NetError::with_detail(location, failure, detail)
    }

    /// No connection could be made: to the proxy, if it was to be made through one.
    pub(super) fn unreachable(location: &Location, proxy: Option<&str>, why: &str) -> NetError {
        let whom = match proxy {
            Some(proxy) => format!("the proxy {proxy}"),
            None => location.host(),
        };
        NetError::with_detail(
            location,
            Failure::Unreachable,
            format!("cannot reach {whom} ({why})"),
        )
    }

    /// The URL before what was wrong, unless that names the host.
    fn place(&self) -> String {
        match self.failure {
            Failure::Unreachable => String::new(),
            _ => format!("{}: ", self.location),
        }
    }

    /// What was wrong, without the URL.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Classifies an error of the HTTP library. `proxy`: the one that the request went to.
    pub fn from_reqwest(
        location: &Location,
        proxy: Option<&str>,
        error: &reqwest::Error,
    ) -> NetError {
        let texts: Vec<String> = chain(error).map(ToString::to_string).collect();
        let innermost = texts.last().cloned().unwrap_or_default();
        let failure = classify(error, &texts, &innermost);
        let cause = match innermost.contains(AUTHORITY_AS_SERVER) {
            true => {
                "the server shows the certificate of a certificate authority as its own; it needs one with CA:FALSE"
            }
            false => &innermost,
        };
        let what = match failure {
            Failure::NoTls | Failure::BadResponse(BadResponse::NotHttp) => {
                return NetError::new(location, failure);
            }
            Failure::Unreachable => {
                let why = why_unreachable(error, &innermost);
                // The proxy was reached, but its target was not.
                if let Some(proxy) = proxy.filter(|_| texts.iter().any(|text| text == NO_TARGET)) {
                    let host = location.host();
                    let detail = format!("the proxy {proxy} cannot connect to {host}");
                    return NetError::with_detail(location, failure, detail);
                }
                return NetError::unreachable(location, proxy, &why);
            }
            Failure::Refused { .. } | Failure::Unsafe | Failure::Tls | Failure::Stalled => {
                describe(failure)
            }
            Failure::BadResponse(how) => how.to_string(),
            _ => describe(Failure::Broken),
        };
        NetError::with_detail(location, failure, format!("{what} ({cause})"))
    }
}

/// An error and its causes.
fn chain(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |cause| {
        cause.source()
    })
}

/// The failure that an error of the HTTP library stands for. `texts`: of the error and its causes.
fn classify(error: &reqwest::Error, texts: &[String], innermost: &str) -> Failure {
    let has = |words: &[&str]| {
        let has_one = |text: &String| words.iter().any(|word| text.contains(word));
        texts.iter().any(has_one)
    };
    if chain(error).any(|cause| cause.is::<OnlyPrivate>()) {
        Failure::Unsafe
    } else if has(&[NO_TUNNEL]) {
        Failure::Refused { status: 407 }
    } else if error.is_connect() && has(&[NOT_A_TLS_RECORD]) {
        Failure::NoTls
    } else if has(&["close_notify"]) {
        // The connection ended without the end of its TLS: it may be truncated (RFC 8446, 6.1), so the body is incomplete.
        Failure::Broken
    } else if has(&BAD_HEADERS) {
        Failure::BadResponse(BadResponse::Headers)
    } else if has(&[NOT_HTTP]) {
        Failure::BadResponse(BadResponse::NotHttp)
    } else if has(&[
        "certificate",
        "TLS",
        "HandshakeFailure",
        "received fatal alert",
        "peer is incompatible",
    ]) {
        Failure::Tls
    } else if error.is_connect() {
        Failure::Unreachable
    } else if error.is_timeout() {
        Failure::Stalled
    } else if NO_QUIC_CONNECTION.contains(&innermost) {
        Failure::Unreachable
    } else {
        Failure::Broken
    }
}

/// Why no connection could be made, in a few words.
fn why_unreachable(error: &reqwest::Error, innermost: &str) -> String {
    let of_system = chain(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
    match of_system.last() {
        Some(cause) => why(cause),
        None if error.is_timeout() => NO_RESPONSE.to_owned(),
        None => innermost.to_owned(),
    }
}

/// Why a connection could not be made, in a few words.
pub(super) fn why(cause: &io::Error) -> String {
    let text = cause.to_string();
    let words = match cause.kind() {
        _ if NO_NAME_SERVER.iter().any(|words| text.contains(words)) => "no name server responds",
        _ if text.contains("failed to lookup address") => "name not found",
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "no route to it",
        io::ErrorKind::TimedOut => NO_RESPONSE,
        io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            "it closed the connection at once"
        }
        _ => return text,
    };
    words.to_owned()
}

/// The texts of glibc and of musl for a name server that does not respond.
const NO_NAME_SERVER: [&str; 2] = [
    "Temporary failure in name resolution",
    "failed to lookup address information: Try again",
];
const NO_RESPONSE: &str = "no response";
/// The HTTP library's text for a proxy that does not connect to the host.
const NO_TARGET: &str = "tunnel error: unsuccessful";
/// Its text for a response that is none of HTTP/1.
const NOT_HTTP: &str = "invalid HTTP version parsed";
/// The HTTP library's text for a proxy that requires a login for a tunnel.
const NO_TUNNEL: &str = "proxy authorization required";
/// The TLS library's text for a first byte with which no TLS record begins: the response of a server that speaks plain HTTP.
const NOT_A_TLS_RECORD: &str = "InvalidContentType";
/// Its text for a certificate of an authority as that of the server: most are self-signed.
const AUTHORITY_AS_SERVER: &str = "CaUsedAsEndEntity";
/// The HTTP library's texts for header fields beyond its limits, in number or size, or with invalid bytes.
const BAD_HEADERS: [&str; 2] = ["message head is too large", "invalid HTTP header parsed"];

/// Its texts for a QUIC connection that could not be made, or was lost: it has no kind of error for that. The second one is for
/// requests that waited while another one connected.
const NO_QUIC_CONNECTION: [&str; 2] = [
    "timed out",
    "failed to establish connection for HTTP/3 request",
];

/// What happened, without the place.
pub fn describe(failure: Failure) -> String {
    match failure {
        Failure::Unreachable => "cannot be reached".to_owned(),
        Failure::Broken => "the connection broke before the end".to_owned(),
        Failure::Stalled => "no data came for too long".to_owned(),
        Failure::Server { status, .. } => format!("the server reported an error (status {status})"),
        Failure::TooMany { status, .. } => {
            format!("the server limits requests (status {status})")
        }
        Failure::RetryAfter { wait_ms } => format!(
            "its host limits requests: the next one may follow in {} s",
            wait_ms.div_ceil(1000)
        ),
        Failure::BadResponse(how) => how.to_string(),
        Failure::Changed(how) => format!("the object changed: {how}"),
        Failure::Refused {
            status: status @ (401 | 403),
        } => format!("access was refused (status {status})"),
        Failure::Refused {
            status: status @ (404 | 410),
        } => format!("nothing is there (status {status})"),
        Failure::Refused { status: 407 } => "the proxy refused the login (status 407)".to_owned(),
        Failure::Refused { status } => format!("the request was refused (status {status})"),
        Failure::Tls => "the secure connection was refused".to_owned(),
        Failure::NoTls => "the server does not speak TLS on this port".to_owned(),
        Failure::NoHttp2 => "the server has no HTTP/2".to_owned(),
        Failure::Redirects => "too many redirects, or one without a valid target".to_owned(),
        Failure::Unsafe => {
            "it leads to a private address or to another scheme, which a server may not do"
                .to_owned()
        }
        Failure::TooLarge => "it is larger than the limit".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With musl a dead name server was a name that is not found.
    #[test]
    fn names_are_missing_or_their_server_is() {
        for (text, expected) in [
            ("Name or service not known", "name not found"),
            ("Name does not resolve", "name not found"),
            (
                "Temporary failure in name resolution",
                "no name server responds",
            ),
            ("Try again", "no name server responds"),
        ] {
            let text = format!("failed to lookup address information: {text}");
            assert_eq!(why(&io::Error::other(text)), expected);
        }
    }
}
