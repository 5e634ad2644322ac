//! Reading a remote manifest whole, with every check that needs no object.

use crate::{
    format::reader::{Manifest, WholeReader},
    net::location::Location,
};

use super::{
    context::Context,
    error::Error,
    remote::manifest::{ManifestPlace, OpenManifest},
};

/// Reads the manifest at a URL; if the URL is an object, the manifest beside it.
pub async fn inspect(context: &Context, url: &Location) -> Result<Manifest, Error> {
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
    let mut reader = WholeReader::after_front(statement, signature).map_err(refuse)?;
    front.read_rest(context, &mut reader).await?;
    reader.finish().map_err(refuse)
}
