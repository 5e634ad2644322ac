//! The first requests for an object and its manifest.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{
    engine::{context::Context, error::Error},
    net::{error::NetError, location::Location},
    policy::{recovery::Failure, schedule::Limits},
};

use super::{
    manifest::{ManifestPlace, OpenManifest},
    preflight::{Preflight, preflight},
};

/// How long a manifest that cannot be read is requested again after the first response of the object.
const MANIFEST_PATIENCE: Duration = Duration::from_secs(10);
/// The wait before the second request, and between rounds of redirects.
const AGAIN: Duration = Duration::from_secs(1);

/// Requests the object and its manifest at the same time, which takes one round trip.
pub async fn responses(
    context: &Context,
    url: &Location,
    place: &ManifestPlace,
    limits: &Limits,
) -> (Result<Preflight, Error>, Result<OpenManifest, Error>) {
    // A failure of the manifest matters only if there is an object.
    let at_once = Limits {
        tries: 1,
        patience_ms: 0,
        ..*limits
    };
    let preflight = async {
        let found = retried!(limits, preflight(&context.client, url));
        (found, Instant::now())
    };
    let manifest = OpenManifest::open(context, place, &at_once);
    let ((found, since), manifest) = match context.connections.per_fetch() {
        1 => (preflight.await, manifest.await),
        _ => tokio::join!(preflight, manifest),
    };
    let manifest = match manifest {
        Err(error) if found.is_ok() && may_pass(&error) => {
            again(context, place, limits, since, error).await
        }
        other => other,
    };
    (found, manifest)
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
    since: Instant,
    mut error: Error,
) -> Result<OpenManifest, Error> {
    let patience = MANIFEST_PATIENCE.min(Duration::from_millis(limits.patience_ms));
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
