//! Which requested bytes a response contains, or why it cannot be used.

use crate::{
    net::{
        error::NetError,
        location::Location,
        response::{Content, Response},
    },
    policy::recovery::{BadResponse, Changed, Failure},
};

use super::SourceRequest;

/// Which bytes a response contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// From the start of the requested range to this offset, which may be before its end.
    Range { until: u64 },
    /// The whole representation from its first byte, of this length if the response declares it.
    Whole { length: Option<u64> },
    /// Parts of several ranges, in any order.
    Parts,
    /// One part that covers several requested ranges and the gaps between them.
    Joined,
}

/// A server may round the start of a range down, to a page or a sector. A part that begins more than this before the range is an
/// error: skipping its front each time would cost more than the range.
const EARLY_BYTES_MAX: u64 = 1 << 20;

pub fn bad(location: &Location, how: BadResponse) -> NetError {
    NetError::new(location, Failure::BadResponse(how))
}

/// Which requested bytes a response with one body contains, or why it cannot be used.
pub fn extent(response: &Response, request: &SourceRequest<'_>) -> Result<Extent, NetError> {
    let location = response.body.location();
    let (bytes, total) = match response.content {
        Content::Whole { length } => return whole(response, length, request),
        Content::Part { bytes, total } => (bytes, total),
    };
    match (total, request.length) {
        (Some(total), Some(length)) if total != length => {
            return Err(NetError::changed(location, Changed::Length));
        }
        (None, _) if request.unproven => return Err(bad(location, BadResponse::NoLength)),
        _ => (),
    }
    let is_all = bytes.start == 0 && total.or(request.length) == Some(bytes.end);
    match request.range {
        None if is_all => Ok(Extent::Whole {
            length: Some(bytes.end),
        }),
        None => Err(bad(location, BadResponse::NotWhole)),
        Some(range) if bytes.start > range.start => Err(bad(location, BadResponse::LaterPart)),
        Some(range) if is_all && bytes != range => Ok(Extent::Whole {
            length: Some(bytes.end),
        }),
        Some(range) if !request.more.is_empty() && bytes.end > range.end => Ok(Extent::Joined),
        Some(range) if bytes.end <= range.start || range.start - bytes.start > EARLY_BYTES_MAX => {
            Err(bad(location, BadResponse::EarlierPart))
        }
        Some(range) => Ok(Extent::Range {
            until: bytes.end.min(range.end),
        }),
    }
}

fn whole(
    response: &Response,
    length: Option<u64>,
    request: &SourceRequest<'_>,
) -> Result<Extent, NetError> {
    let location = response.body.location();
    match (length, request.length) {
        (Some(found), Some(length)) if found != length => Err(match request.unproven {
            _ if response.is_page => bad(location, BadResponse::Page),
            true => NetError::changed(location, Changed::Length),
            false => bad(location, BadResponse::WholeLength),
        }),
        _ => Ok(Extent::Whole { length }),
    }
}
