//! Which web pages may use the API (the Fetch standard, CORS). A page of any other origin is refused: a browser on this machine would
//! reach the loopback interface for it.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, header},
};

/// How long a browser may keep the answer, in seconds.
const MAX_AGE: &str = "600";

/// The fields of a response that a page may read.
const EXPOSED: &str = "ETag, Retry-After, Location, Tus-Extension, Tus-Resumable, Tus-Version, Upload-Complete, \
    Upload-Defer-Length, Upload-Draft-Interop-Version, Upload-Expires, Upload-Length, Upload-Limit, Upload-Metadata, \
    Upload-Offset";

/// The web origins that are allowed.
pub struct Origins(Vec<String>);

/// Where a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// No web page, or one that is not said.
    Anywhere,
    /// A page that may use the API.
    Allowed(HeaderValue),
    /// A page that may not.
    Refused,
}

impl Origins {
    pub fn new(origins: Vec<String>) -> Origins {
        let bare = |origin: String| origin.trim_end_matches('/').to_owned();
        Origins(origins.into_iter().map(bare).collect())
    }

    /// `same`: whether pages of this server itself may.
    pub fn of(&self, request: &Request, same: bool) -> From {
        let Some(origin) = request.headers().get(header::ORIGIN) else {
            return From::Anywhere;
        };
        let host = request.headers().get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok());
        let of_uri = request
            .uri()
            .authority()
            .map(|authority| authority.as_str());
        let is_own = |text: &str| {
            let (_, own) = text.split_once("://").unwrap_or_default();
            host.or(of_uri)
                .is_some_and(|host| same && host.eq_ignore_ascii_case(own))
        };
        let is_allowed = |text: &str| {
            let mut listed = self.0.iter();
            is_own(text) || listed.any(|allowed| allowed.eq_ignore_ascii_case(text))
        };
        match origin.to_str().is_ok_and(is_allowed) {
            true => From::Allowed(origin.clone()),
            false => From::Refused,
        }
    }

    /// Adds what lets the page read the response.
    pub fn allow(&self, from: &From, headers: &mut HeaderMap) {
        if !self.0.is_empty() {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let From::Allowed(origin) = from {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let exposed = HeaderValue::from_static(EXPOSED);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }

    /// The fields of the response to a preflight request.
    pub fn preflight() -> [(HeaderName, HeaderValue); 3] {
        let fields = [
            (
                header::ACCESS_CONTROL_ALLOW_METHODS,
                "GET, HEAD, PUT, POST, PATCH, DELETE",
            ),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "Authorization, Content-Type, Tus-Resumable, Upload-Complete, Upload-Defer-Length, \
                 Upload-Draft-Interop-Version, Upload-Length, Upload-Metadata, Upload-Offset, X-HTTP-Method-Override, \
                 X-Request-ID, X-Requested-With",
            ),
            (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ];
        fields.map(|(name, value)| (name, HeaderValue::from_static(value)))
    }
}
