//! What the operator is told, as documents.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    engine::ingest::{DueNotice, Ingest, IngestError, NextNotice, NoticeEnd},
    format::{ingest::time, notice::NoticeEvent},
    policy::upload::{State, notices::KeptNotices},
};

use super::{Uploads, documents};

/// How often a server looks for notices of others that ended.
const LOOK_TIME: Duration = Duration::from_secs(5);

/// A notice that is to be told.
pub struct HookNotice {
    due: Box<DueNotice>,
    /// The document of the notice.
    pub document: Value,
    /// The status of the session, as the API shows it, with event and time.
    pub status: Value,
}

impl HookNotice {
    /// What happened.
    pub fn event(&self) -> &'static str {
        self.due.notice().event.name()
    }

    /// Whether those that are kept have it: it may have been stored when others were kept.
    pub fn is_of(&self, kept: KeptNotices) -> bool {
        kept.has(self.due.notice())
    }

    /// Of the object.
    pub fn name(&self) -> &str {
        self.due.session.declared.name.as_str()
    }

    /// How often it was tried, this time included.
    pub fn tries(&self) -> u32 {
        self.due.tries()
    }
}

impl Uploads {
    /// Waits for the next notice, of this server or of one that ended. An error is a store that failed.
    pub async fn next_notice(&self, server: &str) -> Result<HookNotice, IngestError> {
        loop {
            let noticed = self.ingest.noticed();
            let after_s = match self.ingest.next_notice().await? {
                NextNotice::Due(due) => return Ok(self.hook_notice(due, server)),
                NextNotice::After(after_s) => after_s,
            };
            let wait = match after_s.map(Duration::from_secs) {
                Some(wait) if self.ingest.is_alone() => wait.max(Duration::from_secs(1)),
                None if self.ingest.is_alone() => {
                    noticed.await;
                    continue;
                }
                wait => wait.map_or(LOOK_TIME, |wait| {
                    wait.clamp(Duration::from_secs(1), LOOK_TIME)
                }),
            };
            let _ = timeout(wait, noticed).await;
        }
    }

    /// Waits for this while the notice is that of this server; `None`: another one tells it now.
    pub async fn while_held<T>(
        &self,
        notice: &HookNotice,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let every = Duration::from_secs(Ingest::HOLD_EVERY_S);
        let mut work = std::pin::pin!(work);
        loop {
            if let Ok(done) = timeout(every, &mut work).await {
                return Some(done);
            }
            // What cannot be renewed may be told by another one as well: at least once.
            if let Ok(false) = self.ingest.hold_notice(&notice.due).await {
                return None;
            }
        }
    }

    /// Notes how an attempt to tell it ended.
    pub async fn end_notice(
        &self,
        notice: &HookNotice,
        end: &NoticeEnd,
    ) -> Result<(), IngestError> {
        self.ingest.end_notice(&notice.due, end).await
    }

    /// `server`: its URL.
    fn hook_notice(&self, due: Box<DueNotice>, server: &str) -> HookNotice {
        let status = self.status_of(&due.session);
        let notice = due.notice();
        let mut document = json!({
            "event": notice.event.name(),
            "time": time(notice.unix_s),
            "session": status["id"],
            "name": status["name"],
            "root": status["root"],
            "length": status["length"],
            "url": null,
            "owner": status["owner"],
            "proof": status["proof"],
        });
        if let (State::Done(_), Some(path)) = (&due.session.state, status["url"].as_str()) {
            document["url"] = format!("{}{path}", server.trim_end_matches('/')).into();
        }
        match &notice.event {
            NoticeEvent::Published => (),
            NoticeEvent::PartsProven {
                proven,
                first_part,
                last_part,
            } => {
                document["proven"] = (*proven).into();
                document["first_part"] = (*first_part).into();
                document["last_part"] = (*last_part).into();
                let path = documents::growing_path(&due.session);
                document["growing_url"] = format!("{}{path}", server.trim_end_matches('/')).into();
            }
            NoticeEvent::SessionExpiring { expires_s } => {
                document["expires"] = time(*expires_s).into();
            }
        }
        let mut status = status;
        for member in ["event", "time", "growing_url", "proven"] {
            if let Some(value) = document.get(member) {
                status[member] = value.clone();
            }
        }
        HookNotice {
            due,
            document,
            status,
        }
    }
}
