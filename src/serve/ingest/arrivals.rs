//! The bytes of a body, from a client that is fast enough.

use std::time::Duration;

use axum::{
    body::{BodyDataStream, Bytes},
    http::{header, request::Parts},
};
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

use crate::{format::upload::SessionId, serve::connections::Connection};

use super::{Uploads, bodies, cut::Cut, form::FormFile};

/// How slow a client may send a body.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A body of which no byte comes for so long ends.
    pub silence: Duration,
    /// A body ends too if it has not this many bytes in each of these times.
    pub least_bytes: u64,
    /// See there.
    pub least_time: Duration,
}

impl Default for Pace {
    /// The silence is shorter than that of a connection, so that what came is kept in order.
    fn default() -> Pace {
        Pace {
            silence: Duration::from_secs(30),
            least_bytes: 16 << 10,
            least_time: Duration::from_secs(60),
        }
    }
}

/// How often a session is noted as used while bytes arrive.
const TOUCH_TIME: Duration = Duration::from_secs(60);

/// The bytes of a request.
pub enum Source {
    Raw(BodyDataStream),
    Form(FormFile),
}

/// Reads a body.
pub struct Arrivals<'a> {
    uploads: &'a Uploads,
    id: SessionId,
    connection: Option<Connection>,
    source: Source,
    pub arrived: u64,
    since: Instant,
    arrived_since: u64,
    touched: Instant,
}

impl<'a> Arrivals<'a> {
    pub fn new(
        uploads: &'a Uploads,
        id: SessionId,
        source: Source,
        request: &Parts,
    ) -> Arrivals<'a> {
        Arrivals {
            uploads,
            id,
            connection: request.extensions.get::<Connection>().cloned(),
            source,
            arrived: 0,
            since: Instant::now(),
            arrived_since: 0,
            touched: Instant::now(),
        }
    }

    /// The next bytes; `None`: the body has ended.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Cut> {
        let pace = self.uploads.intake.pace;
        let next = async {
            match &mut self.source {
                Source::Raw(chunks) => chunks.next().await.transpose().map_err(|_| Cut::TooShort),
                Source::Form(file) => file.next().await,
            }
        };
        let next = timeout(pace.silence, next).await;
        let Some(chunk) = next.map_err(|_| Cut::Stalled)?? else {
            return Ok(None);
        };
        if let Some(connection) = &self.connection {
            connection.note();
        }
        self.arrived += chunk.len() as u64;
        self.arrived_since += chunk.len() as u64;
        if self.since.elapsed() >= pace.least_time {
            if self.arrived_since < pace.least_bytes {
                return Err(Cut::Stalled);
            }
            (self.since, self.arrived_since) = (Instant::now(), 0);
        }
        if self.touched.elapsed() >= TOUCH_TIME {
            self.uploads.ingest.touch(self.id).await?;
            self.touched = Instant::now();
        }
        Ok(Some(chunk))
    }

    /// Reads what is left of a body that was refused, so that its client reads the response. A client that waits for permission
    /// (RFC 9110, 10.1.1) has sent nothing.
    pub async fn drain(self, request: &Parts) {
        match self.source {
            Source::Raw(_) if request.headers.contains_key(header::EXPECT) => (),
            Source::Raw(chunks) => bodies::drain(chunks).await,
            Source::Form(file) => bodies::drain(file.into_rest()).await,
        }
    }
}

/// The time of our own work is no silence of the client.
pub async fn waiting<T>(connection: Option<&Connection>, work: impl Future<Output = T>) -> T {
    match connection {
        Some(connection) => connection.during(work).await,
        None => work.await,
    }
}

/// What the client says of the length of the body.
pub fn declared_length(request: &Parts) -> Option<u64> {
    let length = request.headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}
