//! The first request for an object.

use crate::{engine::error::Error, net::repr_digest, policy::schedule::Limits};
use crate::{
    format::{
        digests::{Digest, DigestHasher},
        geometry::ByteRange,
        validators::Validators,
    },
    net::{
        client::Client, error::NetError, location::Location, request::Request, response::Content,
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
}

/// Requests the first byte: shows whether the object exists, how long it is, whether ranges work, and which version it is.
///
/// S3 sends its checksums only if the request has `x-amz-checksum-mode: ENABLED`. We do not send it by default: S3 refuses a
/// signed URL whose request has an `x-amz-` field that was not signed (403, `HeadersNotSigned`), and whether a redirect leads to
/// one is unknown in advance. For an unsigned URL the user can set it with -H.
pub async fn preflight(client: &Client, url: &Location) -> Result<Preflight, NetError> {
    let mut response = match client.send(Request::range(url, ByteRange::new(0, 1))).await {
        // An empty object has no first byte (416), and some servers refuse any Range, or answer it in a way that cannot be used.
        Err(error) if may_be_for_the_range(error.failure) => {
            client.send(Request::whole(url)).await?
        }
        other => other?,
    };
    let (length, ranges, first) = match response.content {
        Content::Whole { length } => (length, false, Vec::new()),
        // Read the body to its end, so that the next request can reuse the connection. The byte itself may be missing.
        Content::Part { bytes, total } if bytes.length() == 1 => (
            total,
            true,
            response.body.read_up_to(2).await.unwrap_or_default(),
        ),
        Content::Part { total, .. } => (total, true, Vec::new()),
    };
    // Some servers send the Content-MD5 of the part: drop a digest of the first byte.
    let of_first = |digest: &Digest| {
        let mut hasher = DigestHasher::new(digest.algorithm());
        hasher.update(&first);
        hasher.finish() == *digest
    };
    response
        .offered
        .retain(|digest| length == Some(1) || !of_first(digest));
    let offered = response.offered;
    Ok(Preflight {
        length,
        ranges,
        validators: response.validators,
        offered,
        encoding: response.encoding,
        is_page: response.is_page,
    })
}

/// Whether the same request may succeed without its Range.
fn may_be_for_the_range(failure: Failure) -> bool {
    matches!(
        failure,
        Failure::Refused {
            status: 400 | 403 | 416 | 431
        } | Failure::Server { status: 501, .. }
            | Failure::BadResponse(BadResponse::Multipart | BadResponse::ContentRange)
    )
}

/// The most bytes of a sidecar file that are read: it may list a whole folder.
const SIDECAR_BYTES_MAX: usize = 1 << 20;

/// A preflight that is retried by the recovery policy.
pub async fn retried_preflight(
    client: &Client,
    url: &Location,
    limits: &Limits,
) -> Result<Preflight, Error> {
    retried!(limits, preflight(client, url))
}

/// The whole representation in one response, retried by the recovery policy.
pub async fn retried_whole(source: &Source, limits: &Limits) -> Result<SourceResponse, Error> {
    retried!(limits, source.open(SourceRequest::default()))
}

/// The digest in `URL.sha256`, if there is such a file. Any error counts as its absence, because the user did not request it.
pub async fn sidecar(client: &Client, url: &Location) -> Option<Digest> {
    let name = url.safe_name()?;
    let place = url.with_suffix(".sha256");
    let mut response = client.send(Request::whole(&place)).await.ok()?;
    let bytes = response.body.read_up_to(SIDECAR_BYTES_MAX).await.ok()?;
    repr_digest::in_sidecar(std::str::from_utf8(&bytes).ok()?, &name)
}
