//! The page of a gateway. Its files are part of the program, and it needs no other server.

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};

/// Scripts, styles, requests and media from the gateway itself, nothing else; and the page is in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub fn page() -> Response {
    let mut response = file("text/html; charset=utf-8", include_str!("page.html"));
    let policy = HeaderValue::from_static(POLICY);
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

pub fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("page.css"))
}

pub fn script() -> Response {
    file("text/javascript; charset=utf-8", include_str!("page.js"))
}

fn file(media_type: &'static str, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    let media_type = HeaderValue::from_static(media_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}
