//! Sources of the bytes of a representation. Nothing else decides at which offsets the bytes of a response belong.

mod extent;
pub mod packed;

use std::time::Instant;

use bytes::Bytes;

use crate::{
    format::{
        geometry::{ByteRange, Geometry},
        pack::FRAME,
        validators::Validators,
    },
    net::{
        body::Body,
        client::Client,
        error::NetError,
        location::Location,
        multi_range::{MultiRangeResponse, Parts},
        request::{Refusals, Request},
        response::{Content, Response},
    },
    policy::recovery::{BadResponse, Failure},
};

pub use extent::Extent;
use extent::{bad, extent};
use packed::{Pack, PackedResponse};

/// A server may join ranges with small gaps between them. A multipart response fails when it has more than this many bytes beyond
/// the requested ones.
const MORE_BYTES_MAX: u64 = 1 << 20;

/// Room for a received body, at most: more is made when it comes.
const RECEIVED_BYTES: u64 = 64 << 10;

/// A source of the bytes of one representation.
///
/// An enum rather than a trait, so that its futures need no boxes. `s3://` is `Http` too, with signed requests.
#[derive(Clone)]
pub enum Source {
    /// A URL.
    Http(HttpSource),
}

/// A URL and the client for it.
#[derive(Clone)]
pub struct HttpSource {
    client: Client,
    location: Location,
    /// See [`Request::named_by`].
    named_by: Option<Location>,
    /// Frames that pay come from here.
    pack: Option<Pack>,
}

/// A request to a source.
#[derive(Clone, Copy, Default)]
pub struct SourceRequest<'a> {
    /// `None`: the whole representation.
    pub range: Option<ByteRange>,
    /// More ranges, ascending, for the same request.
    pub more: &'a [ByteRange],
    /// The length that the representation must have, if the response declares one.
    pub length: Option<u64>,
    /// The version that it must have, if the response declares one.
    pub version: Option<&'a Validators>,
    /// There is no manifest: only length and version show that parts belong together, so a 206 must declare the complete length.
    pub unproven: bool,
    /// See [`Request::refusals`].
    pub refusals: Refusals,
}

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
    /// The pack of the object, which compares the rate of this response with others, and when it was told last.
    measured: Option<(Pack, Instant)>,
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

impl Source {
    /// The representation at a URL.
    pub fn http(client: &Client, location: &Location) -> Source {
        Source::Http(HttpSource {
            client: client.clone(),
            location: location.clone(),
            named_by: None,
            pack: None,
        })
    }

    /// The same, with a pack of the object.
    #[must_use]
    pub fn with_pack(self, pack: Option<Pack>) -> Source {
        let Source::Http(http) = self;
        Source::Http(HttpSource { pack, ..http })
    }

    /// The same at a URL that the server of another one named.
    pub fn duplicate(client: &Client, location: &Location, named_by: &Location) -> Source {
        Source::Http(HttpSource {
            client: client.clone(),
            location: location.clone(),
            named_by: Some(named_by.clone()),
            pack: None,
        })
    }

    /// How many blocks are best requested together.
    pub fn unit(&self, geometry: &Geometry) -> u32 {
        let Source::Http(http) = self;
        match http.pack {
            Some(_) => (FRAME / geometry.block_size().bytes()).max(1) as u32,
            None => 1,
        }
    }

    /// The name of the source in events and errors.
    pub fn name(&self) -> String {
        self.location().to_string()
    }

    /// Its URL.
    pub fn location(&self) -> &Location {
        let Source::Http(http) = self;
        &http.location
    }

    /// The client that sends its requests.
    pub fn client(&self) -> &Client {
        let Source::Http(http) = self;
        &http.client
    }

    /// Sends a request. A response that cannot be used for it is an error.
    pub async fn open(&self, request: SourceRequest<'_>) -> Result<SourceResponse, NetError> {
        let Source::Http(HttpSource {
            client,
            location,
            named_by,
            pack,
        }) = self;
        let mut request = request;
        if let (Some(pack), Some(range), true) = (pack, request.range, request.more.is_empty()) {
            if let Some(response) = pack.request(range).await {
                return Ok(SourceResponse::of_pack(response, request.length));
            }
            request.range = Some(pack.plain_part(range));
        }
        let http_request = Request {
            range: request.range,
            more: request.more,
            version: request.version,
            length: request.length.filter(|_| request.unproven),
            refusals: request.refusals,
            named_by: named_by.as_ref(),
            ..Request::whole(location)
        };
        if request.more.is_empty() {
            let mut response = SourceResponse::of_one(client.send(http_request).await?, &request)?;
            response.measured = pack.clone().map(|pack| (pack, Instant::now()));
            return Ok(response);
        }
        match client.send_multi_range(http_request).await? {
            MultiRangeResponse::One(response) => SourceResponse::of_one(*response, &request),
            MultiRangeResponse::Parts(parts) => {
                Ok(SourceResponse::of_parts(parts, location.clone(), &request))
            }
        }
    }
}

impl SourceResponse {
    /// A response to a request for the whole representation.
    pub fn of_whole(response: Response) -> Result<SourceResponse, NetError> {
        SourceResponse::of_one(response, &SourceRequest::default())
    }

    fn of_pack(response: PackedResponse, total: Option<u64>) -> SourceResponse {
        SourceResponse {
            extent: Extent::Range {
                until: response.until(),
            },
            total,
            validators: Validators::default(),
            end_declared: true,
            measured: Some((response.pack().clone(), Instant::now())),
            chunks: Chunks::Packed(Box::new(response)),
        }
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

    fn of_one(response: Response, request: &SourceRequest<'_>) -> Result<SourceResponse, NetError> {
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

    fn of_parts(
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
        if let (Some((pack, told)), Ok(Some((_, bytes)))) = (&mut self.measured, &next) {
            let now = Instant::now();
            pack.note_rate(is_packed, bytes.len() as u64, now - *told);
            *told = now;
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
