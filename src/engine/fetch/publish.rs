//! The end of a fetch that went well: the file gets its name, the store learns of it, the receipt is written, the news are told.

use std::{path::PathBuf, sync::Arc};

use crate::{
    disk::{destination::Locked, journal::Journal, part::Part},
    engine::{
        blocking,
        error::Error,
        events::{Event, Published},
    },
    format::{
        digests::{Algorithm, Digest},
        journal::Identity,
        keys::PublicKey,
        tree::Root,
        trust::Trust,
    },
    net::validators::Validators,
};

use super::{Fetch, receipt};

impl Fetch<'_> {
    /// Gives a proven part its name and tells so.
    pub(super) async fn publish(
        self,
        locked: Locked,
        (part, journal): (Arc<Part>, Journal),
        result: Proof,
        here: Here,
    ) -> Result<Published, Error> {
        let path = locked.destination().path();
        let no_clobber = self.options.no_clobber;
        let length = result.length;
        blocking::on_disk(move || {
            part.set_length(length)?;
            locked.publish(&part, journal, no_clobber)
        })
        .await?;
        self.published(path, result, here, false).await
    }

    /// The object is at the target already.
    pub(super) async fn unchanged(
        mut self,
        locked: Locked,
        identity: &Identity,
        result: Proof,
    ) -> Result<Published, Error> {
        let path = locked.destination().path();
        self.plan(&locked, identity, 0, result.length, result.trust);
        let identity = identity.clone();
        blocking::on_disk(move || locked.discard_leftovers(&identity)).await?;
        let here = Here {
            resumed: 0,
            reused: result.length,
        };
        self.published(path, result, here, true).await
    }

    /// The end of a fetch that went well: the receipt, and the news.
    async fn published(
        mut self,
        path: PathBuf,
        result: Proof,
        here: Here,
        unchanged: bool,
    ) -> Result<Published, Error> {
        let sha256 = result
            .digests
            .iter()
            .find(|digest| digest.algorithm() == Algorithm::Sha256)
            .map(Digest::hex);
        let key_id = (result.trust == Trust::Signed)
            .then(|| self.options.key.as_ref().map(PublicKey::id_hex))
            .flatten();
        if let Some(tree) = self.tree.take() {
            self.keep(&path, tree, &result.validators, key_id.clone())
                .await;
        }
        let published = Published {
            path,
            url: self.options.url.to_string(),
            root: result.root,
            sha256,
            digests: result.digests,
            trust: result.trust,
            key_id,
            etag: result.validators.etag,
            last_modified: result.validators.last_modified,
            bytes_total: result.length,
            bytes_fetched: self.client.bytes_fetched(),
            bytes_manifest: self.bytes_manifest,
            bytes_reused: here.reused,
            bytes_resumed: here.resumed,
            unchanged,
            elapsed_ms: self.began.elapsed().as_millis() as u64,
        };
        let (receipt, started, of) = (self.options.receipt, self.started, published.clone());
        let written = match receipt {
            Some(place) => blocking::on_disk(move || receipt::write(&place, &of, started)).await,
            None => Ok(()),
        };
        // The file is there, whatever became of its receipt.
        self.events.event(Event::Published(published.clone()));
        written?;
        Ok(published)
    }
}

/// What is known of an object that is whole.
pub struct Proof {
    pub root: Root,
    pub length: u64,
    pub trust: Trust,
    /// Those that somebody gave or offered.
    pub digests: Vec<Digest>,
    pub validators: Validators,
}

/// Bytes of an object that were on this machine before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Here {
    /// Left by earlier runs.
    pub resumed: u64,
    /// In other files.
    pub reused: u64,
}

impl Here {
    pub fn resumed(bytes: u64) -> Here {
        Here {
            resumed: bytes,
            reused: 0,
        }
    }
}
