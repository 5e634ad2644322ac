//! Small files that an earlier run published, and the store remembers: the first responses show whether the object is still the same.

use std::{io::Read, path::Path};

use crate::{
    disk::{
        destination::{Destination, Locked},
        files::{self, Entry, EntryKind},
        state::Arrived,
        store::{Store, StoreError},
    },
    engine::{
        blocking,
        error::Error,
        events::Published,
        remote::{Opened, preflight},
        trust,
    },
    format::{
        geometry::{BlockSize, Geometry},
        journal::Identity,
        tree::{PartHasher, Root},
        trust::Trust,
        validators::Validators,
    },
    net::location::Location,
};

use super::{
    options::FetchOptions,
    publish::{LocalBytes, Proof, published, report},
    run::Run,
};

/// A small file that is what last arrived from the URL, as far as its stamp shows.
pub struct Known {
    arrived: Arrived,
    trust: Trust,
    length: u64,
}

impl Known {
    /// Whether the file at this path has the bytes: a stamp is no proof.
    pub fn is_at(&self, path: &Path) -> bool {
        root_of(path, self.length) == Some(self.arrived.root)
    }

    fn validators(&self) -> Validators {
        Validators {
            etag: self.arrived.etag.clone(),
            last_modified: self.arrived.last_modified.clone(),
        }
    }

    /// Whether what was proven then is enough now.
    pub fn suffices(&self, options: &FetchOptions) -> bool {
        let nothing_named = options.manifest.is_none() && options.mirrors.is_empty();
        let nothing_to_prove =
            options.root.is_none() && options.key.is_none() && options.digests.is_empty();
        nothing_named && nothing_to_prove && self.trust >= options.require
    }
}

/// Looks for the file under the final name in the store.
pub fn find(
    store: &mut Store,
    destination: &Destination,
    entry: Entry,
    url_hash: &[u8; 32],
) -> Result<Option<Known>, StoreError> {
    let is_small = entry.kind == EntryKind::Regular && entry.length <= preflight::FIRST_BYTES;
    let Some(path) = files::noted_path(&destination.path()).filter(|_| is_small) else {
        return Ok(None);
    };
    let state = store.state();
    let Some(arrived) = state.last_arrival(url_hash)? else {
        return Ok(None);
    };
    let holding = state.holding_at(&path)?;
    let is_it = holding.is_some_and(|holding| {
        holding.root == arrived.root && holding.stamp == entry.stamp() && !holding.own
    });
    Ok(arrived.trust.filter(|_| is_it).map(|trust| Known {
        arrived,
        trust,
        length: entry.length,
    }))
}

/// Whether another file may have bytes of an object that is not at its target. For one that is probably small, only a file that is
/// known to be all of it counts: to search others takes longer than to fetch it.
pub fn may_be_elsewhere(
    store: &mut Store,
    url: &Location,
    url_hash: &[u8; 32],
    expects_small: bool,
) -> Result<bool, StoreError> {
    if !expects_small {
        return Ok(store.state().knows_origin(&url.origin())?);
    }
    let Some(arrived) = store.state().last_arrival(url_hash)? else {
        return Ok(false);
    };
    for holding in store.state().holdings_of(arrived.root)? {
        if store.open_holding(&holding)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The trust of the file, if the responses show that the object is still the same: its manifest, or, if there was none and is none
/// now, its validators.
async fn trust_now(
    run: &mut Run<'_>,
    known: &Known,
    opened: &Opened,
) -> Result<Option<Trust>, Error> {
    match opened {
        Opened::WithManifest(object) => {
            let header = object.manifest.header();
            let now = (header.root, header.geometry.length());
            if now != (known.arrived.root, known.length) {
                return Ok(None);
            }
            let (context, conditions) = (&run.context, run.conditions());
            let front = object.manifest.front();
            let trust = trust::check(&context.store, &conditions, front, run.events).await?;
            run.bytes_manifest += object.manifest.bytes_read();
            Ok(Some(trust))
        }
        Opened::WithoutManifest {
            first,
            unread: None,
            ..
        } => {
            let validators = &first.preflight.validators;
            // A digest that is offered now would be a reason to trust it.
            let is_same = first.preflight.offered.is_empty()
                && validators.are_strong()
                && *validators == known.validators()
                && first.preflight.length == Some(known.length);
            Ok(Some(known.trust).filter(|trust| is_same && *trust == Trust::default()))
        }
        Opened::WithoutManifest { .. } => Ok(None),
    }
}

/// Ends the fetch if the object is still the same. The file has its bytes. `Err`: it may have changed.
pub async fn unchanged(
    run: &mut Run<'_>,
    locked: Locked,
    known: &Known,
    opened: &Opened,
) -> Result<Result<Published, Locked>, Error> {
    let Some(trust) = trust_now(run, known, opened).await? else {
        return Ok(Err(locked));
    };
    run.admitted = None;
    let (path, root) = (locked.destination().path(), known.arrived.root);
    let Some(geometry) = Geometry::new(known.length, BlockSize::auto(known.length)) else {
        return Ok(Err(locked));
    };
    let identity = Identity {
        root: Some(root),
        geometry,
        etag: None,
        last_modified: None,
    };
    run.report_plan(&locked, &identity, 0, known.length, trust);
    // The run that published it has synced it.
    blocking::on_disk(move || locked.discard()).await?;
    let proof = Proof {
        root,
        length: known.length,
        trust,
        digests: Vec::new(),
        validators: known.validators(),
        tree: None,
        end_known: true,
    };
    let local = LocalBytes {
        resumed: 0,
        reused: known.length,
    };
    let published = published(run, path, proof, local, true).await;
    report(run, published).await.map(Ok)
}

/// The root of a file of this length, which is small.
fn root_of(path: &Path, length: u64) -> Option<Root> {
    let mut bytes = Vec::new();
    let file = files::open_for_reading(path).ok()?;
    file.take(length + 1).read_to_end(&mut bytes).ok()?;
    let mut hasher = PartHasher::new(0);
    hasher.update(&bytes);
    (bytes.len() as u64 == length).then(|| hasher.root())
}
