//! An answer to a request for several ranges.

use bytes::Bytes;
use reqwest::{Response, header};

use crate::policy::recovery::Failure;

use super::{
    body::Body,
    content_range::ContentRange,
    error::NetError,
    multipart::{self, Multipart, Next},
    response::Answer,
    validators::Validators,
};

/// What may come after the last part.
const AFTER_BYTES_MAX: usize = 4 * 1024;

/// What a server makes of a request for several ranges.
pub enum Several {
    /// Several parts.
    Parts(Box<Parts>),
    /// One part, or everything: it may put ranges together, or not know how to send several.
    One(Box<Answer>),
}

/// The parts of one answer, in the order in which they come.
pub struct Parts {
    body: Body,
    multipart: Multipart,
    /// The part whose bytes come now.
    part: Option<ContentRange>,
    taken: u64,
}

impl Parts {
    pub(super) fn new(boundary: &str, body: Body) -> Parts {
        Parts {
            body,
            multipart: Multipart::new(boundary),
            part: None,
            taken: 0,
        }
    }

    /// The next bytes, with their place in the object and its length if the server tells it; `None` after the last part.
    pub async fn next(&mut self) -> Result<Option<(u64, Bytes, Option<u64>)>, NetError> {
        loop {
            let next = self
                .multipart
                .take()
                .map_err(|how| NetError::new(self.body.location(), Failure::BadAnswer(how)))?;
            match (next, self.part) {
                (Some(Next::Part(part)), _) => (self.part, self.taken) = (Some(part), 0),
                (Some(Next::Bytes(bytes)), Some(part)) => {
                    let place = part.bytes.start + self.taken;
                    self.taken += bytes.len() as u64;
                    return Ok(Some((place, bytes, part.total)));
                }
                (Some(Next::Bytes(_)), None) => unreachable!("bytes follow their part"),
                (Some(Next::End), _) => {
                    // Read to its end, so that the next request can have the connection.
                    self.body.read_up_to(AFTER_BYTES_MAX).await?;
                    return Ok(None);
                }
                (None, _) => match self.body.next().await? {
                    Some(bytes) => self.multipart.push(&bytes),
                    None => return Err(NetError::new(self.body.location(), Failure::Broken)),
                },
            }
        }
    }
}

/// The boundary and the version of an answer in several parts.
pub(super) fn boundary_of(response: &Response) -> Option<(String, Validators)> {
    let headers = response.headers();
    let encoded = headers.contains_key(header::CONTENT_ENCODING);
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    (response.status() == 206 && !encoded)
        .then(|| multipart::boundary(kind))?
        .map(|boundary| (boundary, Validators::of(headers)))
}
