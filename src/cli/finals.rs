//! `--on-final` and `--on-event`: telling a command or a URL what happens to uploads, each notice at least once. They are kept with the
//! sessions, so that a crash loses nothing, and one server at a time tells each.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    sync::mpsc::Sender,
    time::{sleep, timeout},
};

use crate::{
    disk::files::Folder,
    engine::ingest::NoticeEnd,
    net::{
        client::Client,
        error::NetError,
        location::Location,
        options::ClientOptions,
        request::{Body, Method, Request},
    },
    policy::{
        recovery::{BadResponse, Failure},
        upload::notices::KeptNotices,
    },
    serve::ingest::{HookNotice, Uploads},
};

use super::{
    network::{self, Refusal},
    player,
};

/// How long a command may take.
const COMMAND_TIME: Duration = Duration::from_secs(600);
/// How long a request may take.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// Of a response nothing is used.
const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// How often a command is run that does not end well: with the pauses between it takes over ten minutes.
const COMMAND_TRIES: u32 = 10;
/// The pause after a failure of the store of sessions.
const STORE_PAUSE: Duration = Duration::from_secs(5);

/// Who is told.
pub enum Told {
    /// A command, which a shell runs.
    Command(String),
    /// A page, by POST.
    Url(Box<(Location, Client)>),
}

impl Told {
    /// What was typed: a URL, or else a command.
    pub fn parse(typed: &str) -> Result<Told, Refusal> {
        let is_url = ["http://", "https://"]
            .iter()
            .any(|scheme| typed.starts_with(scheme));
        match is_url {
            true => {
                let location = network::location(typed)?;
                let client = Client::new(ClientOptions {
                    // A page may work before it responds: told again, it would work again.
                    connect_timeout: Some(REQUEST_TIME),
                    ..ClientOptions::default()
                });
                Ok(Told::Url(Box::new((location, client))))
            }
            false => Ok(Told::Command(typed.to_owned())),
        }
    }
}

/// Where objects are published.
pub enum PublishedAt {
    Folder(Arc<Folder>),
    S3(Location),
}

impl PublishedAt {
    /// The variable with the place of an object, for commands.
    fn of(&self, name: &str) -> (&'static str, String) {
        match self {
            PublishedAt::Folder(root) => {
                let path = root.path_of(name.as_ref());
                ("SAPWOOD_UPLOAD_PATH", path.display().to_string())
            }
            PublishedAt::S3(folder) => ("SAPWOOD_UPLOAD_URL", folder.below(name).to_string()),
        }
    }
}

/// Tells what happens to uploads.
pub struct Finals {
    pub told: Told,
    /// What it is told of.
    pub kept: KeptNotices,
    pub uploads: Arc<Uploads>,
    pub published_at: PublishedAt,
    /// Of the server.
    pub url: String,
    pub warnings: Sender<String>,
}

/// Why a page was not told.
enum Untold {
    /// It refused the request: no repetition helps.
    Refused(String),
    /// It may be told later.
    Later(String),
}

impl Finals {
    /// Tells each notice, for ever.
    pub async fn run(self) {
        let tell_all = || self.tell_all();
        match self.told {
            // One after the other.
            Told::Command(_) => tell_all().await,
            // A slow one does not keep all others.
            Told::Url(_) => drop(tokio::join!(tell_all(), tell_all(), tell_all(), tell_all())),
        }
    }

    async fn tell_all(&self) {
        loop {
            match self.uploads.next_notice(&self.url).await {
                Ok(notice) => {
                    let told = self.tell(&notice);
                    // Else another server tells it now.
                    if let Some(end) = self.uploads.while_held(&notice, told).await {
                        self.warn_of(&notice, &end);
                        self.note(&notice, &end).await;
                    }
                }
                Err(cause) => {
                    self.warn(format!("notices of uploads wait: {cause}"));
                    sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    /// Tells it not again because only the note is missing.
    async fn note(&self, notice: &HookNotice, end: &NoticeEnd) {
        while let Err(cause) = self.uploads.end_notice(notice, end).await {
            self.warn(format!("{}: {cause}", notice.name()));
            sleep(STORE_PAUSE).await;
        }
    }

    fn warn(&self, message: String) {
        let _ = self.warnings.try_send(message);
    }

    fn warn_of(&self, notice: &HookNotice, end: &NoticeEnd) {
        let what = format!("{}, {}", notice.name(), notice.event());
        match end {
            NoticeEnd::Again(why) if notice.tries() == 1 => {
                self.warn(format!("the notice of {what}, is repeated: {why}"));
            }
            NoticeEnd::GivenUp(why) => {
                self.warn(format!("the notice of {what}, is given up: {why}"));
            }
            NoticeEnd::Again(_) | NoticeEnd::Told => (),
        }
    }

    async fn tell(&self, notice: &HookNotice) -> NoticeEnd {
        if !notice.is_of(self.kept) {
            return NoticeEnd::GivenUp("this server tells of published objects alone".to_owned());
        }
        match &self.told {
            Told::Command(command) => match self.run_command(command, notice).await {
                Ok(()) => NoticeEnd::Told,
                Err(why) if notice.tries() < COMMAND_TRIES => NoticeEnd::Again(why),
                Err(why) => NoticeEnd::GivenUp(why),
            },
            Told::Url(page) => match post(&page.0, &page.1, &notice.document).await {
                Ok(()) => NoticeEnd::Told,
                Err(Untold::Refused(why)) => NoticeEnd::GivenUp(format!("{}: {why}", page.0)),
                Err(Untold::Later(why)) => NoticeEnd::Again(format!("{}: {why}", page.0)),
            },
        }
    }

    async fn run_command(&self, command: &str, notice: &HookNotice) -> Result<(), String> {
        let status = &notice.status;
        let text = |member: &str| status[member].as_str().unwrap_or_default().to_owned();
        let variables = [
            ("SAPWOOD_UPLOAD_EVENT", notice.event().to_owned()),
            ("SAPWOOD_UPLOAD_NAME", text("name")),
            ("SAPWOOD_UPLOAD_ROOT", text("root")),
            ("SAPWOOD_UPLOAD_OWNER", text("owner")),
            ("SAPWOOD_UPLOAD_SESSION", text("id")),
            self.published_at.of(&text("name")),
        ];
        let input = format!("{status}\n");
        player::run_in_shell(command, &variables, &input, COMMAND_TIME).await
    }
}

async fn post(page: &Location, client: &Client, document: &Value) -> Result<(), Untold> {
    let body = Body::json(document.to_string());
    let request = Request::new(Method::Post, page, body);
    let called = timeout(REQUEST_TIME, client.call(request, RESPONSE_BYTES_MAX)).await;
    match called {
        Ok(Ok(reply)) if (200..300).contains(&reply.status) => Ok(()),
        Ok(Ok(reply)) => {
            let why = format!("status {}", reply.status);
            match reply.status {
                408 | 425 | 429 | 500.. => Err(Untold::Later(why)),
                _ => Err(Untold::Refused(why)),
            }
        }
        // It took the notice, and its response is longer than we read.
        Ok(Err(NetError {
            failure: Failure::BadResponse(BadResponse::Status(200..300)),
            ..
        })) => Ok(()),
        Ok(Err(cause)) => Err(Untold::Later(cause.detail().to_owned())),
        Err(_) => Err(Untold::Later("it took too long to respond".to_owned())),
    }
}
