//! The response to a request for an object: nothing of it, not even the length, leaves before it is proven.

use std::{io, sync::Arc};

use axum::{
    body::Bytes,
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::Response,
};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use crate::{
    engine::error::Error,
    format::geometry::ByteRange,
    serve::{
        connections::Connection,
        representation::{Metadata, Representation, respond},
    },
};

use super::{
    objects::{Object, Objects, Version},
    text,
};

/// The response to a GET or HEAD of an object.
pub async fn of(
    request: &Parts,
    connection: Connection,
    objects: &Arc<Objects>,
    object: Arc<Object>,
) -> Response {
    let waiting = connection.clone();
    waiting
        .during(proven(request, connection, objects, object))
        .await
}

async fn proven(
    request: &Parts,
    connection: Connection,
    objects: &Arc<Objects>,
    object: Arc<Object>,
) -> Response {
    let version = match objects.version(&object).await {
        Ok(version) => version,
        Err(error) => return failed(&error),
    };
    // The blocks of the response are fetched together with the last one, which proves the length: the response is made with the
    // declared length, and leaves when that is proven.
    let content = Content::new(version.clone(), connection, objects.clone(), object);
    let declared = content.metadata.length;
    let media_type = content.metadata.media_type.clone();
    let mut response = respond(request, content);
    restrict(response.headers_mut(), &media_type);
    match version.object.proven_length().await {
        Ok(length) if length == declared => response,
        Ok(_) => text(
            StatusCode::BAD_GATEWAY,
            "the length of the object is not the declared one\n",
        ),
        Err(error) => {
            version.note(&error);
            failed(&error)
        }
    }
}

/// Objects are others' content on the origin of the page. A document among them gets no scripts and an origin of its own, so that it
/// cannot read the page or other objects.
pub(super) fn restrict(headers: &mut HeaderMap, media_type: &HeaderValue) {
    let media_type = media_type.to_str().unwrap_or_default();
    let is_passive = ["audio/", "video/", "image/"]
        .iter()
        .any(|kind| media_type.starts_with(kind));
    if !is_passive || media_type.starts_with("image/svg") {
        let policy = HeaderValue::from_static("sandbox");
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    // Another version may be there at the next request.
    let caching = HeaderValue::from_static("private, no-cache");
    headers.insert(header::CACHE_CONTROL, caching);
}

/// The source did not give what can be proven: not in time, or not at all.
pub(super) fn failed(error: &Error) -> Response {
    let status = match error.is_transient() {
        true => StatusCode::GATEWAY_TIMEOUT,
        false => StatusCode::BAD_GATEWAY,
    };
    text(status, format!("{error}\n"))
}

/// One version of an object, for one request.
struct Content {
    version: Version,
    metadata: Metadata,
    connection: Connection,
    objects: Arc<Objects>,
    object: Arc<Object>,
}

impl Content {
    fn new(
        version: Version,
        connection: Connection,
        objects: Arc<Objects>,
        object: Arc<Object>,
    ) -> Content {
        Content {
            metadata: Metadata {
                length: version.object.geometry().length(),
                // The root names the bytes: a strong validator.
                etag: format!("\"{}\"", version.object.root()),
                last_modified: None,
                media_type: object.media_type.clone(),
            },
            version,
            connection,
            objects,
            object,
        }
    }
}

impl Representation for Content {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn body(&self, bytes: ByteRange) -> BoxStream<'static, io::Result<Bytes>> {
        let reader = self.version.object.reader(bytes);
        let counted = self.objects.count_reader(&self.object);
        let (version, connection) = (self.version.clone(), self.connection.clone());
        stream::unfold(Some((reader, counted)), move |reader| {
            let (version, connection) = (version.clone(), connection.clone());
            async move {
                let (mut reader, counted) = reader?;
                match connection.during(reader.next()).await? {
                    Ok(bytes) => Some((Ok(bytes), Some((reader, counted)))),
                    Err(error) => {
                        version.note(&error);
                        // All proven bytes before the failure are sent.
                        connection.flushed().await;
                        Some((Err(io::Error::other(error)), None))
                    }
                }
            }
        })
        .boxed()
    }
}
