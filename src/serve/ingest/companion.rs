//! The S3 routes of Uppy's Companion (upload-clients.md, section 2): parts of one size, in any order, by URLs that this server signs.

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::{
    engine::ingest::{IngestError, OpenRequest, Status},
    format::upload::SessionId,
    policy::{
        parts::PART_BYTES_MIN,
        upload::{self, FinishedPart, Owner, Protocol, State},
    },
    serve::{
        connections::{Connection, Reason},
        origin::path::url_path,
    },
};

use super::{
    Uploads,
    any_part::wrong_size,
    arrivals::{Arrivals, Source, waiting},
    bodies,
    cors::Origins,
    cut::{self, Cut},
    documents::in_query,
    form::FormFile,
    part,
    problem::Problem,
    requests,
    signed::{FormUpload, VALID_S},
    streams::Run,
};

/// How long the request that completes an upload waits for the object to be published.
const PUBLISH_WAIT: Duration = Duration::from_secs(600);
/// Parts whose URLs are requested together.
const BATCH_MAX: usize = 1000;
/// The query of a form that uploads one file begins so.
const FORM: &str = "sapwood-upload=";

/// What a request is for.
pub enum Route {
    /// One request with the whole file.
    Params,
    /// The form that it sends.
    Form,
    Create,
    Upload(SessionId),
    Part(SessionId, u32),
    Batch(SessionId),
    Complete(SessionId),
}

impl Route {
    /// Exactly the requests of these clients: all other paths are those of objects.
    pub fn of(method: &Method, path: &str, query: &str) -> Option<Route> {
        match path {
            "/s3/params" => return in_query(query, "filename").map(|_| Route::Params),
            "/s3/multipart" if !matches!(*method, Method::GET | Method::HEAD) => {
                return Some(Route::Create);
            }
            "/" if query.starts_with(FORM) && !matches!(*method, Method::GET | Method::HEAD) => {
                return Some(Route::Form);
            }
            _ => (),
        }
        let mut segments = path.strip_prefix("/s3/multipart/")?.split('/');
        let id = segments.next()?.parse().ok()?;
        let route = match segments.next() {
            None => Route::Upload(id),
            Some("batch") => Route::Batch(id),
            Some("complete") => Route::Complete(id),
            Some(number) => Route::Part(id, number.parse::<u32>().ok()?.checked_sub(1)?),
        };
        segments.next().is_none().then_some(route)
    }

    fn methods(&self) -> &'static str {
        match self {
            Route::Params | Route::Part(..) | Route::Batch(_) => "GET",
            Route::Form | Route::Create | Route::Complete(_) => "POST",
            Route::Upload(_) => "GET, DELETE",
        }
    }
}

/// The body that begins an upload.
#[derive(Deserialize)]
struct Create {
    filename: String,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

/// The body that ends it.
#[derive(Deserialize)]
struct Complete {
    parts: Vec<Listed>,
}

/// A part, as the client knows it.
#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "PartNumber")]
    number: u32,
    #[serde(rename = "ETag")]
    etag: String,
}

/// The response to a request.
pub async fn respond(uploads: &Arc<Uploads>, request: Request, route: Route) -> Response {
    let (request, body) = request.into_parts();
    if request.method == Method::OPTIONS {
        let allow = (header::ALLOW, HeaderValue::from_static(route.methods()));
        return (StatusCode::NO_CONTENT, [allow], Origins::preflight()).into_response();
    }
    let responded = dispatch(uploads, request, body, route).await;
    responded.unwrap_or_else(|problem| told(uploads, problem))
}

/// A refusal where the client shows it to the user: the reason phrase, or the member `message`.
pub fn told(uploads: &Uploads, problem: Problem) -> Response {
    let detail = problem.detail().to_owned();
    let problem = problem.with_limits(uploads.ingest.limits());
    let mut response = problem.with("message", detail.clone()).response();
    response.extensions_mut().insert(Reason::of(&detail));
    response
}

async fn dispatch(
    uploads: &Arc<Uploads>,
    request: Parts,
    body: Body,
    route: Route,
) -> Result<Response, Problem> {
    if let (Route::Form, &Method::POST) = (&route, &request.method) {
        return uploads.take_form(request, body).await;
    }
    let owner = requests::owner(uploads, &request).await?;
    let turns = &uploads.intake.documents;
    let ok = |document: Value| Ok(requests::json(StatusCode::OK, &document));
    // These clients write a space as a plus sign.
    let query = request.uri.query().unwrap_or_default().replace('+', "%20");
    let query = query.as_str();
    match (&route, request.method.as_str()) {
        (Route::Params, "GET") => ok(uploads.params(&owner, &request, query).await?),
        (Route::Create, "POST") => {
            let create: Create = bodies::document(&request, body, turns, &owner).await?;
            ok(uploads.begin_parts(&owner, create).await?)
        }
        (Route::Upload(id), "GET") => {
            let status = uploads.of_parts(&owner, *id, query).await?;
            Ok(requests::json(
                StatusCode::OK,
                &status.parts.iter().map(listed).collect(),
            ))
        }
        (Route::Upload(id), "DELETE") => {
            uploads.of_parts(&owner, *id, query).await?;
            uploads.ingest.abort(&owner, *id).await?;
            uploads.intake.streams.forget(*id);
            ok(json!({}))
        }
        (Route::Part(id, index), "GET") => {
            let status = uploads.of_parts(&owner, *id, query).await?;
            status.session.takes_parts().map_err(IngestError::from)?;
            let (url, expires) = uploads.url_of_part(&request, *id, *index);
            ok(json!({ "url": url, "expires": expires }))
        }
        (Route::Batch(id), "GET") => {
            let status = uploads.of_parts(&owner, *id, query).await?;
            status.session.takes_parts().map_err(IngestError::from)?;
            let numbers = in_query(query, "partNumbers").unwrap_or_default();
            let mut urls = Map::new();
            for number in numbers.split(',').take(BATCH_MAX) {
                let index = number
                    .parse::<u32>()
                    .ok()
                    .and_then(|number| number.checked_sub(1));
                let index =
                    index.ok_or_else(|| Problem::bad_request("partNumbers are not numbers"))?;
                let (url, _) = uploads.url_of_part(&request, *id, index);
                urls.insert(number.to_owned(), url.into());
            }
            ok(json!({ "presignedUrls": urls }))
        }
        (Route::Complete(id), "POST") => {
            let complete: Complete = bodies::document(&request, body, turns, &owner).await?;
            let status = uploads.of_parts(&owner, *id, query).await?;
            let connection = request.extensions.get::<Connection>();
            let published = uploads.complete_parts(&owner, &status, &complete.parts);
            waiting(connection, published).await?;
            ok(uploads.location(&request, status.session.declared.name.as_str()))
        }
        (route, _) => Ok(requests::no_method(route.methods())),
    }
}

fn listed(part: &FinishedPart) -> Value {
    let etag = format!("\"{}\"", part.sha256);
    json!({ "PartNumber": part.index + 1, "Size": part.length, "ETag": etag })
}

/// A value that may be a text or not.
fn is_true(value: Option<&Value>) -> bool {
    value.is_some_and(|value| *value == true || *value == "true")
}

fn missing() -> Problem {
    IngestError::NoSession.into()
}

impl Uploads {
    /// The URL of this server, as the client names it.
    fn base(&self, request: &Parts) -> String {
        let text = |name| request.headers.get(name)?.to_str().ok();
        let forwarded = text("x-forwarded-proto").and_then(|list: &str| list.split(',').next());
        let scheme = match (forwarded.map(str::trim), self.intake.is_tls) {
            (Some("https"), _) | (_, true) => "https",
            _ => "http",
        };
        let of_uri = request.uri.authority().map(|authority| authority.as_str());
        let host = text("host").or(of_uri).unwrap_or("localhost");
        format!("{scheme}://{host}")
    }

    fn location(&self, request: &Parts, name: &str) -> Value {
        let url = format!("{}{}", self.base(request), url_path(Path::new(name)));
        json!({ "location": url, "bucket": "", "key": name })
    }

    /// Says where the form with a file goes. Nothing is opened before it comes: a web page may send this request unasked.
    async fn params(&self, owner: &Owner, request: &Parts, query: &str) -> Result<Value, Problem> {
        let name = in_query(query, "filename").unwrap_or_default();
        let replace = ["metadata[replace]", "metadata%5Breplace%5D"];
        let replace = replace
            .iter()
            .any(|key| in_query(query, key).as_deref() == Some("true"));
        let name = upload::name(&name).ok_or(IngestError::BadName(name))?;
        if !replace {
            self.ingest.check_free(&name).await?;
        }
        let id = requests::new_id()?;
        let expires_s = self.ingest.now().unix_s + VALID_S;
        let form = FormUpload {
            id,
            owner: owner.clone(),
            name: name.to_string(),
            replace,
            expires_s,
        };
        // The client takes the URL without its query for that of a bucket.
        let url = format!("{}/?{}", self.base(request), self.signer.form_query(&form));
        let fields = json!({ "key": name.as_str() });
        Ok(json!({
            "method": "POST", "url": url, "fields": fields, "expires": VALID_S,
        }))
    }

    async fn begin_parts(&self, owner: &Owner, create: Create) -> Result<Value, Problem> {
        let metadata = create.metadata.unwrap_or_default();
        let part_size = match metadata.get("partSize") {
            None | Some(Value::Null) => PART_BYTES_MIN,
            Some(given) => {
                let text = given.as_str().map(str::to_owned);
                let number = text.unwrap_or_else(|| given.to_string()).parse();
                number.map_err(|_| Problem::bad_request("partSize is not a number of bytes"))?
            }
        };
        let id = requests::new_id()?;
        let open = OpenRequest {
            part_size: Some(part_size),
            replace: is_true(metadata.get("replace")),
            ..OpenRequest::of(create.filename, Protocol::Parts)
        };
        let opened = self.ingest.open(owner, id, &open).await?;
        let name = opened.status.session.declared.name.as_str().to_owned();
        Ok(json!({ "key": name, "uploadId": id.to_string(), "bucket": "" }))
    }

    /// An upload in parts, if the key is its name.
    async fn of_parts(&self, owner: &Owner, id: SessionId, query: &str) -> Result<Status, Problem> {
        let status = self.ingest.status(owner, id).await?;
        let declared = &status.session.declared;
        let key = in_query(query, "key");
        let is_same = key.is_none_or(|key| key == declared.name.as_str());
        match is_same && declared.protocol == Protocol::Parts {
            true => Ok(status),
            false => Err(missing()),
        }
    }

    fn url_of_part(&self, request: &Parts, id: SessionId, index: u32) -> (String, u64) {
        let path = self
            .signer
            .any_url(id, index, self.ingest.now().unix_s + VALID_S);
        (format!("{}{path}", self.base(request)), VALID_S)
    }

    /// Publishes the parts that the client lists.
    async fn complete_parts(
        self: &Arc<Self>,
        owner: &Owner,
        status: &Status,
        parts: &[Listed],
    ) -> Result<(), Problem> {
        let (session, finished) = (&status.session, &status.parts);
        let part_size = session.declared.plan.part_size();
        for (number, part) in (1..).zip(parts) {
            let stored = finished.iter().find(|stored| stored.index + 1 == number);
            let etag = part.etag.trim_matches('"');
            let is_same = |stored: &&FinishedPart| stored.sha256.to_string() == etag;
            let stored = stored.filter(|_| part.number == number).filter(is_same);
            let Some(stored) = stored else {
                let what = format!("part {number} is not the one that was sent");
                return Err(Problem::new(StatusCode::CONFLICT, "part_not_stored", what));
            };
            if stored.length != part_size && (number as usize) < parts.len() {
                return Err(wrong_size(number, stored.length, part_size));
            }
        }
        let length = finished
            .iter()
            .take(parts.len())
            .map(|part| part.length)
            .sum();
        self.publish(owner, session.id, length, PUBLISH_WAIT)
            .await?;
        Ok(())
    }

    /// Takes a form with a file.
    async fn take_form(self: &Arc<Self>, request: Parts, body: Body) -> Result<Response, Problem> {
        let query = request.uri.query().unwrap_or_default();
        let form = self.signer.check_form(query, self.ingest.now().unix_s);
        let form = form.map_err(part::denied)?;
        let (connection, uploads) = (
            request.extensions.get::<Connection>().cloned(),
            self.clone(),
        );
        let location = self.location(&request, &form.name)["location"].clone();
        let taking = tokio::spawn(async move {
            let media_type = request.headers.get(header::CONTENT_TYPE).cloned();
            let media_type = media_type
                .as_ref()
                .and_then(|media_type| media_type.to_str().ok());
            let media_type = media_type.unwrap_or_default();
            let silence = uploads.intake.pace.silence;
            let file = FormFile::begin(body.into_data_stream(), media_type, silence);
            let file = file.await.map_err(cut::problem)?;
            let mut arrivals = Arrivals::new(&uploads, form.id, Source::Form(file), &request);
            let began = Instant::now();
            let taken = uploads.take_file(&form, &mut arrivals).await;
            uploads.note_taken(taken.is_ok(), arrivals.arrived, began);
            arrivals.drain(&request).await;
            taken
        });
        let taken = waiting(connection.as_ref(), taking).await;
        let root = taken.unwrap_or_else(|_| Err(Problem::busy()))?;
        let location = location.as_str().unwrap_or_default().to_owned();
        let fields = [
            (header::LOCATION, location),
            (header::ETAG, format!("\"{root}\"")),
        ];
        Ok((StatusCode::NO_CONTENT, fields).into_response())
    }

    /// Takes a file from its start, and publishes it.
    async fn take_file(
        self: &Arc<Self>,
        form: &FormUpload,
        arrivals: &mut Arrivals<'_>,
    ) -> Result<String, Problem> {
        let (id, owner) = (form.id, &form.owner);
        let turn = self.intake.parts.try_take(owner);
        let _turn = turn.ok_or_else(Problem::busy)?;
        let open = OpenRequest {
            replace: form.replace,
            ..OpenRequest::of(form.name.clone(), Protocol::Stream)
        };
        let mut held = self
            .intake
            .streams
            .take((id, None))
            .await
            .map_err(cut::problem)?;
        held.close();
        let session = self.ingest.open(owner, id, &open).await?.status.session;
        if let State::Done(published) = session.state {
            // The response was lost.
            return Ok(published.root.to_string());
        }
        let mut run = Run {
            uploads: self,
            owner,
            id,
            plan: session.declared.plan,
            held: &mut held,
            index: 0,
            offset: 0,
            is_new: true,
            declared: None,
        };
        let taken = match run.take_all(arrivals).await {
            Ok(()) => run.finish().await,
            cut => cut,
        };
        taken.map_err(|cut| match cut {
            Cut::TooShort => Problem::bad_request("the form ended before its end"),
            cut => cut::problem(cut),
        })?;
        let length = run.offset;
        let session = self.publish(owner, id, length, PUBLISH_WAIT).await?;
        Ok(match session.state {
            State::Done(published) => published.root.to_string(),
            _ => String::new(),
        })
    }
}
