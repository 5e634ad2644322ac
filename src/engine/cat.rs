//! Streaming proven bytes of a remote object, in order: nothing is handed on before the judge saw its block.

use std::{io, path::PathBuf, sync::Arc};

use futures_util::{StreamExt, stream};

use crate::{
    disk::state::Provenance,
    format::{
        geometry::{BlockIndex, BlockRange, ByteRange, Geometry},
        judge::{self, Verified},
        keys::PublicKey,
        reader::LazyTree,
        tree::{Cv, Root},
        trust::Trust,
    },
    net::{
        client::Client, error::NetError, location::Location, options::ClientOptions,
        request::Request, response::Content,
    },
    policy::{
        recovery::{BadAnswer, Changed, Failure},
        schedule::Limits,
    },
};

use super::{
    cache::Kept,
    error::Error,
    events::Events,
    remote::{
        manifest::{Front, ManifestPlace},
        retry::retried,
    },
    trust::Asked,
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
    /// The folder with what is remembered between runs; `None`: nothing is.
    pub state: Option<PathBuf>,
    /// How requests are made.
    pub client: ClientOptions,
    /// Tries and patience.
    pub limits: Limits,
}

/// Streams the wanted bytes to `out`, which is told when it is enough by an error. Returns what they were proven
/// against and the bytes that were fetched.
pub async fn cat(
    options: CatOptions,
    events: &mut dyn Events,
    mut out: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(Trust, u64), Error> {
    let client = Client::new(options.client);
    let hosts = client.hosts().clone();
    let refreshed = tokio::task::spawn_blocking(move || hosts.refresh());
    // Not to know them is no reason to fail.
    drop(refreshed.await);
    let place = options
        .manifest
        .unwrap_or_else(|| ManifestPlace::Beside(options.url.of_manifest()));
    let mut front = Front::read(&client, &place, &options.limits).await?;
    let header = front.statement.header().clone();
    let asked = Asked {
        url: &options.url,
        root: options.root,
        key: options.key.as_ref(),
        digests: &[],
        require: options.require,
        state: options.state.as_deref(),
    };
    let (statement, signature) = (&front.statement, front.signature.as_ref());
    let trust = asked.of_manifest(statement, signature, &place.to_string(), events)?;
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
    let object = (header.root, geometry);
    let kept = Kept::open(options.state.as_deref(), object, provenance, events).await;
    let remote = Arc::new(Remote {
        client,
        url: options.url,
        geometry,
        limits: options.limits,
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
        front
            .read_groups(&remote.client, &place, &remote.limits, &mut tree, page)
            .await?;
        let step = (STEP_BYTES / geometry.block_size().bytes()).max(1) as u32;
        let steps = (page.start..page.end).step_by(step as usize).map(|start| {
            let blocks = BlockRange::new(start, page.end.min(start + step));
            let leaves: Vec<Cv> = blocks
                .iter()
                .map(|block| tree.leaf(block).expect("its page was read"))
                .collect();
            let remote = remote.clone();
            async move { remote.proven(blocks, &leaves).await }
        });
        let mut steps = stream::iter(steps).buffered(STEPS_AHEAD);
        while let Some(step) = steps.next().await {
            let (start, proven) = step?;
            let from = bytes.start.saturating_sub(start).min(proven.len() as u64) as usize;
            let to = bytes.end.saturating_sub(start).min(proven.len() as u64) as usize;
            if out(&proven[from..to]).is_err() {
                // The reader went away: that is how pipes end.
                return Ok((trust, remote.client.bytes_fetched()));
            }
        }
        drop(steps);
        at = page.end;
        tree.forget_before(BlockIndex(at));
    }
    Ok((trust, remote.client.bytes_fetched()))
}

struct Remote {
    client: Client,
    url: Location,
    geometry: Geometry,
    limits: Limits,
    kept: Kept,
}

impl Remote {
    /// The bytes of some blocks and where they begin; every one of them proven. What is not here is fetched, and kept.
    async fn proven(&self, blocks: BlockRange, leaves: &[Cv]) -> Result<(u64, Vec<u8>), Error> {
        let start = self.geometry.bytes_of_range(blocks).start;
        let mut here = self.kept.read(blocks, leaves).await;
        for missing in here.missing {
            let place = self.geometry.bytes_of_range(missing);
            let bytes = (place.start - start) as usize..(place.end - start) as usize;
            let bytes = &mut here.bytes[bytes];
            let of = |block: u32| (block - blocks.start) as usize;
            let leaves = &leaves[of(missing.start)..of(missing.end)];
            let verified = self.fetched(missing, leaves, bytes).await?;
            if let Some(verified) = verified {
                self.kept.keep(verified, leaves, bytes).await;
            }
        }
        Ok((start, here.bytes))
    }

    /// Fetches the bytes of some blocks; every one of them proven. `None`: there was nothing to fetch.
    async fn fetched(
        &self,
        blocks: BlockRange,
        leaves: &[Cv],
        proven: &mut [u8],
    ) -> Result<Option<Verified>, Error> {
        let range = self.geometry.bytes_of_range(blocks);
        let mut at = blocks.start;
        let mut wrong = 0;
        let mut verified: Option<Verified> = None;
        while at < blocks.end {
            let rest = BlockRange::new(at, blocks.end);
            let bytes = retried(&self.limits, async || {
                self.get(self.geometry.bytes_of_range(rest)).await
            })
            .await?;
            for block in rest.iter() {
                let place = self.geometry.bytes_of(block);
                let first = self.geometry.bytes_of_range(rest).start;
                let (from, to) = ((place.start - first) as usize, (place.end - first) as usize);
                let Some(came) = bytes.get(from..to) else {
                    break;
                };
                let leaf = leaves[(block.0 - blocks.start) as usize];
                match judge::verify_one(&self.geometry, block, leaf, came) {
                    Ok(next) => {
                        let before = verified.and_then(|before| before.joined(next));
                        verified = before.or(Some(next));
                    }
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
                let to = (place.start - range.start) as usize;
                proven[to..to + came.len()].copy_from_slice(came);
                at = block.0 + 1;
                wrong = 0;
            }
        }
        Ok(verified)
    }

    /// One answer, at least its whole blocks at the front.
    async fn get(&self, range: ByteRange) -> Result<Vec<u8>, NetError> {
        let mut answer = self.client.send(Request::range(&self.url, range)).await?;
        let skip = match answer.content {
            Content::Part { bytes, total } => {
                if total.is_some_and(|total| total != self.geometry.length()) {
                    return Err(NetError::changed(&self.url, Changed::Length));
                }
                let later = || NetError::new(&self.url, Failure::BadAnswer(BadAnswer::LaterPart));
                range.start.checked_sub(bytes.start).ok_or_else(later)?
            }
            Content::Whole { .. } => range.start,
        };
        answer.body.skip(skip).await?;
        answer.body.read_up_to(range.length() as usize).await
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
