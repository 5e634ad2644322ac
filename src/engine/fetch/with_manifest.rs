//! Fetching with a manifest: every block is proven on arrival.

use std::sync::Arc;

use crate::{
    disk::{destination::Locked, part::StoredBlocks},
    engine::{
        error::Error,
        events::{Event, Published},
        local::{self, FindRequest, Found},
        remote::{
            self, Object, Opened,
            manifest::OpenManifest,
            source::{Source, packed::Pack},
        },
        transfer::{driver::TransferObject, part::PartTransfer},
        trust,
        verify::digests_of_existing,
    },
    format::{
        digests::Digest, journal::Identity, judge::Leaves, keys::PublicKey, statement::Header,
        tree::Root, trust::Trust, validators::Validators,
    },
    policy::recovery::{BadResponse, Changed, Failure, starts_over},
};

use super::{
    adopt::tree_to_store,
    publish::{LocalBytes, Proof, WholePart, publish, set_aside, unchanged, wrong_digest},
    run::{Run, has_room, room_for_all},
    whole,
};

pub async fn fetch(
    run: &mut Run<'_>,
    mut locked: Locked,
    mut object: Object,
) -> Result<Published, Error> {
    locked = match whole::publish_proven(run, locked, &mut object).await? {
        Ok(published) => return Ok(published),
        Err(locked) => locked,
    };
    let mut started_over = false;
    loop {
        let root = object.manifest.header().root;
        let (mine, available) = room_for_all(locked).await?;
        let (back, error) = match attempt(run, mine, available, &mut object).await? {
            Attempt::Published(published) => return Ok(published),
            Attempt::Failed(locked, error) => (locked, error),
        };
        object = replacement(run, root, error, started_over).await?;
        (locked, started_over) = (back, true);
        run.events.event(Event::Replaced {
            url: run.options.url.to_string(),
            root: object.manifest.header().root,
        });
    }
}

/// How a fetch of one version ended.
enum Attempt {
    Published(Published),
    /// The object or its manifest may have been replaced meanwhile.
    Failed(Locked, Error),
}

/// `room`: see [`room_for_all`].
async fn attempt(
    run: &mut Run<'_>,
    locked: Locked,
    room: Option<u64>,
    object: &mut Object,
) -> Result<Attempt, Error> {
    let Described {
        header,
        trust,
        identity,
        mut found,
    } = match describe(run, &locked, room, object).await? {
        Ok(described) => described,
        Err((identity, proof)) => {
            return unchanged(run, locked, identity, proof)
                .await
                .map(Attempt::Published);
        }
    };
    let anchors = found.anchors.take();
    let bytes_local = found.search.bytes_local(&header.geometry);
    let (locked, mut opened) = run.open_part(locked, &identity, trust, bytes_local).await?;
    let missing = header.geometry.length().saturating_sub(bytes_local);
    let pack = pack_of(run, object, missing).await;
    let source = (&object.sources[0], pack.clone());
    let (context, events) = (&run.context, &mut *run.events);
    let (mut copied, leaves) =
        local::copy_found(context, found, &mut opened, source, events).await?;
    if !leaves.are_complete() {
        let before = run.context.client.bytes_fetched();
        let (context, manifest) = (&run.context, &mut object.manifest);
        copied = match local::judge_by_leaves(context, manifest, &leaves, &mut opened, copied).await
        {
            Ok(copied) => copied,
            Err(error) => return Ok(Attempt::Failed(locked, error)),
        };
        run.bytes_manifest += run.context.client.bytes_fetched() - before;
    }
    let mut transfer = to_transfer(run, object, &leaves, trust, (copied.stored, pack));
    transfer.object.first = object.take_first().await;
    let mut transferred = match transfer.run(&run.context, opened, run.events).await {
        Ok(transferred) => transferred,
        Err(error) => return Ok(Attempt::Failed(locked, error)),
    };
    transferred.bytes_resumed += copied.bytes_resumed;
    let proof = Proof {
        root: header.root,
        length: header.geometry.length(),
        trust,
        digests: transferred.digests,
        validators: object.preflight.validators.clone(),
        tree: tree_to_store(run, &leaves, anchors),
        end_known: true,
    };
    if let Some(wrong) = wrong_digest(run, &run.options.digests, &proof.digests) {
        return Err(set_aside(run, locked, transferred.part, wrong).await);
    }
    let whole = WholePart {
        part: transferred.part,
        journal: transferred.journal,
        proof,
        local: LocalBytes {
            resumed: transferred.bytes_resumed,
            reused: copied.bytes_reused,
        },
    };
    publish(run, locked, whole).await.map(Attempt::Published)
}

/// The object and its manifest as they are now, if they were replaced while the version of `root` was fetched; else the error of
/// the fetch. An object that the user described by its root or a digest is never exchanged for another one.
async fn replacement(
    run: &mut Run<'_>,
    root: Root,
    error: Error,
    started_over: bool,
) -> Result<Object, Error> {
    let may_be_replaced = match &error {
        Error::Wrong { .. } | Error::Changed { .. } | Error::Manifest { .. } => true,
        // With 416 the object ends before the range does.
        Error::Net { cause, .. } => matches!(
            cause.failure,
            Failure::BadResponse(BadResponse::WholeLength) | Failure::Refused { status: 416 }
        ),
        _ => false,
    };
    if !may_be_replaced {
        return Err(error);
    }
    let request = run.options.open_request(false);
    let now = match remote::open(&run.context, &request).await {
        Ok(Opened::WithManifest(now)) if now.manifest.header().root != root => *now,
        Err(apart @ Error::OtherLength { .. }) => return Err(apart),
        Ok(_) | Err(_) => return Err(error),
    };
    let is_described = run.options.root.is_some() || !run.options.digests.is_empty();
    match is_described || !starts_over(Changed::Root, started_over) {
        true => Err(Error::Changed {
            place: run.options.url.to_string(),
            how: Changed::Root,
        }),
        false => Ok(now),
    }
}

/// The pack of the object, if there is one that is worth reading its index for so many bytes.
async fn pack_of(run: &mut Run<'_>, object: &Object, missing: u64) -> Option<Pack> {
    let before = run.context.client.bytes_fetched();
    let places = (&object.place, &object.sources[0]);
    let pack = remote::pack::open(&run.context, &object.manifest, places, missing).await;
    run.bytes_manifest += run.context.client.bytes_fetched() - before;
    pack
}

fn to_transfer(
    run: &Run<'_>,
    object: &Object,
    leaves: &Arc<Leaves>,
    trust: Trust,
    (copied, pack): (StoredBlocks, Option<Pack>),
) -> PartTransfer {
    let client = &run.context.client;
    let mut sources: Vec<Source> = (object.sources.iter())
        .map(|url| Source::http(client, url).with_pack(pack.clone()))
        .collect();
    // The first source is that of the preflight, whose server named them. They cannot harm: each block is proven.
    let others = object.preflight.duplicates.iter();
    let others = others.filter(|other| !object.sources.contains(other));
    sources.extend(others.map(|url| Source::duplicate(client, url, &object.sources[0])));
    PartTransfer {
        object: TransferObject {
            leaves: leaves.clone(),
            sources,
            ranges: object.preflight.ranges,
            first: None,
            length_proven: trust.is_signed(),
            version: None,
            connections_max: run.context.useful_connections(),
        },
        copied,
        digests: run.options.digests.iter().map(Digest::algorithm).collect(),
    }
}

/// A trusted manifest, and the local data found for its object.
struct Described {
    header: Header,
    trust: Trust,
    identity: Identity,
    found: Found,
}

/// Checks the manifest and searches local files. `Err`: the object is at the target already. `room`: see [`room_for_all`].
async fn describe(
    run: &mut Run<'_>,
    locked: &Locked,
    room: Option<u64>,
    object: &mut Object,
) -> Result<Result<Described, (Identity, Proof)>, Error> {
    let mut started_over = false;
    loop {
        let manifest = &mut object.manifest;
        let header = manifest.header().clone();
        let conditions = run.conditions();
        let trust = trust::check(
            &run.context.store,
            &conditions,
            manifest.front(),
            run.events,
        )
        .await?;
        run.front = manifest.front().to_bytes();
        run.check_length(Some(header.geometry.length()))?;
        let validators = &object.preflight.validators;
        let identity = Identity {
            root: Some(header.root),
            geometry: header.geometry,
            etag: validators.etag.clone(),
            last_modified: validators.last_modified.clone(),
        };
        run.bytes_manifest += manifest.bytes_read();
        if let Some(mut proof) = proof_of_existing(run, locked, &header, trust).await? {
            proof.validators = validators.clone();
            return Ok(Err((identity, proof)));
        }
        // Before anything is read or searched that grows with the length that the manifest claims.
        if let Some(available) = room {
            has_room(locked, header.geometry.length(), available)?;
        }
        match find_local(run, locked, object, trust).await {
            Ok(found) => {
                return Ok(Ok(Described {
                    header,
                    trust,
                    identity,
                    found,
                }));
            }
            // The manifest was replaced after its front was read: start again from the front.
            Err(Error::Changed { how, .. }) if starts_over(how, started_over) => {
                started_over = true;
                let (context, place) = (&run.context, &object.place);
                let now = OpenManifest::open(context, place, &context.limits_now()).await?;
                let url = &run.options.url;
                let preflight = object.preflight.clone();
                object.first = None;
                (object.manifest, object.preflight) =
                    remote::matching(context, now, place, preflight, url).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn find_local(
    run: &mut Run<'_>,
    locked: &Locked,
    object: &mut Object,
    trust: Trust,
) -> Result<Found, Error> {
    let before = run.context.client.bytes_fetched();
    let request = FindRequest {
        url: run.options.url.clone(),
        target: locked.destination().path(),
        seeds: run.options.seeds.clone(),
        seed_store: run.options.seed_store,
        source: object.sources[0].clone(),
        part: locked.destination().part_path(),
        length_proven: trust.is_signed(),
        root_given: run.options.root.is_some(),
        key_id: run.options.key.as_ref().map(PublicKey::id_hex),
    };
    let manifest = &mut object.manifest;
    let found = local::find(&run.context, &request, &run.stop, manifest, run.events).await;
    let last = found.as_ref().ok().and_then(|found| found.last.as_ref());
    let of_object = last.map_or(0, |last| last.verified().bytes().length());
    let fetched = run.context.client.bytes_fetched() - before;
    run.bytes_manifest += fetched.saturating_sub(of_object);
    found
}

/// The file under the final name, if it is the object and has all digests that the user gave.
async fn proof_of_existing(
    run: &mut Run<'_>,
    locked: &Locked,
    header: &Header,
    trust: Trust,
) -> Result<Option<Proof>, Error> {
    let wanted = &run.options.digests;
    let length = header.geometry.length();
    let found = digests_of_existing(locked, length, wanted).await?;
    Ok(found.and_then(|(tree, mut digests)| {
        digests.retain(|digest| wanted.contains(digest));
        let all = wanted.iter().all(|digest| digests.contains(digest));
        (tree.root() == header.root && all).then(|| Proof {
            root: header.root,
            length,
            trust,
            digests,
            validators: Validators::default(),
            tree: Some(tree),
            end_known: true,
        })
    }))
}
