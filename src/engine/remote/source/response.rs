//! Reading the response of a source. Nothing else decides at which offsets its bytes belong.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{
    format::validators::Validators,
    net::{
        body::Body,
        error::NetError,
        location::Location,
        multi_range::Parts,
        response::{Content, Response},
    },
    policy::recovery::{BadResponse, Failure},
};

use super::{
    SourceRequest,
    extent::{Extent, bad, extent},
    packed::{Pack, PackedResponse},
};

/// A server may join ranges with small gaps between them. A multipart response fails when it has more than this many bytes beyond
/// the requested ones.
const MORE_BYTES_MAX: u64 = 1 << 20;

/// Room for a received body, at most: more is made when it comes.
const RECEIVED_BYTES: u64 = 64 << 10;

/// A response whose body is being read. INVARIANT: it returns bytes with the offset that the response declares for them.
pub struct SourceResponse {
    extent: Extent,
    /// The length of the representation, if the response declares it.
    pub total: Option<u64>,
    /// The version of the representation.
    pub validators: Validators,
    /// See [`Response::end_declared`].
    pub end_declared: bool,
    chunks: Chunks,
    measured: Option<Measured>,
}

/// A response for an object with a pack, which compares the rates of its responses.
struct Measured {
    pack: Pack,
    /// When it was told last.
    told: Instant,
    /// The time that the pack took before its bytes were requested plain.
    late: Duration,
}

enum Chunks {
    One {
        body: Box<Body>,
        /// The offset of the next byte of the body.
        at: u64,
        /// Bytes before this offset are discarded.
        from: u64,
        /// `None`: to the end of the body.
        until: Option<u64>,
    },
    Parts {
        parts: Box<Parts>,
        location: Location,
        /// Bytes that may still arrive.
        left: u64,
    },
    /// Frames of a pack.
    Packed(Box<PackedResponse>),
    /// Bytes of the representation from this offset on, which arrived before.
    Received {
        at: u64,
        bytes: Bytes,
        location: Location,
    },
}

impl SourceResponse {
    /// A response to a request for the whole representation.
    pub fn of_whole(response: Response) -> Result<SourceResponse, NetError> {
        SourceResponse::of_one(response, &SourceRequest::default())
    }

    /// A response with frames of a pack.
    pub(super) fn of_pack(response: PackedResponse, total: Option<u64>) -> SourceResponse {
        let pack = response.pack().clone();
        let mut response = SourceResponse {
            extent: Extent::Range {
                until: response.until(),
            },
            total,
            validators: Validators::default(),
            end_declared: true,
            measured: None,
            chunks: Chunks::Packed(Box::new(response)),
        };
        response.measure(Some(&pack), Duration::ZERO);
        response
    }

    /// Lets the pack compare the rate of this response with others. `late`: how long the pack was waited for before.
    pub(super) fn measure(&mut self, pack: Option<&Pack>, late: Duration) {
        self.measured = pack.map(|pack| Measured {
            pack: pack.clone(),
            told: Instant::now(),
            late,
        });
    }

    /// How long the pack of the object was waited for before its bytes were requested plain.
    pub fn late_ms(&self) -> u64 {
        let late = self.measured.as_ref().map(|measured| measured.late);
        late.unwrap_or_default().as_millis() as u64
    }

    /// The pack that its bytes come from; `None`: from the object itself.
    pub fn pack(&self) -> Option<&Pack> {
        match &self.chunks {
            Chunks::Packed(response) => Some(response.pack()),
            Chunks::One { .. } | Chunks::Parts { .. } | Chunks::Received { .. } => None,
        }
    }

    /// A response whose body is a part that begins with the first byte, up to this offset.
    pub fn of_first_part(response: Response, total: Option<u64>, until: u64) -> SourceResponse {
        SourceResponse {
            extent: Extent::Range { until },
            total,
            validators: response.validators,
            end_declared: response.end_declared,
            measured: None,
            chunks: Chunks::One {
                body: Box::new(response.body),
                at: 0,
                from: 0,
                until: Some(until),
            },
        }
    }

    /// Reads what arrives of a first part, and the end of the body, so that the next request can use the connection.
    pub async fn into_received(mut self) -> SourceResponse {
        let expected = match self.extent {
            Extent::Range { until } => until.min(RECEIVED_BYTES),
            Extent::Whole { .. } | Extent::Parts | Extent::Joined => 0,
        };
        let (location, mut bytes) = (self.location().clone(), Vec::new());
        bytes.reserve(expected as usize);
        while let Ok(Some((_, chunk))) = self.next().await {
            bytes.extend_from_slice(&chunk);
        }
        if let Chunks::One { body, .. } = &mut self.chunks {
            let _ = body.next().await;
        }
        SourceResponse {
            extent: Extent::Range {
                until: bytes.len() as u64,
            },
            chunks: Chunks::Received {
                at: 0,
                bytes: bytes.into(),
                location,
            },
            ..self
        }
    }

    /// Reads all of it, and the end of the body, so that the next request can use the connection. `None`: more bytes than this
    /// are declared, or came.
    pub async fn read_all(mut self, most: u64) -> Result<Option<Bytes>, NetError> {
        if self.total.is_some_and(|total| total > most) {
            return Ok(None);
        }
        let mut all = Bytes::new();
        let mut bytes = Vec::new();
        while let Some((_, chunk)) = self.next().await? {
            if (all.len() + bytes.len() + chunk.len()) as u64 > most {
                return Ok(None);
            }
            // Most come in one chunk, which is not copied.
            if all.is_empty() && bytes.is_empty() {
                all = chunk;
            } else {
                bytes.extend_from_slice(&std::mem::take(&mut all));
                bytes.extend_from_slice(&chunk);
            }
        }
        if let Chunks::One { body, .. } = &mut self.chunks {
            let _ = body.next().await;
        }
        match bytes.is_empty() {
            true => Ok(Some(all)),
            false => Ok(Some(bytes.into())),
        }
    }

    /// A response whose body is all of the representation, and was read before.
    pub fn received(response: Response, bytes: Vec<u8>) -> SourceResponse {
        let length = Some(bytes.len() as u64);
        SourceResponse {
            extent: Extent::Whole { length },
            total: length,
            validators: response.validators,
            end_declared: response.end_declared,
            measured: None,
            chunks: Chunks::Received {
                at: 0,
                bytes: bytes.into(),
                location: response.body.location().clone(),
            },
        }
    }

    /// Whether all of it arrived before the transfer.
    pub fn is_received(&self) -> bool {
        matches!(self.chunks, Chunks::Received { .. })
    }

    /// The bytes that arrived before the transfer; `None`: there are none.
    pub fn received_bytes(&self) -> Option<&Bytes> {
        match &self.chunks {
            Chunks::Received { bytes, .. } if !bytes.is_empty() => Some(bytes),
            _ => None,
        }
    }

    /// Whether it may be long: a body of the whole representation that was not read.
    pub fn is_open(&self) -> bool {
        matches!(self.extent, Extent::Whole { .. }) && !self.is_received()
    }

    /// Of what arrived before the transfer, the bytes from this offset on; `None`: there are none.
    pub fn received_from(&self, offset: u64) -> Option<SourceResponse> {
        let Chunks::Received {
            at,
            bytes,
            location,
        } = &self.chunks
        else {
            return None;
        };
        let skipped = usize::try_from(offset.checked_sub(*at)?).ok()?;
        (skipped < bytes.len()).then(|| SourceResponse {
            validators: self.validators.clone(),
            measured: None,
            chunks: Chunks::Received {
                at: offset,
                bytes: bytes.slice(skipped..),
                location: location.clone(),
            },
            ..*self
        })
    }

    pub(super) fn of_one(
        response: Response,
        request: &SourceRequest<'_>,
    ) -> Result<SourceResponse, NetError> {
        let extent = extent(&response, request)?;
        let (total, at, from, until) = match (extent, response.content) {
            (Extent::Range { until }, Content::Part { bytes, total }) => {
                let from = request.range.map_or(0, |range| range.start);
                (total, bytes.start, from, Some(until))
            }
            (Extent::Joined, Content::Part { bytes, total }) => {
                (total, bytes.start, bytes.start, Some(bytes.end))
            }
            (_, Content::Part { bytes, total }) => (total, 0, 0, Some(bytes.end)),
            (_, Content::Whole { length }) => (length, 0, 0, length),
        };
        Ok(SourceResponse {
            extent,
            total,
            validators: response.validators,
            end_declared: response.end_declared,
            measured: None,
            chunks: Chunks::One {
                body: Box::new(response.body),
                at,
                from,
                until,
            },
        })
    }

    pub(super) fn of_parts(
        parts: Box<Parts>,
        location: Location,
        request: &SourceRequest<'_>,
    ) -> SourceResponse {
        let requested = request.range.iter().chain(request.more);
        let left = requested.map(|range| range.length()).sum::<u64>() + MORE_BYTES_MAX;
        SourceResponse {
            extent: Extent::Parts,
            total: None,
            validators: Validators::default(),
            end_declared: true,
            measured: None,
            chunks: Chunks::Parts {
                parts,
                location,
                left,
            },
        }
    }

    /// Which bytes the response contains.
    pub fn extent(&self) -> Extent {
        self.extent
    }

    /// The URL of the response, after redirects.
    pub fn location(&self) -> &Location {
        match &self.chunks {
            Chunks::One { body, .. } => body.location(),
            Chunks::Packed(response) => response.location(),
            Chunks::Parts { location, .. } | Chunks::Received { location, .. } => location,
        }
    }

    /// Discards the bytes before this offset; no effect on [`Extent::Parts`], and on bytes that arrived before.
    pub fn skip_to(&mut self, offset: u64) {
        if let Chunks::One { from, .. } = &mut self.chunks {
            *from = (*from).max(offset);
        }
    }

    /// The next bytes and their offset; `None` at the end of the declared or requested bytes. A body that ends earlier is an
    /// error.
    pub async fn next(&mut self) -> Result<Option<(u64, Bytes)>, NetError> {
        let next = self.next_chunk().await;
        let is_packed = self.pack().is_some();
        if let (Some(measured), Ok(Some((_, bytes)))) = (&mut self.measured, &next) {
            let now = Instant::now();
            let time = now - std::mem::replace(&mut measured.told, now);
            (measured.pack).note_rate(is_packed, bytes.len() as u64, time);
        }
        next
    }

    async fn next_chunk(&mut self) -> Result<Option<(u64, Bytes)>, NetError> {
        match &mut self.chunks {
            Chunks::One {
                body,
                at,
                from,
                until,
            } => loop {
                let end = until.unwrap_or(u64::MAX);
                if *at >= end {
                    return Ok(None);
                }
                let Some(mut chunk) = body.next().await? else {
                    return match until {
                        Some(_) => Err(NetError::new(body.location(), Failure::Broken)),
                        None => Ok(None),
                    };
                };
                chunk.truncate(usize::try_from(end - *at).unwrap_or(usize::MAX));
                let over = from.saturating_sub(*at).min(chunk.len() as u64);
                let place = *at + over;
                *at += chunk.len() as u64;
                let chunk = chunk.split_off(over as usize);
                if !chunk.is_empty() {
                    return Ok(Some((place, chunk)));
                }
            },
            Chunks::Parts {
                parts,
                location,
                left,
            } => {
                let Some((place, bytes, _)) = parts.next().await? else {
                    return Ok(None);
                };
                // A server could send unrequested parts without end.
                *left = left
                    .checked_sub(bytes.len() as u64)
                    .ok_or_else(|| bad(location, BadResponse::Multipart))?;
                Ok(Some((place, bytes)))
            }
            Chunks::Packed(response) => response.next().await,
            Chunks::Received { at, bytes, .. } => {
                let next = (!bytes.is_empty()).then(|| (*at, std::mem::take(bytes)));
                Ok(next)
            }
        }
    }
}
