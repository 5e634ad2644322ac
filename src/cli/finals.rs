//! `--on-final`: telling a command or a URL of each published object, at least once. What is told is noted with the sessions, so that a
//! crash loses nothing.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{
    sync::mpsc::Sender,
    time::{sleep, timeout},
};

use crate::{
    disk::files::Folder,
    net::{
        client::Client,
        location::Location,
        request::{Body, Method, Request},
    },
    serve::ingest::Uploads,
};

use super::{
    network::{self, Refusal},
    player,
};

/// How long a command for a published object may take.
const COMMAND_TIME: Duration = Duration::from_secs(600);
/// How long a request may take.
const REQUEST_TIME: Duration = Duration::from_secs(60);
/// Of a response nothing is used.
const RESPONSE_BYTES_MAX: usize = 1 << 20;
/// The pause after a request that failed, and twice as long each time.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);
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
                Ok(Told::Url(Box::new((location, Client::default()))))
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

/// Tells of published objects.
pub struct Finals {
    pub told: Told,
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
    /// Tells of each published object, one after the other, for ever.
    pub async fn run(self) {
        loop {
            match self.uploads.untold().await {
                Ok(untold) => {
                    for (id, status) in untold {
                        self.tell(&status).await;
                        // Not again: only the note is missing.
                        while let Err(cause) = self.uploads.told(id).await {
                            self.warn(format!("{}: {cause}", name_of(&status)));
                            sleep(STORE_PAUSE).await;
                        }
                    }
                }
                Err(cause) => {
                    self.warn(format!("notices of published objects wait: {cause}"));
                    sleep(STORE_PAUSE).await;
                }
            }
        }
    }

    fn warn(&self, message: String) {
        let _ = self.warnings.try_send(message);
    }

    async fn tell(&self, status: &Value) {
        match &self.told {
            Told::Command(command) => self.run_command(command, status).await,
            Told::Url(page) => self.tell_page(&page.0, &page.1, status).await,
        }
    }

    async fn run_command(&self, command: &str, status: &Value) {
        let text = |member: &str| status[member].as_str().unwrap_or_default().to_owned();
        let variables = [
            ("SAPWOOD_UPLOAD_NAME", text("name")),
            ("SAPWOOD_UPLOAD_ROOT", text("root")),
            ("SAPWOOD_UPLOAD_OWNER", text("owner")),
            ("SAPWOOD_UPLOAD_SESSION", text("id")),
            self.published_at.of(&text("name")),
        ];
        let input = format!("{status}\n");
        let ran = player::run_in_shell(command, &variables, &input, COMMAND_TIME);
        if let Err(message) = ran.await {
            let name = name_of(status);
            self.warn(format!("{name} was published, but {message}"));
        }
    }

    /// Repeats the request until the page accepts it, or refuses it for good.
    async fn tell_page(&self, page: &Location, client: &Client, status: &Value) {
        let path = status["url"].as_str().unwrap_or_default();
        let document = json!({
            "event": "published",
            "session": status["id"],
            "name": status["name"],
            "root": status["root"],
            "length": status["length"],
            "url": format!("{}{path}", self.url.trim_end_matches('/')),
            "owner": status["owner"],
            "proof": status["proof"],
        });
        let (name, mut pause, mut has_warned) = (name_of(status), PAUSE, false);
        loop {
            match post(page, client, &document).await {
                Ok(()) => return,
                Err(Untold::Refused(why)) => {
                    return self.warn(format!(
                        "{name} was published, but {page} refused the notice: {why}"
                    ));
                }
                Err(Untold::Later(why)) if !has_warned => {
                    has_warned = true;
                    self.warn(format!(
                        "{name} was published; the notice to {page} is repeated: {why}"
                    ));
                }
                Err(Untold::Later(_)) => (),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn name_of(status: &Value) -> &str {
    status["name"].as_str().unwrap_or_default()
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
        Ok(Err(cause)) => Err(Untold::Later(cause.detail().to_owned())),
        Err(_) => Err(Untold::Later("it took too long to respond".to_owned())),
    }
}
