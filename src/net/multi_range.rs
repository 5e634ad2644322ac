//! The response to a request for several ranges.

use bytes::Bytes;
use reqwest::header;

use crate::{
    format::validators::Validators,
    policy::recovery::{BadResponse, Failure},
};

use super::{
    body::Body,
    content_range::ContentRange,
    error::NetError,
    multipart::{self, Multipart, Next},
    response::Response,
    validators,
};

/// The longest epilogue after the last part that is read.
const EPILOGUE_BYTES_MAX: usize = 4 * 1024;

/// The response to a request for several ranges.
pub enum MultiRangeResponse {
    /// Several parts.
    Parts(Box<Parts>),
    /// One part, or everything: a server may join ranges, or not send several at all.
    One(Box<Response>),
}

/// The parts of one response, in the order in which they arrive.
pub struct Parts {
    body: Body,
    multipart: Multipart,
    /// The part whose bytes are next.
    part: Option<ContentRange>,
    returned: u64,
}

impl Parts {
    pub(super) fn new(boundary: &str, body: Body) -> Parts {
        Parts {
            body,
            multipart: Multipart::new(boundary),
            part: None,
            returned: 0,
        }
    }

    /// The next bytes, with their offset in the object and its length if the server declares it; `None` after the last part.
    pub async fn next(&mut self) -> Result<Option<(u64, Bytes, Option<u64>)>, NetError> {
        loop {
            let next = self
                .multipart
                .take()
                .map_err(|how| NetError::new(self.body.location(), Failure::BadResponse(how)))?;
            match (next, self.part) {
                (Some(Next::Part(part)), _) => (self.part, self.returned) = (Some(part), 0),
                (Some(Next::Bytes(bytes)), Some(part)) => {
                    let offset = part.bytes.start + self.returned;
                    self.returned += bytes.len() as u64;
                    return Ok(Some((offset, bytes, part.total)));
                }
                (Some(Next::Bytes(_)), None) => {
                    let how = Failure::BadResponse(BadResponse::Multipart);
                    return Err(NetError::new(self.body.location(), how));
                }
                (Some(Next::End), _) => {
                    // A body that was read to its end frees the connection for the next request.
                    self.body.read_up_to(EPILOGUE_BYTES_MAX).await?;
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

/// The boundary and the version of a response in several parts.
pub(super) fn boundary_of(response: &reqwest::Response) -> Option<(String, Validators)> {
    let headers = response.headers();
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    (response.status() == 206)
        .then(|| multipart::boundary(kind))?
        .map(|boundary| (boundary, validators::of_response(headers)))
}
