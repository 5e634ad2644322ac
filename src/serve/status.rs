//! `/metrics` and `/healthz`: served where the application has nothing under these paths.

use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, Response, header},
};

use super::metrics::Metrics;

/// Paths that are served by themselves, below the root.
pub const NAMES: [&str; 2] = ["metrics", "healthz"];

/// A path of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The Prometheus text format.
    Metrics,
    /// `ok`, as long as the server responds.
    Health,
}

impl Path {
    /// That of a request for it.
    pub fn of<B>(request: &Request<B>) -> Option<Path> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        match request.uri().path() {
            "/metrics" => Some(Path::Metrics),
            "/healthz" => Some(Path::Health),
            _ => None,
        }
    }

    /// The response to a GET or HEAD.
    pub fn respond(self, is_head: bool, metrics: &Metrics) -> Response<Body> {
        let (media_type, text) = match self {
            Path::Metrics => ("text/plain; version=0.0.4; charset=utf-8", metrics.text()),
            Path::Health => ("text/plain; charset=utf-8", "ok\n".to_owned()),
        };
        let length = text.len();
        let mut response = Response::new(match is_head {
            true => Body::empty(),
            false => Body::from(text),
        });
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, length.into());
        for (name, value) in [
            (header::CONTENT_TYPE, media_type),
            (header::CACHE_CONTROL, "no-store"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
