//! What an access log has of a response.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, SystemTime},
};

use axum::http::Version;

/// Characters of a path, a method or a range: lines wait in memory.
const TEXT_MAX: usize = 2048;

/// A response that ended.
#[derive(Clone, Debug)]
pub struct Access {
    /// When the request came.
    pub time: SystemTime,
    /// The address of the client, or of the proxy before it.
    pub client: IpAddr,
    /// As the client sent it.
    pub method: String,
    /// As the client sent it, with its percent-encoding, without the query: it may contain secrets.
    pub path: String,
    /// 0: the client left before there was a response.
    pub status: u16,
    /// Of the body, as far as they were handed to the connection.
    pub bytes: u64,
    /// From the request to the end of the body.
    pub duration: Duration,
    /// The `Range` field of the request.
    pub range: Option<String>,
    /// Of HTTP.
    pub version: Version,
    /// Whether all of the body was handed to the connection.
    pub is_complete: bool,
}

impl Default for Access {
    fn default() -> Access {
        Access {
            time: SystemTime::UNIX_EPOCH,
            client: Ipv4Addr::UNSPECIFIED.into(),
            method: String::new(),
            path: String::new(),
            status: 0,
            bytes: 0,
            duration: Duration::ZERO,
            range: None,
            version: Version::HTTP_11,
            is_complete: false,
        }
    }
}

/// Takes the lines of a log, and never waits.
pub trait AccessLog: Send + Sync {
    /// `false`: the line is lost, because the log cannot take it now.
    fn write(&self, access: Access) -> bool;
}

/// The text, or its beginning.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}
