//! Sources of the bytes of a representation.

mod extent;
pub mod packed;
mod response;

use std::time::Instant;

use crate::{
    format::{
        geometry::{ByteRange, Geometry},
        pack::FRAME,
        validators::Validators,
    },
    net::{
        client::Client,
        error::NetError,
        location::Location,
        multi_range::MultiRangeResponse,
        request::{Refusals, Request},
    },
};

pub use extent::Extent;
use packed::Pack;
pub use response::SourceResponse;

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
        let (mut request, began) = (request, Instant::now());
        if let (Some(pack), Some(range), true) = (pack, request.range, request.more.is_empty()) {
            if let Some(response) = pack.request(range).await {
                return Ok(SourceResponse::of_pack(response, request.length));
            }
            request.range = Some(pack.plain_part(range));
        }
        let late = began.elapsed();
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
            response.measure(pack.as_ref(), late);
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
