//! The audit log: a JSON object a line, in the order of what happened.

use std::{ffi::OsStr, fs::File, io::Write, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use serde_json::json;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{self, Folder},
    },
    engine::{
        blocking,
        ingest::{IngestEvent, NoticeEnd},
    },
    policy::upload::{Session, State},
};

const NAME: &str = "audit.jsonl";

/// The log.
pub struct Audit {
    file: Arc<File>,
    path: PathBuf,
}

impl Audit {
    pub fn open(folder: &Folder) -> Result<Audit, DiskError> {
        let path = folder.path_of(OsStr::new(NAME));
        let file = Arc::new(files::open_for_appending(&path)?);
        Ok(Audit { file, path })
    }

    /// Appends what happened, durably.
    pub async fn write(self: &Arc<Self>, events: Vec<IngestEvent>) -> Result<(), DiskError> {
        let lines: String = events.iter().filter_map(line).collect();
        if lines.is_empty() {
            return Ok(());
        }
        let audit = self.clone();
        blocking::on_disk(move || {
            let written = (&*audit.file).write_all(lines.as_bytes());
            written.map_err(|cause| DiskError::io(FileOperation::Write, &audit.path, cause))?;
            files::sync_data(&audit.file, &audit.path)
        })
        .await
    }
}

/// Of what a client did, or what became of a session. Parts are in the metrics.
fn line(event: &IngestEvent) -> Option<String> {
    let (action, session) = match event {
        IngestEvent::Opened { session } => ("open", session),
        IngestEvent::Published { session, .. } => ("publish", session),
        IngestEvent::Disproved { session, code, .. } => (*code, session),
        IngestEvent::Failed { session } => ("fail", session),
        IngestEvent::Aborted { session } => ("abort", session),
        IngestEvent::ExpiresSoon { session, .. } => ("expires_soon", session),
        IngestEvent::Expired { session } => ("expire", session),
        IngestEvent::PartFinished {
            session,
            replaced: true,
            ..
        } => ("replace_part", session),
        IngestEvent::Noticed {
            session,
            notice,
            tries,
            end,
        } => {
            let (outcome, why) = match end {
                NoticeEnd::Told => ("told", None),
                NoticeEnd::Again(why) => ("again", Some(why)),
                NoticeEnd::GivenUp(why) => ("given_up", Some(why)),
            };
            let line = json!({
                "time": now(),
                "owner": session.owner.0,
                "action": "notice",
                "session": session.id.to_string(),
                "name": session.declared.name.as_str(),
                "event": notice.event.name(),
                "tries": tries,
                "outcome": outcome,
                "why": why,
            });
            return Some(format!("{line}\n"));
        }
        IngestEvent::OrphanRemoved { staged } => {
            let line = json!({
                "time": now(),
                "action": "remove_orphan",
                "session": staged.session.map(|id| id.to_string()),
                "bytes": staged.bytes,
            });
            return Some(format!("{line}\n"));
        }
        IngestEvent::PartFinished { .. }
        | IngestEvent::Finalizing { .. }
        | IngestEvent::Interrupted { .. } => return None,
    };
    let mut line = json!({
        "time": now(),
        "owner": session.owner.0,
        "action": action,
        "session": session.id.to_string(),
        "name": session.declared.name.as_str(),
        "root": root(session),
    });
    if let State::Done(_) = session.state {
        line["proof"] = session.declared.protocol.proof().into();
    }
    Some(format!("{line}\n"))
}

fn root(session: &Session) -> Option<String> {
    let root = match &session.state {
        State::Done(published) => Some(published.root),
        _ => session.declared.root,
    };
    root.map(|root| root.to_string())
}

fn now() -> String {
    format!("{:.3}", Timestamp::now())
}
