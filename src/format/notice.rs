//! What the operator of a server is told of an upload: a JSON object in the queue of notices.

use serde::{Deserialize, Serialize};

/// What the operator is told of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// When it happened, in Unix seconds.
    pub unix_s: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: NoticeEvent,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum NoticeEvent {
    /// The object was proven and published.
    Published,
    /// More of an object can be read that is uploaded.
    PartsProven {
        /// So many bytes from its start.
        proven: u64,
        /// The first part that was added, zero-based.
        first_part: u32,
        /// The last one.
        last_part: u32,
    },
    /// No client used the session for most of its time to live.
    SessionExpiring {
        /// When it expires unless a client uses it, in Unix seconds; an estimate.
        expires_s: u64,
    },
}

impl Notice {
    /// It as text.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A notice from its text. `None`: no version of this program wrote it, or a later one did.
    pub fn parse(text: &str) -> Option<Notice> {
        serde_json::from_str(text).ok()
    }
}

impl NoticeEvent {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            NoticeEvent::Published => "published",
            NoticeEvent::PartsProven { .. } => "parts_proven",
            NoticeEvent::SessionExpiring { .. } => "session_expiring",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_comes_back() {
        for (event, text) in [
            (
                NoticeEvent::Published,
                r#"{"unix_s":7,"event":"published"}"#,
            ),
            (
                NoticeEvent::PartsProven {
                    proven: 10,
                    first_part: 0,
                    last_part: 1,
                },
                r#"{"unix_s":7,"event":"parts_proven","proven":10,"first_part":0,"last_part":1}"#,
            ),
            (
                NoticeEvent::SessionExpiring { expires_s: 9 },
                r#"{"unix_s":7,"event":"session_expiring","expires_s":9}"#,
            ),
        ] {
            assert!(text.contains(event.name()));
            let notice = Notice { unix_s: 7, event };
            assert_eq!(notice.text(), text);
            assert_eq!(Notice::parse(text), Some(notice));
        }
        assert_eq!(Notice::parse(r#"{"unix_s":7,"event":"other"}"#), None);
    }
}
