//! Pushing a file while it is recorded: each part as soon as it is full. When the recording has ended the whole file is read once
//! more, since recorders rewrite their headers; what differs is sent again, and the object is published.

use std::sync::Arc;

use crate::{disk::error::DiskError, engine::error::Error, format::ingest};

use super::{
    Push, Pushed,
    api::Api,
    check_size,
    growing::{Growing, GrowingParts},
    part::PartFailed,
    reader::Reader,
    send::Sender,
    sessions::Session,
    source::SourceFile,
};

impl Push<'_> {
    /// Sends what is recorded until the recording ends, then publishes all of it.
    pub(super) async fn follow(
        &self,
        growing: &Arc<Growing>,
        session: Session,
    ) -> Result<Pushed, PartFailed> {
        self.tell_plan(&session, self.growing_url(&session).await);
        let finished = session.finished.values();
        let parts = GrowingParts {
            source: growing.clone(),
            next: 0,
            finished: Arc::new(finished.map(|part| (part.index, part.sha256)).collect()),
        };
        let mut sender = self.sender(session);
        let reader = Reader::of_growing(parts, self.plan);
        sender.send_all(reader, self.options).await?;
        let reused = sender.bytes_reused();
        let file = growing.ended().await?;
        check_size(file.length(), self.options)?;
        let last = self.ended(file, reused)?;
        let session = Session {
            plan: last.plan,
            // All parts that were here had the bytes of the source.
            is_own: true,
            ..sender.session
        };
        last.send_and_publish(session, None).await
    }

    /// The push of the file as it is now.
    fn ended(&self, file: SourceFile, reused: u64) -> Result<Push<'_>, Error> {
        let plan = self.plan.with_length(file.length());
        Ok(Push {
            api: self.api,
            options: self.options,
            plan: plan.map_err(|cause| Error::PartSize { cause })?,
            file: Some(Arc::new(file)),
            growing: self.growing.clone(),
            reused: Some(reused),
            counters: self.counters.clone(),
            began: self.began,
        })
    }

    /// A push with a sender for this session.
    pub(super) fn sender(&self, session: Session) -> Sender<'_> {
        let at_once = self
            .options
            .parts_at_once
            .min(self.api.limits().connections);
        let growing = self.growing.clone().filter(|_| self.file.is_none());
        let (file, counters) = (self.file.clone(), self.counters.clone());
        Sender::new(self.api, session, (file, growing), at_once, counters)
    }

    /// Whether a file that was taken as ended goes on. An error: it is not the same any more.
    pub(super) async fn goes_on(&self, error: &Error) -> Result<bool, Error> {
        match (&self.growing, error) {
            (Some(growing), Error::Disk(DiskError::ChangedWhileRead { .. })) => {
                growing.look().await?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// The file that is compared with what has the name; of one that grows, when it has ended.
    pub(super) async fn whole_file(&self) -> Result<Option<Arc<SourceFile>>, Error> {
        match (&self.file, &self.growing) {
            (Some(file), _) => Ok(Some(file.clone())),
            (None, Some(growing)) => {
                growing.ends().await?;
                Ok(Some(Arc::new(growing.ended().await?)))
            }
            (None, None) => Ok(None),
        }
    }

    /// Where the object can be played while it grows.
    async fn growing_url(&self, session: &Session) -> Option<String> {
        let Api::Server(api) = self.api else {
            return None;
        };
        if !api.is_readable(session.id).await.unwrap_or(false) {
            return None;
        }
        let name = self.options.name.as_str();
        let last = name.rsplit('/').next().unwrap_or(name);
        let folder = format!("{}/{}/object/", ingest::PATH, session.id);
        Some(
            api.server
                .url
                .at_origin(&folder, None)
                .below(last)
                .to_string(),
        )
    }
}
