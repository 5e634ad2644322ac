//! Small files that an earlier run published, and the store remembers: the first responses show whether the object is still the same.

use crate::{
    disk::destination::Locked,
    engine::{
        error::Error,
        events::Published,
        remote::{
            Opened,
            manifest::{ManifestPlace, OpenManifest},
        },
        trust,
    },
    format::{
        geometry::{BlockSize, Geometry},
        journal::Identity,
        trust::Trust,
    },
    policy::schedule::Limits,
};

use super::{
    publish::{LocalBytes, Proof, published, report},
    remembered::Known,
    run::Run,
};

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
    run.front = manifest.front().to_bytes();
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
