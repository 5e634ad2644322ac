//! Remembering what arrived: the store adopts the file, so that the same object is not fetched again and a later version can
//! be compared with it.

use std::path::Path;

use crate::{
    disk::{
        machine::unix_time,
        state::{Arrived, Provenance},
        store::{Store, StoreError},
    },
    engine::trust::warned,
    format::{
        anchors::BlockAnchor, geometry::BlockIndex, judge::Leaves, manifest::Tree, tree::Root,
    },
    net::validators::Validators,
};

use super::Fetch;

impl Fetch<'_> {
    /// The object that came from this URL as this version, in whichever run.
    pub(super) async fn arrived_before(&mut self, validators: &Validators) -> Option<Root> {
        let (url, validators) = (self.options.url.to_string(), validators.clone());
        if !validators.are_strong() {
            return None;
        }
        let look_up = move |store: &mut Store| {
            let (etag, date) = (&validators.etag, &validators.last_modified);
            Ok(store
                .state()
                .arrived(&url, etag.as_deref(), date.as_deref())?)
        };
        self.in_store(look_up).await.flatten()
    }

    /// The leaves of an object that is whole, for [`Fetch::keep`].
    pub(super) fn will_be_kept(&mut self, leaves: &Leaves) {
        if self.context.store.is_some() {
            let (geometry, anchors) = (*leaves.geometry(), self.anchors.take());
            // Nobody has checked them: one that leads out of its block is none.
            let fits = |(block, anchor): (BlockIndex, BlockAnchor)| match anchor
                .fits(geometry.bytes_of(block).length())
            {
                true => anchor,
                false => BlockAnchor::NONE,
            };
            let anchors = anchors.map(|all| geometry.all().iter().zip(all).map(fits).collect());
            let all = leaves.all();
            self.tree = all.map(|all| Tree::new(geometry, all, anchors));
        }
    }

    /// Keeps what is known of a file that has its name, or had it already.
    pub(super) async fn keep(
        &mut self,
        path: &Path,
        tree: Tree,
        validators: &Validators,
        key_id: Option<String>,
    ) {
        let (path, url, at) = (path.to_owned(), &self.options.url, unix_time());
        let arrived = Arrived {
            root: tree.root(),
            url: url.to_string(),
            etag: validators.etag.clone(),
            last_modified: validators.last_modified.clone(),
            at,
        };
        let provenance = Provenance {
            origin: Some(url.origin()),
            url: Some(url.to_string()),
            key_id,
            name: url.safe_name(),
        };
        let keep = move |store: &mut Store| {
            store.state().remember_arrival(&arrived)?;
            Ok(store.adopt(&path, &tree, provenance, at)?)
        };
        self.in_store(keep).await;
    }

    /// Works with the store, if there is one. What goes wrong there is one warning and never an error of the fetch.
    pub(super) async fn in_store<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<T> {
        let done = self.context.store.with(work).await;
        warned(done, self.events)
    }
}
