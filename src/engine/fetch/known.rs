//! Small files that an earlier run published, and the store remembers: the first responses show whether the object is still the same.

use std::{io::Read, path::Path};

use crate::{
    disk::{
        destination::Locked,
        files::{self, Entry, EntryKind},
        state::{Arrived, Holding, State, StateError},
        store::Store,
    },
    engine::{
        error::Error,
        events::Published,
        remote::{
            Opened,
            manifest::{ManifestPlace, OpenManifest},
            preflight,
        },
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
    policy::schedule::Limits,
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

/// What the state remembers of a target and its URL.
pub enum Remembered {
    /// The file that is there.
    Known(Known),
    /// Nothing is there, but other files may have bytes of the object.
    Elsewhere {
        is_of_known_origin: bool,
        /// Of the object that came from the URL last.
        holdings: Vec<Holding>,
    },
    Nothing,
}

/// Looks for the file under the final name. `path`: as the state knows it.
pub fn find(
    state: &State,
    path: Option<&Path>,
    entry: Entry,
    url_hash: &[u8; 32],
) -> Result<Option<Known>, StateError> {
    let is_small = entry.kind == EntryKind::Regular && entry.length <= preflight::FIRST_BYTES;
    let Some(path) = path.filter(|_| is_small) else {
        return Ok(None);
    };
    let Some(arrived) = state.last_arrival(url_hash)? else {
        return Ok(None);
    };
    let holding = state.holding_at(path)?;
    let is_it = holding.is_some_and(|holding| {
        holding.root == arrived.root && holding.stamp == entry.stamp() && !holding.own
    });
    Ok(arrived.trust.filter(|_| is_it).map(|trust| Known {
        arrived,
        trust,
        length: entry.length,
    }))
}

/// Looks for other files that may have bytes of an object that is not at its target.
pub fn elsewhere(
    state: &State,
    url: &Location,
    url_hash: &[u8; 32],
) -> Result<Remembered, StateError> {
    let holdings = match state.last_arrival(url_hash)? {
        Some(arrived) => state.holdings_of(arrived.root)?,
        None => Vec::new(),
    };
    Ok(Remembered::Elsewhere {
        is_of_known_origin: state.knows_origin(&url.origin())?,
        holdings,
    })
}

/// Whether one of these holdings is still what it was.
pub fn is_one_there(store: &mut Store, holdings: &[Holding]) -> Result<bool, StateError> {
    for holding in holdings {
        if store.open_holding(holding)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The trust of the file, if its manifest is still that of the same object. A manifest that cannot be read is left to the other way.
pub async fn trust_by_manifest(run: &mut Run<'_>, known: &Known) -> Result<Option<Trust>, Error> {
    if !known.trust.is_of_manifest() {
        return Ok(None);
    }
    let place = ManifestPlace::Beside(run.options.url.of_manifest());
    let once = Limits {
        tries: 1,
        patience_ms: 0,
        ..run.context.limits_now()
    };
    match OpenManifest::open(&run.context, &place, &once).await {
        Ok(manifest) => trust_of(run, known, &manifest).await,
        Err(_) => Ok(None),
    }
}

/// The trust of the file, if this is the manifest of the same object.
async fn trust_of(
    run: &mut Run<'_>,
    known: &Known,
    manifest: &OpenManifest,
) -> Result<Option<Trust>, Error> {
    let header = manifest.header();
    if (header.root, header.geometry.length()) != (known.arrived.root, known.length) {
        return Ok(None);
    }
    let (context, conditions) = (&run.context, run.conditions());
    let front = manifest.front();
    let trust = trust::check(&context.store, &conditions, front, run.events).await?;
    run.bytes_manifest += manifest.bytes_read();
    Ok(Some(trust))
}

/// The trust of the file, if the responses show that the object is still the same: its manifest, or, if there was none and is none
/// now, its validators.
pub async fn trust_now(
    run: &mut Run<'_>,
    known: &Known,
    opened: &Opened,
) -> Result<Option<Trust>, Error> {
    match opened {
        Opened::WithManifest(object) => trust_of(run, known, &object.manifest).await,
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

/// Ends the fetch: the object is still the same. The file has its bytes.
pub async fn unchanged(
    run: &mut Run<'_>,
    locked: Locked,
    known: &Known,
    trust: Trust,
) -> Result<Published, Error> {
    run.admitted = None;
    let (path, root) = (locked.destination().path(), known.arrived.root);
    let block_size = BlockSize::auto(known.length);
    let geometry = Geometry::new(known.length, block_size).expect("the object is small");
    let identity = Identity {
        root: Some(root),
        geometry,
        etag: None,
        last_modified: None,
    };
    run.report_plan(&locked, &identity, 0, known.length, trust);
    // The run that published it has synced it.
    run.options.locks.discard(locked).await?;
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
    report(run, published).await
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
