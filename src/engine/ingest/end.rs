//! The end of a session without an object: it is given up, and what was staged is removed.

use crate::{
    engine::storage::Staged,
    format::upload::SessionId,
    policy::upload::{Owner, Session, Staging},
};

use super::{Changed, Ingest, IngestError, IngestEvent};

impl Ingest {
    /// Gives a session up. Done again it changes nothing.
    pub async fn abort(&self, owner: &Owner, id: SessionId) -> Result<(), IngestError> {
        self.session_of(owner, id).await?;
        let now = self.now();
        let changed = self.change(id, |session| Ok(session.aborted(now)?)).await?;
        if let Changed::To(session) = &changed {
            self.tell(IngestEvent::Aborted {
                session: session.clone(),
            });
        }
        self.unstage(&changed.session()).await
    }

    /// Removes what was staged for a session that has ended.
    pub(super) async fn unstage(&self, session: &Session) -> Result<(), IngestError> {
        if session.unstaged().is_none() {
            return Ok(());
        }
        let handle = match &session.staging {
            Staging::Begun(handle) => Some(handle.clone()),
            Staging::None => self.storage.handle_of(session),
            Staging::Removed => None,
        };
        if let Some(handle) = handle {
            let staged = Staged {
                session: Some(session.id),
                handle,
                bytes: 0,
            };
            self.storage.remove(&staged).await?;
        }
        self.change_known(session, |session| Ok(session.unstaged()))
            .await?;
        Ok(())
    }
}
