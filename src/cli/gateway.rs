//! `sapwood gateway`

use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::{Pin, pin},
    process::Stdio,
};

use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    net::{TcpListener, lookup_host},
    sync::Notify,
};

use crate::{
    disk::machine,
    engine::{
        context::{Context, StoreHandle},
        error::Error,
        events::{Event, Events},
        library::remote::RemoteOptions,
        queue::{JobEvent, Queue},
        read::{ReadOptions, growing},
    },
    net::location::Location,
    serve::gateway::{self, Gateway, Opened},
};

use super::{
    args::GatewayArgs,
    exit::Exit,
    hints, keys,
    network::{self, Refusal},
    output::Output,
    player::{self, Player},
    signals,
    targets::{self, Served},
};

/// Objects and libraries that are opened at a time: each needs one request and a little of its manifest.
const OPENED_AT_ONCE: usize = 8;

pub async fn run(args: GatewayArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    machine::raise_descriptors_max();
    let store = network::store(args.no_store, store, output).await;
    let exit = match prepare(&args, store).await {
        Ok(prepared) => {
            let context = prepared.context.clone();
            let exit = serve(prepared, &args, output).await;
            output.count_fetched(context.client.bytes_fetched());
            exit
        }
        Err(Refusal(exit, message)) => output.refuse(exit, &message),
    };
    output.done(exit)
}

/// What was typed, as the library takes it, and where the gateway listens.
struct Prepared {
    context: Context,
    listener: TcpListener,
    jobs: Vec<Job>,
}

/// One object or library, before it is opened.
struct Job {
    served: Served,
    what: What,
}

enum What {
    Object(Box<ReadOptions>),
    /// One that is still uploaded.
    Growing(Box<ReadOptions>),
    Library(Box<RemoteOptions>),
}

async fn prepare(args: &GatewayArgs, store: StoreHandle) -> Result<Prepared, Refusal> {
    let served = targets::served(args)?;
    let listener = listen(&args.listen).await?;
    let manifest = args.manifest.as_deref().map(network::manifest_place);
    let manifest = manifest.transpose()?;
    let key = args.key.as_deref().map(keys::public_key);
    let key = key.transpose().map_err(Refusal::usage)?;
    let mirrors = args.mirror.iter().map(|text| network::location(text));
    let mirrors = mirrors.collect::<Result<Vec<_>, _>>()?;
    let object = |url: Location| ReadOptions {
        url,
        manifest: manifest.clone(),
        root: args.root,
        key: key.clone(),
        require: args.require,
        max_size: args.network.max_size,
        mirrors: mirrors.clone(),
        name: None,
        length: None,
    };
    let library = |url: Location| RemoteOptions {
        url,
        root: args.root,
        key: key.clone(),
        require: args.require,
        max_size: args.network.max_size,
        mirrors: mirrors.clone(),
    };
    let job = |served: Served| Job {
        what: match served.is_library {
            true => What::Library(Box::new(library(served.url.clone()))),
            false if growing::session_of(&served.url).is_some() => {
                What::Growing(Box::new(object(served.url.clone())))
            }
            false => What::Object(Box::new(object(served.url.clone()))),
        },
        served,
    };
    Ok(Prepared {
        context: network::context(&args.network, store)?,
        listener,
        jobs: served.into_iter().map(job).collect(),
    })
}

/// Listens at an address of the loopback interface.
async fn listen(text: &str) -> Result<TcpListener, Refusal> {
    let failed = |cause: io::Error| {
        let message = format!(
            "failed to listen on {text}: {cause}; {}",
            hints::OTHER_ADDRESS
        );
        Refusal(Exit::Failed, message)
    };
    let addresses: Vec<SocketAddr> = lookup_host(text).await.map_err(failed)?.collect();
    if let Some(public) = addresses.iter().find(|address| !address.ip().is_loopback()) {
        return Err(Refusal(Exit::Unsafe, hints::not_loopback(public.ip())));
    }
    gateway::listen(&addresses).map_err(failed)
}

async fn serve(prepared: Prepared, args: &GatewayArgs, output: &mut Output) -> Exit {
    let Prepared {
        context,
        listener,
        jobs,
    } = prepared;
    let mut stopped = pin!(signals::stop(true));
    let opened = tokio::select! {
        opened = open_all(&context, &jobs, output) => opened,
        () = &mut stopped => return Exit::Ok,
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(exit) => return exit,
    };
    let ready =
        Gateway::new(context, opened).and_then(|gateway| Ok((gateway, listener.local_addr()?)));
    let (gateway, address) = match ready {
        Ok(ready) => ready,
        Err(cause) => {
            return output.refuse(
                Exit::Failed,
                &format!("failed to start the gateway: {cause}"),
            );
        }
    };
    let urls = gateway.urls(address);
    for url in &urls {
        match output.is_json() {
            true => output.json_event("listening", json!({ "url": url })),
            false => output.line(url),
        }
    }
    let page = gateway.page(address);
    output.notice(&format!(
        "the page with a map of what is proven is at {page}"
    ));
    output.flush();
    output.never_waits();
    if args.open
        && let Err(cause) = player::open_in_browser(&page)
    {
        let message = format!("failed to open a browser: {cause}; open {page} yourself");
        output.event(Event::Warning { message });
    }
    let player = match start_player(&args.player, &urls, output.is_json()) {
        Ok(player) => player,
        Err(message) => return output.refuse(Exit::Failed, &message),
    };
    let several = jobs.len() > 1 || jobs.iter().any(|job| job.served.is_library);
    output.is_about_several(several);
    let mut each = |path: &str, event: Event| {
        output.about(several.then(|| path.to_owned()));
        output.event(event);
        output.about(None);
    };
    let (served, ended) = run_until(gateway, listener, &mut each, player, stopped).await;
    match served
        .map_err(|cause| format!("failed to serve: {cause}"))
        .and(ended)
    {
        Ok(()) => Exit::Ok,
        Err(message) => output.refuse(Exit::Failed, &message),
    }
}

/// Starts the player, if one is given.
fn start_player(
    words: &[String],
    urls: &[String],
    is_json: bool,
) -> Result<Option<Player>, String> {
    if words.is_empty() {
        return Ok(None);
    }
    // Standard output is for events alone then.
    let stdout = match is_json {
        true => Stdio::from(io::stderr()),
        false => Stdio::inherit(),
    };
    Player::start(words, urls, stdout).map(Some)
}

/// Serves until a signal or the end of the player, and ends the player. Returns how both ended.
async fn run_until(
    gateway: Gateway,
    listener: TcpListener,
    each: &mut impl FnMut(&str, Event),
    mut player: Option<Player>,
    stopped: Pin<&mut impl Future<Output = ()>>,
) -> (io::Result<()>, Result<(), String>) {
    let mut ended = Ok(());
    let shutdown = async {
        tokio::select! {
            () = stopped => (),
            end = async { player.as_mut()?.ended().await.err() }, if player.is_some() => ended = end.map_or(Ok(()), Err),
        }
        if let Some(player) = player {
            player.end().await;
        }
    };
    let served = gateway.run(listener, each, shutdown).await;
    (served, ended)
}

/// Opens all objects, a few at a time. The first failure ends it.
async fn open_all(
    context: &Context,
    jobs: &[Job],
    output: &mut Output,
) -> Result<Vec<Opened>, Exit> {
    output.is_about_several(jobs.len() > 1);
    let queue = Queue {
        rounds: 1,
        patience: std::time::Duration::from_millis(context.limits.patience_ms),
        at_once: OPENED_AT_ONCE.min(context.connections.most() as usize),
        connections: context.connections.clone(),
    };
    let output = Mutex::new(output);
    let mut opened: Vec<Option<Opened>> = jobs.iter().map(|_| None).collect();
    let failure: Mutex<Option<(usize, Error)>> = Mutex::new(None);
    let failed = Notify::new();
    let attempt = async |job: &Job| {
        let mut events = Labelled {
            output: &output,
            name: (jobs.len() > 1).then(|| job.served.name.clone()),
        };
        let name = job.served.name.clone();
        match &job.what {
            What::Object(options) => {
                Opened::open(context, name, (**options).clone(), &mut events).await
            }
            What::Growing(options) => {
                Opened::open_growing(context, name, (**options).clone(), &mut events).await
            }
            What::Library(options) => {
                Opened::open_library(context, name, options, &mut events).await
            }
        }
    };
    let each = |index: usize, event| match event {
        JobEvent::Ended(Ok(object)) => opened[index] = Some(object),
        JobEvent::Ended(Err(error)) => {
            failure.lock().get_or_insert((index, error));
            failed.notify_one();
        }
        JobEvent::Again { .. } => (),
    };
    tokio::select! {
        biased;
        () = failed.notified() => (),
        () = queue.run(jobs, attempt, each) => (),
    }
    if let Some((index, error)) = failure.into_inner() {
        let url = jobs[index].served.url.to_string();
        return Err(output.into_inner().error(None, Some(&url), &error));
    }
    Ok(opened.into_iter().flatten().collect())
}

/// Labels the events of one object with its name.
struct Labelled<'a, 'o> {
    output: &'a Mutex<&'o mut Output>,
    name: Option<String>,
}

impl Events for Labelled<'_, '_> {
    fn event(&mut self, event: Event) {
        let mut output = self.output.lock();
        output.about(self.name.clone());
        output.event(event);
        output.about(None);
    }
}
