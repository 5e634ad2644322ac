//! Which web pages may use the API (the Fetch standard, CORS). A page of any other origin is refused: a browser on this machine would
//! reach the loopback interface for it.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, header},
};

/// How long a browser may keep the answer, in seconds.
const MAX_AGE: &str = "600";

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

    pub fn of(&self, request: &Request) -> From {
        let Some(origin) = request.headers().get(header::ORIGIN) else {
            return From::Anywhere;
        };
        let is_allowed = |text: &str| {
            self.0
                .iter()
                .any(|allowed| allowed.eq_ignore_ascii_case(text))
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
            let exposed = HeaderValue::from_static("ETag, Retry-After, Location");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }

    /// The fields of the response to a preflight request.
    pub fn preflight() -> [(HeaderName, HeaderValue); 3] {
        let fields = [
            (
                header::ACCESS_CONTROL_ALLOW_METHODS,
                "GET, PUT, POST, DELETE",
            ),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "Authorization, Content-Type",
            ),
            (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ];
        fields.map(|(name, value)| (name, HeaderValue::from_static(value)))
    }
}
