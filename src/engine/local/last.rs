//! The last block of an object: that it can be had proves the length that a manifest claims.

use crate::{
    disk::seed::Seed,
    engine::{
        blocking,
        context::Context,
        error::Error,
        remote::{manifest::OpenManifest, ranges::RangeReader, source::Source},
    },
    format::{
        geometry::BlockRange,
        judge::{self, Leaves, ObjectKey, Proven},
        reader::LazyTree,
    },
};

use super::FindRequest;

/// The proof of a length.
pub struct LengthProof {
    /// The last block, unless an earlier run left it.
    pub fetched: Option<Proven>,
}

/// Proves the length of an object by its last block: from the part, or from the source. `None`: it is not proven; the transfer, which
/// begins with that block and has other sources too, reports why.
pub async fn prove(
    context: &Context,
    request: &FindRequest,
    manifest: &mut OpenManifest,
) -> Result<Option<LengthProof>, Error> {
    let header = manifest.header();
    let (geometry, root) = (header.geometry, header.root);
    let (block, bytes) = (geometry.last(), geometry.bytes_of(geometry.last()));
    let mut tree = LazyTree::new(header.layout(), root);
    let blocks = BlockRange::one(block);
    manifest.read_groups(context, &mut tree, blocks).await?;
    let leaf = tree.leaf(block).expect("its page was read");
    let leaves = Leaves::empty(ObjectKey::of_root(root, geometry));
    leaves.insert(block, &[leaf]);
    let part = request.part.clone();
    let left = move || {
        let mut buffer = vec![0; bytes.length() as usize];
        let part = Seed::open(&part).ok()?;
        part.read(&mut buffer, bytes.start).then_some(buffer)
    };
    let is_right = |left: &Vec<u8>| judge::verify(&leaves, block, left).is_ok();
    if blocking::run(left).await.as_ref().is_some_and(is_right) {
        return Ok(Some(LengthProof { fetched: None }));
    }
    let source = Source::http(&context.client, &request.source);
    let source = RangeReader::new(source, None, geometry.length());
    let mut fetched = None;
    let wants = [bytes];
    let read = source.read(context, &wants, |_, bytes| fetched = Some(bytes));
    match read.await {
        Ok(()) => (),
        // Patience with this host is used up: end the fetch, rather than wait as long again.
        Err(error @ (Error::Patience { .. } | Error::MustWait { .. })) => return Err(error),
        Err(_) => return Ok(None),
    }
    let proven = fetched.and_then(|bytes| judge::prove(&leaves, block, bytes).ok());
    Ok(proven.map(|proven| LengthProof {
        fetched: Some(proven),
    }))
}
