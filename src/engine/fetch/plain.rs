//! Fetching without a manifest: any URL. What arrives first is trusted and noted block by block, versions are never
//! mixed, and at the end the whole is compared with what the user gave or the server offers.

use std::sync::Arc;

use crate::{
    core::{
        digests::{Algorithm, Digest},
        geometry::{BlockSize, Geometry},
        journal::Identity,
        judge::Leaves,
        offered,
        recovery::Changed,
        tree::{self, Root},
        trust::Trust,
    },
    disk::{destination::Locked, files::EntryKind, journal::Journal, part::Part},
    net::{
        client::{Client, Request},
        location::Location,
    },
};

use super::{
    super::{
        error::Error,
        events::{Event, Published},
        verify,
    },
    Fetch, Preflight, Proof, blocking, joined,
    transfer::{Transfer, Transferred},
};

/// Blocks of an object without a manifest, as long as they are not too many.
const BLOCK_SIZE: u64 = 1 << 20;
/// Smaller objects come over one connection.
const ONE_SPAN_BYTES: u64 = 10_000_000;
/// A digest file is never longer; one that lists a whole folder may be long.
const SIDECAR_BYTES_MAX: usize = 1 << 20;

/// What the user's own digests prove: a strong one is as good as a root.
pub fn trust_of_user(digests: &[Digest]) -> Trust {
    let strong = |digest: &Digest| {
        matches!(
            digest.algorithm(),
            Algorithm::Sha256 | Algorithm::Sha512 | Algorithm::Blake3
        )
    };
    match digests {
        [] => Trust::None,
        digests if digests.iter().any(strong) => Trust::Root,
        _ => Trust::Digest,
    }
}

impl Fetch<'_> {
    /// Versions of different mirrors cannot be told apart without a manifest, so all comes from one of them.
    pub(super) async fn without_manifest(
        mut self,
        locked: Locked,
        url: Location,
        preflight: Preflight,
    ) -> Result<Published, Error> {
        self.options.url = url;
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
            .is_there_already(&locked, length, &wanted, trust)
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
            Err(error @ (Error::Changed { .. } | Error::Wrong { .. })) => {
                // Once more from the start, in one answer, which is of one version.
                tracing::info!("starting over: {error}");
                let now = super::remote_manifest::retried(&self.limits(), async || {
                    super::preflight(&self.client, &self.options.url).await
                })
                .await?;
                // What was offered for the other version proves nothing of this one.
                let (wanted, trust) = self.wanted(&now).await?;
                let Some(geometry) = now
                    .length
                    .and_then(|length| Geometry::new(length, block_size))
                else {
                    return self.stream(locked, wanted, trust).await;
                };
                let validators = &now.validators;
                let (etag, last_modified) =
                    (validators.etag.clone(), validators.last_modified.clone());
                let identity = Identity {
                    root: None,
                    geometry,
                    etag,
                    last_modified,
                };
                let (locked, outcome) = self
                    .transfer_plain(locked, &identity, &now, false, &wanted, trust)
                    .await?;
                self.finish_plain(locked, outcome.map_err(as_changed)?, &wanted, trust)
                    .await
            }
            Err(error) => Err(error),
            Ok(whole) => self.finish_plain(locked, whole, &wanted, trust).await,
        }
    }

    /// The digests that the object must have, the user's and the server's, and what they prove.
    async fn wanted(&mut self, preflight: &Preflight) -> Result<(Vec<Digest>, Trust), Error> {
        let mut wanted = self.options.digests.clone();
        wanted.extend(self.options.root.map(root_as_digest));
        let of_user = trust_of_user(&wanted);
        let offered = self.offered(preflight).await;
        let of_server = if offered.is_empty() {
            Trust::None
        } else {
            Trust::Digest
        };
        wanted.extend(offered);
        let trust = of_user.max(of_server);
        self.check_limits(trust, preflight.length)?;
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
        let (locked, opened) = self.open(locked, identity, trust).await?;
        let geometry = identity.geometry;
        let leaves = Arc::new(Leaves::first_use(geometry, opened.leaves.clone()));
        let mut limits = self.limits();
        if geometry.length() < ONE_SPAN_BYTES {
            limits.connections = 1;
        }
        let mut algorithms: Vec<Algorithm> = wanted
            .iter()
            .map(Digest::algorithm)
            .filter(|a| *a != Algorithm::Blake3)
            .collect();
        algorithms.sort();
        algorithms.dedup();
        let transfer = Transfer {
            client: self.client.clone(),
            sources: vec![self.options.url.clone()],
            ranges: parallel,
            leaves: leaves.clone(),
            limits,
            length_proven: true,
            version: Some(preflight.validators.clone()),
            digests: algorithms,
            events: self.events,
        };
        let outcome = transfer.run(opened).await.map(|transferred| {
            let root = tree::root_of(&leaves.all().expect("every block came"));
            Whole {
                transferred,
                root,
                length: geometry.length(),
            }
        });
        Ok((locked, outcome))
    }

    async fn finish_plain(
        self,
        locked: Locked,
        whole: Whole,
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
            root,
            length,
        } = whole;
        digests.push(root_as_digest(root));
        let proof = proof_of(root, length, trust, &digests);
        let part = (part, journal);
        self.compare_and_publish(locked, part, proof, wanted, &digests, bytes_resumed)
            .await
    }

    /// The end of a fetch without a manifest: what contradicts a wanted digest is set aside, the rest gets its name.
    pub(super) async fn compare_and_publish(
        self,
        locked: Locked,
        (part, journal): (Part, Journal),
        proof: Proof,
        wanted: &[Digest],
        digests: &[Digest],
        bytes_resumed: u64,
    ) -> Result<Published, Error> {
        match self.wrong_digest(wanted, digests) {
            Some(wrong) => Err(self.set_aside(locked, part, wrong).await),
            None => {
                self.publish(locked, (part, journal), proof, bytes_resumed)
                    .await
            }
        }
    }

    /// The digests that the server offers, in headers and beside the object.
    async fn offered(&mut self, preflight: &Preflight) -> Vec<Digest> {
        let mut offered = preflight.offered.clone();
        if let Some(digest) = sidecar(&self.client, &self.options.url).await {
            offered.push(digest);
        }
        offered
    }

    /// Whether the file under the final name has a strong digest that is wanted.
    async fn is_there_already(
        &self,
        locked: &Locked,
        length: u64,
        wanted: &[Digest],
        trust: Trust,
    ) -> Result<Option<Proof>, Error> {
        let strong = wanted
            .iter()
            .any(|digest| trust_of_user(std::slice::from_ref(digest)) == Trust::Root);
        let same_length = |entry: crate::disk::files::Entry| {
            entry.kind == EntryKind::Regular && entry.length == length
        };
        if !strong || !locked.destination().existing()?.is_some_and(same_length) {
            return Ok(None);
        }
        let (path, algorithms) = (
            locked.destination().path(),
            wanted.iter().map(Digest::algorithm).collect::<Vec<_>>(),
        );
        let found =
            tokio::task::spawn_blocking(move || verify::digests_of_file(&path, &algorithms));
        let Ok((root, digests)) = joined(found).await else {
            return Ok(None);
        };
        let sha256 = digests
            .iter()
            .find(|digest| digest.algorithm() == Algorithm::Sha256)
            .map(Digest::hex);
        Ok(wanted
            .iter()
            .all(|digest| digests.contains(digest))
            .then_some(Proof {
                root,
                length,
                trust,
                sha256,
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
    pub(super) async fn set_aside(self, locked: Locked, part: Part, wrong: Error) -> Error {
        let discard = self.options.discard;
        let done = blocking(move || {
            drop(part);
            match discard {
                true => locked.discard().map(|()| None),
                false => locked.quarantine().map(Some),
            }
        })
        .await;
        match (done, wrong) {
            (Err(error), _) => error,
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
    root: Root,
    length: u64,
}

/// What is known of an object when all of it is here.
pub(super) fn proof_of(root: Root, length: u64, trust: Trust, digests: &[Digest]) -> Proof {
    let sha256 = digests
        .iter()
        .find(|digest| digest.algorithm() == Algorithm::Sha256);
    Proof {
        root,
        length,
        trust,
        sha256: sha256.map(Digest::hex),
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

pub fn root_as_digest(root: Root) -> Digest {
    Digest::new(Algorithm::Blake3, root.0.to_vec()).expect("a root is a BLAKE3 digest")
}

/// 1 MiB, doubled while there would be too many blocks.
fn block_size(length: u64) -> BlockSize {
    let mut size = BlockSize::new(BLOCK_SIZE).expect("a power of two in range");
    while Geometry::new(length, size).is_none() {
        match size.doubled() {
            Some(doubled) => size = doubled,
            None => return size,
        }
    }
    size
}

/// The digest in `URL.sha256`, if there is such a file. Anything wrong with it is its absence: nobody asked for it.
async fn sidecar(client: &Client, url: &Location) -> Option<Digest> {
    let name = url.safe_name()?;
    let place = url.with_suffix(".sha256");
    let mut answer = client.get(Request::whole(&place)).await.ok()?;
    let bytes = answer.body.read_up_to(SIDECAR_BYTES_MAX).await.ok()?;
    offered::in_sidecar(std::str::from_utf8(&bytes).ok()?, &name)
}
