//! What all routes need: who makes a request, and the responses that are the same everywhere.

use std::net::IpAddr;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use serde_json::Value;

use crate::{disk::machine, format::upload::SessionId, policy::upload::Owner};

use super::{Uploads, problem::Problem, tokens};

/// The response to a method that a path does not have.
pub fn no_method(methods: &'static str) -> Response {
    let what = format!("this path has the methods {methods}");
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "bad_request", what);
    let methods = HeaderValue::from_static(methods);
    problem.with_field(header::ALLOW, methods).response()
}

/// Who makes a request.
pub async fn owner(uploads: &Uploads, request: &Parts) -> Result<Owner, Problem> {
    match &uploads.tokens {
        Some(tokens) => tokens.owner(&request.headers).await.ok_or_else(|| {
            let what = "a token is needed (Authorization: Bearer TOKEN)";
            Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", what)
        }),
        // A name that leads to the loopback interface could be that of a web page.
        None if is_loopback(request) => Ok(tokens::local()),
        None => {
            let what = "without a token, the host must be named localhost, or by an address of the loopback interface";
            Err(Problem::new(StatusCode::FORBIDDEN, "bad_host", what))
        }
    }
}

fn is_loopback(request: &Parts) -> bool {
    let field = request.headers.get(header::HOST);
    let field = field.and_then(|host| host.to_str().ok());
    let Some(authority) = field.or_else(|| Some(request.uri.authority()?.as_str())) else {
        return false;
    };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    host.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(is_loopback)
}

pub fn json(status: StatusCode, document: &Value) -> Response {
    let mut response = Response::new(Body::from(document.to_string()));
    *response.status_mut() = status;
    let media_type = HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}

/// The ID of a session that the server opens for a client that names none.
pub fn new_id() -> Result<SessionId, Problem> {
    let random = machine::random().map_err(|cause| {
        tracing::warn!("{cause}");
        Problem::busy()
    });
    Ok(SessionId::from_random(random?))
}
