//! Reading a manifest whole, with every check that needs no object.

use std::path::{Path, PathBuf};

use crate::{
    format::{
        reader::{Page, WholeReader},
        signature::SignatureArea,
        statement::Statement,
    },
    net::location::Location,
};

use super::{
    blocking,
    context::Context,
    error::Error,
    events::Events,
    manifest_file::{CheckedFile, ManifestFile},
    remote::{
        manifest::{ManifestPlace, OpenManifest},
        retry::reported,
    },
};

/// A manifest that passed the checks. Its leaves were handed on page by page.
pub struct Inspected {
    /// The bytes that are, or can be, signed.
    pub statement: Statement,
    /// Well-formed; whether it is valid depends on a key.
    pub signature: SignatureArea,
}

/// Reads the manifest at a path; if the path is an object, the manifest beside it. `take` gets each page of leaves as soon as it
/// is proven against the root.
pub fn inspect_file(path: &Path, take: impl FnMut(Page) + Send) -> Result<Inspected, Error> {
    let file = CheckedFile::open_of(path, take)?;
    Ok(Inspected {
        statement: file.statement,
        signature: file.signature,
    })
}

/// The same for a URL.
pub async fn inspect(
    context: &Context,
    url: &Location,
    take: impl FnMut(Page) + Send,
    events: &mut dyn Events,
) -> Result<Inspected, Error> {
    reported(events, inspected(context, url, take)).await
}

async fn inspected(
    context: &Context,
    url: &Location,
    take: impl FnMut(Page) + Send,
) -> Result<Inspected, Error> {
    let limits = &context.limits_now();
    let here = ManifestPlace::Beside(url.clone());
    let (place, mut front) = match OpenManifest::open(context, &here, limits).await {
        Ok(front) => (url.clone(), front),
        Err(Error::NoManifest { why: why_here, .. }) => {
            let beside = url.of_manifest();
            let place = ManifestPlace::Beside(beside.clone());
            let front = OpenManifest::open(context, &place, limits).await;
            let front = front.map_err(|error| match error {
                Error::NoManifest { place, why } => Error::NoManifest {
                    place,
                    why: format!("{why}; and at {url}: {why_here}"),
                },
                other => other,
            })?;
            (beside, front)
        }
        Err(other) => return Err(other),
    };
    let refuse = |cause| Error::Manifest {
        place: place.to_string(),
        cause,
    };
    let (statement, signature) = (front.statement.clone(), front.signature.clone());
    let reader = WholeReader::after_front(statement, signature).map_err(refuse)?;
    let mut reader = reader.by_page(take);
    front.read_rest(context, &mut reader).await?;
    let (statement, signature) = reader.finish_checks().map_err(refuse)?;
    Ok(Inspected {
        statement,
        signature,
    })
}

/// Reads a manifest at a URL or in memory, all of it.
pub async fn read(
    context: &Context,
    place: &ManifestPlace,
    events: &mut dyn Events,
) -> Result<ManifestFile, Error> {
    let bytes = reported(events, async {
        let manifest = OpenManifest::open(context, place, &context.limits_now()).await?;
        manifest.whole(context).await
    });
    let bytes = bytes.await?;
    let place = PathBuf::from(place.to_string());
    blocking::run(move || ManifestFile::of_bytes(&bytes, &place)).await
}
