//! The end of a fetch: the file gets its final name, the store records it, the receipt is written; or a wrong file is set aside.

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
        manifest::Tree,
        tree::Root,
        trust::Trust,
        validators::Validators,
    },
};

use super::{adopt, receipt, run::Run, saved_manifest};

/// A part that holds all of its object, and is settled.
pub struct WholePart {
    pub part: Arc<Part>,
    pub journal: Journal,
    pub proof: Proof,
    pub local: LocalBytes,
}

/// What is known of a complete object.
pub struct Proof {
    pub root: Root,
    pub length: u64,
    pub trust: Trust,
    /// The digests that the user gave or the server offered.
    pub digests: Vec<Digest>,
    pub validators: Validators,
    /// For the store, if it is known.
    pub tree: Option<Tree>,
    /// Whether anything but the end of a connection shows that this is all of it.
    pub end_known: bool,
}

/// Bytes of an object that were on this machine before.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalBytes {
    /// Left by earlier runs.
    pub resumed: u64,
    /// Found in other files.
    pub reused: u64,
}

impl LocalBytes {
    pub fn resumed(bytes: u64) -> LocalBytes {
        LocalBytes {
            resumed: bytes,
            reused: 0,
        }
    }
}

/// Gives a proven part its final name.
pub async fn publish(
    run: &mut Run<'_>,
    locked: Locked,
    whole: WholePart,
) -> Result<Published, Error> {
    let path = locked.destination().path();
    let WholePart {
        part,
        journal,
        proof,
        local,
    } = whole;
    let (no_clobber, root) = (run.options.no_clobber, proof.root);
    blocking::on_disk(move || locked.publish(&part, journal, root, no_clobber)).await?;
    let published = published(run, path, proof, local, false).await;
    report(run, published).await
}

/// The object is at the target already.
pub async fn unchanged(
    run: &mut Run<'_>,
    locked: Locked,
    identity: Identity,
    proof: Proof,
) -> Result<Published, Error> {
    let path = locked.destination().path();
    run.report_plan(&locked, &identity, 0, proof.length, proof.trust);
    let url = run.options.url.to_string();
    blocking::on_disk(move || locked.discard_leftovers(&identity, &url)).await?;
    let local = LocalBytes {
        resumed: 0,
        reused: proof.length,
    };
    let published = published(run, path, proof, local, true).await;
    report(run, published).await
}

/// The result of a fetch, after the store has recorded the file.
pub async fn published(
    run: &mut Run<'_>,
    path: PathBuf,
    proof: Proof,
    local: LocalBytes,
    unchanged: bool,
) -> Published {
    let sha256 = proof
        .digests
        .iter()
        .find(|digest| digest.algorithm() == Algorithm::Sha256)
        .map(Digest::hex);
    let key_id = match proof.trust.is_signed() {
        true => run.options.key.as_ref().map(PublicKey::id_hex),
        false => None,
    };
    if let Some(tree) = proof.tree {
        let (validators, trust) = (&proof.validators, proof.trust);
        adopt::adopt(run, &path, tree, validators, trust, key_id.clone()).await;
    }
    Published {
        path,
        url: run.options.url.to_string(),
        root: proof.root,
        sha256,
        digests: proof.digests,
        trust: proof.trust,
        proven_by: run
            .conditions()
            .digest_behind(proof.trust)
            .map(Digest::algorithm),
        key_id,
        etag: proof.validators.etag,
        last_modified: proof.validators.last_modified,
        bytes_total: proof.length,
        end_known: proof.end_known,
        bytes_fetched: run.context.client.bytes_fetched(),
        bytes_manifest: run.bytes_manifest,
        bytes_reused: local.reused,
        bytes_resumed: local.resumed,
        unchanged,
        elapsed_ms: run.began.elapsed().as_millis() as u64,
    }
}

/// Writes the receipt and reports the result.
pub async fn report(run: &mut Run<'_>, published: Published) -> Result<Published, Error> {
    let (started, of) = (run.started, published.clone());
    let written = match run.options.receipt.take() {
        Some(place) => blocking::on_disk(move || receipt::write(&place, &of, started)).await,
        None => Ok(()),
    };
    // The file is published even if writing the receipt failed.
    run.events.event(Event::Published(published.clone()));
    written?;
    if run.options.save_manifest {
        saved_manifest::save(run, &published).await?;
    }
    Ok(published)
}

/// The first expected digest that the object does not have, as an error.
pub fn wrong_digest(run: &Run<'_>, wanted: &[Digest], found: &[Digest]) -> Option<Error> {
    wanted.iter().find_map(|expected| {
        let found = found
            .iter()
            .find(|digest| digest.algorithm() == expected.algorithm())?;
        (found != expected).then(|| Error::OtherDigest {
            place: run.options.url.to_string(),
            algorithm: expected.algorithm(),
            expected: expected.hex(),
            found: found.hex(),
            quarantined: None,
        })
    })
}

/// Quarantines or deletes a part that contradicts a digest. Returns the error of the fetch.
pub async fn set_aside(run: &mut Run<'_>, locked: Locked, part: Arc<Part>, wrong: Error) -> Error {
    let discard = run.options.discard;
    let done = blocking::on_disk(move || {
        drop(part);
        match discard {
            true => locked.discard().map(|()| None),
            false => locked.quarantine().map(Some),
        }
    })
    .await;
    match (done, wrong) {
        (Err(error), _) => error.into(),
        (
            Ok(quarantined),
            Error::OtherDigest {
                place,
                algorithm,
                expected,
                found,
                ..
            },
        ) => Error::OtherDigest {
            place,
            algorithm,
            expected,
            found,
            quarantined,
        },
        (Ok(_), other) => other,
    }
}

/// What the object must be, and the trust that it then has.
pub struct Expected {
    /// The digests that the user gave and those that the server offers.
    pub digests: Vec<Digest>,
    pub trust: Trust,
}

/// Ends a fetch without a manifest: sets aside a file that contradicts an expected digest, publishes any other.
pub async fn compare_and_publish(
    run: &mut Run<'_>,
    locked: Locked,
    mut whole: WholePart,
    expected: &Expected,
) -> Result<Published, Error> {
    let found = &mut whole.proof.digests;
    if let Some(wrong) = wrong_digest(run, &expected.digests, found) {
        return Err(set_aside(run, locked, whole.part, wrong).await);
    }
    found.retain(|digest| expected.digests.contains(digest));
    publish(run, locked, whole).await
}
