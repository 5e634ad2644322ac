//! Streaming proven bytes of a remote object, in order: nothing is handed on before the judge saw its block.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::{
    disk::state::Provenance,
    format::{
        geometry::{BlockIndex, BlockRange, ByteRange},
        judge::{self, Leaves, ObjectKey, Proven},
        keys::PublicKey,
        reader::LazyTree,
        tree::{Cv, Root},
        trust::Trust,
    },
    net::{client::Client, error::NetError, location::Location},
    policy::{conditions::Conditions, schedule::Limits},
};

use super::{
    blocking,
    cache::Kept,
    context::Context,
    error::Error,
    events::Events,
    remote::{
        manifest::{ManifestPlace, OpenManifest},
        retry::retried,
        source::{Ask, Source},
    },
    trust,
};

/// Bytes that one request asks for.
const STEP_BYTES: u64 = 4 << 20;
/// So many requests run ahead of the reader: memory stays below their bytes.
const STEPS_AHEAD: usize = 4;
/// A block that came wrong so often is given up.
const WRONG_MAX: u32 = 4;

/// What part of an object is wanted, as in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// From front to end.
    All,
    /// From the first to the last byte, or to the end.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Last(u64),
}

impl Wanted {
    /// The bytes of an object of this length; `None`: it has none there.
    fn within(self, length: u64) -> Option<ByteRange> {
        let (start, end) = match self {
            Wanted::All => return Some(ByteRange::new(0, length)),
            Wanted::From(first, last) => (
                first,
                last.map_or(length, |last| last.saturating_add(1).min(length)),
            ),
            Wanted::Last(count) => (length.saturating_sub(count), length),
        };
        (start < end).then(|| ByteRange::new(start, end))
    }
}

/// What to stream.
pub struct CatOptions {
    /// Where the object is.
    pub url: Location,
    /// Which bytes of it.
    pub wanted: Wanted,
    /// `None`: beside the object.
    pub manifest: Option<ManifestPlace>,
    /// The object must be this one.
    pub root: Option<Root>,
    /// The manifest must be signed by this key, for the name of the URL.
    pub key: Option<PublicKey>,
    /// The least trust.
    pub require: Trust,
}

/// Streams the wanted bytes to `out`, which is told when it is enough by an error. Returns what they were proven
/// against and the bytes that were fetched.
pub async fn cat(
    context: &Context,
    options: CatOptions,
    events: &mut dyn Events,
    mut out: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(Trust, u64), Error> {
    let client = context.client.clone();
    let limits = context.limits_now();
    let hosts = client.hosts().clone();
    blocking::run(move || hosts.refresh()).await;
    let place = options
        .manifest
        .unwrap_or_else(|| ManifestPlace::Beside(options.url.of_manifest()));
    let mut front = OpenManifest::open(context, &place, &limits).await?;
    let header = front.header().clone();
    let conditions = Conditions {
        root: options.root,
        digests: Vec::new(),
        key: options.key.clone(),
        name: Some(options.url.last_segment().unwrap_or_default()),
        require: options.require,
    };
    let trust = trust::check(context, &conditions, front.front(), events).await?;
    let geometry = header.geometry;
    let bytes = options.wanted.within(geometry.length());
    let bytes = bytes.ok_or_else(|| Error::NoSuchRange {
        place: options.url.to_string(),
        length: geometry.length(),
    })?;
    let provenance = Provenance {
        origin: Some(options.url.origin()),
        url: Some(options.url.to_string()),
        key_id: (trust == Trust::Signed)
            .then(|| options.key.as_ref().map(PublicKey::id_hex))
            .flatten(),
        name: options.url.safe_name(),
    };
    let leaves = Arc::new(Leaves::empty(ObjectKey::of_root(header.root, geometry)));
    let known = leaves.clone();
    let kept = Kept::open(&context.store, header.root, known, provenance, events).await;
    let remote = Arc::new(Remote {
        client,
        url: options.url,
        leaves,
        limits,
        kept,
    });
    let mut tree = LazyTree::new(header.layout(), header.root);
    let mut at = geometry
        .block_at(bytes.start.min(geometry.length().saturating_sub(1)))
        .0;
    let end = if bytes.is_empty() {
        at
    } else {
        geometry.block_at(bytes.end - 1).0 + 1
    };
    while at < end {
        // A page of leaves at a time; its blocks run ahead of the reader.
        let page = BlockRange::new(at, end.min((at / 256 + 1) * 256));
        front.read_groups(context, &mut tree, page).await?;
        let leaves = page.iter().map(|block| tree.leaf(block));
        let leaves: Vec<Cv> = leaves
            .map(|leaf| leaf.expect("its page was read"))
            .collect();
        remote.leaves.insert(BlockIndex(page.start), &leaves);
        let step = (STEP_BYTES / geometry.block_size().bytes()).max(1) as u32;
        let steps = (page.start..page.end).step_by(step as usize).map(|start| {
            let blocks = BlockRange::new(start, page.end.min(start + step));
            let remote = remote.clone();
            async move { remote.proven(blocks).await }
        });
        let mut steps = stream::iter(steps).buffered(STEPS_AHEAD);
        while let Some(step) = steps.next().await {
            for chunk in step?.iter().flat_map(|proven| proven.within(bytes)) {
                if out(&chunk).is_err() {
                    // The reader went away: that is how pipes end.
                    return Ok((trust, remote.client.bytes_fetched()));
                }
            }
        }
        drop(steps);
        at = page.end;
        tree.forget_before(BlockIndex(at));
        remote.leaves.forget(page);
    }
    Ok((trust, remote.client.bytes_fetched()))
}

struct Remote {
    client: Client,
    url: Location,
    leaves: Arc<Leaves>,
    limits: Limits,
    kept: Kept,
}

impl Remote {
    /// Some blocks, in order. What is not here is fetched, and kept.
    async fn proven(&self, blocks: BlockRange) -> Result<Vec<Proven>, Error> {
        let mut here = self.kept.read(blocks).await;
        for missing in here.missing {
            for proven in self.fetched(missing).await? {
                self.kept.keep(proven.clone()).await;
                here.proven.push(proven);
            }
        }
        here.proven
            .sort_unstable_by_key(|run| run.verified().blocks().start);
        Ok(here.proven)
    }

    /// Fetches some blocks.
    async fn fetched(&self, blocks: BlockRange) -> Result<Vec<Proven>, Error> {
        let geometry = self.leaves.geometry();
        let mut at = blocks.start;
        let mut wrong = 0;
        let mut proven = Vec::new();
        while at < blocks.end {
            let rest = BlockRange::new(at, blocks.end);
            let range = geometry.bytes_of_range(rest);
            let bytes = retried(&self.limits, async || self.get(range).await).await?;
            let bytes = Bytes::from(bytes);
            for block in rest.iter() {
                let place = geometry.bytes_of(block);
                let (from, to) = (place.start - range.start, place.end - range.start);
                if to > bytes.len() as u64 {
                    break;
                }
                let came = bytes.slice(from as usize..to as usize);
                match judge::prove(&self.leaves, block, came) {
                    Ok(next) => next.add_to(&mut proven),
                    Err(mismatch) => {
                        wrong += 1;
                        if wrong >= WRONG_MAX {
                            return Err(Error::Wrong {
                                block,
                                bytes: place,
                                expected: Box::new(mismatch.expected),
                                found: Box::new(mismatch.found),
                                source_name: self.url.to_string(),
                            });
                        }
                        break;
                    }
                }
                at = block.0 + 1;
                wrong = 0;
            }
        }
        Ok(proven)
    }

    /// One answer, at least its whole blocks at the front.
    async fn get(&self, range: ByteRange) -> Result<Vec<u8>, NetError> {
        let source = Source::http(&self.client, &self.url);
        let ask = Ask {
            range: Some(range),
            length: Some(self.leaves.geometry().length()),
            ..Ask::default()
        };
        let mut arriving = source.open(ask).await?;
        arriving.skip_to(range.start);
        arriving.read_up_to(range.length() as usize).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_in_http() {
        let range =
            |wanted: Wanted, length| wanted.within(length).map(|range| (range.start, range.end));
        assert_eq!(range(Wanted::All, 0), Some((0, 0)));
        assert_eq!(range(Wanted::From(0, Some(0)), 9), Some((0, 1)));
        assert_eq!(range(Wanted::From(3, None), 9), Some((3, 9)));
        assert_eq!(range(Wanted::From(3, Some(u64::MAX)), 9), Some((3, 9)));
        assert_eq!(range(Wanted::From(9, None), 9), None);
        assert_eq!(range(Wanted::Last(4), 9), Some((5, 9)));
        assert_eq!(range(Wanted::Last(40), 9), Some((0, 9)));
        assert_eq!(range(Wanted::Last(0), 9), None);
    }
}
