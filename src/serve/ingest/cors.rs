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
        let is_listed = |text: &str| {
            let mut listed = self.0.iter();
            listed.any(|allowed| allowed.eq_ignore_ascii_case(text))
        };
        let is_allowed = |text: &str| same && is_own(text, request) || is_listed(text);
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

/// Whether the page is one of this server, under the name by which the request reached it. The scheme is not compared, because a proxy may
/// speak TLS for us. A name that an attacker leads to this machine gains nothing by that: without tokens it is refused (`bad_host`), and
/// tokens are not the browser's to add.
fn is_own(origin: &str, request: &Request) -> bool {
    let site = request.headers().get("sec-fetch-site");
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let host = host.or_else(|| Some(request.uri().authority()?.as_str()));
    let authority = origin.strip_prefix("http://");
    let authority = authority.or_else(|| origin.strip_prefix("https://"));
    site.is_none_or(|site| site == "same-origin")
        && authority
            .zip(host)
            .is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn from(fields: &[(&str, &str)], same: bool) -> From {
        let origins = Origins::new(vec!["https://page.example/".to_owned()]);
        let mut request = Request::new(Body::empty());
        for (name, value) in fields {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        origins.of(&request, same)
    }

    #[test]
    fn pages_that_may_use_the_api() {
        let of_host =
            |origin: &str| from(&[("host", "media.example:8443"), ("origin", origin)], true);
        assert_eq!(from(&[("host", "media.example")], false), From::Anywhere);
        for origin in [
            "https://page.example",
            "https://media.example:8443",
            "http://MEDIA.example:8443",
        ] {
            let field: HeaderValue = origin.parse().unwrap();
            assert_eq!(of_host(origin), From::Allowed(field), "{origin}");
        }
        for origin in [
            // Another port is another origin, and so is another name.
            "https://media.example",
            "https://media.example:8443.evil.example",
            "https://evil.media.example:8443",
            "https://media.example:8443/",
            "ftp://media.example:8443",
            "media.example:8443",
            "https://",
            "null",
            "",
        ] {
            assert_eq!(of_host(origin), From::Refused, "{origin}");
        }
        // Where own pages may not, and where the browser knows better.
        let own = [("host", "x.example"), ("origin", "https://x.example")];
        assert_eq!(from(&own, false), From::Refused);
        for (site, is_refused) in [
            ("same-origin", false),
            ("same-site", true),
            ("cross-site", true),
        ] {
            let fields = [own[0], own[1], ("sec-fetch-site", site)];
            assert_eq!(from(&fields, true) == From::Refused, is_refused, "{site}");
        }
    }
}
