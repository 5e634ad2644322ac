//! Removing what uploads leave in a storage.

use crate::{
    engine::{
        events::Event,
        remote::retry::tell,
        storage::{Staged, StorageError},
    },
    format::{library::LibraryPath, upload::SessionId},
    policy::upload::{Session, Staging},
};

use super::{direct::StorageApi, failed::Failed};

impl StorageApi<'_> {
    /// Removes what is staged for a session; how often something was.
    pub(super) async fn remove(
        &self,
        id: SessionId,
        name: Option<&LibraryPath>,
    ) -> Result<usize, StorageError> {
        let storage = &self.bucket.storage;
        let mut count = 0;
        for begun in self.repeated(|| storage.uploads(name)).await? {
            if let Staging::Begun(handle) = begun.session.staging
                && begun.session.id == id
            {
                let staged = Staged {
                    session: Some(id),
                    handle,
                    bytes: 0,
                };
                self.repeated(|| storage.remove(&staged)).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    /// Removes what was staged for the upload of a session that this run used.
    async fn remove_staged(&self, session: &Session) -> Result<(), StorageError> {
        let Staging::Begun(handle) = &session.staging else {
            return Ok(());
        };
        let staged = Staged {
            session: Some(session.id),
            handle: handle.clone(),
            bytes: 0,
        };
        let storage = &self.bucket.storage;
        self.repeated(|| storage.remove(&staged)).await
    }

    /// Another run published the object of an upload, or gave it up: what this one put beside it since is in no list.
    pub(super) async fn remove_unlisted(&self, session: &Session) -> Result<(), Failed> {
        let (storage, name) = (&self.bucket.storage, &session.declared.name);
        let uploads = self.done(self.repeated(|| storage.uploads(Some(name))).await)?;
        let is_listed = uploads
            .iter()
            .any(|begun| begun.session.staging == session.staging);
        match is_listed {
            true => Ok(()),
            false => self.done(self.remove_staged(session).await),
        }
    }

    /// Removes what was staged for a published object.
    pub(super) async fn clean_up(&self, session: &Session) {
        let (id, name) = (session.id, &session.declared.name);
        self.forget(id);
        // Another run may have removed the object of the upload, by which it is found, and not what this one put beside it.
        let mut removed = self.remove_staged(session).await;
        if removed.is_ok() {
            removed = self.remove(id, Some(name)).await.map(drop);
        }
        if let Err(cause) = removed {
            let place = self.bucket.folder.below(name.as_str());
            let message = format!(
                "{place} is published, but what was staged for it was not removed: {cause}"
            );
            tell(Event::Warning { message });
        }
    }
}
