//! The first request for an object.

use crate::{
    engine::{context::Context, error::Error},
    net::repr_digest::{self, Sidecar},
    policy::schedule::Limits,
};
use crate::{
    format::{
        digests::{Digest, DigestHasher},
        geometry::ByteRange,
        validators::Validators,
    },
    net::{
        body::Body, client::Client, error::NetError, location::Location, request::Request,
        response::Content,
    },
    policy::recovery::{BadResponse, Failure},
};

use super::source::{Source, SourceRequest, SourceResponse};

/// What the first response shows of the object, before the transfer.
#[derive(Clone)]
pub struct Preflight {
    /// `None`: the response does not declare it.
    pub length: Option<u64>,
    pub ranges: bool,
    pub validators: Validators,
    pub offered: Vec<Digest>,
    /// The bytes have this encoding, and are taken as they are.
    pub encoding: Option<String>,
    /// The response seems to be a web page or an XML message.
    pub is_page: bool,
    /// The name that the server suggests for a file. It may be unsafe.
    pub file_name: Option<String>,
    /// Mirrors that the server names.
    pub duplicates: Vec<Location>,
}

/// The first response for an object.
pub struct First {
    /// What it shows.
    pub preflight: Preflight,
    /// The bytes of the object that came with it, if they begin with the first one and can be kept.
    pub response: Option<Box<SourceResponse>>,
}

impl First {
    /// Drops a body that may be long.
    pub fn without_open_body(mut self) -> First {
        self.response = self.response.filter(|response| !response.is_open());
        self
    }

    /// Reads the body, unless it may be long.
    pub async fn received(mut self) -> First {
        let Some(part) = self
            .response
            .take_if(|part| !part.is_open() && !part.is_received())
        else {
            return self;
        };
        let part = part.into_received().await;
        if let Some(bytes) = part.received_bytes() {
            // Some servers send the Content-MD5 of the part: drop a digest of it.
            if self.preflight.length != Some(bytes.len() as u64) {
                let offered = &mut self.preflight.offered;
                offered.retain(|digest| !is_digest_of(digest, bytes));
            }
            self.response = Some(Box::new(part));
        }
        self
    }
}

/// The range of a preflight that only asks what there is.
pub const FIRST_BYTE: ByteRange = ByteRange { start: 0, end: 1 };
const FIRST_TWO_BYTES: ByteRange = ByteRange { start: 0, end: 2 };
/// Bytes of an object that are requested with its manifest, if nothing of it is here: a small one is whole then.
pub const FIRST_BYTES: u64 = 64 << 10;

/// The range of a preflight whose bytes are kept: what arrives in a second, because nothing is reported before.
pub fn first_bytes(client: &Client) -> ByteRange {
    let in_a_second = client.limit_rate().unwrap_or(u64::MAX);
    ByteRange::new(0, FIRST_BYTES.min(in_a_second).max(1))
}

/// Requests the first bytes: shows whether the object exists, how long it is, whether ranges work, and which version it is. Parts
/// of more than one byte, and whole bodies, are kept.
///
/// S3 sends its checksums only if the request has `x-amz-checksum-mode: ENABLED`. We do not send it by default: S3 refuses a
/// signed URL whose request has an `x-amz-` field that was not signed (403, `HeadersNotSigned`), and whether a redirect leads to
/// one is unknown in advance. For an unsigned URL the user can set it with -H.
pub async fn preflight(
    client: &Client,
    url: &Location,
    range: ByteRange,
) -> Result<First, NetError> {
    let mut sent = client.send(Request::range(url, range)).await;
    if sent.as_ref().is_err_and(has_two_bytes) {
        // Some servers refuse to send a single byte.
        sent = client.send(Request::range(url, FIRST_TWO_BYTES)).await;
    }
    let mut response = match sent {
        Err(error) if needs_plain_get(error.failure) => client.send(Request::whole(url)).await?,
        other => other?,
    };
    let (length, ranges) = match response.content {
        Content::Whole { length } => (length, false),
        Content::Part { total, .. } => (total, true),
    };
    let offered = std::mem::take(&mut response.offered);
    let (validators, is_page) = (response.validators.clone(), response.is_page);
    let (encoding, file_name) = (response.encoding.take(), response.file_name.take());
    let base = response.body.location();
    let duplicates = response.duplicates.iter();
    let duplicates = duplicates.filter_map(|reference| Location::from_url(base.join(reference)?));
    let duplicates = duplicates.filter(|other| other != url).collect();
    let shares_connection = response.shares_connection;
    let response = match response.content {
        Content::Part { bytes, .. } if bytes.start == 0 => {
            let until = bytes.end.min(range.end);
            Some(SourceResponse::of_first_part(response, length, until))
        }
        Content::Part { .. } => None,
        Content::Whole {
            length: Some(length),
        } if length <= FIRST_BYTES => {
            // Read now, so that the next request can reuse the connection.
            let whole = received(&mut response.body, length).await;
            let is_complete = whole.len() as u64 == length;
            is_complete.then(|| SourceResponse::received(response, whole))
        }
        Content::Whole { .. } => Some(SourceResponse::of_whole(response)?),
    };
    let mut first = First {
        preflight: Preflight {
            length,
            ranges,
            validators,
            offered,
            encoding,
            is_page,
            file_name,
            duplicates,
        },
        response: response.map(Box::new),
    };
    let is_for_one_byte = range == FIRST_BYTE && ranges;
    if is_for_one_byte || shares_connection {
        // An unread body would take the window of an HTTP/2 connection, and the manifest would not come.
        first = first.received().await;
    }
    if is_for_one_byte {
        first.response = None;
    }
    Ok(first)
}

/// Whether a refusal shows that the object has more than one byte.
fn has_two_bytes(error: &NetError) -> bool {
    error.length.is_some_and(|length| length > 1)
}

/// A body, at most so many bytes of it. It is read to its end, so that the next request can reuse the connection; what does
/// not arrive is requested again later.
async fn received(body: &mut Body, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() as u64 <= most
        && let Ok(Some(chunk)) = body.next().await
    {
        bytes.extend_from_slice(&chunk);
    }
    bytes.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    bytes
}

fn is_digest_of(digest: &Digest, bytes: &[u8]) -> bool {
    let mut hasher = DigestHasher::new(digest.algorithm());
    hasher.update(bytes);
    hasher.finish() == *digest
}

/// Whether a plain GET may succeed where the first request failed: some servers refuse any Range, or answer it in a way that cannot
/// be used, and what is empty has no first byte (416).
pub fn needs_plain_get(failure: Failure) -> bool {
    failure.may_be_for_the_range()
        || matches!(
            failure,
            Failure::Refused { status: 416 }
                | Failure::BadResponse(BadResponse::Multipart | BadResponse::ContentRange)
        )
}

/// The most bytes of a sidecar file that are read: it may list a whole folder, and it may be anything.
const SIDECAR_BYTES_MAX: usize = 64 << 10;

/// A preflight that keeps nothing, retried by the recovery policy.
pub async fn retried_preflight(
    client: &Client,
    url: &Location,
    limits: &Limits,
) -> Result<Preflight, Error> {
    let first = retried!(limits, preflight(client, url, FIRST_BYTE));
    first.map(|first: First| first.preflight)
}

/// The first bytes of an object, received and kept, retried by the recovery policy.
pub async fn retried_first(
    client: &Client,
    url: &Location,
    limits: &Limits,
) -> Result<First, Error> {
    let range = first_bytes(client);
    let first: First = retried!(limits, preflight(client, url, range))?;
    Ok(first.without_open_body().received().await)
}

/// The whole representation in one response, retried by the recovery policy.
pub async fn retried_whole(source: &Source, limits: &Limits) -> Result<SourceResponse, Error> {
    retried!(limits, source.open(SourceRequest::default()))
}

/// The digest in a sidecar of the object, if there is one. Any error counts as its absence, because the user did not request it. It is
/// not requested where many other objects have none, unless the user needs it.
pub async fn sidecar(context: &Context, url: &Location, is_needed: bool) -> Option<Digest> {
    // One after the other: the object has one connection so far.
    for kind in [
        Sidecar::Sha256,
        Sidecar::Sha512,
        Sidecar::Sums,
        Sidecar::Md5,
    ] {
        let digest = one_sidecar(context, url, kind, is_needed).await;
        if digest.is_some() {
            return digest;
        }
    }
    None
}

async fn one_sidecar(
    context: &Context,
    url: &Location,
    kind: Sidecar,
    is_needed: bool,
) -> Option<Digest> {
    let name = url.safe_name()?;
    if !is_needed && context.observed.expects_no_sidecar(url, kind) {
        return None;
    }
    let place = kind.of(url);
    if let Some(text) = context.observed.list_at(&place) {
        return repr_digest::in_sidecar(kind, &text, &name);
    }
    let mut response = match context.client.send(Request::whole(&place)).await {
        Ok(response) => response,
        Err(error) => {
            if matches!(error.failure, Failure::Refused { status } if status < 500) {
                context.observed.note_sidecar(url, kind, false);
            }
            return None;
        }
    };
    let mut bytes = response.body.read_up_to(SIDECAR_BYTES_MAX).await.ok()?;
    if bytes.len() == SIDECAR_BYTES_MAX {
        // The last line may be cut.
        let end = bytes.iter().rposition(|byte| *byte == b'\n')?;
        bytes.truncate(end);
    }
    let text = std::str::from_utf8(&bytes).ok()?;
    let digest = repr_digest::in_sidecar(kind, text, &name);
    context.observed.note_sidecar(url, kind, true);
    if kind == Sidecar::Sums {
        context.observed.keep_list(&place, text);
    }
    digest
}
