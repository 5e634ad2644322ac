//! Opening the pack of a remote object: reading its index.

use std::{collections::HashMap, sync::Arc};

use futures_util::FutureExt;

use crate::{
    engine::{context::Context, error::Error},
    format::{
        geometry::ByteRange,
        pack::{HEAD_BYTES, PackHead, PackLayout},
    },
    net::location::Location,
};

use super::{
    manifest::{ManifestPlace, OpenManifest},
    ranges::RangeReader,
    source::{
        Source,
        packed::{
            Pack,
            pages::{More, PAYS_FROM, PackPages},
        },
    },
};

/// The longest index that is read whole: of an object of 1.8 TiB, 36 bytes a MiB.
const WHOLE_BYTES_MAX: u64 = 64 << 20;
/// For fewer missing bytes it is not worth two requests to read the head and a page of a longer one.
const PAGES_FROM: u64 = 256 << 10;

/// The pack of an object, if there is one and so many missing bytes are worth reading of its index. It only saves bytes, so no
/// failure of it ends a fetch.
pub async fn open(
    context: &Context,
    manifest: &OpenManifest,
    (place, object): (&ManifestPlace, &Location),
    missing: u64,
) -> Option<Pack> {
    let pages = pages(context, manifest, place, missing).await;
    let pages = pages.ok().flatten()?;
    let place = match place {
        ManifestPlace::Beside(url) | ManifestPlace::Url(url) => url.with_suffix(".pack"),
        ManifestPlace::File(_) | ManifestPlace::Bytes(_) | ManifestPlace::Nowhere => {
            object.of_manifest().with_suffix(".pack")
        }
    };
    Some(Pack::new(context, &place, pages))
}

/// The index in a manifest: all of it, proven by the hash in the statement, or its pages as they are needed.
async fn pages(
    context: &Context,
    manifest: &OpenManifest,
    place: &ManifestPlace,
    missing: u64,
) -> Result<Option<PackPages>, Error> {
    let header = manifest.header();
    let layout = PackLayout::new(header.geometry.length());
    let (Some(section), Some(layout)) = (header.pack(), layout) else {
        return Ok(None);
    };
    if !manifest.has_ranges() {
        return Ok(None);
    }
    let bytes = section.bytes.length();
    if bytes <= WHOLE_BYTES_MAX && bytes.saturating_mul(PAYS_FROM) <= missing {
        let given = manifest.read_ranges(context, &[section.bytes]).await?;
        let mut given = given.into_iter().map(|(_, bytes)| bytes);
        let proven = given.find(|bytes| *blake3::hash(bytes).as_bytes() == section.blake3);
        // To a reader that finds an index otherwise than well-formed, there is no pack.
        return Ok(proven.and_then(|bytes| PackPages::whole(&bytes, layout).ok()));
    }
    let (ManifestPlace::Beside(url) | ManifestPlace::Url(url)) = place else {
        return Ok(None);
    };
    if missing < PAGES_FROM || bytes != layout.index_bytes() {
        return Ok(None);
    }
    let end = header.sections_end() + manifest.signature.trailer_bytes();
    let reader = RangeReader::optional(Source::http(&context.client, url), end);
    let start = section.bytes.start;
    let front = ByteRange::new(start, start + HEAD_BYTES as u64);
    let (read, result) = read_ranges(context, &reader, &[front]).await;
    result?;
    let head = read.get(&start).and_then(|head| head.first_chunk());
    let head = head.and_then(|head| PackHead::read(head).ok());
    let (context, reader) = (context.clone(), Arc::new(reader));
    let read = move |wants: Vec<ByteRange>| {
        let (context, reader) = (context.clone(), reader.clone());
        async move { read_ranges(&context, &reader, &wants).await }.boxed()
    };
    let more = More {
        read: Box::new(read),
        place: url.to_string(),
        start,
    };
    Ok(head.map(|head| PackPages::some(head, layout, more)))
}

/// The ranges that could be read, by where they begin.
async fn read_ranges(
    context: &Context,
    reader: &RangeReader,
    wants: &[ByteRange],
) -> (HashMap<u64, Vec<u8>>, Result<(), Error>) {
    let mut read = HashMap::new();
    let take = |range: ByteRange, bytes| _ = read.insert(range.start, bytes);
    let result = reader.read(context, wants, take).await;
    (read, result)
}
