//! Taking the bytes of a part of which the client says nothing but where they belong: they go to a file without a name of this server,
//! and once their SHA-256 is known to the service. A stop of the server loses the part.

use std::{fs::File, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use sha2::Digest as _;

use crate::{
    disk::{
        files::{self, Folder},
        temporary,
    },
    engine::{
        blocking,
        storage::{
            Adds, PartAppender, StorageError, UnknownPart,
            appending::{Sink, Steps},
        },
        upload::content::{Counters, Stored, StoredContent},
    },
    format::{geometry::ByteRange, upload::Sha256},
    net::request::Body,
    policy::upload::{FinishedPart, Session},
};

use super::{S3Storage, Shared, handle, number};

/// So much of the disk is left to the sessions.
const RESERVE_BYTES: u64 = 4 << 20;

/// Prepares to take a part.
pub async fn begin(
    storage: &S3Storage,
    session: &Session,
    part: UnknownPart,
) -> Result<Box<dyn PartAppender>, StorageError> {
    let shared = storage.0.clone();
    // It is still there.
    handle(session)?;
    let open = move || {
        let folder = shared.spool.get().ok_or(StorageError::NotThroughServer)?;
        let folder = folder.again()?;
        let (file, path) = temporary::spool_of(&folder)?;
        Ok::<_, StorageError>(Spool {
            folder,
            file,
            path,
            sha256: sha2::Sha256::new(),
            length: 0,
        })
    };
    let spool = blocking::run(open).await?;
    Ok(Box::new(Appender {
        steps: Steps::new(spool, part.index, 0, part.longest),
        shared: storage.0.clone(),
        session: session.clone(),
        index: part.index,
    }))
}

/// The bytes of a part.
struct Spool {
    folder: Folder,
    file: File,
    path: PathBuf,
    sha256: sha2::Sha256,
    length: u64,
}

impl Sink for Spool {
    fn write(&mut self, step: &[Bytes]) -> Result<(), StorageError> {
        if self.folder.bytes_free()? < RESERVE_BYTES {
            return Err(StorageError::Full);
        }
        for bytes in step {
            files::write_at(&self.file, &self.path, bytes, self.length)?;
            self.sha256.update(bytes);
            self.length += bytes.len() as u64;
        }
        Ok(())
    }
}

struct Appender {
    steps: Steps<Spool>,
    shared: Arc<Shared>,
    session: Session,
    index: u32,
}

impl Appender {
    async fn end(self) -> Result<FinishedPart, StorageError> {
        let Appender {
            steps,
            shared,
            session,
            index,
        } = self;
        let spool = steps.end().await?;
        let (length, sha256) = (spool.length, Sha256(spool.sha256.finalize().into()));
        // S3 has no empty parts.
        if length > 0 {
            let handle = handle(&session)?;
            let key = shared.place.joined(&handle, &session.declared.name);
            let (id, _) = shared.upload(&session, Some(index)).await?;
            let whole = ByteRange::new(0, length);
            let stored = Stored {
                file: Arc::new(spool.file),
                path: spool.path.into(),
                bytes: whole,
            };
            let content = StoredContent::new(stored, &[whole], &Counters::default());
            let body = Body::Content(Arc::new(content));
            let upload = (id.as_str(), number(index));
            shared.calls.put_part(&key, upload, body, sha256).await?;
        }
        Ok(FinishedPart {
            index,
            length,
            sha256,
            etag: None,
        })
    }
}

impl PartAppender for Appender {
    fn adds(&self) -> Adds {
        Adds::Part
    }

    fn length(&self) -> u64 {
        self.steps.length()
    }

    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), StorageError>> {
        self.steps.take(bytes).boxed()
    }

    fn pause(&mut self) -> BoxFuture<'_, Result<(), StorageError>> {
        self.steps.run(|_| Ok(())).boxed()
    }

    fn finish(self: Box<Self>) -> BoxFuture<'static, Result<FinishedPart, StorageError>> {
        self.end().boxed()
    }
}
