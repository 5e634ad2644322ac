//! Errors of requests: the [`Failure`] that decides what follows, and the text for the user.

use crate::policy::recovery::{BadResponse, Changed, Failure};

use super::{address::OnlyPrivate, location::Location};

/// A request that failed. Its text has no secrets of the URL.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{location}: {detail}")]
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

    /// No connection could be made.
    pub(super) fn unreachable(location: &Location, cause: &std::io::Error) -> NetError {
        let what = describe(Failure::Unreachable);
        NetError::with_detail(location, Failure::Unreachable, format!("{what} ({cause})"))
    }

    /// What was wrong, without the URL.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Classifies an error of the HTTP library.
    pub fn from_reqwest(location: &Location, error: &reqwest::Error) -> NetError {
        let chain = || {
            std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |cause| {
                cause.source()
            })
        };
        let innermost = chain().last().map(ToString::to_string).unwrap_or_default();
        let has = |words: &[&str]| {
            chain().any(|cause| words.iter().any(|word| cause.to_string().contains(word)))
        };
        let failure = if chain().any(|cause| cause.is::<OnlyPrivate>()) {
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
        } else if NO_QUIC_CONNECTION.contains(&innermost.as_str()) {
            Failure::Unreachable
        } else {
            Failure::Broken
        };
        if failure == Failure::NoTls {
            return NetError::new(location, failure);
        }
        let cause = match innermost.contains(AUTHORITY_AS_SERVER) {
            true => {
                "the server shows the certificate of a certificate authority as its own; it needs one with CA:FALSE"
            }
            false => &innermost,
        };
        let what = match failure {
            Failure::Refused { .. } | Failure::Unsafe | Failure::Tls | Failure::Stalled => {
                describe(failure)
            }
            Failure::Unreachable => "cannot be reached".to_owned(),
            Failure::BadResponse(how) => how.to_string(),
            _ => describe(Failure::Broken),
        };
        NetError::with_detail(location, failure, format!("{what} ({cause})"))
    }
}

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
        Failure::Redirects => "too many redirects, or one without a valid target".to_owned(),
        Failure::Unsafe => {
            "it leads to a private address or to another scheme, which a server may not do"
                .to_owned()
        }
        Failure::TooLarge => "it is larger than the limit".to_owned(),
    }
}
