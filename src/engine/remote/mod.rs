//! Remote objects: sources, the preflight, and reading manifests.

// First: the modules below use its macro.
#[macro_use]
pub mod retry;

mod first_contact;
mod in_order;
pub mod manifest;
pub mod preflight;
pub mod ranges;
pub mod source;

use crate::{
    net::location::Location,
    policy::{recovery::Changed, schedule::Limits},
};

use super::{context::Context, error::Error};
use manifest::{ManifestPlace, OpenManifest};
use preflight::{Preflight, retried_preflight};

/// With several mirrors, the time to try one of them before the next, in milliseconds.
const FIRST_CONTACT_MS: u64 = 15_000;

/// The places of an object and its manifest.
pub struct OpenRequest<'a> {
    pub url: &'a Location,
    /// Other URLs of the same object.
    pub mirrors: &'a [Location],
    /// `None`: beside the object, at the same source.
    pub manifest: Option<&'a ManifestPlace>,
}

/// An object, as the first usable source describes it.
pub enum Opened {
    WithManifest(Box<Object>),
    /// There is no manifest beside the object, or it could not be read.
    WithoutManifest {
        url: Location,
        preflight: Preflight,
        /// Why the manifest could not be read, although there may be one.
        unread: Option<Box<Error>>,
    },
}

/// An object whose manifest declares the object's length.
pub struct Object {
    /// The source of the preflight comes first.
    pub sources: Vec<Location>,
    pub preflight: Preflight,
    pub manifest: OpenManifest,
    pub place: ManifestPlace,
}

/// Tries the sources one by one. Requests the object and its manifest at the same time, which takes one round trip.
pub async fn open(context: &Context, request: &OpenRequest<'_>) -> Result<Opened, Error> {
    let mut sources = vec![request.url.clone()];
    sources.extend_from_slice(request.mirrors);
    let limits = limits(context, sources.len() > 1);
    let (mut first_error, mut unread) = (None, None);
    for (index, url) in sources.iter().enumerate() {
        let beside = || ManifestPlace::Beside(url.of_manifest());
        let place = request.manifest.cloned().unwrap_or_else(beside);
        let error = match first_contact::responses(context, url, &place, &limits).await {
            (Ok(preflight), Ok(manifest)) => {
                match matching(context, manifest, &place, preflight, url).await {
                    Ok((manifest, preflight)) => {
                        sources.swap(0, index);
                        return Ok(Opened::WithManifest(Box::new(Object {
                            sources,
                            preflight,
                            manifest,
                            place,
                        })));
                    }
                    Err(error) => error,
                }
            }
            (Ok(preflight), Err(Error::NoManifest { .. }))
                if matches!(place, ManifestPlace::Beside(_) | ManifestPlace::Nowhere) =>
            {
                return Ok(Opened::WithoutManifest {
                    url: url.clone(),
                    preflight,
                    unread: None,
                });
            }
            // Another source may have a manifest that can be read.
            (Ok(preflight), Err(error)) if first_contact::may_pass(&error) => {
                unread.get_or_insert(Opened::WithoutManifest {
                    url: url.clone(),
                    preflight,
                    unread: Some(Box::new(error)),
                });
                continue;
            }
            // If the object is missing, that error counts, not the one of its manifest.
            (Err(error), Ok(_) | Err(Error::NoManifest { .. })) => error,
            (Err(error), Err(of_manifest)) if first_contact::may_pass(&of_manifest) => error,
            (_, Err(error)) => error,
        };
        first_error.get_or_insert(error);
    }
    match unread {
        Some(opened) => Ok(opened),
        None => Err(first_error.expect("there is at least one source")),
    }
}

/// With several sources each gets fewer tries and less patience than a single one.
fn limits(context: &Context, several: bool) -> Limits {
    let limits = context.limits_now();
    match several {
        true => Limits {
            tries: limits.tries.min(2),
            patience_ms: limits.patience_ms.min(FIRST_CONTACT_MS),
            ..limits
        },
        false => limits,
    }
}

/// Returns the manifest and the preflight if they are of one length. If they are not, one of them may have just been replaced:
/// reads both once more.
pub async fn matching(
    context: &Context,
    manifest: OpenManifest,
    place: &ManifestPlace,
    preflight: Preflight,
    url: &Location,
) -> Result<(OpenManifest, Preflight), Error> {
    let other_length = |manifest: &OpenManifest, preflight: &Preflight| {
        let declared = manifest.header().geometry.length();
        preflight.length.filter(|found| *found != declared)
    };
    if other_length(&manifest, &preflight).is_none() {
        return Ok((manifest, preflight));
    }
    let limits = context.limits_now();
    let manifest = OpenManifest::open(context, place, &limits).await?;
    let preflight = retried_preflight(&context.client, url, &limits).await?;
    match other_length(&manifest, &preflight) {
        None => Ok((manifest, preflight)),
        Some(_) if preflight.is_page => Err(Error::Changed {
            place: url.to_string(),
            how: Changed::Page,
        }),
        Some(bytes) => Err(Error::OtherLength {
            place: url.to_string(),
            bytes,
            manifest: place.to_string(),
            declared: manifest.header().geometry.length(),
        }),
    }
}
