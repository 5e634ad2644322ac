//! Proving an upload from its records, and publishing it.

use std::{fs::File, path::Path};

use parking_lot::Mutex;

use crate::{
    disk::{
        error::DiskError,
        files, regions,
        staging::{Content, Intent, Place, Upload},
        temporary,
    },
    engine::{
        create::Described,
        error::Error,
        upload::describe::{self, PartDescriber},
    },
    format::{
        digests::{Algorithm, Digest, DigestHasher},
        geometry::{ByteRange, Geometry},
        manifest::{Particulars, Tree},
        statement,
        upload::{PartRecord, Sha256},
    },
    policy::{
        parts::PartPlan,
        upload::{Disproved, FinishedPart, Goal, Published, Session},
    },
};

use super::{
    super::{StorageError, Verdict},
    Phase, Shared, handle,
};

/// Proves and publishes. Blocks.
pub fn run(
    shared: &Shared,
    session: &Session,
    parts: &[FinishedPart],
    goal: &Goal,
) -> Result<Verdict, StorageError> {
    let handle = handle(session)?;
    let active = shared.active(&handle);
    // An earlier attempt whose request is gone ends first.
    let _publishing = active.publishing.lock();
    {
        let mut phase = active.phase.write();
        if *phase == Phase::Removed {
            return Err(StorageError::StagingGone);
        }
        *phase = Phase::Sealed;
    }
    let upload = shared.upload(&handle)?;
    let place = Place {
        root: shared.staging.root(),
        path: &session.declared.name,
        replace: goal.replace,
    };
    let verdict = Attempt {
        session,
        upload: &upload,
        place,
        spool: shared.staging.folder(),
        naming: &shared.naming,
    }
    .run(parts, goal);
    if !matches!(verdict, Ok(Verdict::Published(_))) {
        *active.phase.write() = Phase::Open;
    }
    verdict
}

struct Attempt<'a> {
    session: &'a Session,
    upload: &'a Upload,
    place: Place<'a>,
    spool: &'a files::Folder,
    naming: &'a Mutex<()>,
}

/// All that is known of the object: what its manifest needs.
struct Joined {
    described: Described,
    plan: PartPlan,
}

impl Attempt<'_> {
    fn run(&self, parts: &[FinishedPart], goal: &Goal) -> Result<Verdict, StorageError> {
        if let Some(intent) = self.upload.published()? {
            return Ok(published(intent));
        }
        if let Some(intent) = self.upload.half_published()? {
            let _naming = self.naming.lock();
            self.upload.finish_publication(intent, &self.place)?;
            return Ok(published(intent));
        }
        {
            let _naming = self.naming.lock();
            self.upload.restore(&self.place)?;
        }
        match self.prove(parts, goal)? {
            Ok((joined, object)) => self.publish(joined, object, goal),
            Err(disproved) => Ok(Verdict::Disproved(disproved)),
        }
    }

    /// The object and what is known of it, if it is what was to be published.
    fn prove(
        &self,
        parts: &[FinishedPart],
        goal: &Goal,
    ) -> Result<Result<(Joined, File), Disproved>, StorageError> {
        let found: u64 = parts.iter().map(|part| part.length).sum();
        let planned = self.session.declared.plan.with_length(goal.length);
        let (Ok(plan), true) = (planned, found == goal.length) else {
            let expected = goal.length;
            return Ok(Err(Disproved::Length { expected, found }));
        };
        if !self.place.is_free()? {
            return Ok(Err(Disproved::NameExists(
                self.session.declared.name.clone(),
            )));
        }
        let joined = match self.join(&plan, parts)? {
            Ok(joined) => joined,
            Err(lacking) => return Ok(Err(Disproved::Parts(lacking))),
        };
        let found = joined.described.tree.root();
        if let Some(expected) = goal.root.filter(|root| *root != found) {
            let wrong_parts = self.wrong_parts(&plan)?;
            for index in &wrong_parts {
                self.upload.forget_record(Content::Kept, *index)?;
            }
            return Ok(Err(Disproved::Root {
                expected,
                found,
                wrong_parts,
            }));
        }
        if self.session.declared.protocol.is_read_back() {
            let wrong = self.wrong_parts(&plan)?;
            for index in &wrong {
                self.upload.forget_record(Content::Kept, *index)?;
            }
            if !wrong.is_empty() {
                return Ok(Err(Disproved::Parts(wrong)));
            }
        }
        let object = self.upload.object(goal.length)?;
        if let Some(expected) = goal.sha256 {
            let found = self.sha256(&object, goal.length)?;
            if found != expected {
                return Ok(Err(Disproved::Sha256 { expected, found }));
            }
        }
        Ok(Ok((joined, object)))
    }

    /// Joins the records of all parts; an error lists those that are not here.
    fn join(
        &self,
        plan: &PartPlan,
        parts: &[FinishedPart],
    ) -> Result<Result<Joined, Vec<u32>>, StorageError> {
        let (length, geometry) = (plan.length().unwrap_or_default(), plan.geometry());
        let geometry = geometry.or_else(|| Geometry::new(length, plan.block_size()));
        let count = plan.count().unwrap_or_default();
        let (spool, spool_path) = temporary::spool_of(self.spool)?;
        let (mut leaves, mut anchors, mut spooled) = (Vec::new(), Vec::new(), 0);
        let mut lacking = Vec::new();
        for index in 0..count {
            let record = self.upload.record(Content::Kept, index)?;
            let finished = parts.iter().find(|part| part.index == index);
            let proves = |record: &PartRecord| self.proves(record, plan, finished);
            let Some(record) = record.filter(proves) else {
                lacking.push(index);
                continue;
            };
            leaves.extend(record.leaves);
            anchors.extend(record.anchors);
            files::write_at(&spool, &spool_path, &record.pieces, spooled)?;
            spooled += record.pieces.len() as u64;
        }
        let (Some(geometry), true) = (geometry, lacking.is_empty()) else {
            return Ok(Err(lacking));
        };
        let described = Described {
            tree: Tree::new(geometry, leaves, Some(anchors)),
            digests: Vec::new(),
            pieces: Some((spool, spool_path, spooled)),
            pack: None,
        };
        let plan = *plan;
        Ok(Ok(Joined { described, plan }))
    }

    /// Whether a record proves this part of the object.
    fn proves(
        &self,
        record: &PartRecord,
        plan: &PartPlan,
        finished: Option<&FinishedPart>,
    ) -> bool {
        let header = &record.header;
        header.session == self.session.id
            && header.block_size == plan.block_size()
            && Some(header.bytes) == plan.part(header.index)
            && header.is_whole == plan.is_whole(header.index, header.bytes.length())
            && finished.is_some_and(|part| part.sha256 == header.sha256)
    }

    /// The parts whose bytes on the disk are not those of their records any more.
    fn wrong_parts(&self, plan: &PartPlan) -> Result<Vec<u32>, StorageError> {
        let mut wrong = Vec::new();
        for index in 0..plan.count().unwrap_or_default() {
            let Some(record) = self.upload.record(Content::Kept, index)? else {
                wrong.push(index);
                continue;
            };
            let header = record.header;
            let (file, path, at) = self.upload.file(Content::Kept, index, header.bytes.start)?;
            let mut describer = PartDescriber::new(header.bytes.start, header.block_size);
            let bytes = ByteRange::new(at, at + header.bytes.length());
            match describe::update_from(&mut describer, &file, &path, bytes) {
                Err(DiskError::ChangedWhileRead { .. }) => wrong.push(index),
                read => {
                    read?;
                    let found = describer.finish(header.is_whole);
                    if found.leaves != record.leaves {
                        wrong.push(index);
                    }
                }
            }
        }
        Ok(wrong)
    }

    fn sha256(&self, object: &File, length: u64) -> Result<Sha256, StorageError> {
        let mut hasher = DigestHasher::new(Algorithm::Sha256);
        let path = self.place.path.as_str();
        let read = regions::copy(
            object,
            Path::new(path),
            ByteRange::new(0, length),
            |bytes| {
                hasher.update(bytes);
                Ok(())
            },
        );
        read.map_err(failed)?;
        let digest = hasher.finish();
        let value = digest.value().try_into();
        Ok(Sha256(value.unwrap_or([0; 32])))
    }

    fn publish(&self, joined: Joined, object: File, goal: &Goal) -> Result<Verdict, StorageError> {
        let Joined { described, plan } = joined;
        let name = self.place.path.as_str().rsplit('/').next();
        let digest = goal.sha256.and_then(|sha256| {
            let value = sha256.0.to_vec();
            Digest::new(Algorithm::Sha256, value).ok()
        });
        let particulars = Particulars {
            name: statement::default_name(name.unwrap_or_default()),
            digests: digest.into_iter().collect(),
            ..Particulars::default()
        };
        let write = |file: &File, path: &Path| -> Result<(), Error> {
            described.write(particulars, None, file, path).map(drop)
        };
        self.upload.write_manifest(write).map_err(failed)?;
        let length = plan.length().unwrap_or_default();
        let intent = Intent::new(&object, described.tree.root(), length)?;
        let _naming = self.naming.lock();
        match self.upload.publish(object, intent, &self.place) {
            Ok(()) => Ok(published(intent)),
            Err(DiskError::Exists { .. } | DiskError::Unsafe { .. }) => {
                let name = self.session.declared.name.clone();
                Ok(Verdict::Disproved(Disproved::NameExists(name)))
            }
            Err(cause) => Err(cause.into()),
        }
    }
}

fn published(intent: Intent) -> Verdict {
    Verdict::Published(Published {
        length: intent.length,
        root: intent.root,
    })
}

fn failed(cause: Error) -> StorageError {
    match cause {
        Error::Disk(cause) => cause.into(),
        other => StorageError::Failed(Box::new(other)),
    }
}
