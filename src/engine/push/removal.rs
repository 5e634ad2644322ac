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
    /// Removes what the storage lists of a session; the handles.
    pub(super) async fn remove(
        &self,
        id: SessionId,
        name: Option<&LibraryPath>,
    ) -> Result<Vec<String>, StorageError> {
        let storage = &self.bucket.storage;
        let mut handles = Vec::new();
        for begun in self.repeated(|| storage.uploads(name)).await? {
            if let Staging::Begun(handle) = begun.session.staging
                && begun.session.id == id
            {
                self.remove_handle(id, &handle).await?;
                handles.push(handle);
            }
        }
        Ok(handles)
    }

    /// Removes what is staged for the upload of a session that this run used, whether or not the storage lists it: another run may
    /// have removed the object by which it is found, and not what this one put beside it since.
    async fn remove_own(&self, session: &Session) -> Result<(), StorageError> {
        match &session.staging {
            Staging::Begun(handle) => self.remove_handle(session.id, handle).await,
            _ => Ok(()),
        }
    }

    async fn remove_handle(&self, id: SessionId, handle: &str) -> Result<(), StorageError> {
        let staged = Staged {
            session: Some(id),
            handle: handle.to_owned(),
            bytes: 0,
        };
        let storage = &self.bucket.storage;
        self.repeated(|| storage.remove(&staged)).await
    }

    /// After another run published the object of an upload, or gave it up: removes what is in no list.
    pub(super) async fn remove_unlisted(&self, session: &Session) -> Result<(), Failed> {
        let (storage, name) = (&self.bucket.storage, &session.declared.name);
        let uploads = self.done(self.repeated(|| storage.uploads(Some(name))).await)?;
        let is_listed = uploads
            .iter()
            .any(|begun| begun.session.staging == session.staging);
        match is_listed {
            true => Ok(()),
            false => self.done(self.remove_own(session).await),
        }
    }

    /// Removes what was staged for a published object.
    pub(super) async fn clean_up(&self, session: &Session) {
        self.forget(session.id);
        if let Err(cause) = self.remove_all(session).await {
            let place = self.bucket.folder.below(session.declared.name.as_str());
            let message = format!(
                "{place} is published, but what was staged for it was not removed: {cause}"
            );
            tell(Event::Warning { message });
        }
    }

    async fn remove_all(&self, session: &Session) -> Result<(), StorageError> {
        let name = Some(&session.declared.name);
        let removed = self.remove(session.id, name).await?;
        match &session.staging {
            Staging::Begun(handle) if removed.contains(handle) => Ok(()),
            _ => self.remove_own(session).await,
        }
    }
}
