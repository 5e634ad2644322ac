//! Resumable uploads of other clients: tus 1.0.0, and the IETF draft "Resumable Uploads for HTTP" in the versions of interop 5 and 6
//! (upload-clients.md, section 3). An upload is a stream of bytes that goes on where it ended.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;

use crate::{
    engine::ingest::{IngestError, OpenRequest},
    format::{ingest::PATH as UPLOADS, upload::SessionId},
    policy::upload::{Owner, Protocol, Refusal, Session, State},
    serve::connections::Connection,
};

use super::{
    Uploads,
    arrivals::{Arrivals, Source, declared_length, waiting},
    cors::Origins,
    cut::{self, Cut},
    dialects::{
        Dialect, TUS, TUS_EXTENSIONS, TUS_RESUMABLE, UPLOAD_COMPLETE, UPLOAD_LENGTH, UPLOAD_OFFSET,
        is_complete, metadata, number,
    },
    problem::Problem,
    requests,
    streams::{Held, Run},
};

/// Where uploads are created, with a name below or without.
pub const PATH: &str = "/.sapwood/resumable";
/// The last segment of the URL of an upload, below that of its session.
const STREAM: &str = "stream";
/// The length is told later.
const DEFER_LENGTH: &str = "upload-defer-length";
/// How long the request with the last bytes waits for the object to be published.
const PUBLISH_WAIT: Duration = Duration::from_secs(600);
/// How long another request waits for it.
const LOOK_WAIT: Duration = Duration::from_secs(8);

/// What a path names.
pub enum Route {
    /// Uploads are created here; for this name, if it is not empty.
    Creation(String),
    Upload(SessionId),
}

impl Route {
    pub fn of(path: &str) -> Option<Route> {
        if let Some(below) = path.strip_prefix(PATH) {
            let name = match below {
                "" => below,
                below => below.strip_prefix('/')?,
            };
            let name = percent_decode_str(name).decode_utf8().ok()?;
            return Some(Route::Creation(name.into_owned()));
        }
        let (id, last) = path
            .strip_prefix(UPLOADS)?
            .strip_prefix('/')?
            .split_once('/')?;
        (last == STREAM).then(|| id.parse().ok().map(Route::Upload))?
    }

    fn methods(&self) -> &'static str {
        match self {
            Route::Creation(_) => "POST",
            Route::Upload(_) => "HEAD, PATCH, DELETE",
        }
    }
}

/// The response to a request.
pub async fn respond(uploads: &Arc<Uploads>, request: Request, route: Route) -> Response {
    let (request, body) = request.into_parts();
    if request.method == Method::OPTIONS {
        let fields = [
            (header::ALLOW, route.methods()),
            (TUS_RESUMABLE, TUS),
            (HeaderName::from_static("tus-version"), TUS),
            (HeaderName::from_static("tus-extension"), TUS_EXTENSIONS),
        ];
        return (StatusCode::NO_CONTENT, fields, Origins::preflight()).into_response();
    }
    let dialect = match Dialect::of(&request.headers) {
        Ok(dialect) => dialect,
        Err(problem) => {
            let tus = [
                (TUS_RESUMABLE, TUS),
                (HeaderName::from_static("tus-version"), TUS),
            ];
            return (tus, problem.response()).into_response();
        }
    };
    let responded = dispatch(uploads, request, body, route, dialect).await;
    let mut response = responded.unwrap_or_else(|problem| {
        of_streams(problem)
            .with_limits(uploads.ingest.limits())
            .response()
    });
    let (name, value) = dialect.field();
    response.headers_mut().insert(name, value);
    response
}

/// These clients repeat a request after 409, which is for another offset.
fn of_streams(problem: Problem) -> Problem {
    match problem.code() {
        "name_exists" | "session_done" | "session_differs" => {
            problem.with_status(StatusCode::FORBIDDEN)
        }
        "finalizing" | "part_in_flight" => problem.with_status(StatusCode::LOCKED),
        _ => problem,
    }
}

async fn dispatch(
    uploads: &Arc<Uploads>,
    request: Parts,
    body: Body,
    route: Route,
    dialect: Dialect,
) -> Result<Response, Problem> {
    let owner = requests::owner(uploads, &request).await?;
    // For clients that cannot send PATCH.
    let instead = request.headers.get("x-http-method-override");
    let method = match instead.and_then(|method| method.to_str().ok()) {
        Some(instead) if request.method == Method::POST => instead.to_owned(),
        _ => request.method.to_string(),
    };
    let of = Of {
        uploads: uploads.clone(),
        owner,
        request,
        dialect,
    };
    match (route, method.as_str()) {
        (Route::Creation(name), "POST") => of.create(body, name).await,
        (Route::Upload(id), "HEAD") => of.look(id).await,
        (Route::Upload(id), "PATCH") => of.patch(body, id).await,
        (Route::Upload(id), "DELETE") => {
            let held = of.held(id).await?;
            uploads.ingest.abort(&of.owner, id).await?;
            drop(held);
            uploads.intake.streams.forget(id);
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        (route, _) => Ok(requests::no_method(route.methods())),
    }
}

/// A request for an upload.
struct Of {
    uploads: Arc<Uploads>,
    owner: Owner,
    request: Parts,
    dialect: Dialect,
}

/// How far an upload has come.
struct At {
    session: Session,
    index: u32,
    offset: u64,
    /// See [`Held::told_length`].
    told_length: Option<u64>,
}

impl At {
    fn length(&self) -> Option<u64> {
        match &self.session.state {
            State::Done(published) => Some(published.length),
            _ => self.session.declared.plan.length().or(self.told_length),
        }
    }

    fn is_done(&self) -> bool {
        matches!(self.session.state, State::Done(_))
    }
}

impl Of {
    async fn create(self, body: Body, name: String) -> Result<Response, Problem> {
        let headers = &self.request.headers;
        let named = || metadata(headers, "filename").or_else(|| metadata(headers, "name"));
        let name = match name.is_empty() {
            true => named().ok_or_else(|| {
                let what = "no name: add it to the path, or as filename to Upload-Metadata";
                Problem::bad_request(what)
            })?,
            false => name,
        };
        let coming = declared_length(&self.request);
        let ends = is_complete(headers)?;
        let mut length = number(headers, &UPLOAD_LENGTH)?;
        match self.dialect {
            Dialect::Tus
                if length.is_none() && headers.get(DEFER_LENGTH).is_none_or(|is| is != "1") =>
            {
                return Err(Problem::bad_request(
                    "neither Upload-Length nor Upload-Defer-Length: 1",
                ));
            }
            Dialect::Draft(_) if ends == Some(true) => length = length.or(coming),
            Dialect::Draft(_) if ends.is_none() => {
                return Err(Problem::bad_request("Upload-Complete is missing"));
            }
            _ => (),
        }
        let id = requests::new_id()?;
        let open = OpenRequest {
            replace: metadata(headers, "replace").as_deref() == Some("true"),
            length,
            ..OpenRequest::of(name, Protocol::Stream)
        };
        let opened = self.uploads.ingest.open(&self.owner, id, &open).await?;
        let session = opened.status.session;
        let has_body = coming.unwrap_or(1) > 0;
        let is_last = ends == Some(true) || length == Some(0);
        if !has_body && !is_last {
            let at = At {
                session,
                index: 0,
                offset: 0,
                told_length: None,
            };
            return Ok(self.response(StatusCode::CREATED, &at));
        }
        if has_body && self.dialect == Dialect::Tus {
            self.dialect.check_media_type(headers)?;
        }
        let (uploads, owner) = (self.uploads.clone(), self.owner.clone());
        let taken = self.take(body, id, 0, is_last, StatusCode::CREATED).await;
        if taken.is_err() {
            // The client does not know its URL.
            let _ = uploads.ingest.abort(&owner, id).await;
            uploads.intake.streams.forget(id);
        }
        taken
    }

    async fn look(self, id: SessionId) -> Result<Response, Problem> {
        let mut held = self.held(id).await?;
        let mut at = self.at(id, &mut held).await?;
        if !at.is_done() && at.length() == Some(at.offset) {
            // All came, and the client was not told what became of it.
            at = self.complete(&mut held, at, LOOK_WAIT).await?;
        }
        Ok(self.response(StatusCode::OK, &at))
    }

    async fn patch(self, body: Body, id: SessionId) -> Result<Response, Problem> {
        let headers = &self.request.headers;
        self.dialect.check_media_type(headers)?;
        let offset = number(headers, &UPLOAD_OFFSET)?;
        let offset = offset.ok_or_else(|| Problem::bad_request("Upload-Offset is missing"))?;
        let ends = is_complete(headers)?;
        let is_last = match self.dialect {
            // Those that reach the length.
            Dialect::Tus => false,
            Dialect::Draft(_) => {
                ends.ok_or_else(|| Problem::bad_request("Upload-Complete is missing"))?
            }
        };
        self.take(body, id, offset, is_last, StatusCode::NO_CONTENT)
            .await
    }

    /// Takes bytes to their end, even if the client goes away: what came is kept.
    async fn take(
        self,
        body: Body,
        id: SessionId,
        offset: u64,
        is_last: bool,
        status: StatusCode,
    ) -> Result<Response, Problem> {
        let connection = self.request.extensions.get::<Connection>().cloned();
        let taking = tokio::spawn(self.take_here(body, id, offset, is_last, status));
        let taken = waiting(connection.as_ref(), taking).await;
        taken.unwrap_or_else(|_| Err(Problem::busy()))
    }

    async fn take_here(
        self,
        body: Body,
        id: SessionId,
        offset: u64,
        is_last: bool,
        status: StatusCode,
    ) -> Result<Response, Problem> {
        let uploads = self.uploads.clone();
        let source = Source::Raw(body.into_data_stream());
        let mut arrivals = Arrivals::new(&uploads, id, source, &self.request);
        let taken = self.append(&mut arrivals, id, offset, is_last).await;
        if taken.is_err() {
            arrivals.drain(&self.request).await;
        }
        Ok(self.response(status, &taken?))
    }

    async fn append(
        &self,
        arrivals: &mut Arrivals<'_>,
        id: SessionId,
        offset: u64,
        is_last: bool,
    ) -> Result<At, Problem> {
        let uploads = &self.uploads;
        let turn = uploads.intake.parts.try_take(&self.owner);
        let _turn = turn.ok_or_else(Problem::busy)?;
        let mut held = self.held(id).await?;
        let mut at = self.at(id, &mut held).await?;
        let declared = declared_length(&self.request);
        if at.offset != offset {
            return Err(cut::mismatch(at.offset, Some(offset)));
        }
        if at.is_done() {
            // The response to the last bytes was lost.
            return match declared == Some(0) {
                true => Ok(at),
                false => Err(IngestError::from(Refusal::SessionDone).into()),
            };
        }
        if self.dialect == Dialect::Tus
            && let Some(length) = number(&self.request.headers, &UPLOAD_LENGTH)?
        {
            if let Some(known) = at.length().filter(|known| *known != length) {
                let what = format!("Upload-Length was {known} before, and does not change");
                return Err(Problem::bad_request(what));
            }
            if length < offset {
                return Err(cut::problem(Cut::TooLong));
            }
            held.tell_length(length);
            at.told_length = Some(length);
        }
        let left = at.length().map(|length| length.saturating_sub(offset));
        if left.is_some_and(|left| declared.is_some_and(|declared| declared > left)) {
            return Err(cut::problem(Cut::TooLong));
        }
        let began = tokio::time::Instant::now();
        let mut run = Run {
            uploads,
            owner: &self.owner,
            id,
            plan: at.session.declared.plan,
            held: &mut held,
            index: at.index,
            offset,
            is_new: false,
            declared,
        };
        let taken = run.take_all(arrivals).await;
        let (index, offset) = (run.index, run.offset);
        uploads.note_taken(taken.is_ok(), arrivals.arrived, began);
        taken.map_err(cut::problem)?;
        let at = At {
            index,
            offset,
            ..at
        };
        match is_last || at.length() == Some(offset) {
            true => self.complete(&mut held, at, PUBLISH_WAIT).await,
            false => Ok(at),
        }
    }

    /// Ends the request that writes. Only those of the same owner are ended.
    async fn held(&self, id: SessionId) -> Result<Held, Problem> {
        self.uploads.ingest.status(&self.owner, id).await?;
        let held = self.uploads.intake.streams.take((id, None)).await;
        held.map_err(cut::problem)
    }

    /// Where the upload goes on.
    async fn at(&self, id: SessionId, held: &mut Held) -> Result<At, Problem> {
        let position = self.uploads.ingest.position(&self.owner, id).await?;
        if position.session.declared.protocol != Protocol::Stream {
            return Err(IngestError::NoSession.into());
        }
        match position.session.takes_parts() {
            Ok(()) | Err(Refusal::Finalizing) => (),
            Err(_) if matches!(position.session.state, State::Done(_)) => held.close(),
            Err(refusal) => return Err(IngestError::from(refusal).into()),
        }
        Ok(At {
            offset: held.offset(position.index).unwrap_or(position.offset()),
            index: position.index,
            session: position.session,
            told_length: held.told_length(),
        })
    }

    /// All bytes are here: publishes them.
    async fn complete(&self, held: &mut Held, at: At, wait: Duration) -> Result<At, Problem> {
        let id = at.session.id;
        if let Some(length) = at.length().filter(|length| *length != at.offset) {
            let what = format!("the object has {length} bytes, and {} came", at.offset);
            return Err(Problem::bad_request(what));
        }
        if at.session.takes_parts().is_ok() {
            let mut run = Run {
                uploads: &self.uploads,
                owner: &self.owner,
                id,
                plan: at.session.declared.plan,
                held,
                index: at.index,
                offset: at.offset,
                is_new: false,
                declared: Some(0),
            };
            run.finish().await.map_err(cut::problem)?;
        }
        let session = self
            .uploads
            .publish(&self.owner, id, at.offset, wait)
            .await?;
        Ok(At { session, ..at })
    }

    fn response(&self, status: StatusCode, at: &At) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: String| {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        };
        let id = at.session.id;
        if status == StatusCode::CREATED {
            set(header::LOCATION, format!("{UPLOADS}/{id}/{STREAM}"));
        }
        set(UPLOAD_OFFSET, at.offset.to_string());
        let expires_s = self.uploads.ingest.expires_s(&at.session);
        match self.dialect {
            Dialect::Tus => {
                if at.session.state.is_live() {
                    let at = std::time::UNIX_EPOCH + Duration::from_secs(expires_s);
                    let name = HeaderName::from_static("upload-expires");
                    set(name, httpdate::fmt_http_date(at));
                }
                if status == StatusCode::OK {
                    let name = at.session.declared.name.as_str().as_bytes();
                    let metadata = format!("filename {}", STANDARD.encode(name));
                    set(HeaderName::from_static("upload-metadata"), metadata);
                }
            }
            Dialect::Draft(version) => {
                let complete = if at.is_done() { "?1" } else { "?0" };
                set(UPLOAD_COMPLETE, complete.to_owned());
                if version == 6 && at.session.state.is_live() {
                    let left = expires_s.saturating_sub(self.uploads.ingest.now().unix_s);
                    set(
                        HeaderName::from_static("upload-limit"),
                        format!("expires={left}"),
                    );
                }
            }
        }
        match at.length() {
            Some(length) => set(UPLOAD_LENGTH, length.to_string()),
            None if self.dialect == Dialect::Tus => {
                set(HeaderName::from_static(DEFER_LENGTH), "1".to_owned());
            }
            None => (),
        }
        response
    }
}
