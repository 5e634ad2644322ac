//! Remote objects: sources, the preflight, and reading manifests.

// First: the modules below use its macro.
#[macro_use]
pub mod retry;

mod first_contact;
mod in_order;
pub mod manifest;
pub mod pack;
pub mod preflight;
pub mod ranges;
pub mod source;

use std::{collections::BTreeSet, time::Duration};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::sleep;

use crate::{
    net::location::Location,
    policy::{recovery::Changed, schedule::Limits},
};

use super::{context::Context, error::Error};
use manifest::{ManifestPlace, OpenManifest};
use preflight::{First, Preflight, retried_preflight};
use source::SourceResponse;

/// With several mirrors, the time to try one of them before the next, in milliseconds.
const FIRST_CONTACT_MS: u64 = 15_000;

/// After this time without a response of one source, the next one is tried beside it.
const NEXT_SOURCE: Duration = Duration::from_secs(2);

/// The places of an object and its manifest.
pub struct OpenRequest<'a> {
    pub url: &'a Location,
    /// Other URLs of the same object.
    pub mirrors: &'a [Location],
    /// `None`: beside the object, at the same source.
    pub manifest: Option<&'a ManifestPlace>,
    /// Nothing of the object is here, and nothing could refuse it: its first bytes are requested with the manifest, and kept.
    pub keeps_first: bool,
    /// Without its manifest the object is of no use: a manifest that cannot be read is requested as patiently as the object.
    pub needs_manifest: bool,
}

/// An object, as the first usable source describes it.
pub enum Opened {
    WithManifest(Box<Object>),
    /// There is no manifest beside the object, or it could not be read.
    WithoutManifest {
        url: Location,
        first: Box<First>,
        /// Why the manifest could not be read, although there may be one.
        unread: Option<Box<Error>>,
    },
}

impl Opened {
    /// The length of the object, if it is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Opened::WithManifest(object) => Some(object.manifest.header().geometry.length()),
            Opened::WithoutManifest { first, .. } => first.preflight.length,
        }
    }
}

/// An object whose manifest declares the object's length.
pub struct Object {
    /// The source of the preflight comes first.
    pub sources: Vec<Location>,
    pub preflight: Preflight,
    /// The first bytes that come with it, from the first source.
    pub first: Option<Box<SourceResponse>>,
    pub manifest: OpenManifest,
    pub place: ManifestPlace,
}

impl Object {
    /// Takes the first bytes, for the transfer. Those of a small object are all received: its spans share them.
    pub async fn take_first(&mut self) -> Option<Box<SourceResponse>> {
        let first = self.first.take()?;
        let is_small = self.manifest.header().geometry.length() <= preflight::FIRST_BYTES;
        match is_small && !first.is_received() {
            true => Some(Box::new(first.into_received().await)),
            false => Some(first),
        }
    }
}

/// Tries the sources in turn: the next one when one failed, or did not respond for a while. The first usable one wins, and one
/// with a manifest always does.
pub async fn open(context: &Context, request: &OpenRequest<'_>) -> Result<Opened, Error> {
    let mut urls = vec![request.url];
    urls.extend(request.mirrors);
    let limits = limits(context, !request.mirrors.is_empty());
    let mut outcomes = Outcomes::default();
    let mut tried = 0;
    let mut running = FuturesUnordered::new();
    loop {
        let may_start = running.is_empty() || context.connections.per_fetch() > 1;
        if tried < urls.len() && may_start {
            outcomes.running.insert(tried);
            running.push(contact(context, request, (tried, urls[tried]), &limits));
            tried += 1;
        }
        tokio::select! {
            biased;
            Some((index, outcome)) = running.next() => {
                outcomes.running.remove(&index);
                outcomes.add(index, outcome);
            }
            () = sleep(NEXT_SOURCE), if tried < urls.len() => (),
        }
        if let Some((index, mut opened)) = outcomes.winner(tried == urls.len()) {
            if let Opened::WithManifest(object) = &mut opened {
                object.sources = urls.into_iter().cloned().collect();
                object.sources.swap(0, index);
            }
            return Ok(opened);
        }
        if running.is_empty() && tried == urls.len() {
            let (_, error) = outcomes.error.expect("there is at least one source");
            return Err(error);
        }
    }
}

/// How the sources that were tried responded, by their numbers.
#[derive(Default)]
struct Outcomes {
    /// Those that have not responded.
    running: BTreeSet<usize>,
    with_manifest: Option<(usize, Opened)>,
    without_manifest: Option<(usize, Opened)>,
    /// Another source may have a manifest that can be read.
    unread: Option<(usize, Opened)>,
    error: Option<(usize, Error)>,
}

impl Outcomes {
    /// Of several outcomes of one kind, that of the first source counts.
    fn add(&mut self, index: usize, outcome: Result<Opened, Error>) {
        match outcome {
            Ok(opened) => {
                let kind = match &opened {
                    Opened::WithManifest(_) => &mut self.with_manifest,
                    Opened::WithoutManifest { unread: None, .. } => &mut self.without_manifest,
                    Opened::WithoutManifest { .. } => &mut self.unread,
                };
                if kind.as_ref().is_none_or(|(other, _)| index < *other) {
                    *kind = Some((index, opened));
                }
            }
            Err(error) => {
                if self.error.as_ref().is_none_or(|(other, _)| index < *other) {
                    self.error = Some((index, error));
                }
            }
        }
    }

    /// The outcome that decides. A source that says that there is no manifest does not decide while an earlier one may have it.
    /// `all`: every source was tried.
    fn winner(&mut self, all: bool) -> Option<(usize, Opened)> {
        if let Some(opened) = self.with_manifest.take() {
            return Some(opened);
        }
        let first = self.running.first().copied().unwrap_or(usize::MAX);
        if let Some(opened) = self.without_manifest.take_if(|(index, _)| *index < first) {
            return Some(opened);
        }
        self.unread.take_if(|_| all && first == usize::MAX)
    }
}

/// What the source of this number says of the object.
async fn contact(
    context: &Context,
    request: &OpenRequest<'_>,
    (index, url): (usize, &Location),
    limits: &Limits,
) -> (usize, Result<Opened, Error>) {
    (index, Box::pin(opened(context, request, url, limits)).await)
}

/// What one source says of the object. The sources of an object with a manifest are not filled in.
async fn opened(
    context: &Context,
    request: &OpenRequest<'_>,
    url: &Location,
    limits: &Limits,
) -> Result<Opened, Error> {
    let beside = || ManifestPlace::Beside(url.of_manifest());
    let place = request.manifest.cloned().unwrap_or_else(beside);
    let without = |first, unread: Option<Error>| Opened::WithoutManifest {
        url: url.clone(),
        first: Box::new(first),
        unread: unread.map(Box::new),
    };
    match first_contact::responses(context, request, (url, &place), limits).await {
        (Ok(first), Ok(manifest)) => {
            // A long body might end while the manifest is read.
            let First {
                preflight,
                response,
            } = first.without_open_body();
            let first = response.filter(|_| other_length(&manifest, &preflight).is_none());
            let matching = matching(context, manifest, &place, preflight, url).await;
            let (manifest, preflight) = matching?;
            Ok(Opened::WithManifest(Box::new(Object {
                sources: Vec::new(),
                preflight,
                first,
                manifest,
                place,
            })))
        }
        (Ok(first), Err(Error::NoManifest { .. }))
            if matches!(place, ManifestPlace::Beside(_) | ManifestPlace::Nowhere) =>
        {
            Ok(without(first, None))
        }
        (Ok(first), Err(error)) if first_contact::may_pass(&error) => {
            Ok(without(first, Some(error)))
        }
        // If the object is missing, that error counts, not the one of its manifest.
        (Err(error), Ok(_) | Err(Error::NoManifest { .. })) => Err(error),
        (Err(error), Err(of_manifest)) if first_contact::may_pass(&of_manifest) => Err(error),
        // The user named the object.
        (Err(error @ Error::Net { .. }), Err(Error::Net { .. })) => Err(error),
        (_, Err(error)) => Err(error),
    }
}

/// With several sources each gets fewer tries and less patience than a single one.
pub fn limits(context: &Context, several: bool) -> Limits {
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

/// The length of the object, if it differs from that of the manifest.
fn other_length(manifest: &OpenManifest, preflight: &Preflight) -> Option<u64> {
    let declared = manifest.header().geometry.length();
    preflight.length.filter(|found| *found != declared)
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
