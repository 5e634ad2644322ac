//! Small objects: one request each, and the whole object in memory.

use bytes::Bytes;

use crate::{
    format::{
        geometry::{BlockIndex, ByteRange},
        tree::{PartHasher, Root},
        validators::Validators,
    },
    net::{error::NetError, location::Location},
    policy::recovery::Changed,
};

use super::{
    context::Context,
    error::Error,
    remote::{
        ranges::RangeReader,
        source::{Source, SourceRequest},
    },
};

/// The most bytes of a small object.
pub const SMALL_BYTES_MAX: u64 = 64 << 10;
/// An object that is wrong this often stays wrong.
const WRONG_MAX: u32 = 4;

/// An object in memory.
#[derive(Clone, Debug)]
pub struct SmallObject {
    /// All of it.
    pub bytes: Bytes,
    /// The root of these bytes: the expected one, if there is one.
    pub root: Root,
    /// The version that came.
    pub validators: Validators,
}

/// The object that a response must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its name.
    pub root: Root,
    /// It is held in memory.
    pub length: u64,
}

/// Fetches a small object with one request, which is retried by the recovery policy. Its bytes are proven if the object is known
/// before. Waits until the host accepts one more request.
///
/// # Errors
/// [`Error::Wrong`]: the length is right and the bytes are not, each time. [`Error::Changed`]: another length. [`Error::TooLarge`]:
/// nothing was expected, and the object is not small.
pub async fn get(
    context: &Context,
    url: &Location,
    expected: Option<Expected>,
) -> Result<SmallObject, Error> {
    let limits = context.limits_now();
    let _single = context.connections.single();
    let length = expected.map(|expected| expected.length);
    let mut wrong = 0;
    loop {
        let received = retried!(&limits, receive(context, url, length))?;
        let Received::All(bytes, validators) = received else {
            let (place, bytes) = (url.to_string(), SMALL_BYTES_MAX + 1);
            return Err(Error::TooLarge { place, bytes });
        };
        let mut hasher = PartHasher::new(0);
        hasher.update(&bytes);
        let root = hasher.root();
        match expected.filter(|expected| expected.root != root) {
            None => {
                return Ok(SmallObject {
                    bytes,
                    root,
                    validators,
                });
            }
            Some(_) if wrong + 1 < WRONG_MAX => wrong += 1,
            Some(expected) => {
                return Err(Error::Wrong {
                    block: BlockIndex(0),
                    bytes: ByteRange::new(0, expected.length),
                    expected: Box::new(expected.root.0),
                    found: Box::new(root.0),
                    source_name: url.to_string(),
                });
            }
        }
    }
}

/// Fetches ascending ranges of one version of an object in few requests; the ranges come in any order. `length`: of the object.
pub async fn get_ranges(
    context: &Context,
    url: &Location,
    wants: &[ByteRange],
    length: u64,
    version: Option<Validators>,
) -> Result<Vec<(ByteRange, Vec<u8>)>, Error> {
    let _single = context.connections.single();
    let _admitted = context.connections.admit(&context.client, url).await;
    let source = Source::http(&context.client, url);
    let mut given = Vec::with_capacity(wants.len());
    let take = |range, bytes| given.push((range, bytes));
    RangeReader::new(source, version, length)
        .read(context, wants, take)
        .await?;
    Ok(given)
}

/// The outcome of one request.
enum Received {
    All(Bytes, Validators),
    /// The object is not small.
    More,
}

/// Sends one request and reads its body.
async fn receive(
    context: &Context,
    url: &Location,
    length: Option<u64>,
) -> Result<Received, NetError> {
    // Given back before a wait for the next try.
    let _admitted = context.connections.admit(&context.client, url).await;
    let request = SourceRequest {
        length,
        unproven: length.is_some(),
        ..SourceRequest::default()
    };
    let response = Source::http(&context.client, url).open(request).await?;
    let (location, validators) = (response.location().clone(), response.validators.clone());
    let most = length.unwrap_or(SMALL_BYTES_MAX);
    match response.read_all(most).await? {
        Some(bytes) if length.is_none_or(|length| bytes.len() as u64 == length) => {
            Ok(Received::All(bytes, validators))
        }
        None if length.is_none() => Ok(Received::More),
        _ => Err(NetError::changed(&location, Changed::Length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_send<T: Send>(_: T) {}

    /// This need only compile.
    #[test]
    fn the_futures_are_send() {
        let _ = |context: &Context, url: &Location, wants: &[ByteRange]| {
            is_send(get(context, url, None));
            is_send(get_ranges(context, url, wants, 0, None));
        };
    }
}
