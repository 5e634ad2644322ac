//! Publishing an object for clients that wait until it is there.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    engine::ingest::{Finalize, IngestError},
    format::upload::SessionId,
    policy::upload::{Goal, Owner, Refusal, Session, State},
};

use super::{Uploads, counts::PartEnd};

/// How often it is looked whether another server has published.
const LOOK_TIME: Duration = Duration::from_millis(200);

impl Uploads {
    /// Publishes an object of this length of which nothing else is known. [`Refusal::Finalizing`]: it takes longer than this, and goes on.
    pub(super) async fn publish(
        self: &Arc<Self>,
        owner: &Owner,
        id: SessionId,
        length: u64,
        wait: Duration,
    ) -> Result<Session, IngestError> {
        let goal = Goal {
            length,
            root: None,
            sha256: None,
            replace: false,
        };
        let began = Instant::now();
        loop {
            let run = match self.ingest.finalize(owner, id, goal).await {
                Ok(Finalize::Done(session)) => return Ok(*session),
                Ok(Finalize::Run(run)) => run,
                Ok(Finalize::Working(session)) => {
                    if began.elapsed() >= wait || !matches!(session.state, State::Finalizing { .. })
                    {
                        return Err(Refusal::Finalizing.into());
                    }
                    sleep(LOOK_TIME).await;
                    continue;
                }
                Err(cause) => return Err(cause),
            };
            let uploads = self.clone();
            // It goes on if the client leaves.
            let running = tokio::spawn(async move { uploads.ingest.run(run).await });
            return match timeout(wait, running).await {
                Ok(Ok(published)) => Ok(published?.session),
                Ok(Err(_)) => Err(IngestError::Contended),
                Err(_) => Err(Refusal::Finalizing.into()),
            };
        }
    }

    /// Counts the bytes of a request.
    pub(super) fn note_taken(&self, is_stored: bool, bytes: u64, began: Instant) {
        let end = match is_stored {
            true => PartEnd::Stored,
            false => PartEnd::Error,
        };
        self.counts.note_part(end, bytes, began.elapsed());
    }
}
