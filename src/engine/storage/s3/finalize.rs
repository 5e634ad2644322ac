//! Proving an upload and publishing it. Each step first looks whether it was done: by an attempt whose response was lost, by one that was
//! killed, or by another server.

use futures_util::future::join;

use crate::{
    engine::storage::{Fence, StorageError, Verdict},
    format::{tree::Root, upload::Sha256},
    net::{
        location::Location,
        s3::uploads::{self, StoredPart},
    },
    policy::{
        parts::PartPlan,
        upload::{Disproved, FinishedPart, Goal, Published, Session},
    },
};

use super::{
    S3Error, Shared,
    calls::{Answer, Found},
    error::{code, is_condition},
    handle, number, of_nothing,
    proof::{ReadBack, Reader},
    publish::{Content, Proven, Publication, Source},
};

/// How often parts are joined in one attempt, if the response does not say what came of it.
const JOINS: u32 = 3;
/// The service still works on it: time for the next look, in seconds.
const BUSY_S: u64 = 2;

/// Proves and publishes.
pub async fn run(
    shared: &Shared,
    session: &Session,
    parts: &[FinishedPart],
    goal: &Goal,
    fence: &dyn Fence,
) -> Result<Verdict, StorageError> {
    let handle = handle(session)?;
    let publication = Publication {
        shared,
        session,
        handle: &handle,
        fence,
    };
    if let Some(published) = publication.published().await? {
        return Ok(Verdict::Published(published));
    }
    let found: u64 = parts.iter().map(|part| part.length).sum();
    let planned = session.declared.plan.with_length(goal.length);
    let (Ok(plan), true) = (planned, found == goal.length) else {
        let expected = goal.length;
        let length = Disproved::Length { expected, found };
        return Ok(Verdict::Disproved(length));
    };
    let name = &session.declared.name;
    let attempt = Attempt {
        shared,
        session,
        key: shared.place.joined(&handle, name),
        plan,
        parts,
        goal,
        fence,
    };
    if handle.attested {
        return attempt.attest(&publication).await;
    }
    let existing = shared.calls.head(&shared.place.object(name)).await?;
    // It is looked at again right before the object gets the name: this only saves a proof that would be in vain.
    if existing.is_some() && !goal.replace {
        return Ok(Verdict::Disproved(Disproved::NameExists(name.clone())));
    }
    let content = match attempt.prove(&publication).await? {
        Ok(content) => content,
        Err(disproved) => {
            fence.check().await?;
            shared.remove_copy(&handle).await?;
            return Ok(Verdict::Disproved(disproved));
        }
    };
    publication.publish(content, goal).await
}

/// What came of joining parts.
enum Joined {
    /// The service says so.
    Done,
    /// The next look tells; if it does not, this is why.
    Unclear(StorageError),
    Disproved(Disproved),
}

struct Attempt<'a> {
    shared: &'a Shared,
    session: &'a Session,
    key: Location,
    /// With the length of the object.
    plan: PartPlan,
    parts: &'a [FinishedPart],
    goal: &'a Goal,
    fence: &'a dyn Fence,
}

impl Attempt<'_> {
    /// The staged object, if it is what was to be published.
    async fn prove(
        &self,
        publication: &Publication<'_>,
    ) -> Result<Result<Content, Disproved>, StorageError> {
        let missing = self.missing(|part| Some(part.sha256));
        if !missing.is_empty() {
            return Ok(Err(Disproved::Parts(missing)));
        }
        if self.goal.length == 0 {
            return self.prove_nothing().await;
        }
        let found = match self.joined().await? {
            Ok(found) => found,
            Err(disproved) => return Ok(Err(disproved)),
        };
        let wants_sha256 = self.goal.sha256.is_some();
        if found.length != self.goal.length {
            return self.other_length(&found).await;
        }
        let source = Source {
            length: found.length,
            etag: &found.etag,
            root: self.goal.root,
        };
        let reader = self.reader(&found.etag);
        let (read, ()) = join(reader.read(wants_sha256), publication.copy_ahead(&source)).await;
        let read = read?;
        let wrong = self.wrong(&read.parts);
        if !wrong.is_empty() {
            self.fence.check().await?;
            self.shared.reopen(self.session, &wrong).await?;
            return Ok(Err(Disproved::Parts(wrong)));
        }
        self.proven(read, found.etag).await
    }

    /// The bytes are those of the parts; whether they are the object that was meant.
    async fn proven(
        &self,
        read: ReadBack,
        etag: String,
    ) -> Result<Result<Content, Disproved>, StorageError> {
        let root = read.root();
        if let Some(expected) = self.goal.root.filter(|expected| *expected != root) {
            let (found, wrong_parts) = (root, Vec::new());
            return Ok(Err(Disproved::Root {
                expected,
                found,
                wrong_parts,
            }));
        }
        if let (Some(expected), Some(found)) = (self.goal.sha256, read.sha256)
            && expected != found
        {
            return Ok(Err(Disproved::Sha256 { expected, found }));
        }
        let name = self.session.declared.name.as_str();
        let manifest = read.manifest(name, self.goal.sha256).await?;
        let length = self.goal.length;
        Ok(Ok(Content {
            object: Proven { length, etag, root },
            manifest,
        }))
    }

    /// S3 has no uploads without bytes.
    async fn prove_nothing(&self) -> Result<Result<Content, Disproved>, StorageError> {
        let found = of_nothing();
        if let Some(expected) = self.goal.sha256.filter(|expected| *expected != found) {
            return Ok(Err(Disproved::Sha256 { expected, found }));
        }
        let reader = self.reader("");
        let read = reader.read(self.goal.sha256.is_some()).await?;
        self.proven(read, String::new()).await
    }

    fn reader<'a>(&'a self, etag: &'a str) -> Reader<'a> {
        Reader {
            context: self.shared.calls.context(),
            place: &self.key,
            etag,
            plan: self.plan,
        }
    }

    /// What was joined is not as long as its parts: it is read as far as it goes.
    async fn other_length(
        &self,
        found: &Found,
    ) -> Result<Result<Content, Disproved>, StorageError> {
        let read = match self.session.declared.plan.with_length(found.length) {
            Ok(plan) => {
                let reader = Reader {
                    plan,
                    ..self.reader(&found.etag)
                };
                reader.read(false).await?.parts
            }
            Err(_) => Vec::new(),
        };
        let wrong = self.wrong(&read);
        self.fence.check().await?;
        self.shared.reopen(self.session, &wrong).await?;
        Ok(Err(Disproved::Parts(wrong)))
    }

    /// The parts that do not have these SHA-256, by index.
    fn wrong(&self, found: &[Sha256]) -> Vec<u32> {
        self.missing(|part| found.get(part.index as usize).copied())
    }

    /// The parts of the plan that are not finished, or of which `found` has another SHA-256.
    fn missing(&self, found: impl Fn(&FinishedPart) -> Option<Sha256>) -> Vec<u32> {
        let count = self.plan.count().unwrap_or_default();
        let is_here = |index: u32| {
            let part = self.parts.get(index as usize);
            part.is_some_and(|part| {
                part.index == index
                    && self.plan.allows(index, part.length)
                    && found(part) == Some(part.sha256)
            })
        };
        (0..count).filter(|index| !is_here(*index)).collect()
    }

    /// The object that its parts were joined to, now or before.
    async fn joined(&self) -> Result<Result<Found, Disproved>, StorageError> {
        let mut error = StorageError::Busy { after_s: BUSY_S };
        for joined in 0..JOINS {
            if let Some(found) = self.shared.calls.head(&self.key).await? {
                return Ok(Ok(found));
            }
            match self.join(joined == 0, None).await? {
                Joined::Done => (),
                Joined::Unclear(why) => error = why,
                Joined::Disproved(disproved) => return Ok(Err(disproved)),
            }
        }
        Err(error)
    }

    /// Joins the parts under the name of the object, where the service has computed the SHA-256 of each.
    async fn attest(&self, publication: &Publication<'_>) -> Result<Verdict, StorageError> {
        let place = || self.key.to_string();
        let (Some(root), None) = (self.goal.root, self.goal.sha256) else {
            return Err(S3Error::AttestedAlone { place: place() }.into());
        };
        let missing = self.missing(|part| Some(part.sha256));
        if !missing.is_empty() {
            return Ok(Verdict::Disproved(Disproved::Parts(missing)));
        }
        if self.goal.length == 0 {
            return publication.publish_nothing(root, self.goal).await;
        }
        let length = self.goal.length;
        let sums = self.parts.iter().map(|part| part.sha256);
        let composite = uploads::composite(sums);
        let calls = &self.shared.calls;
        let mut error = StorageError::Busy { after_s: BUSY_S };
        let mut was_joined_here = false;
        for joined in 0..JOINS {
            let found = calls.head(&self.key).await?;
            if let Some(found) = found.filter(|found| publication.is_mine(found)) {
                if (found.length, found.sha256) == (length, Some(composite)) {
                    self.read_if_to_be_proven(&found.etag, root).await?;
                    return publication.finish(Published { length, root }).await;
                }
                if !was_joined_here {
                    // Another run of this upload published what it had read.
                    return Err(StorageError::StagingGone);
                }
                self.fence.check().await?;
                calls.delete_version(&self.key, &found.etag).await?;
                return Err(S3Error::JoinedOther { place: place() }.into());
            }
            match self.join(joined == 0, Some(publication)).await? {
                Joined::Done => was_joined_here = true,
                Joined::Unclear(why) => error = why,
                Joined::Disproved(disproved) => return Ok(Verdict::Disproved(disproved)),
            }
        }
        Err(error)
    }

    /// Of a run that is not attested itself: it goes on with an upload that has its name already, and reads it.
    async fn read_if_to_be_proven(&self, etag: &str, root: Root) -> Result<(), StorageError> {
        if self.shared.options.attested {
            return Ok(());
        }
        match self.reader(etag).read(false).await?.root() == root {
            true => Ok(()),
            false => Err(StorageError::StagingGone),
        }
    }

    /// Has the service join the parts, if it lists all of them. What came of it is seen where they are joined.
    /// `named`: the publication, if they are joined under the name of the object itself.
    async fn join(
        &self,
        is_first: bool,
        named: Option<&Publication<'_>>,
    ) -> Result<Joined, StorageError> {
        let Some((id, stored)) = self.shared.open_upload(self.session, None).await? else {
            // Or it was joined since the last look.
            return Ok(Joined::Unclear(StorageError::StagingGone));
        };
        let missing = self.missing(|part| {
            let number = number(part.index);
            let stored = stored.iter().find(|stored| stored.number == number);
            stored.filter(|stored| stored.size == part.length)?.sha256
        });
        if !missing.is_empty() {
            return Ok(Joined::Disproved(Disproved::Parts(missing)));
        }
        let end = number(self.parts.len() as u32);
        let wanted: Vec<StoredPart> = stored
            .into_iter()
            .filter(|part| part.number < end)
            .collect();
        let calls = &self.shared.calls;
        let is_new = named.is_some() && !self.goal.replace;
        if let Some(publication) = named
            && !publication.may_take_name(is_new).await?
        {
            let name = self.session.declared.name.clone();
            return Ok(Joined::Disproved(Disproved::NameExists(name)));
        }
        let unclear = Joined::Unclear(StorageError::Busy { after_s: BUSY_S });
        self.fence.check().await?;
        match calls.complete(&self.key, &id, &wanted, is_new).await {
            Ok(Answer::Done) => Ok(Joined::Done),
            Ok(Answer::Unclear) => Ok(unclear),
            Ok(Answer::Refused(refused)) => match code(&refused) {
                "NoSuchUpload" => Ok(unclear),
                // Perhaps a part was sent again since it was listed.
                "InvalidPart" if is_first => Ok(unclear),
                // To find out which would be to join some of them, under the name of the object.
                "InvalidPart" if named.is_some() => {
                    let all = self.parts.iter().map(|part| part.index).collect();
                    Ok(Joined::Disproved(Disproved::Parts(all)))
                }
                "InvalidPart" => {
                    let lost = self.lost(&id, &wanted).await?;
                    Ok(Joined::Disproved(Disproved::Parts(lost)))
                }
                _ if is_new && is_condition(&refused) => Ok(unclear),
                _ => Err(refused.into()),
            },
            // Perhaps it was joined all the same.
            Err(error) => Ok(Joined::Unclear(error)),
        }
    }

    /// The parts that the service lists and does not join. Garage does so with a part of which a later transfer broke: then what came
    /// before is lost. A request whose last part has a wrong SHA-256 joins nothing, and is refused for that only if all parts are good.
    async fn lost(&self, id: &str, stored: &[StoredPart]) -> Result<Vec<u32>, StorageError> {
        let mut left = stored.to_vec();
        let mut lost = Vec::new();
        while let Some(at) = self.first_lost(id, &left).await? {
            lost.push(left.remove(at).number - number(0));
        }
        if lost.is_empty() {
            return Ok(self.parts.iter().map(|part| part.index).collect());
        }
        lost.sort_unstable();
        Ok(lost)
    }

    async fn first_lost(
        &self,
        id: &str,
        parts: &[StoredPart],
    ) -> Result<Option<usize>, StorageError> {
        if parts.is_empty() || !self.has_lost(id, parts).await? {
            return Ok(None);
        }
        // The first so many have none; the first so many have one.
        let (mut none, mut one) = (0, parts.len());
        while one - none > 1 {
            let middle = usize::midpoint(none, one);
            match self.has_lost(id, &parts[..middle]).await? {
                true => one = middle,
                false => none = middle,
            }
        }
        Ok(Some(none))
    }

    async fn has_lost(&self, id: &str, parts: &[StoredPart]) -> Result<bool, StorageError> {
        let mut parts = parts.to_vec();
        if let Some(sha256) = parts.last_mut().and_then(|last| last.sha256.as_mut()) {
            sha256.0[0] ^= 1;
        }
        let joined = self.shared.calls.complete(&self.key, id, &parts, false);
        Ok(match joined.await? {
            Answer::Refused(refused) => code(&refused) == "InvalidPart",
            Answer::Done | Answer::Unclear => false,
        })
    }
}
