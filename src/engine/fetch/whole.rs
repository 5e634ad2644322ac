//! Objects that came whole with the first response: they are proven in memory and published with others, without a part.
//!
//! Whatever is not as it should be is left to the other ways, which request it again, and keep what is wrong.

use bytes::Bytes;

use crate::{
    disk::{destination::Locked, group_commit::Whole},
    engine::{
        error::Error,
        events::{Event, Published},
        remote::{
            Object,
            preflight::{FIRST_BYTES, retried_first},
            retry::reported,
            source::SourceResponse,
        },
        trust,
    },
    format::{
        digests::{Digest, DigestHasher, root_as_digest},
        geometry::{BlockIndex, Geometry},
        journal::Identity,
        manifest::Tree,
        tree::leaf_of,
        trust::Trust,
        validators::Validators,
    },
};

use super::{
    adopt,
    publish::{Expected, LocalBytes, Proof, published, report},
    run::Run,
};

/// All bytes of an object of this length, if this is the first response for it and nothing else is here.
pub fn of_response(run: &Run<'_>, response: Option<&SourceResponse>, length: u64) -> Option<Bytes> {
    let response = response.filter(|response| response.is_received())?;
    let bytes = response.received_bytes().cloned().unwrap_or_default();
    let is_whole = bytes.len() as u64 == length;
    let may_be_published = run.nothing_is_here && run.options.journal.is_none();
    (is_whole && may_be_published).then_some(bytes)
}

/// Publishes an object with a manifest. `Err`: it did not come whole, or is not proven.
pub async fn publish_proven(
    run: &mut Run<'_>,
    locked: Locked,
    object: &mut Object,
) -> Result<Result<Published, Locked>, Error> {
    object.first = object.take_first().await;
    let header = object.manifest.header().clone();
    let length = header.geometry.length();
    let requests_now = object.first.is_none() && takes_one_request(run, object, length);
    let mut bytes = of_response(run, object.first.as_deref(), length);
    if bytes.is_none() && !requests_now {
        return Ok(Err(locked));
    }
    let (context, conditions) = (&run.context, run.conditions());
    let front = object.manifest.front();
    let trust = trust::check(&context.store, &conditions, front, run.events).await?;
    run.front = object.manifest.front().to_bytes();
    if requests_now {
        // Whatever goes wrong now is told by the other way.
        let (client, limits) = (&run.context.client, run.context.limits_now());
        let now = retried_first(client, &object.sources[0], &limits);
        let now = reported(&mut *run.events, now).await.ok();
        bytes = of_response(run, now.and_then(|first| first.response).as_deref(), length);
    }
    let Some(bytes) = bytes else {
        return Ok(Err(locked));
    };
    let wanted = &run.options.digests;
    let found = digests(&bytes, wanted);
    let tree = tree(header.geometry, &bytes);
    if tree.root() != header.root || !wanted.iter().all(|digest| found.contains(digest)) {
        return Ok(Err(locked));
    }
    let Validators {
        etag,
        last_modified,
    } = object.preflight.validators.clone();
    let identity = Identity {
        root: Some(header.root),
        geometry: header.geometry,
        etag,
        last_modified,
    };
    run.bytes_manifest += object.manifest.bytes_read();
    let proof = Proven {
        tree,
        digests: found,
        trust,
    };
    publish(run, locked, bytes, &identity, proof).await
}

/// Whether an object that could have been refused, and was not requested for that reason, is now requested whole.
fn takes_one_request(run: &Run<'_>, object: &Object, length: u64) -> bool {
    let options = &run.options;
    let is_small = length > 0 && length <= FIRST_BYTES;
    let fits = options.max_size.is_none_or(|most| length <= most);
    let one_source = object.sources.len() == 1;
    let no_seeds = options.seeds.is_empty() && !options.seed_store && !run.may_be_elsewhere;
    is_small && fits && one_source && no_seeds && run.nothing_is_here && options.journal.is_none()
}

/// Publishes an object without a manifest. `Err`: it contradicts a digest.
pub async fn publish_plain(
    run: &mut Run<'_>,
    locked: Locked,
    bytes: &Bytes,
    identity: &Identity,
    expected: &Expected,
) -> Result<Result<Published, Locked>, Error> {
    let tree = tree(identity.geometry, bytes);
    let mut found = digests(bytes, &expected.digests);
    found.push(root_as_digest(tree.root()));
    if !expected.digests.iter().all(|digest| found.contains(digest)) {
        return Ok(Err(locked));
    }
    found.retain(|digest| expected.digests.contains(digest));
    let proof = Proven {
        tree,
        digests: found,
        trust: expected.trust,
    };
    publish(run, locked, bytes.clone(), identity, proof).await
}

/// What was found of the bytes in memory.
struct Proven {
    tree: Tree,
    digests: Vec<Digest>,
    trust: Trust,
}

async fn publish(
    run: &mut Run<'_>,
    locked: Locked,
    bytes: Bytes,
    identity: &Identity,
    proven: Proven,
) -> Result<Result<Published, Locked>, Error> {
    // Others may use the connection while this waits for the disk.
    run.admitted = None;
    let path = locked.destination().path();
    let length = identity.geometry.length();
    run.report_plan(&locked, identity, 0, 0, proven.trust);
    let whole = Whole {
        locked,
        bytes,
        no_clobber: run.options.no_clobber,
    };
    let entry = match run.context.commits.publish(whole).await? {
        Ok(entry) => entry,
        Err(locked) => return Ok(Err(locked)),
    };
    run.events.event(Event::BlocksVerified {
        first: BlockIndex(0),
        count: identity.geometry.blocks(),
        source: run.options.url.to_string(),
    });
    let validators = Validators {
        etag: identity.etag.clone(),
        last_modified: identity.last_modified.clone(),
    };
    let root = proven.tree.root();
    let file = (path.as_path(), entry.stamp());
    adopt::adopt_soon(run, file, proven.tree, &validators, proven.trust);
    let proof = Proof {
        root,
        length,
        trust: proven.trust,
        digests: proven.digests,
        validators,
        tree: None,
        end_known: true,
    };
    let published = published(run, path, proof, LocalBytes::default(), false).await;
    report(run, published).await.map(Ok)
}

fn tree(geometry: Geometry, bytes: &[u8]) -> Tree {
    let leaf = |block| {
        let place = geometry.bytes_of(block);
        leaf_of(
            &geometry,
            block,
            &bytes[place.start as usize..place.end as usize],
        )
    };
    Tree::new(geometry, geometry.all().iter().map(leaf).collect(), None)
}

/// Of the algorithms of these digests, the digests of the bytes.
fn digests(bytes: &[u8], wanted: &[Digest]) -> Vec<Digest> {
    let digest = |wanted: &Digest| {
        let mut hasher = DigestHasher::new(wanted.algorithm());
        hasher.update(bytes);
        hasher.finish()
    };
    wanted.iter().map(digest).collect()
}
