//! Requests and their responses: what is counted and logged of each, from the first byte of the request to the last of the response.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    http::{Method, Request, Response, StatusCode, header},
};
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    ext::ReasonPhrase,
    service::{Service, service_fn},
};
use hyper_util::service::TowerToHyperService;
use tokio::sync::OwnedSemaphorePermit;

use super::{Options, Shared, slots::Open, stream::Connection};
use crate::serve::{
    access::{Access, cut},
    status,
};

/// Of HTTP, on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

/// Answers the requests on one connection.
pub fn exchanges(
    version: Version,
    connection: &Arc<Open>,
    shared: &Shared,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Counted>,
    Error = Infallible,
    Future: Future<Output = Result<Response<Counted>, Infallible>> + Send,
> + use<> {
    let app = TowerToHyperService::new(shared.app.clone());
    let (connection, options, streams) = (
        connection.clone(),
        shared.options.clone(),
        shared.streams.clone(),
    );
    service_fn(move |mut request: Request<Incoming>| {
        let mut exchange = Exchange::begin(&request, &connection, &options);
        let status_path = match options.status_paths {
            true => status::Path::of(&request),
            false => None,
        };
        let extensions = request.extensions_mut();
        extensions.insert(Connection(connection.activity.clone()));
        let is_head = request.method() == Method::HEAD;
        let answered = app.call(request);
        let streams = streams.clone();
        async move {
            if version == Version::Two && !exchange.is_only {
                exchange.turn = streams.acquire_owned().await.ok();
            }
            let Ok(mut response) = answered.await;
            if let Some(path) = status_path
                && response.status() == StatusCode::NOT_FOUND
            {
                response = path.respond(is_head, &exchange.options.metrics);
            }
            let reason = response.extensions_mut().remove::<Reason>();
            if let (Some(Reason(reason)), Version::One) = (reason, version)
                && let Ok(reason) = ReasonPhrase::try_from(reason)
            {
                response.extensions_mut().insert(reason);
            }
            exchange.status = response.status().as_u16();
            let length = response.body().size_hint().exact();
            let expected = length.or_else(|| {
                let length = response.headers().get(header::CONTENT_LENGTH)?;
                length.to_str().ok()?.parse().ok()
            });
            Ok(response.map(|body| Counted {
                body,
                expected,
                is_whole: false,
                exchange,
            }))
        }
    })
}

/// The text of a status line, of a response among whose extensions it is. HTTP/2 has none.
#[derive(Clone, Debug)]
pub struct Reason(Vec<u8>);

/// A reason phrase is cut there.
const REASON_BYTES_MAX: usize = 300;

impl Reason {
    /// What is not visible ASCII is shown by question marks.
    pub fn of(text: &str) -> Reason {
        let visible = |letter: char| match letter {
            ' '..='~' => letter as u8,
            _ => b'?',
        };
        Reason(text.chars().map(visible).take(REASON_BYTES_MAX).collect())
    }
}

/// A request and its response. When this is dropped, it is over.
struct Exchange {
    began: Instant,
    connection: Arc<Open>,
    options: Arc<Options>,
    /// On its connection.
    is_only: bool,
    turn: Option<OwnedSemaphorePermit>,
    method: &'static str,
    line: Option<Box<Access>>,
    /// 0: there was no response.
    status: u16,
    bytes: u64,
    is_complete: bool,
}

impl Exchange {
    fn begin<B>(request: &Request<B>, connection: &Arc<Open>, options: &Arc<Options>) -> Exchange {
        let line = options.log.is_some().then(|| {
            let range = request.headers().get(header::RANGE);
            let range = range.map(|range| cut(&String::from_utf8_lossy(range.as_bytes())));
            Box::new(Access {
                time: SystemTime::now(),
                client: connection.client.to_canonical(),
                method: cut(request.method().as_str()),
                path: cut(request.uri().path()),
                range,
                version: request.version(),
                ..Access::default()
            })
        });
        Exchange {
            began: Instant::now(),
            is_only: connection.activity.begin_response(),
            turn: None,
            connection: connection.clone(),
            options: options.clone(),
            method: match request.method().as_str() {
                "GET" => "GET",
                "HEAD" => "HEAD",
                _ => "other",
            },
            line,
            status: 0,
            bytes: 0,
            is_complete: false,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.connection.activity.end_response();
        let took = self.began.elapsed();
        let metrics = &self.options.metrics;
        metrics.responded(self.method, self.status, self.bytes, took);
        if !self.is_complete {
            metrics.cut_off();
        }
        if let (Some(log), Some(line)) = (&self.options.log, self.line.take()) {
            let is_taken = log.write(Access {
                status: self.status,
                bytes: self.bytes,
                duration: took,
                is_complete: self.is_complete,
                ..*line
            });
            if !is_taken {
                metrics.line_lost();
            }
        }
    }
}

/// Notes that a request was refused because it cannot be read. Of what it was nothing is known.
pub fn note_refused(cause: &hyper::Error, connection: &Open, shared: &Shared) {
    if !cause.is_parse() || cause.is_parse_version_h2() {
        // There was no response.
        return;
    }
    let status = match cause.is_parse_too_large() {
        true => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        false => StatusCode::BAD_REQUEST,
    };
    let (status, metrics) = (status.as_u16(), &shared.options.metrics);
    metrics.responded("other", status, 0, Duration::ZERO);
    if let Some(log) = &shared.options.log {
        let is_taken = log.write(Access {
            time: SystemTime::now(),
            client: connection.client.to_canonical(),
            status,
            is_complete: true,
            ..Access::default()
        });
        if !is_taken {
            metrics.line_lost();
        }
    }
}

/// A body whose bytes are counted.
pub struct Counted {
    body: Body,
    expected: Option<u64>,
    is_whole: bool,
    exchange: Exchange,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |bytes| bytes.len() as u64);
                self.exchange.bytes += bytes;
                self.exchange.connection.activity.note();
            }
            Poll::Ready(None) => self.is_whole = true,
            Poll::Ready(Some(Err(_))) => self.expected = None,
            Poll::Pending => (),
        }
        polled.map_err(io::Error::other)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Of a body whose length is known the end is not always read.
        self.exchange.is_complete = self.is_whole || self.expected == Some(self.exchange.bytes);
    }
}
