//! An origin that speaks HTTP/2 in the clear, and breaks its rules where a script says.

use std::{
    net::{SocketAddr, TcpListener as StdListener},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason,
    server::{self, SendResponse},
};
use http::{Request, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// What happens to requests for the object, from the second one on, twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breaks {
    Nothing,
    /// The connection ends orderly, and takes no more requests.
    GoAway,
    /// It ends at once, in the middle of other answers.
    GoAwayNow,
    /// The stream ends in the middle of its body.
    Reset,
    /// The stream is refused before it is answered.
    Refuse,
    /// Half of the body comes, and then nothing.
    Silence,
    /// Not twice, but always: one stream at a time.
    OneStream,
}

/// A running origin. It ends when it is dropped.
pub struct Two {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

struct Script {
    path: String,
    object: Bytes,
    breaks: Breaks,
    seen: AtomicU32,
}

impl Two {
    pub fn start(path: &str, object: Vec<u8>, breaks: Breaks) -> Two {
        let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("it is bound");
        let runtime = Runtime::new().expect("threads");
        let script = Arc::new(Script {
            path: path.to_owned(),
            object: object.into(),
            breaks,
            seen: AtomicU32::new(0),
        });
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, script.clone()));
            }
        });
        Two {
            address,
            runtime: Some(runtime),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(stream: TcpStream, script: Arc<Script>) -> Result<(), h2::Error> {
    let mut builder = server::Builder::new();
    if script.breaks == Breaks::OneStream {
        builder.max_concurrent_streams(1);
    }
    let mut connection = builder.handshake(stream).await?;
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        let mut breaks = Breaks::Nothing;
        if request.uri().path() == script.path {
            let number = script.seen.fetch_add(1, Ordering::SeqCst);
            if (1..=2).contains(&number) {
                breaks = script.breaks;
            }
        }
        match breaks {
            Breaks::GoAway => connection.graceful_shutdown(),
            Breaks::GoAwayNow => connection.abrupt_shutdown(Reason::INTERNAL_ERROR),
            _ => (),
        }
        tokio::spawn(answer(request, respond, script.clone(), breaks));
    }
    Ok(())
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    script: Arc<Script>,
    breaks: Breaks,
) -> Result<(), h2::Error> {
    if request.uri().path() != script.path {
        let nothing = Response::builder().status(404).body(()).expect("a head");
        respond.send_response(nothing, true)?;
        return Ok(());
    }
    if breaks == Breaks::Refuse {
        respond.send_reset(Reason::REFUSED_STREAM);
        return Ok(());
    }
    let length = script.object.len();
    let range = request
        .headers()
        .get("range")
        .and_then(|value| value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'))
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse::<usize>().ok()?)));
    let head = Response::builder().header("etag", "\"two\"");
    let (head, body) = match range {
        Some((first, last)) => {
            let last = last.min(length - 1);
            let range = format!("bytes {first}-{last}/{length}");
            let body = script.object.slice(first..=last);
            (head.status(206).header("content-range", range), body)
        }
        None => (head.status(200), script.object.clone()),
    };
    let head = head.header("content-length", body.len());
    let mut stream = respond.send_response(head.body(()).expect("a head"), false)?;
    match breaks {
        Breaks::Reset => {
            stream.send_data(body.slice(..body.len() / 2), false)?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
        Breaks::Silence => {
            stream.send_data(body.slice(..body.len() / 2), false)?;
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
        _ => stream.send_data(body, true)?,
    }
    Ok(())
}
