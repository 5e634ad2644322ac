//! What is read of a remote object before its blocks: what its server says of it, and its manifest; and where its bytes come from.

mod in_order;
pub mod manifest;
pub mod preflight;
pub mod ranges;
pub mod retry;
pub mod source;

use crate::{
    net::location::Location,
    policy::{recovery::Changed, schedule::Limits},
};

use super::{context::Context, error::Error};
use manifest::{ManifestPlace, OpenManifest};
use preflight::{Preflight, preflight};
use retry::retried;

/// With several mirrors, one that has not answered after so long is not asked for the manifest.
const FIRST_CONTACT_MS: u64 = 15_000;

/// Where an object may be.
pub struct OpenRequest<'a> {
    pub url: &'a Location,
    /// Other places of the same object.
    pub mirrors: &'a [Location],
    /// `None`: beside the object, at the same source.
    pub manifest: Option<&'a ManifestPlace>,
}

/// An object as the first source that could be used describes it.
pub enum Opened {
    WithManifest(Box<Object>),
    /// There is no manifest beside it.
    WithoutManifest {
        url: Location,
        preflight: Preflight,
    },
}

/// An object with a manifest that is as long as the object.
pub struct Object {
    /// The one that answered comes first: what its preflight says is true of it.
    pub sources: Vec<Location>,
    pub preflight: Preflight,
    pub manifest: OpenManifest,
    pub place: ManifestPlace,
}

/// Asks the sources one by one for the object and its manifest, both at once: one round trip.
pub async fn open(context: &Context, request: &OpenRequest<'_>) -> Result<Opened, Error> {
    let mut sources = vec![request.url.clone()];
    sources.extend_from_slice(request.mirrors);
    let limits = first_contact(context, sources.len() > 1);
    let mut first_error = None;
    for (index, url) in sources.iter().enumerate() {
        let beside = || ManifestPlace::Beside(url.of_manifest());
        let place = request.manifest.cloned().unwrap_or_else(beside);
        let preflight = async { retried!(&limits, preflight(&context.client, url)) };
        let manifest = OpenManifest::open(context, &place, &limits);
        let answers = match context.connections.of_each() {
            1 => (preflight.await, manifest.await),
            _ => tokio::join!(preflight, manifest),
        };
        let error = match answers {
            (Ok(preflight), Ok(manifest)) => {
                match matching(context, manifest, &place, &preflight, url).await {
                    Ok(manifest) => {
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
                if matches!(place, ManifestPlace::Beside(_)) =>
            {
                let url = url.clone();
                return Ok(Opened::WithoutManifest { url, preflight });
            }
            // Of an object that is not there it does not matter that its manifest is not there either.
            (Err(error), Ok(_) | Err(Error::NoManifest { .. })) | (Ok(_) | Err(_), Err(error)) => {
                error
            }
        };
        first_error.get_or_insert(error);
    }
    Err(first_error.expect("there is at least one source"))
}

/// Of several sources none is waited for as long as the only one would be.
fn first_contact(context: &Context, several: bool) -> Limits {
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

/// A manifest whose length is that of the object. If it is not, the manifest was perhaps replaced just now, so it is read once
/// more.
pub async fn matching(
    context: &Context,
    manifest: OpenManifest,
    place: &ManifestPlace,
    preflight: &Preflight,
    url: &Location,
) -> Result<OpenManifest, Error> {
    let fits = |manifest: &OpenManifest| {
        let length = manifest.header().geometry.length();
        preflight.length.is_none_or(|found| found == length)
    };
    if fits(&manifest) {
        return Ok(manifest);
    }
    let again = OpenManifest::open(context, place, &context.limits_now()).await?;
    match fits(&again) {
        true => Ok(again),
        false => Err(Error::Changed {
            place: url.to_string(),
            how: match preflight.is_page {
                true => Changed::Page,
                false => Changed::Length,
            },
        }),
    }
}
