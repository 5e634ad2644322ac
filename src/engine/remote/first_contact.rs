//! The first requests for an object and its manifest.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use crate::{
    engine::{context::Context, error::Error},
    format::geometry::ByteRange,
    net::{error::NetError, location::Location},
    policy::{recovery::Failure, schedule::Limits},
};

use super::{
    OpenRequest,
    manifest::{ManifestPlace, OpenManifest},
    preflight::{self, FIRST_BYTE, First, preflight},
};

/// How long a manifest that cannot be read is requested again after the first response of the object.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(10);
/// The wait before the second request, and between rounds of redirects.
const AGAIN: Duration = Duration::from_secs(1);

/// Requests the object and its manifest: at the same time, which takes one round trip, unless there is to be one connection.
pub async fn responses(
    context: &Context,
    request: &OpenRequest<'_>,
    (url, place): (&Location, &ManifestPlace),
    limits: &Limits,
) -> (Result<First, Error>, Result<OpenManifest, Error>) {
    // A failure of the manifest matters only if there is an object.
    let at_once = Limits {
        tries: 1,
        patience_ms: 0,
        ..*limits
    };
    let first = match request.keeps_first {
        true => preflight::first_bytes(&context.client),
        false => FIRST_BYTE,
    };
    let look = object(context, url, limits, first);
    let manifest = OpenManifest::open(context, place, &at_once);
    let ((found, since), manifest) = match context.connections.per_fetch() {
        1 => (look.await, manifest.await),
        _ => Box::pin(both(look, manifest)).await,
    };
    let manifest = match manifest {
        Err(error) if found.is_ok() && may_pass(&error) => {
            let patience = match request.needs_manifest {
                true => Duration::from_millis(limits.patience_ms),
                false => MANIFEST_PATIENCE.min(Duration::from_millis(limits.patience_ms)),
            };
            again(context, place, limits, (since, patience), error).await
        }
        other => other,
    };
    (found, manifest)
}

/// What was found of the object, and when.
type Found = (Result<First, Error>, Instant);

/// Waits for both responses. A server of one connection sends the manifest only when the body of the object ends: if the manifest
/// does not come soon, a body that may be long is dropped.
async fn both<M>(
    look: impl Future<Output = Found>,
    manifest: impl Future<Output = M>,
) -> (Found, M) {
    let (mut look, mut manifest) = (pin!(look), pin!(manifest));
    let (mut found, since) = tokio::select! {
        manifest = &mut manifest => return (look.await, manifest),
        found = &mut look => found,
    };
    if let Ok(manifest) = timeout(AGAIN, &mut manifest).await {
        return ((found, since), manifest);
    }
    found = found.map(First::without_open_body);
    ((found, since), manifest.await)
}

/// Requests this range of the object; also returns when the response came.
async fn object(context: &Context, url: &Location, limits: &Limits, range: ByteRange) -> Found {
    let found = retried!(limits, preflight(&context.client, url, range));
    let found = match context.connections.per_fetch() {
        // One connection is for the next request.
        1 => match found {
            Ok(first) => Ok(first.without_open_body().received().await),
            Err(error) => Err(error),
        },
        _ => found,
    };
    (found, Instant::now())
}

/// Whether the same request may succeed later. A redirect in circles is the state of a server that is being set up or logged in to.
pub fn may_pass(error: &Error) -> bool {
    error.is_transient()
        || matches!(error, Error::Net { cause, .. } if cause.failure == Failure::Redirects)
}

/// Requests the manifest again until it is read, or the patience with it has ended.
async fn again(
    context: &Context,
    place: &ManifestPlace,
    limits: &Limits,
    (since, mut patience): (Instant, Duration),
    mut error: Error,
) -> Result<OpenManifest, Error> {
    if since.elapsed() + AGAIN >= patience {
        // The first response was silent until the end of that time: one more may not be.
        patience = (patience + MANIFEST_PATIENCE).min(Duration::from_millis(limits.patience_ms));
    }
    loop {
        sleep(AGAIN.min(patience.saturating_sub(since.elapsed()))).await;
        let left = patience.saturating_sub(since.elapsed());
        if left.is_zero() {
            return Err(match last_failure(error) {
                Ok(last) => Error::Patience {
                    patience_s: since.elapsed().as_secs(),
                    last,
                },
                Err(other) => other,
            });
        }
        let limits = Limits {
            tries: u32::MAX,
            patience_ms: left.as_millis() as u64,
            ..*limits
        };
        match OpenManifest::open(context, place, &limits).await {
            Err(wait @ Error::MustWait { .. }) => return Err(wait),
            Err(next) if may_pass(&next) => error = next,
            other => return other,
        }
    }
}

/// The failure behind an error that may pass.
fn last_failure(error: Error) -> Result<Option<Box<NetError>>, Error> {
    match error {
        Error::Net { cause, .. } => Ok(Some(Box::new(cause))),
        Error::Patience { last, .. } => Ok(last),
        other => Err(other),
    }
}
