//! Reading what was staged before it is published.

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    disk::staging::Content,
    format::{geometry::ByteRange, tree::Cv},
    policy::upload::{FinishedPart, Session},
};

use super::{
    super::{GrowingStorage, StorageError},
    FolderStorage, Shared, handle,
};

impl GrowingStorage for FolderStorage {
    fn leaves<'a>(
        &'a self,
        session: &'a Session,
        part: &'a FinishedPart,
    ) -> BoxFuture<'a, Result<Vec<Cv>, StorageError>> {
        let (handle, id) = (handle(session), session.id);
        let (index, sha256) = (part.index, part.sha256);
        self.on_disk(move |shared: &Shared| {
            let record = shared.upload(&handle?)?.record(Content::Kept, index)?;
            let is_it = |session, of| session == id && of == sha256;
            let record = record.filter(|of| is_it(of.header.session, of.header.sha256));
            // It gets another content at this moment.
            let record = record.ok_or(StorageError::PartNotStored { index })?;
            Ok(record.leaves)
        })
        .boxed()
    }

    fn read<'a>(
        &'a self,
        session: &'a Session,
        bytes: ByteRange,
    ) -> BoxFuture<'a, Result<Bytes, StorageError>> {
        let handle = handle(session);
        self.on_disk(move |shared: &Shared| {
            let read = shared.upload(&handle?)?.read_object(bytes)?;
            Ok(read.ok_or(StorageError::StagingGone)?.into())
        })
        .boxed()
    }
}
