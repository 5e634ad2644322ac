//! The store remembers a published file, so that the same object is not fetched again, and a later version can reuse its blocks.

use std::path::Path;

use crate::{
    disk::{
        files::Stamp,
        machine::unix_time,
        state::{Arrived, Provenance},
        store::{NewHolding, Store},
    },
    engine::local::TREE_BLOCKS_MAX,
    format::{
        anchors::BlockAnchor, geometry::BlockIndex, judge::Leaves, manifest::Tree, tree::Root,
        trust::Trust, validators::Validators,
    },
    net::location::Location,
};

use super::{remembered::url_hash, run::Run};

/// The object that arrived from this URL under these validators in any earlier run.
pub async fn arrived_before(run: &mut Run<'_>, validators: &Validators) -> Option<Root> {
    let (url, validators) = (run.options.url.clone(), validators.clone());
    if !validators.are_strong() {
        return None;
    }
    let look_up = move |store: &mut Store| {
        let (etag, date) = (&validators.etag, &validators.last_modified);
        let hash = url_hash(store, &url)?;
        Ok(store
            .state()
            .arrived(&hash, etag.as_deref(), date.as_deref())?)
    };
    run.in_store(look_up).await.flatten()
}

/// The tree of an object whose leaves are all known, with the anchors of its manifest. `None`: there is no store to keep it, or it
/// has too many blocks.
pub fn tree_to_store(
    run: &Run<'_>,
    leaves: &Leaves,
    anchors: Option<Vec<BlockAnchor>>,
) -> Option<Tree> {
    let geometry = *leaves.geometry();
    if !run.context.store.is_some() || geometry.blocks() > TREE_BLOCKS_MAX {
        return None;
    }
    // Anchors are unproven hints: drop one that points outside its block.
    let fits = |(block, anchor): (BlockIndex, BlockAnchor)| match anchor
        .fits(geometry.bytes_of(block).length())
    {
        true => anchor,
        false => BlockAnchor::NONE,
    };
    let anchors = anchors.map(|all| geometry.all().iter().zip(all).map(fits).collect());
    Some(Tree::new(geometry, leaves.all()?, anchors))
}

/// Records in the store a file that was published now, or was at the target already.
pub async fn adopt(
    run: &mut Run<'_>,
    path: &Path,
    tree: Tree,
    validators: &Validators,
    trust: Trust,
    key_id: Option<String>,
) {
    let (path, url, at) = (path.to_owned(), &run.options.url, unix_time());
    let mut arrived = arrived(run, tree.root(), validators, trust);
    let provenance = provenance(url, key_id);
    let (url, front) = (url.clone(), run.front.clone());
    let keep = move |store: &mut Store| {
        arrived.url_hash = url_hash(store, &url)?;
        store.state().remember_arrival(&arrived)?;
        let adopted = store.adopt(&path, &tree, provenance, at)?;
        if let Some(front) = front {
            store.keep_front(&path, tree.root(), &front)?;
        }
        Ok(adopted)
    };
    run.in_store(keep).await;
}

/// Records a small file that was published now, together with others.
pub fn adopt_soon(
    run: &Run<'_>,
    (path, stamp): (&Path, Stamp),
    tree: Tree,
    validators: &Validators,
    trust: Trust,
) {
    let Some(url_hash) = run.url_hash else { return };
    let mut arrived = arrived(run, tree.root(), validators, trust);
    arrived.url_hash = url_hash;
    let new = NewHolding {
        path: path.to_owned(),
        stamp,
        tree,
        provenance: provenance(&run.options.url, None),
        at: arrived.at,
        front: run.front.clone(),
        arrived: Some(arrived),
    };
    run.context.store.record_soon(new);
}

/// The URL is not filled in.
fn arrived(run: &Run<'_>, root: Root, validators: &Validators, trust: Trust) -> Arrived {
    let options = &run.options;
    let is_of_url = options.root.is_none() && options.key.is_none() && options.digests.is_empty();
    Arrived {
        root,
        url_hash: [0; 32],
        etag: validators.etag.clone(),
        last_modified: validators.last_modified.clone(),
        trust: is_of_url.then_some(trust),
        at: unix_time(),
    }
}

fn provenance(url: &Location, key_id: Option<String>) -> Provenance {
    Provenance {
        origin: Some(url.origin()),
        url: Some(url.to_string()),
        key_id,
        name: url.safe_name(),
    }
}
