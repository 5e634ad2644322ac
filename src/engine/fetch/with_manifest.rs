//! Fetching with a manifest: every block is proven on arrival.

use crate::{
    disk::destination::Locked,
    engine::{
        error::Error,
        events::Published,
        remote::{
            manifest::{ManifestPlace, OpenManifest, explain},
            preflight::Preflight,
            source::Source,
        },
        transfer::{
            driver::TransferObject,
            part::{PartTransfer, Transferred},
        },
        trust,
        verify::digests_of_existing,
    },
    format::{digests::Digest, journal::Identity, statement::Header, trust::Trust},
    net::location::Location,
    policy::recovery::{Changed, starts_over},
};

use super::{
    Fetch, conditions,
    publish::{Here, Proof},
};

impl Fetch<'_> {
    pub(super) async fn with_manifest(
        mut self,
        locked: Locked,
        sources: Vec<Location>,
        preflight: Preflight,
        mut front: OpenManifest,
        place: ManifestPlace,
    ) -> Result<Published, Error> {
        let mut started_over = false;
        let (header, trust, identity, search) = loop {
            let header = front.header().clone();
            let trust = self.check_manifest(&front).await?;
            let identity = Identity {
                root: Some(header.root),
                geometry: header.geometry,
                etag: preflight.validators.etag.clone(),
                last_modified: preflight.validators.last_modified.clone(),
            };
            self.bytes_manifest += front.bytes_read();
            if let Some(digests) = self.is_there_unchanged(&locked, &header).await? {
                let proof = Proof {
                    root: header.root,
                    length: header.geometry.length(),
                    trust,
                    digests,
                    validators: preflight.validators,
                };
                return self.unchanged(locked, &identity, proof).await;
            }
            match self.look_around(&locked, &mut front).await {
                Ok(known) => break (header, trust, identity, known),
                // It was replaced after its front was read: once more from the front.
                Err(Error::Changed { how, .. }) if starts_over(how, started_over) => {
                    started_over = true;
                    front = OpenManifest::open(&self.context, &place, &self.limits()).await?;
                    front = self.matching(front, &place, &preflight).await?;
                }
                Err(error) => return Err(error),
            }
        };
        let local = search.bytes_local(&header.geometry);
        let (locked, mut opened) = self.open(locked, &identity, trust, local).await?;
        let (landed, leaves) = self.land(search, &mut opened, &sources[0]).await?;
        if !leaves.are_complete() {
            // A file that was searched is another one now, and what it had is to be fetched after all.
            self.all_leaves(&mut front, &leaves).await?;
        }
        let source = |url: &Location| Source::http(&self.client, url);
        let transfer = PartTransfer {
            object: TransferObject {
                leaves: leaves.clone(),
                sources: sources.iter().map(source).collect(),
                ranges: preflight.ranges,
                length_proven: trust == Trust::Signed,
                version: None,
                connections_max: self.context.useful_connections(),
            },
            copied: landed.stored,
            digests: self.options.digests.iter().map(Digest::algorithm).collect(),
        };
        let Transferred {
            part,
            journal,
            bytes_resumed,
            digests,
        } = match transfer.run(&self.context, opened, self.events).await {
            Ok(transferred) => transferred,
            Err(error) => {
                let url = &self.options.url;
                return Err(explain(&self.context, error, header.root, &place, url).await);
            }
        };
        if let Some(wrong) = self.wrong_digest(&self.options.digests, &digests) {
            return Err(self.set_aside(locked, part, wrong).await);
        }
        let proof = Proof {
            root: header.root,
            length: header.geometry.length(),
            trust,
            digests,
            validators: preflight.validators,
        };
        self.will_be_kept(&leaves);
        let here = Here {
            resumed: bytes_resumed + landed.bytes_resumed,
            reused: landed.bytes_reused,
        };
        self.publish(locked, (part, journal), proof, here).await
    }

    /// The user's digests, if the file under the final name is the object and has all of them.
    async fn is_there_unchanged(
        &mut self,
        locked: &Locked,
        header: &Header,
    ) -> Result<Option<Vec<Digest>>, Error> {
        let wanted = &self.options.digests;
        let found = digests_of_existing(locked, header.geometry.length(), wanted).await?;
        let same = found.and_then(|(tree, mut digests)| {
            digests.retain(|digest| wanted.contains(digest));
            let all = wanted.iter().all(|digest| digests.contains(digest));
            (tree.root() == header.root && all).then_some((tree, digests))
        });
        let (tree, digests) = same.unzip();
        self.tree = tree;
        Ok(digests)
    }

    /// A manifest whose length is that of the object. One that is not was perhaps replaced just now, so it is read once more.
    pub(super) async fn matching(
        &mut self,
        front: OpenManifest,
        place: &ManifestPlace,
        preflight: &Preflight,
    ) -> Result<OpenManifest, Error> {
        let fits = |front: &OpenManifest| {
            preflight
                .length
                .is_none_or(|length| length == front.header().geometry.length())
        };
        let front = match fits(&front) {
            true => front,
            false => OpenManifest::open(&self.context, place, &self.limits()).await?,
        };
        match fits(&front) {
            true => Ok(front),
            false => Err(Error::Changed {
                place: self.options.url.to_string(),
                how: match preflight.is_page {
                    true => Changed::Page,
                    false => Changed::Length,
                },
            }),
        }
    }

    /// Everything about a manifest that can be refused before any byte of the body.
    async fn check_manifest(&mut self, manifest: &OpenManifest) -> Result<Trust, Error> {
        let asked = conditions(&self.options);
        let trust = trust::check(&self.context, &asked, manifest.front(), self.events).await?;
        self.check_length(Some(manifest.header().geometry.length()))?;
        Ok(trust)
    }
}
