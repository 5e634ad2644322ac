//! Which request of the API leads to what, and who may make it.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    engine::{
        ingest::{Finalize, IngestError, Status, Target},
        storage::{Destination, StorageError},
    },
    format::upload::SessionId,
    policy::upload::{self, Owner},
};

use super::{
    PATH, Uploads, bodies, companion,
    cors::Origins,
    documents::{self, Checkpoint, Offers, Open},
    growing, part,
    problem::Problem,
    requests::{json, no_method, owner},
    signed::{Rest, Signer, VALID_S},
};

/// How long a request waits for its object to be published, before the client looks again by itself.
const PUBLISH_WAIT: Duration = Duration::from_secs(8);

/// What a path names.
enum Route {
    Sessions,
    Session(SessionId),
    Targets(SessionId),
    Part(SessionId, u32),
    Bytes(SessionId, u32),
    Finalize(SessionId),
    Growing(SessionId),
    Leaves(SessionId),
    Object(SessionId, String),
}

impl Route {
    fn of(path: &str) -> Option<Route> {
        let rest = path.strip_prefix(PATH)?;
        let Some(rest) = rest.strip_prefix('/') else {
            return Some(Route::Sessions);
        };
        let mut segments = rest.split('/');
        let id = segments.next()?.parse().ok()?;
        // A number has one spelling.
        let index = |text: &str| {
            let index: u32 = text.parse().ok()?;
            (index.to_string() == text).then_some(index)
        };
        let rest: Vec<&str> = segments.collect();
        Some(match rest[..] {
            [] => Route::Session(id),
            ["targets"] => Route::Targets(id),
            ["finalize"] => Route::Finalize(id),
            ["growing"] => Route::Growing(id),
            ["leaves"] => Route::Leaves(id),
            ["object", name] => {
                let name = percent_decode_str(name).decode_utf8().ok()?;
                Route::Object(id, name.into_owned())
            }
            ["parts", number] => Route::Part(id, index(number)?),
            ["parts", number, "bytes"] => Route::Bytes(id, index(number)?),
            _ => return None,
        })
    }

    fn methods(&self) -> &'static str {
        match self {
            Route::Sessions | Route::Growing(_) | Route::Leaves(_) | Route::Object(..) => {
                "GET, HEAD"
            }
            Route::Session(_) => "GET, HEAD, PUT, DELETE",
            Route::Targets(_) | Route::Finalize(_) => "POST",
            Route::Part(..) | Route::Bytes(..) => "PUT",
        }
    }
}

/// The response to a request.
pub async fn respond(uploads: &Arc<Uploads>, request: Request) -> Response {
    let responded = dispatch(uploads, request).await;
    responded.unwrap_or_else(|problem| problem.with_limits(uploads.ingest.limits()).response())
}

async fn dispatch(uploads: &Arc<Uploads>, request: Request) -> Result<Response, Problem> {
    let (request, body) = request.into_parts();
    let missing = || Problem::new(StatusCode::NOT_FOUND, "no_session", "there is nothing here");
    let route = Route::of(request.uri.path()).ok_or_else(missing)?;
    if request.method == Method::OPTIONS {
        let allow = (header::ALLOW, HeaderValue::from_static(route.methods()));
        let fields = (StatusCode::NO_CONTENT, [allow], Origins::preflight());
        return Ok(fields.into_response());
    }
    if let (Route::Bytes(id, index), &Method::PUT) = (&route, &request.method) {
        if Signer::is_for_any(&request) {
            let checked = uploads
                .signer
                .check_any(&request, uploads.ingest.now().unix_s);
            let taken = match checked.map_err(part::denied) {
                Ok(()) => uploads.take_any_part(request, body, (*id, *index)).await,
                Err(problem) => Err(problem),
            };
            return Ok(taken.unwrap_or_else(|problem| companion::told(uploads, problem)));
        }
        return part::receive(uploads, &request, body, *id, *index).await;
    }
    let owner = owner(uploads, &request).await?;
    let turns = &uploads.intake.documents;
    match (&route, request.method.as_str()) {
        (Route::Sessions, "GET" | "HEAD") => uploads.list(&request, &owner).await,
        (Route::Session(id), "GET" | "HEAD") => {
            let status = uploads.ingest.status(&owner, *id).await?;
            Ok(json(StatusCode::OK, &uploads.with_parts(&status)))
        }
        (Route::Growing(id), "GET" | "HEAD") => {
            growing::status(uploads, &request, &owner, *id).await
        }
        (Route::Leaves(id), "GET" | "HEAD") => {
            growing::leaves(uploads, &request, &owner, *id).await
        }
        (Route::Object(id, name), "GET" | "HEAD") => {
            growing::object(uploads, &request, &owner, *id, name).await
        }
        (Route::Session(id), "PUT") => {
            let open: Open = bodies::document(&request, body, turns, &owner).await?;
            uploads.open_session(&owner, *id, open).await
        }
        (Route::Session(id), "DELETE") => {
            uploads.ingest.abort(&owner, *id).await?;
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        (Route::Targets(id), "POST") => {
            let offers: Offers = bodies::document(&request, body, turns, &owner).await?;
            uploads.targets(&owner, *id, offers).await
        }
        (Route::Part(id, index), "PUT") => {
            let checkpoint: Checkpoint = bodies::document(&request, body, turns, &owner).await?;
            uploads.checkpoint(&owner, *id, *index, checkpoint).await
        }
        (Route::Finalize(id), "POST") => {
            let wanted = bodies::document(&request, body, turns, &owner).await?;
            uploads.finalize(&owner, *id, &wanted).await
        }
        _ => Ok(no_method(route.methods())),
    }
}

impl Uploads {
    fn with_parts(&self, status: &Status) -> Value {
        let expires_s = self.ingest.expires_s(&status.session);
        let mut document = documents::status(&status.session, Some(&status.parts), expires_s);
        document["base"] = status.base.as_ref().map(documents::base).into();
        document
    }

    async fn list(&self, request: &Parts, owner: &Owner) -> Result<Response, Problem> {
        let query = request.uri.query().unwrap_or_default();
        let (text, after) = (
            documents::in_query(query, "name"),
            documents::in_query(query, "after"),
        );
        let name = match &text {
            None => None,
            Some(text) => {
                let name = upload::name(text);
                Some(name.ok_or_else(|| IngestError::BadName(text.clone()))?)
            }
        };
        let after = match after {
            None => None,
            Some(text) => {
                let bad = || Problem::bad_request("there is no such page");
                Some(documents::cursor(&text).ok_or_else(bad)?)
            }
        };
        let page = self.ingest.list(owner, name, after).await?;
        let sessions: Vec<Value> = page
            .sessions
            .iter()
            .map(|session| self.status_of(session))
            .collect();
        let next = page.next;
        let next = next.map(|next| documents::page_url(text.as_deref(), next));
        let list = json!({ "sessions": sessions, "next": next });
        Ok(json(StatusCode::OK, &list))
    }

    async fn open_session(
        &self,
        owner: &Owner,
        id: SessionId,
        open: Open,
    ) -> Result<Response, Problem> {
        let opened = self.ingest.open(owner, id, &open.request()?).await?;
        let status = match opened.is_new {
            true => StatusCode::CREATED,
            false => StatusCode::OK,
        };
        Ok(json(status, &self.with_parts(&opened.status)))
    }

    async fn targets(
        &self,
        owner: &Owner,
        id: SessionId,
        offers: Offers,
    ) -> Result<Response, Problem> {
        let (parts, copies) = offers.parts()?;
        let expires_s = self.ingest.now().unix_s + VALID_S;
        let _turn = match copies {
            Some(_) => self.intake.copies.take(owner).await,
            None => None,
        };
        let targets = self
            .ingest
            .targets_with(owner, id, &parts, copies.as_ref())
            .await?;
        let url = |index: u32, rest: &Rest| {
            let part = parts.iter().find(|part| part.index == index);
            part.map(|part| self.signer.url(id, part, rest, expires_s))
        };
        let target = |target: &Target| match target {
            Target::Finished { index } => json!({ "index": index, "finished": true }),
            Target::Send { index, to } => match to {
                Destination::Stored { copied } => {
                    self.counts.note_copied(*copied);
                    json!({ "index": index, "stored": true, "copied": copied })
                }
                Destination::Rest { send, copied } => {
                    self.counts.note_copied(*copied);
                    let url = url(*index, &Rest::Ranges(send.clone()));
                    let mut target = documents::target(*index, url, &[], expires_s);
                    target["send"] = documents::ranges(send);
                    target["copied"] = (*copied).into();
                    target
                }
                Destination::Server { from } => {
                    let url = url(*index, &Rest::From(*from));
                    let mut target = documents::target(*index, url, &[], expires_s);
                    target["from"] = (*from).into();
                    target
                }
                Destination::Storage {
                    url,
                    headers,
                    expires_in_s,
                } => {
                    let (url, expires_s) = (url.clone(), self.ingest.now().unix_s + expires_in_s);
                    let mut target = documents::target(*index, Some(url), headers, expires_s);
                    target["from"] = 0.into();
                    target
                }
            },
        };
        let targets: Vec<Value> = targets.iter().map(target).collect();
        Ok(json(StatusCode::OK, &json!({ "targets": targets })))
    }

    async fn checkpoint(
        &self,
        owner: &Owner,
        id: SessionId,
        index: u32,
        checkpoint: Checkpoint,
    ) -> Result<Response, Problem> {
        let replace = checkpoint.replace;
        let part = checkpoint.part(index)?;
        let part = self.ingest.checkpoint(owner, id, part, replace).await?;
        Ok(json(StatusCode::OK, &documents::part(&part)))
    }

    async fn finalize(
        self: &Arc<Self>,
        owner: &Owner,
        id: SessionId,
        wanted: &documents::Finalize,
    ) -> Result<Response, Problem> {
        let session = match self.ingest.finalize(owner, id, wanted.goal()?).await? {
            Finalize::Done(_) => {
                let status = self.ingest.status(owner, id).await?;
                return Ok(json(StatusCode::OK, &self.with_parts(&status)));
            }
            Finalize::Working(session) => session,
            Finalize::Run(run) => {
                let uploads = self.clone();
                // It goes on if the client leaves.
                let mut running = tokio::spawn(async move { uploads.ingest.run(run).await });
                match timeout(PUBLISH_WAIT, &mut running).await {
                    // Another server goes on.
                    Ok(Ok(Err(IngestError::Storage(StorageError::Superseded)))) | Err(_) => {
                        Box::new(self.ingest.status(owner, id).await?.session)
                    }
                    Ok(Ok(published)) => {
                        let status = published?;
                        return Ok(json(StatusCode::OK, &self.with_parts(&status)));
                    }
                    Ok(Err(_)) => return Err(Problem::busy()),
                }
            }
        };
        let mut response = json(StatusCode::ACCEPTED, &self.status_of(&session));
        let second = HeaderValue::from_static("1");
        response.headers_mut().insert(header::RETRY_AFTER, second);
        Ok(response)
    }
}
