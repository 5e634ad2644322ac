//! Fetching with a manifest: every block is proven on arrival.

use std::sync::Arc;

use crate::{
    core::{
        journal::Identity, judge::Leaves, keys::PublicKey, recovery::Changed, statement::Header,
        trust::Trust,
    },
    disk::{
        destination::{self, Locked},
        files::EntryKind,
        state::State,
    },
    net::location::Location,
};

use super::{
    super::{
        error::Error,
        events::{Event, Published},
        verify,
    },
    Fetch, Preflight, joined,
    plain::proof_of,
    remote_manifest::{Front, ManifestPlace},
    transfer::{Transfer, Transferred},
};

impl Fetch<'_> {
    pub(super) async fn with_manifest(
        mut self,
        locked: Locked,
        sources: Vec<Location>,
        preflight: Preflight,
        front: Front,
        place: ManifestPlace,
    ) -> Result<Published, Error> {
        let mut front = self.matching(front, &place, &preflight).await?;
        let mut read_again = true;
        let (header, trust, identity, leaves) = loop {
            let header = front.statement.header().clone();
            let trust = self
                .check_manifest(&header, &place)?
                .max(self.check_signature(&front, &place)?);
            self.check_limits(trust, Some(header.geometry.length()))?;
            let identity = Identity {
                root: Some(header.root),
                geometry: header.geometry,
                etag: preflight.validators.etag.clone(),
                last_modified: preflight.validators.last_modified.clone(),
            };
            self.bytes_manifest += front.bytes_read();
            if is_there_already(&locked, &header).await? {
                let proof = proof_of(header.root, header.geometry.length(), trust, &[]);
                return self.unchanged(locked, &identity, proof).await;
            }
            let (client, limits) = (self.client.clone(), self.limits());
            let leaves = front.read_leaves(&client, &place, &limits, &mut self.bytes_manifest);
            match leaves.await {
                Ok(leaves) => break (header, trust, identity, leaves),
                // It was replaced after its front was read: once more from the front.
                Err(Error::Changed { .. }) if read_again => {
                    read_again = false;
                    front = Front::read(&client, &place, &limits).await?;
                    front = self.matching(front, &place, &preflight).await?;
                }
                Err(error) => return Err(error),
            }
        };
        let (locked, opened) = self.open(locked, &identity, trust).await?;
        let transfer = Transfer {
            client: self.client.clone(),
            sources,
            ranges: preflight.ranges,
            leaves: Arc::new(Leaves::new(header.geometry, leaves)),
            limits: self.limits(),
            length_proven: trust == Trust::Signed,
            version: None,
            digests: self
                .options
                .digests
                .iter()
                .map(|digest| digest.algorithm())
                .collect(),
            events: self.events,
        };
        let Transferred {
            part,
            journal,
            bytes_resumed,
            digests,
        } = match transfer.run(opened).await {
            Ok(transferred) => transferred,
            Err(error) => return Err(self.explain(error, &header, &place).await),
        };
        if let Some(wrong) = self.wrong_digest(&self.options.digests, &digests) {
            return Err(self.set_aside(locked, part, wrong).await);
        }
        let proof = proof_of(header.root, header.geometry.length(), trust, &digests);
        self.publish(locked, (part, journal), proof, bytes_resumed)
            .await
    }

    /// A manifest whose length is that of the object. One that is not was perhaps replaced just now, so it is read once more.
    async fn matching(
        &mut self,
        front: Front,
        place: &ManifestPlace,
        preflight: &Preflight,
    ) -> Result<Front, Error> {
        let fits = |front: &Front| {
            preflight
                .length
                .is_none_or(|length| length == front.statement.header().geometry.length())
        };
        let front = match fits(&front) {
            true => front,
            false => Front::read(&self.client, place, &self.limits()).await?,
        };
        match fits(&front) {
            true => Ok(front),
            false => Err(Error::Changed {
                place: self.options.url.to_string(),
                how: Changed::Length,
            }),
        }
    }

    /// Everything about a manifest that can be refused before any byte of the body.
    fn check_manifest(&self, header: &Header, place: &ManifestPlace) -> Result<Trust, Error> {
        let trust = match self.options.root {
            Some(asked) if asked != header.root => {
                return Err(Error::OtherRoot {
                    place: place.to_string(),
                    asked,
                    found: header.root,
                });
            }
            Some(_) => Trust::Root,
            None => Trust::Manifest,
        };
        for asked in &self.options.digests {
            let said = header
                .digests
                .iter()
                .find(|digest| digest.algorithm() == asked.algorithm() && *digest != asked);
            if let Some(said) = said {
                return Err(Error::OtherDigest {
                    place: place.to_string(),
                    algorithm: asked.algorithm(),
                    expected: asked.hex(),
                    found: said.hex(),
                    kept: None,
                });
            }
        }
        Ok(trust.max(super::plain::trust_of_user(&self.options.digests)))
    }

    /// With a key, the manifest must be signed by it, for the asked name, and must not have expired.
    fn check_signature(&mut self, front: &Front, place: &ManifestPlace) -> Result<Trust, Error> {
        let Some(key) = self.options.key.clone() else {
            return Ok(Trust::None);
        };
        let place = place.to_string();
        let checked = key.check(front.statement.bytes(), front.signature.as_ref());
        checked.map_err(|cause| Error::NotSigned {
            place: place.clone(),
            cause,
        })?;
        let header = front.statement.header();
        let asked = self.options.url.last_segment().unwrap_or_default();
        if header.name != asked {
            return Err(Error::OtherName {
                place,
                signed: header.name.clone(),
                asked,
            });
        }
        if header.expires != 0 && header.expires <= destination::unix_time() {
            return Err(Error::Expired {
                place,
                at: header.expires,
            });
        }
        match self.seen_sequence(&key, header) {
            Some(seen) if seen > header.sequence => Err(Error::Older {
                place,
                found: header.sequence,
                seen,
            }),
            _ => Ok(Trust::Signed),
        }
    }

    /// The highest sequence of earlier runs; the one at hand is remembered.
    fn seen_sequence(&mut self, key: &PublicKey, header: &Header) -> Option<u64> {
        let folder = self.options.state.clone()?;
        let remembered = State::open(&folder).and_then(|state| {
            let seen = state.sequence(&key.id_hex(), &header.name)?;
            state.remember_sequence(&key.id_hex(), &header.name, header.sequence)?;
            Ok(seen)
        });
        remembered.unwrap_or_else(|error| {
            self.events.event(Event::Warning {
                message: error.to_string(),
            });
            None
        })
    }

    /// A block that is wrong everywhere: the manifest is asked again before anyone is blamed.
    async fn explain(&self, error: Error, header: &Header, place: &ManifestPlace) -> Error {
        if !matches!(error, Error::Wrong { .. }) {
            return error;
        }
        match Front::read(&self.client, place, &self.limits()).await {
            Ok(now) if now.statement.header().root != header.root => Error::Changed {
                place: self.options.url.to_string(),
                how: Changed::Root,
            },
            Ok(_) | Err(_) => error,
        }
    }
}

/// Whether the file under the final name is the object.
async fn is_there_already(locked: &Locked, header: &Header) -> Result<bool, Error> {
    let candidate = locked.destination().existing()?;
    if candidate.is_none_or(|entry| {
        entry.kind != EntryKind::Regular || entry.length != header.geometry.length()
    }) {
        return Ok(false);
    }
    let path = locked.destination().path();
    match joined(tokio::task::spawn_blocking(move || {
        verify::root_of_file(&path)
    }))
    .await
    {
        Ok(root) => Ok(root == header.root),
        // A file that cannot be read is no source; it is replaced when the object is proven.
        Err(_) => Ok(false),
    }
}
