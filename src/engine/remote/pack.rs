//! Opening the pack of a remote object: reading its index.

use crate::{
    engine::{context::Context, error::Error},
    format::pack::PackIndex,
    net::location::Location,
};

use super::{
    manifest::{ManifestPlace, OpenManifest},
    source::packed::Pack,
};

/// The index is read if this many times its bytes are to be fetched.
const PAYS_FROM: u64 = 8;
/// An index is read whole, so a longer one, of an object over 1.8 TiB, is left alone: 36 bytes a MiB.
const INDEX_BYTES_MAX: u64 = 64 << 20;

/// The pack of an object, if there is one and so many missing bytes are worth reading its index. It only saves bytes, so no failure
/// of it ends a fetch.
pub async fn open(
    context: &Context,
    manifest: &OpenManifest,
    (place, object): (&ManifestPlace, &Location),
    missing: u64,
) -> Option<Pack> {
    let index = index(context, manifest, missing).await.ok().flatten()?;
    let place = match place {
        ManifestPlace::Beside(url) | ManifestPlace::Url(url) => url.with_suffix(".pack"),
        ManifestPlace::File(_) | ManifestPlace::Bytes(_) | ManifestPlace::Nowhere => {
            object.of_manifest().with_suffix(".pack")
        }
    };
    let length = manifest.header().geometry.length();
    Some(Pack::new(context, &place, index, length))
}

/// The index in a manifest, proven by the hash in the statement.
async fn index(
    context: &Context,
    manifest: &OpenManifest,
    missing: u64,
) -> Result<Option<PackIndex>, Error> {
    let header = manifest.header();
    let Some(section) = header.pack() else {
        return Ok(None);
    };
    let bytes = section.bytes.length();
    let pays = bytes.saturating_mul(PAYS_FROM) <= missing;
    if !pays || bytes > INDEX_BYTES_MAX || !manifest.has_ranges() {
        return Ok(None);
    }
    let given = manifest.read_ranges(context, &[section.bytes]).await?;
    let proven = given
        .into_iter()
        .map(|(_, bytes)| bytes)
        .find(|bytes| *blake3::hash(bytes).as_bytes() == section.blake3);
    let length = header.geometry.length();
    // To a reader that finds an index otherwise than well-formed, there is no pack.
    Ok(proven.and_then(|bytes| PackIndex::from_bytes(&bytes, length).ok()))
}
