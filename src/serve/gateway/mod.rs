//! A server on the loopback interface that serves proven bytes of remote objects and libraries to players and browsers, as if they
//! were local files; and a page that shows them.
//!
//! It answers only requests that name it as their host and have its token in the path.

mod content;
mod folder;
mod growing;
mod host;
mod objects;
mod page;
mod routes;
mod state;
mod token;

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::{
    net::TcpListener,
    sync::mpsc::{self, UnboundedReceiver},
    time::timeout,
};

use crate::engine::{context::Context, events::Event};

use super::connections::{self, Connection, Limits};

pub use objects::Opened;

use host::OwnHosts;
use objects::Objects;
use routes::Route;
use token::Token;

/// A paused player reads nothing, and some do not connect again. While all connections are in use, the usual limit for that holds.
const PAUSE_TIME: Duration = Duration::from_secs(60 * 60);
/// Bytes that the system holds of a response before its client takes them. What a player has not taken when it seeks was fetched in
/// vain, and by itself the system would hold several megabytes.
const SEND_BUFFER_BYTES: u32 = 256 * 1024;
/// How long the transfers may take to end, and to note in the store what they fetched.
const CLOSE_TIME: Duration = Duration::from_secs(3);

/// Listens at one of these addresses.
pub fn listen(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    connections::listen(addresses, Some(SEND_BUFFER_BYTES))
}

/// Objects and libraries that were opened, and the token under which they are served.
pub struct Gateway {
    objects: Arc<Objects>,
    /// Of each object its path, of each library that of its top, below the token.
    places: Vec<String>,
    token: Token,
    events: UnboundedReceiver<(String, Event)>,
}

impl Gateway {
    /// A gateway to these objects, under a new token. Their names must differ.
    pub fn new(context: Context, opened: Vec<Opened>) -> io::Result<Gateway> {
        let (sender, events) = mpsc::unbounded_channel();
        let is_alone = opened.len() == 1;
        Ok(Gateway {
            places: opened.iter().map(|opened| opened.place(is_alone)).collect(),
            objects: Objects::new(context, opened, sender),
            token: Token::random()?,
            events,
        })
    }

    /// The URL of each object and library, in order, if the gateway listens at this address.
    pub fn urls(&self, address: SocketAddr) -> Vec<String> {
        let page = self.page(address);
        let places = self.places.iter().map(|place| routes::encoded(place));
        places.map(|place| format!("{page}{place}")).collect()
    }

    /// The URL of the page.
    pub fn page(&self, address: SocketAddr) -> String {
        format!("http://{address}/{}/", self.token)
    }

    /// Serves until `shutdown` is done. Reports each event with the path of its object.
    pub async fn run(
        self,
        listener: TcpListener,
        mut each: impl FnMut(&str, Event),
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let shared = Arc::new(Shared {
            hosts: OwnHosts::of(listener.local_addr()?),
            token: self.token,
            objects: self.objects.clone(),
        });
        let app = Router::new().fallback(serve).with_state(shared);
        let mut events = self.events;
        {
            let limits = Limits {
                silence: PAUSE_TIME,
                ..Limits::default()
            };
            let serving = connections::serve(listener, app, limits, shutdown);
            let mut serving = pin!(serving);
            loop {
                tokio::select! {
                    () = &mut serving => break,
                    Some((path, event)) = events.recv() => each(&path, event),
                }
            }
        }
        // What is not noted by then is fetched again some day.
        let _ = timeout(CLOSE_TIME, self.objects.close()).await;
        while let Ok((path, event)) = events.try_recv() {
            each(&path, event);
        }
        Ok(())
    }
}

/// What all requests share.
struct Shared {
    hosts: OwnHosts,
    token: Token,
    objects: Arc<Objects>,
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    Extension(connection): Extension<Connection>,
    request: Request,
) -> Response {
    let mut response = respond(&shared, connection, request).await;
    let headers = response.headers_mut();
    for (name, value) in PROTECTION {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    response
}

/// On every response: pages of other origins do not embed it, learn its URL, or take it for another type.
const PROTECTION: [(HeaderName, &str); 3] = [
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
];

async fn respond(shared: &Shared, connection: Connection, request: Request) -> Response {
    let (request, _) = request.into_parts();
    if !shared.hosts.are_named_by(&request) {
        return text(
            StatusCode::MISDIRECTED_REQUEST,
            "this host is not served here\n",
        );
    }
    if !matches!(request.method, Method::GET | Method::HEAD) {
        let allowed = [(header::ALLOW, "GET, HEAD")];
        return (StatusCode::METHOD_NOT_ALLOWED, allowed).into_response();
    }
    let objects = &shared.objects;
    match Route::of(request.uri.path(), &shared.token) {
        Some(Route::Page) => page::page(),
        Some(Route::Style) => page::style(),
        Some(Route::Script) => page::script(),
        Some(Route::State) => state::of(&request, objects),
        Some(Route::Folder) => folder::of(&request, objects).unwrap_or_else(nothing_here),
        Some(Route::Object(path)) => {
            let path = routes::decoded(path).unwrap_or_default();
            if let Some(object) = objects.find_growing(&path) {
                return growing::of(&request, connection, objects, object).await;
            }
            match objects.find(&path) {
                Some(object) => content::of(&request, connection, objects, object).await,
                None if folder::is_one(&path, objects) => folder::on_page(&path, &shared.token),
                None => nothing_here(),
            }
        }
        None => nothing_here(),
    }
}

/// The same for a wrong token and a wrong name.
fn nothing_here() -> Response {
    text(StatusCode::NOT_FOUND, "there is nothing here\n")
}

fn text(status: StatusCode, message: impl Into<Body>) -> Response {
    let media_type = HeaderValue::from_static("text/plain; charset=utf-8");
    let mut response = Response::new(message.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}
