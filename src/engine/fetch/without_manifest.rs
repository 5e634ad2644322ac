//! Fetching any URL without a manifest. The first bytes of each block that arrive are trusted and their leaf is recorded, bytes
//! of different versions are never mixed, and at the end the whole object is compared with the digests that the user gave or the
//! server offers.

use std::sync::Arc;

use crate::{
    disk::{destination::Locked, part::StoredBlocks},
    engine::{
        error::Error,
        events::{Event, Published},
        remote::{
            preflight::{First, Preflight, retried_preflight, sidecar},
            source::{Source, SourceResponse},
        },
        transfer::{
            driver::TransferObject,
            part::{PartTransfer, Transferred},
        },
        trust::refused,
        verify::digests_of_existing,
    },
    format::{
        digests::{Algorithm, Digest, root_as_digest},
        geometry::{BlockSize, Geometry},
        journal::Identity,
        judge::Leaves,
        manifest::Tree,
        trust::Trust,
        validators::Validators,
    },
    net::error::NetError,
    policy::{
        conditions::is_strong,
        recovery::{BadResponse, Changed, Failure, starts_over},
    },
};

use super::{
    adopt::arrived_before,
    publish::{Expected, LocalBytes, Proof, WholePart, compare_and_publish, unchanged},
    run::Run,
    unknown_length, whole,
};

/// Blocks of an object without a manifest are small as long as there are few, so that a small object divides into many spans.
/// They grow to this size before their number exceeds [`BLOCKS`]: 4,096 leaves are 128 KiB of journal.
const BLOCK_SIZE_MIN: u64 = 64 << 10;
const BLOCK_SIZE: u64 = 1 << 20;
const BLOCKS: u64 = 4096;
/// Smaller objects are fetched over one connection.
const ONE_SPAN_BYTES: u64 = 10_000_000;
/// File name extensions under which a web page or an XML file may be expected.
const PAGE_NAMES: [&str; 16] = [
    "asp", "aspx", "atom", "cgi", "htm", "html", "jsp", "kml", "mpd", "php", "rss", "svg", "xhtml",
    "xml", "xsd", "xsl",
];

pub async fn fetch(run: &mut Run<'_>, locked: Locked, first: First) -> Result<Published, Error> {
    let First {
        preflight,
        response,
    } = first.received().await;
    // Without a manifest, versions from different mirrors cannot be distinguished, so everything comes from one of them.
    refuse_page(run, &preflight)?;
    if let Some(encoding) = &preflight.encoding {
        let message = format!(
            "{} is sent with the content encoding {encoding:?}: its bytes are kept as they are, and not decoded",
            run.options.url
        );
        run.events.event(Event::Warning { message });
    }
    let expected = expected(run, &preflight).await?;
    let Some(length) = preflight.length else {
        return unknown_length::fetch(run, locked, expected, response).await;
    };
    let block_size = block_size(length);
    let geometry = Geometry::new(length, block_size).ok_or(Error::TooLarge {
        place: run.options.url.to_string(),
        bytes: length,
    })?;
    let validators = &preflight.validators;
    let identity = identity(geometry, validators.clone());
    let (locked, response) = match whole::of_response(run, response.as_deref(), length) {
        None => (locked, response),
        Some(bytes) => {
            match whole::publish_plain(run, locked, &bytes, &identity, &expected).await? {
                Ok(published) => return Ok(published),
                Err(locked) => (locked, response),
            }
        }
    };
    if let Some(proof) = proof_of_existing(run, &locked, length, &expected, validators).await? {
        return unchanged(run, locked, identity, proof).await;
    }
    // Parts of two versions must never be mixed: without a strong validator everything comes in one response.
    let parallel = preflight.ranges && validators.are_strong();
    let version = Version {
        identity,
        validators: validators.clone(),
        parallel,
    };
    let (locked, outcome) = transfer(run, locked, &version, &expected, response).await?;
    match outcome {
        Err(error) if change_in(&error).is_some_and(|how| starts_over(how, false)) => {
            start_over(run, locked, block_size, error).await
        }
        Err(error) => Err(error),
        Ok(whole) => compare_and_publish(run, locked, whole, &expected).await,
    }
}

/// One version of an object on its server.
struct Version {
    identity: Identity,
    /// All responses must have these validators.
    validators: Validators,
    parallel: bool,
}

fn identity(geometry: Geometry, validators: Validators) -> Identity {
    Identity {
        root: None,
        geometry,
        etag: validators.etag,
        last_modified: validators.last_modified,
    }
}

/// Fetches again from the start after the version changed, in one response, which has one version.
async fn start_over(
    run: &mut Run<'_>,
    locked: Locked,
    block_size: BlockSize,
    error: Error,
) -> Result<Published, Error> {
    tracing::info!("starting over: {error}");
    let (client, limits) = (&run.context.client, run.context.limits_now());
    let mut now = retried_preflight(client, &run.options.url, &limits).await?;
    // Two more: requests of the transfer that has just ended may still arrive between the first two.
    for _ in 0..2 {
        let next = retried_preflight(client, &run.options.url, &limits).await?;
        if !next.validators.agree(&now.validators) {
            // This server sends different validators in each response. One complete response has one version; if it breaks, its
            // blocks are compared with those of the next response.
            now.validators = Validators::default();
            break;
        }
    }
    refuse_page(run, &now)?;
    // Digests offered for the other version prove nothing about this one.
    let expected = expected(run, &now).await?;
    let geometry = now
        .length
        .and_then(|length| Geometry::new(length, block_size));
    let Some(geometry) = geometry else {
        return unknown_length::fetch(run, locked, expected, None).await;
    };
    // The content changed under the same validators, so they identify no version and no run may resume by them.
    let of_identity = match change_in(&error) {
        Some(Changed::Content) => Validators::default(),
        _ => now.validators.clone(),
    };
    let version = Version {
        identity: identity(geometry, of_identity),
        validators: now.validators,
        parallel: false,
    };
    let (locked, outcome) = transfer(run, locked, &version, &expected, None).await?;
    let whole = outcome.map_err(as_changed)?;
    compare_and_publish(run, locked, whole, &expected).await
}

/// Refuses a web page in place of a file. The names show what is expected: a page under the name of a film is an error page,
/// whatever its status code is.
fn refuse_page(run: &Run<'_>, preflight: &Preflight) -> Result<(), Error> {
    let may_be_page = |name: &str| match name.rsplit_once('.') {
        Some((_, kind)) => PAGE_NAMES.contains(&kind.to_ascii_lowercase().as_str()),
        None => true,
    };
    let options = &run.options;
    let target = options.target.file_name().unwrap_or_default();
    let of_url = options.url.last_segment().unwrap_or_default();
    let may_mean_page = may_be_page(&of_url)
        || (target.to_string_lossy() != of_url
            && target.to_string_lossy().contains('.')
            && may_be_page(&target.to_string_lossy()))
        || options.root.is_some()
        || !options.digests.is_empty();
    match preflight.is_page && !may_mean_page {
        true => {
            let page = Failure::BadResponse(BadResponse::Page);
            Err(NetError::new(&options.url, page).into())
        }
        false => Ok(()),
    }
}

/// The digests that the object must have, from the user and from the server, and the trust that they give.
async fn expected(run: &mut Run<'_>, preflight: &Preflight) -> Result<Expected, Error> {
    let url = &run.options.url;
    let mut offered = preflight.offered.clone();
    let is_needed = run.options.require > Trust::default();
    offered.extend(sidecar(&run.context, url, is_needed).await);
    let trust = run
        .conditions()
        .without_manifest(&offered)
        .map_err(|cause| refused(&url.to_string(), cause))?;
    let mut digests = run.options.digests.clone();
    digests.extend(run.options.root.map(root_as_digest));
    digests.extend(offered);
    run.check_length(preflight.length)?;
    Ok(Expected { digests, trust })
}

async fn transfer(
    run: &mut Run<'_>,
    locked: Locked,
    version: &Version,
    expected: &Expected,
    first: Option<Box<SourceResponse>>,
) -> Result<(Locked, Result<WholePart, Error>), Error> {
    let identity = &version.identity;
    let (locked, opened) = run.open_part(locked, identity, expected.trust, 0).await?;
    let geometry = identity.geometry;
    let leaves = Arc::new(Leaves::first_use(identity.object(), opened.leaves.clone()));
    let mut algorithms: Vec<Algorithm> = expected
        .digests
        .iter()
        .map(Digest::algorithm)
        .filter(|algorithm| *algorithm != Algorithm::Blake3)
        .collect();
    algorithms.sort();
    algorithms.dedup();
    let transfer = PartTransfer {
        object: TransferObject {
            leaves: leaves.clone(),
            sources: vec![Source::http(&run.context.client, &run.options.url)],
            ranges: version.parallel,
            first,
            length_proven: true,
            version: Some(version.validators.clone()),
            connections_max: match geometry.length() < ONE_SPAN_BYTES {
                true => 1,
                false => run.context.useful_connections(),
            },
        },
        copied: StoredBlocks::new(identity.object()),
        digests: algorithms,
    };
    let outcome = transfer.run(&run.context, opened, run.events).await;
    let outcome = outcome.map(|transferred| {
        let Transferred {
            part,
            journal,
            bytes_resumed,
            mut digests,
        } = transferred;
        let leaves = leaves.all().expect("every block came");
        let tree = Tree::new(geometry, leaves, None);
        digests.push(root_as_digest(tree.root()));
        WholePart {
            part,
            journal,
            proof: Proof {
                root: tree.root(),
                length: geometry.length(),
                trust: expected.trust,
                digests,
                validators: version.validators.clone(),
                tree: Some(tree),
                end_known: true,
            },
            local: LocalBytes::resumed(bytes_resumed),
        }
    });
    Ok((locked, outcome))
}

/// The file under the final name, if it has all expected digests. Without a strong digest it must also be the object that an
/// earlier run received under the same validators.
async fn proof_of_existing(
    run: &mut Run<'_>,
    locked: &Locked,
    length: u64,
    expected: &Expected,
    validators: &Validators,
) -> Result<Option<Proof>, Error> {
    let wanted = &expected.digests;
    let strong = wanted.iter().any(is_strong);
    let arrived = arrived_before(run, validators).await;
    if !strong && arrived.is_none() {
        return Ok(None);
    }
    let found = digests_of_existing(locked, length, wanted).await?;
    let found = found
        .filter(|(tree, _)| strong || Some(tree.root()) == arrived)
        .filter(|(_, digests)| wanted.iter().all(|digest| digests.contains(digest)));
    Ok(found.map(|(tree, mut digests)| {
        digests.retain(|digest| wanted.contains(digest));
        Proof {
            root: tree.root(),
            length,
            trust: expected.trust,
            digests,
            validators: validators.clone(),
            tree: Some(tree),
            end_known: true,
        }
    }))
}

/// The kind of change, if the error shows that the object changed.
fn change_in(error: &Error) -> Option<Changed> {
    match error {
        Error::Changed { how, .. } => Some(*how),
        Error::Wrong { .. } => Some(Changed::Content),
        _ => None,
    }
}

/// Without a manifest, a block that differs from its recorded leaf shows that the object changed.
fn as_changed(error: Error) -> Error {
    match error {
        Error::Wrong { source_name, .. } => Error::Changed {
            place: source_name,
            how: Changed::Content,
        },
        other => other,
    }
}

/// At most [`BLOCK_SIZE`], unless the object is so long that it would have too many blocks.
fn block_size(length: u64) -> BlockSize {
    let mut bytes = BLOCK_SIZE_MIN;
    while bytes < BLOCK_SIZE && length / bytes > BLOCKS {
        bytes *= 2;
    }
    let mut size = BlockSize::new(bytes).expect("a power of two in range");
    while Geometry::new(length, size).is_none() {
        match size.doubled() {
            Some(doubled) => size = doubled,
            None => return size,
        }
    }
    size
}
