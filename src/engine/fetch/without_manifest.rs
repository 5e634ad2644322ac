//! Fetching without a manifest: any URL. What arrives first is trusted and noted block by block, versions are never
//! mixed, and at the end the whole is compared with what the user gave or the server offers.

use std::sync::Arc;

use crate::{
    disk::{destination::Locked, journal::Journal, part::Part},
    engine::{
        blocking,
        error::Error,
        events::{Event, Published},
        remote::{
            preflight::{Preflight, look, sidecar},
            source::Source,
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
    },
    net::{error::NetError, location::Location, validators::Validators},
    policy::{
        conditions::is_strong,
        recovery::{BadAnswer, Changed, Failure, starts_over},
    },
};

use super::{
    Fetch, conditions,
    publish::{Here, Proof},
};

/// Blocks of an object without a manifest are small as long as there are few, so that small objects can be shared out finely,
/// and grow to this size before there may be many: 4,096 leaves are 128 KiB of journal.
const BLOCK_SIZE_MIN: u64 = 64 << 10;
const BLOCK_SIZE: u64 = 1 << 20;
const BLOCKS: u64 = 4096;
/// Smaller objects come over one connection.
const ONE_SPAN_BYTES: u64 = 10_000_000;
/// Endings of names under which a web page or an XML file may be meant.
const PAGE_NAMES: [&str; 16] = [
    "asp", "aspx", "atom", "cgi", "htm", "html", "jsp", "kml", "mpd", "php", "rss", "svg", "xhtml",
    "xml", "xsd", "xsl",
];

impl Fetch<'_> {
    /// Versions of different mirrors cannot be told apart without a manifest, so all comes from one of them.
    pub(super) async fn without_manifest(
        mut self,
        locked: Locked,
        url: Location,
        preflight: Preflight,
    ) -> Result<Published, Error> {
        self.options.url = url;
        self.refuse_page(&preflight)?;
        let (wanted, trust) = self.wanted(&preflight).await?;
        let Some(length) = preflight.length else {
            return self.stream(locked, wanted, trust).await;
        };
        let block_size = block_size(length);
        let geometry = Geometry::new(length, block_size).ok_or(Error::TooLarge {
            place: self.options.url.to_string(),
            bytes: length,
        })?;
        let identity = Identity {
            root: None,
            geometry,
            etag: preflight.validators.etag.clone(),
            last_modified: preflight.validators.last_modified.clone(),
        };
        if let Some(proof) = self
            .is_there_already(&locked, length, &wanted, trust, &preflight.validators)
            .await?
        {
            return self.unchanged(locked, &identity, proof).await;
        }
        // Parts of two versions must never meet: without a strong validator all comes in one answer.
        let parallel = preflight.ranges && preflight.validators.are_strong();
        let (locked, outcome) = self
            .transfer_plain(locked, &identity, &preflight, parallel, &wanted, trust)
            .await?;
        match outcome {
            Err(error) if change_in(&error).is_some_and(|how| starts_over(how, false)) => {
                // Once more from the start, in one answer, which is of one version.
                tracing::info!("starting over: {error}");
                let limits = self.limits();
                let mut now = look(&self.client, &self.options.url, &limits).await?;
                let next = look(&self.client, &self.options.url, &limits).await?;
                if next.validators != now.validators {
                    // A server that names each answer differently: what came whole in one answer is of one version, and what
                    // a broken answer had brought is compared with the next one.
                    now.validators = Validators::default();
                }
                self.refuse_page(&now)?;
                // What was offered for the other version proves nothing of this one.
                let (wanted, trust) = self.wanted(&now).await?;
                let Some(geometry) = now
                    .length
                    .and_then(|length| Geometry::new(length, block_size))
                else {
                    return self.stream(locked, wanted, trust).await;
                };
                let validators = now.validators.clone();
                // Validators under which other bytes came are worth nothing: no run goes on from there.
                let of_identity = match change_in(&error) {
                    Some(Changed::Content) => Validators::default(),
                    _ => validators.clone(),
                };
                let identity = Identity {
                    root: None,
                    geometry,
                    etag: of_identity.etag,
                    last_modified: of_identity.last_modified,
                };
                let (locked, outcome) = self
                    .transfer_plain(locked, &identity, &now, false, &wanted, trust)
                    .await?;
                let whole = outcome.map_err(as_changed)?;
                self.finish_plain(locked, whole, validators, &wanted, trust)
                    .await
            }
            Err(error) => Err(error),
            Ok(whole) => {
                self.finish_plain(locked, whole, preflight.validators, &wanted, trust)
                    .await
            }
        }
    }

    /// Names tell what is meant: what should be a film is no web page, whatever its status says.
    fn refuse_page(&self, preflight: &Preflight) -> Result<(), Error> {
        let may_be_page = |name: &str| match name.rsplit_once('.') {
            Some((_, kind)) => PAGE_NAMES.contains(&kind.to_ascii_lowercase().as_str()),
            None => true,
        };
        let target = self.options.target.file_name().unwrap_or_default();
        let of_url = self.options.url.last_segment().unwrap_or_default();
        let asked = may_be_page(&of_url)
            || (target.to_string_lossy() != of_url
                && target.to_string_lossy().contains('.')
                && may_be_page(&target.to_string_lossy()))
            || self.options.root.is_some()
            || !self.options.digests.is_empty();
        match preflight.is_page && !asked {
            true => {
                let page = Failure::BadAnswer(BadAnswer::Page);
                Err(NetError::new(&self.options.url, page).into())
            }
            false => Ok(()),
        }
    }

    /// The digests that the object must have, the user's and the server's, and what they prove.
    async fn wanted(&mut self, preflight: &Preflight) -> Result<(Vec<Digest>, Trust), Error> {
        let mut wanted = self.options.digests.clone();
        wanted.extend(self.options.root.map(root_as_digest));
        let offered = self.offered(preflight).await;
        let trust = conditions(&self.options)
            .without_manifest(&offered)
            .map_err(|cause| refused(&self.options.url.to_string(), cause))?;
        wanted.extend(offered);
        self.check_length(preflight.length)?;
        Ok((wanted, trust))
    }

    async fn transfer_plain(
        &mut self,
        locked: Locked,
        identity: &Identity,
        preflight: &Preflight,
        parallel: bool,
        wanted: &[Digest],
        trust: Trust,
    ) -> Result<(Locked, Result<Whole, Error>), Error> {
        let (locked, opened) = self.open(locked, identity, trust, 0).await?;
        let geometry = identity.geometry;
        let leaves = Arc::new(Leaves::first_use(identity.object(), opened.leaves.clone()));
        let worth = match geometry.length() < ONE_SPAN_BYTES {
            true => 1,
            false => self.context.useful_connections(),
        };
        let mut algorithms: Vec<Algorithm> = wanted
            .iter()
            .map(Digest::algorithm)
            .filter(|a| *a != Algorithm::Blake3)
            .collect();
        algorithms.sort();
        algorithms.dedup();
        let transfer = PartTransfer {
            object: TransferObject {
                leaves: leaves.clone(),
                sources: vec![Source::http(&self.client, &self.options.url)],
                ranges: parallel,
                length_proven: true,
                version: Some(preflight.validators.clone()),
                connections_max: worth,
            },
            copied: Vec::new(),
            digests: algorithms,
        };
        let outcome = transfer.run(&self.context, opened, self.events).await;
        let outcome = outcome.map(|transferred| {
            let leaves = leaves.all().expect("every block came");
            Whole {
                transferred,
                tree: Tree::new(geometry, leaves, None),
            }
        });
        Ok((locked, outcome))
    }

    async fn finish_plain(
        mut self,
        locked: Locked,
        whole: Whole,
        validators: Validators,
        wanted: &[Digest],
        trust: Trust,
    ) -> Result<Published, Error> {
        let Whole {
            transferred:
                Transferred {
                    part,
                    journal,
                    bytes_resumed,
                    mut digests,
                },
            tree,
        } = whole;
        let (root, length) = (tree.root(), tree.geometry().length());
        digests.push(root_as_digest(root));
        let proof = Proof {
            root,
            length,
            trust,
            digests,
            validators,
        };
        self.tree = Some(tree);
        let part = (part, journal);
        self.compare_and_publish(locked, part, proof, wanted, bytes_resumed)
            .await
    }

    /// The end of a fetch without a manifest: what contradicts a wanted digest is set aside, the rest gets its name.
    pub(super) async fn compare_and_publish(
        self,
        locked: Locked,
        (part, journal): (Arc<Part>, Journal),
        mut proof: Proof,
        wanted: &[Digest],
        bytes_resumed: u64,
    ) -> Result<Published, Error> {
        if let Some(wrong) = self.wrong_digest(wanted, &proof.digests) {
            return Err(self.set_aside(locked, part, wrong).await);
        }
        proof.digests.retain(|digest| wanted.contains(digest));
        let part = (part, journal);
        let here = Here::resumed(bytes_resumed);
        self.publish(locked, part, proof, here).await
    }

    /// The digests that the server offers, in headers and beside the object.
    async fn offered(&mut self, preflight: &Preflight) -> Vec<Digest> {
        let mut offered = preflight.offered.clone();
        if let Some(digest) = sidecar(&self.client, &self.options.url).await {
            offered.push(digest);
        }
        offered
    }

    /// Whether the file under the final name has a strong digest that is wanted, or is what came as the same version before, and
    /// has all digests that are wanted.
    async fn is_there_already(
        &mut self,
        locked: &Locked,
        length: u64,
        wanted: &[Digest],
        trust: Trust,
        validators: &Validators,
    ) -> Result<Option<Proof>, Error> {
        let strong = wanted.iter().any(is_strong);
        let arrived = self.arrived_before(validators).await;
        if !strong && arrived.is_none() {
            return Ok(None);
        }
        let found = digests_of_existing(locked, length, wanted).await?;
        let found = found
            .filter(|(tree, _)| strong || Some(tree.root()) == arrived)
            .filter(|(_, digests)| wanted.iter().all(|digest| digests.contains(digest)));
        Ok(found.map(|(tree, mut digests)| {
            digests.retain(|digest| wanted.contains(digest));
            let root = tree.root();
            self.tree = Some(tree);
            Proof {
                root,
                length,
                trust,
                digests,
                validators: validators.clone(),
            }
        }))
    }

    /// The first wanted digest that the object does not have.
    pub(super) fn wrong_digest(&self, wanted: &[Digest], found: &[Digest]) -> Option<Error> {
        wanted.iter().find_map(|expected| {
            let found = found
                .iter()
                .find(|digest| digest.algorithm() == expected.algorithm())?;
            (found != expected).then(|| Error::OtherDigest {
                place: self.options.url.to_string(),
                algorithm: expected.algorithm(),
                expected: expected.hex(),
                found: found.hex(),
                kept: None,
            })
        })
    }

    /// What contradicts a digest does not get the final name: it is quarantined, or deleted.
    pub(super) async fn set_aside(self, locked: Locked, part: Arc<Part>, wrong: Error) -> Error {
        let discard = self.options.discard;
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
                Ok(kept),
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
                kept,
            },
            (Ok(_), other) => other,
        }
    }

    pub(super) fn started_over(&mut self, locked: &Locked, bytes: u64) {
        if bytes > 0 {
            self.events.event(Event::StartedOver {
                path: locked.destination().part_path(),
                bytes,
            });
        }
    }
}

/// An object that is there and not yet compared with anything.
struct Whole {
    transferred: Transferred,
    tree: Tree,
}

/// What shows that the object is another one than before.
fn change_in(error: &Error) -> Option<Changed> {
    match error {
        Error::Changed { how, .. } => Some(*how),
        Error::Wrong { .. } => Some(Changed::Content),
        _ => None,
    }
}

/// A block that came differently twice: without a manifest that is another version.
fn as_changed(error: Error) -> Error {
    match error {
        Error::Wrong { source_name, .. } => Error::Changed {
            place: source_name,
            how: Changed::Content,
        },
        other => other,
    }
}

/// Up to 1 MiB, and doubled while there would be too many blocks.
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
