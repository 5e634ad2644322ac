//! The response to a request for an object that is still uploaded: its length is not known, and is not promised. Once it is published, it
//! is an object like all others.

use std::{io, ops::ControlFlow, sync::Arc};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    response::Response,
};
use futures_util::{StreamExt, stream};
use tokio::time::{Duration, Instant};

use crate::{
    engine::{
        error::Error,
        events::Event,
        read::{
            Reader,
            growing::{GrowingReader, Next, PublishedAs},
        },
    },
    format::{geometry::ByteRange, ingest::RefusedUpload},
    serve::connections::Connection,
};

use super::{
    content::{self, failed, restrict},
    objects::{CountedReader, Growing, Object, Objects},
    text,
};

/// How long a request waits for the first byte of its range.
const WAIT: Duration = Duration::from_secs(30);

/// The response to a GET or HEAD.
pub async fn of(
    request: &Parts,
    connection: Connection,
    objects: &Arc<Objects>,
    growing: Arc<Growing>,
) -> Response {
    let wanted = wanted(request);
    let proven = connection.during(there_is(&growing, wanted)).await;
    let proven = match proven {
        Ok(ControlFlow::Continue(proven)) => proven,
        Ok(ControlFlow::Break(object)) => {
            return content::of(request, connection, objects, object).await;
        }
        Err(error) => return failed(&error),
    };
    let range = match wanted {
        None => None,
        Some((first, _)) if first >= proven => {
            let what = "these bytes are not there yet\n";
            return text(StatusCode::RANGE_NOT_SATISFIABLE, what);
        }
        Some((first, end)) => Some(ByteRange::new(first, end.min(proven))),
    };
    let body = match request.method == Method::HEAD {
        // Without a length: that of an empty body would be 0.
        true => Body::from_stream(stream::empty::<io::Result<Bytes>>()),
        false => Body::from_stream(body(growing.clone(), objects, connection, range)),
    };
    let mut response = Response::new(body);
    let media_type = growing.media_type.clone();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, media_type.clone());
    if let Some(range) = range {
        let field = format!("bytes {}-{}/*", range.start, range.end - 1);
        let field = HeaderValue::try_from(field).expect("digits are a field value");
        headers.insert(header::CONTENT_RANGE, field);
        headers.insert(header::CONTENT_LENGTH, range.length().into());
    }
    restrict(headers, &media_type);
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    response
}

/// The range of a request: the first byte, and the one after the last. A range from the first byte on without an end is all, and so is one
/// that counts from the end, which is not known.
fn wanted(request: &Parts) -> Option<(u64, u64)> {
    let field = request.headers.get(header::RANGE)?.to_str().ok()?;
    let (first, last) = field.trim().strip_prefix("bytes=")?.split_once('-')?;
    let first: u64 = first.trim().parse().ok()?;
    match last.trim() {
        "" if first == 0 => None,
        "" => Some((first, u64::MAX)),
        last => {
            let last: u64 = last.parse().ok()?;
            (first <= last).then_some((first, last.saturating_add(1)))
        }
    }
}

/// Waits until the first byte of a range is there. Without a range nothing is waited for.
async fn there_is(
    growing: &Growing,
    wanted: Option<(u64, u64)>,
) -> Result<ControlFlow<Arc<Object>, u64>, Error> {
    let until = Instant::now() + WAIT;
    let mut beyond = None;
    loop {
        let growth = growing.growth(beyond).await?;
        let ControlFlow::Continue(proven) = growth else {
            return Ok(growth);
        };
        match wanted {
            Some((first, _)) if proven <= first && Instant::now() < until => beyond = Some(first),
            _ => return Ok(growth),
        }
    }
}

/// Where the next bytes of a response come from.
enum From {
    Growing(Box<GrowingReader>),
    Published((Reader, CountedReader)),
}

/// The bytes of a range; without one all, until the object has ended.
fn body(
    growing: Arc<Growing>,
    objects: &Arc<Objects>,
    connection: Connection,
    range: Option<ByteRange>,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static {
    let start = range.map_or(0, |range| range.start);
    let from = From::Growing(Box::new(growing.object.reader(start)));
    let state = Some((from, range.map(|range| range.length())));
    let objects = objects.clone();
    stream::unfold(state, move |state| {
        let (growing, objects) = (growing.clone(), objects.clone());
        let connection = connection.clone();
        async move {
            let (mut from, left) = state?;
            if left == Some(0) {
                return None;
            }
            let next = connection
                .during(Box::pin(next(&growing, &objects, &mut from)))
                .await?;
            match next {
                Ok(bytes) => {
                    let most = left.map_or(bytes.len(), |left| bytes.len().min(left as usize));
                    let left = left.map(|left| left - most as u64);
                    Some((Ok(bytes.slice(..most)), Some((from, left))))
                }
                Err(error) => {
                    growing.event(Event::Warning {
                        message: error.to_string(),
                    });
                    // All proven bytes before the failure are sent.
                    connection.flushed().await;
                    Some((Err(io::Error::other(error)), None))
                }
            }
        }
    })
}

/// The next bytes. `None`: it has ended.
async fn next(
    growing: &Arc<Growing>,
    objects: &Arc<Objects>,
    from: &mut From,
) -> Option<Result<Bytes, Arc<Error>>> {
    loop {
        let reader = match from {
            From::Published((reader, _)) => return reader.next().await,
            From::Growing(reader) => reader,
        };
        let mut events = |event| growing.event(event);
        match reader.next(&mut events).await {
            Ok(Next::Bytes(bytes)) => return Some(Ok(bytes)),
            Ok(Next::Published(at, published)) => {
                match go_on(growing, objects, at, published).await {
                    Ok(published) => *from = published,
                    Err(error) => return Some(Err(error)),
                }
            }
            Err(error) => return Some(Err(Arc::new(error))),
        }
    }
}

/// Goes on in the published object, if it is the one that was uploaded.
async fn go_on(
    growing: &Growing,
    objects: &Arc<Objects>,
    at: u64,
    published: PublishedAs,
) -> Result<From, Arc<Error>> {
    let PublishedAs { url, root, length } = published;
    let place = url.to_string();
    let object = growing.publish(growing.object.options_of(url));
    let version = objects.version(&object).await.map_err(Arc::new)?;
    let found = version.object.root();
    if found != root {
        let cause = RefusedUpload::Root {
            expected: root,
            found: found.to_string(),
        };
        let cause = Box::new(cause);
        return Err(Arc::new(Error::Upload { place, cause }));
    }
    let reader = version
        .object
        .reader(ByteRange::new(at.min(length), length));
    let counted = objects.count_reader(&object);
    Ok(From::Published((reader, counted)))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    #[test]
    fn ranges_without_a_length() {
        let of = |field: &str| {
            let request = Request::get("/").header("range", field).body(()).unwrap();
            wanted(&request.into_parts().0)
        };
        assert_eq!(of("bytes=0-"), None);
        assert_eq!(of("bytes=-5"), None);
        assert_eq!(of("bytes=5-3"), None);
        assert_eq!(of("bytes=1-2,4-5"), None);
        assert_eq!(of("bytes=7-"), Some((7, u64::MAX)));
        assert_eq!(of("bytes=0-9"), Some((0, 10)));
    }
}
