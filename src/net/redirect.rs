//! Redirects by our rules: how many, to which schemes and addresses, and which targets are remembered.

use std::collections::HashMap;

use parking_lot::Mutex;
use percent_encoding::{AsciiSet, percent_encode};
use reqwest::header;

use crate::policy::recovery::Failure;

use super::{
    address::{is_private, is_private_literal},
    error::NetError,
    location::Location,
    request::Request,
    transport::{Exchange, Transport},
};

/// More redirects than this are a loop.
const REDIRECTS_MAX: usize = 5;

/// The last target of redirects, by the requested URL.
#[derive(Default)]
pub struct Redirects(Mutex<HashMap<String, Step>>);

/// A place to send a request to.
#[derive(Clone)]
struct Step {
    location: Location,
    /// A public host redirected here: its address must be public too.
    guarded: bool,
}

impl Redirects {
    /// The URL to which known redirects lead from this one.
    pub fn resolved(&self, location: &Location) -> Option<Location> {
        let known = self.0.lock();
        let step = known.get(location.url().as_str())?;
        Some(step.location.clone())
    }

    /// Sends the request to where its redirects led last, or follows them. A signed URL expires: when it is refused, redirects are
    /// followed once more from the first URL, and the second response counts.
    pub async fn follow(
        &self,
        transport: &Transport,
        request: &Request<'_>,
    ) -> Result<Exchange, NetError> {
        let refused = |status: u16| matches!(status, 400 | 401 | 403 | 404 | 410);
        let known = self.0.lock().get(request.target.url().as_str()).cloned();
        if let Some(step) = known {
            let exchange = transport
                .exchange(request, &step.location, step.guarded)
                .await?;
            let status = exchange.response.status().as_u16();
            if !refused(status) && !matches!(status, 301..=308) {
                return Ok(exchange);
            }
            self.0.lock().remove(request.target.url().as_str());
            return self.follow_anew(transport, request).await;
        }
        let exchange = self.follow_anew(transport, request).await?;
        let status = exchange.response.status().as_u16();
        let first = transport.address(request.target)?;
        match refused(status) && exchange.location != first {
            true => self.follow_anew(transport, request).await,
            false => Ok(exchange),
        }
    }

    /// Follows redirects from the first URL on. Each step repeats method and content. 301, 302 and 303 may turn other methods than GET and
    /// HEAD into GET (RFC 9110, 15.4): they are not followed.
    async fn follow_anew(
        &self,
        transport: &Transport,
        request: &Request<'_>,
    ) -> Result<Exchange, NetError> {
        let mut step = first_step(transport, request)?;
        let mut is_signed_again = false;
        for _ in 0..=REDIRECTS_MAX {
            let exchange = transport
                .exchange(request, &step.location, step.guarded)
                .await?;
            if !is_signed_again && transport.learns_from(&exchange) {
                is_signed_again = true;
                step.location = transport.address(request.target)?;
                continue;
            }
            let status = exchange.response.status().as_u16();
            let refused_by_s3 = exchange.refusal.is_some()
                && !exchange.response.headers().contains_key(header::LOCATION);
            if !matches!(status, 301 | 302 | 303 | 307 | 308) || refused_by_s3 {
                if step.location != transport.address(request.target)? {
                    let first = request.target.url().to_string();
                    self.0.lock().insert(first, step);
                }
                return Ok(exchange);
            }
            if !request.method.is_safe() && !matches!(status, 307 | 308) {
                let detail = format!(
                    "it redirects to a page (status {status}) instead of taking the request"
                );
                let failure = Failure::Redirects;
                return Err(NetError::with_detail(&step.location, failure, detail));
            }
            step = next_step(transport, &step, &exchange.response)?;
        }
        Err(NetError::new(request.target, Failure::Redirects))
    }
}

/// The target of the request. One that a server named may be only where a redirect of that server may lead.
fn first_step(transport: &Transport, request: &Request<'_>) -> Result<Step, NetError> {
    let location = transport.address(request.target)?;
    let Some(typed) = request.named_by else {
        let guarded = false;
        return Ok(Step { location, guarded });
    };
    if location.same_origin(typed) {
        let guarded = false;
        return Ok(Step { location, guarded });
    }
    let from_public = !is_private_literal(typed) && transport.is_public(typed).unwrap_or(true);
    let guarded = from_public && !transport.allows_private();
    let downgrades = typed.is_https() && !location.is_https();
    match downgrades || guarded && is_private_literal(&location) {
        true => Err(NetError::new(&location, Failure::Unsafe)),
        false => Ok(Step { location, guarded }),
    }
}

/// Where a redirect leads, if it may be followed.
fn next_step(
    transport: &Transport,
    from: &Step,
    response: &reqwest::Response,
) -> Result<Step, NetError> {
    let invalid = || NetError::new(&from.location, Failure::Redirects);
    let refused = || NetError::new(&from.location, Failure::Unsafe);
    let target = response
        .headers()
        .get(header::LOCATION)
        .ok_or_else(invalid)?;
    // Raw bytes above ASCII mean themselves, as in browsers and curl.
    let target = percent_encode(target.as_bytes(), &AsciiSet::EMPTY).to_string();
    let target = from.location.join(&target).ok_or_else(invalid)?;
    let location = Location::from_url(target).ok_or_else(refused)?;
    if from.location.is_https() && !location.is_https() {
        return Err(refused());
    }
    // A private host may redirect to another one; a public host may not.
    let from_public = !is_private_literal(&from.location)
        && (transport.is_proxied(&from.location)
            || response
                .remote_addr()
                .is_none_or(|address| !is_private(address.ip())));
    let guarded = (from.guarded || from_public) && !transport.allows_private();
    match guarded && is_private_literal(&location) {
        true => Err(refused()),
        false => Ok(Step {
            location: transport.redirected(&from.location, location),
            guarded,
        }),
    }
}
