//! Where uploads go, and where a server reads what was published there.

use std::{path::Path, sync::Arc};

use axum::http::Method;

use crate::{
    disk::{error::DiskError, files::Folder, staging::Staging},
    engine::storage::{Storage, StorageError, folder::FolderStorage, s3::S3Storage},
    policy::upload,
};

/// How long the URL of an object in S3 is valid for the start of a request, in seconds.
const URL_S: u32 = 900;
/// What a name of a manifest ends with.
const MANIFEST: &str = ".sapwood";

/// Where uploads go.
pub enum Stored {
    /// Into a folder, which is served.
    Folder(FolderStorage),
    /// Into S3.
    S3 {
        /// Where.
        storage: Arc<S3Storage>,
        /// What belongs to this server alone: the sessions, the audit log.
        own: Staging,
    },
}

impl Stored {
    pub(super) fn storage(&self) -> Arc<dyn Storage> {
        match self {
            Stored::Folder(storage) => Arc::new(storage.clone()),
            Stored::S3 { storage, .. } => storage.clone(),
        }
    }

    /// The folder of what belongs to all uploads.
    pub(super) fn own_folder(&self) -> &Folder {
        match self {
            Stored::Folder(storage) => storage.staging(),
            Stored::S3 { own, .. } => own.folder(),
        }
    }

    /// What tells it from all others.
    pub(super) fn id(&self) -> Result<String, DiskError> {
        match self {
            Stored::Folder(storage) => storage.id(),
            Stored::S3 { storage, .. } => Ok(storage.place().to_string()),
        }
    }

    /// The folder with published objects.
    pub(super) fn folder(&self) -> Option<&Arc<Folder>> {
        match self {
            Stored::Folder(storage) => Some(storage.root()),
            Stored::S3 { .. } => None,
        }
    }

    /// The web origin to which clients send parts, if it is not this server.
    pub(super) fn origin(&self) -> Option<String> {
        let Stored::S3 { storage, .. } = self else {
            return None;
        };
        let url = storage.url_to_read("origin", false, URL_S).ok()?;
        // A URL is scheme, colon, two slashes, authority, and a path.
        Some(url.splitn(4, '/').take(3).collect::<Vec<&str>>().join("/"))
    }

    /// The URL of what is under a name in S3, for requests of this method. `None`: nothing that was published is under it.
    pub(super) fn url(&self, method: &Method, path: &Path) -> Option<Result<String, StorageError>> {
        let Stored::S3 { storage, .. } = self else {
            return None;
        };
        let name = path.to_str()?;
        upload::name(name.strip_suffix(MANIFEST).unwrap_or(name))?;
        let with_content = *method != Method::HEAD;
        Some(storage.url_to_read(name, with_content, URL_S))
    }
}
