//! The first look at an object.

use super::retry::retried;
use crate::{engine::error::Error, net::repr_digest, policy::schedule::Limits};
use crate::{
    format::{
        digests::{Digest, DigestHasher},
        geometry::ByteRange,
    },
    net::{
        client::Client, error::NetError, location::Location, request::Request, response::Content,
        validators::Validators,
    },
    policy::recovery::{BadAnswer, Failure},
};

/// What the server says of the object before anything is asked for in earnest.
pub struct Preflight {
    /// `None`: it does not tell.
    pub length: Option<u64>,
    pub ranges: bool,
    pub validators: Validators,
    pub offered: Vec<Digest>,
    /// It seems to be a web page or an XML message.
    pub is_page: bool,
}

/// Asks for the first byte: whether the object is there, how long it is, whether ranges work, and which version it is.
///
/// S3 tells its checksums only to those who send `x-amz-checksum-mode: ENABLED`. It is not sent by itself: S3 refuses a signed
/// URL whose request has an `x-amz-` header that was not signed (403, `HeadersNotSigned`), and whether a redirect ends at one
/// is not known before. Who has an unsigned URL can give it with -H.
pub async fn preflight(client: &Client, url: &Location) -> Result<Preflight, NetError> {
    let mut answer = match client.send(Request::range(url, ByteRange::new(0, 1))).await {
        // An empty object has no first byte, and a server that answers in several parts has no ranges for us.
        Err(error)
            if matches!(
                error.failure,
                Failure::Refused { status: 416 } | Failure::BadAnswer(BadAnswer::Multipart)
            ) =>
        {
            client.send(Request::whole(url)).await?
        }
        other => other?,
    };
    let (length, ranges, first) = match answer.content {
        Content::Whole { length } => (length, false, Vec::new()),
        // Read to its end, so that the next request can have the connection. That it came is not needed.
        Content::Part { bytes, total } if bytes.length() == 1 => (
            total,
            true,
            answer.body.read_up_to(2).await.unwrap_or_default(),
        ),
        Content::Part { total, .. } => (total, true, Vec::new()),
    };
    // Some servers send the Content-MD5 of the part: then it is that of the one byte.
    let of_first = |digest: &Digest| {
        let mut hasher = DigestHasher::new(digest.algorithm());
        hasher.update(&first);
        hasher.finish() == *digest
    };
    answer
        .offered
        .retain(|digest| length == Some(1) || !of_first(digest));
    let offered = answer.offered;
    Ok(Preflight {
        length,
        ranges,
        validators: answer.validators,
        offered,
        // What begins like no markup is none, whatever it is called.
        is_page: answer.is_page && matches!(first.first(), None | Some(b'<' | b' ' | b'\n' | 0xEF)),
    })
}

/// A digest file is never longer; one that lists a whole folder may be long.
const SIDECAR_BYTES_MAX: usize = 1 << 20;

/// What is there now.
pub async fn look(client: &Client, url: &Location, limits: &Limits) -> Result<Preflight, Error> {
    retried!(limits, preflight(client, url))
}

/// The digest in `URL.sha256`, if there is such a file. Anything wrong with it is its absence: nobody asked for it.
pub async fn sidecar(client: &Client, url: &Location) -> Option<Digest> {
    let name = url.safe_name()?;
    let place = url.with_suffix(".sha256");
    let mut answer = client.send(Request::whole(&place)).await.ok()?;
    let bytes = answer.body.read_up_to(SIDECAR_BYTES_MAX).await.ok()?;
    repr_digest::in_sidecar(std::str::from_utf8(&bytes).ok()?, &name)
}
