//! `sapwood serve`

use std::{
    ffi::OsStr,
    fs,
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::Arc,
};

use serde_json::json;
use tokio::{
    net::{TcpListener, lookup_host},
    sync::mpsc::{Receiver, Sender, channel},
};

use crate::{
    disk::{
        error::DiskError,
        files::{self, Folder},
        machine, regions, state,
    },
    engine::events::{Event, Events},
    serve::{
        connections::{self, Limits, Options},
        ingest::tokens::{BadTokens, TokenFile},
        metrics::Metrics,
        origin::{self, Origin},
        status,
        tls::Tls,
    },
};

use super::{
    access_log::Log, args::ServeArgs, exit::Exit, hints, network::Refusal, output::Output, signals,
    uploads,
};

/// Warnings that wait to be printed. More are dropped: they repeat what was said.
const WARNINGS: usize = 16;

pub async fn run(args: ServeArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    let mut origin = match Origin::open(&args.folder) {
        Ok(origin) => origin,
        Err(cause) => {
            return output.error(
                Some(&args.folder.display().to_string()),
                None,
                &cause.into(),
            );
        }
    };
    machine::raise_descriptors_max();
    let (warnings, told) = channel(WARNINGS);
    let tls = match tls(&args, &warnings) {
        Ok(tls) => tls,
        Err(Refusal(exit, message)) => return output.refuse(exit, &message),
    };
    let log = match log(&args, &warnings) {
        Ok(log) => log,
        Err(cause) => return output.error(None, None, &cause.into()),
    };
    origin.scheme = if tls.is_some() { "https" } else { "http" };
    if !args.no_manifests
        && let Some(message) = make_manifests(&mut origin, store, &warnings)
    {
        output.event(Event::Warning { message });
    }
    let listening = listen(&args, &mut origin, &warnings).await;
    let (listener, address, finals) = match listening {
        Ok(listening) => listening,
        Err(Refusal(exit, message)) => return output.refuse(exit, &message),
    };
    // Before the URL is printed: from then on signals may come.
    let stop = signals::stop(log.is_none());
    let reopening = signals::at_hangup(log.as_ref().map(|log| || log.reopen()));
    let url = format!("{}://{address}/", origin.scheme);
    match output.is_json() {
        true => output.json_event("listening", json!({ "url": url })),
        false => output.line(&url),
    }
    for message in cautions(&args, origin.folder()) {
        output.event(Event::Warning { message });
    }
    output.flush();
    output.never_waits();
    let options = Options {
        limits: Limits::default(),
        tls,
        log: log.as_ref().map(Log::lines),
        metrics: Metrics::new(),
        takes_bodies: args.uploads.ingest,
        status_paths: !args.no_metrics,
    };
    let serving = async {
        tokio::select! {
            () = origin::run(listener, origin, options, stop) => (),
            () = reopening => (),
            () = finals => (),
        }
    };
    Box::pin(print_while(serving, told, output)).await;
    // Ends the hashing that is under way.
    regions::stop();
    if let Some(log) = log {
        log.end();
    }
    Exit::Ok
}

/// Listens, and has the server take uploads if it is to. Returns also where it listens, and what is done for published objects.
async fn listen(
    args: &ServeArgs,
    origin: &mut Origin,
    warnings: &Sender<String>,
) -> Result<(TcpListener, SocketAddr, impl Future<Output = ()> + use<>), Refusal> {
    let bound = bind(&args.listen).await;
    let (listener, address) = bound.map_err(|message| Refusal(Exit::Failed, message))?;
    uploads::check_address(args, address)?;
    check_sessions(args)?;
    let url = format!("{}://{address}/", origin.scheme);
    let meant = uploads::open(args, tokens(args, warnings)?, &url, warnings).await?;
    let mut finals = None;
    if let Some(meant) = meant {
        let taken = origin.take_uploads(meant.uploads);
        taken.map_err(|cause| Refusal(Exit::Failed, cause.to_string()))?;
        finals = meant.finals;
    }
    let finals = async move {
        match finals {
            Some(finals) => Box::pin(finals.run()).await,
            None => std::future::pending().await,
        }
    };
    Ok((listener, address, finals))
}

/// Listens; returns also where.
async fn bind(listen: &str) -> Result<(TcpListener, SocketAddr), String> {
    let bound = async {
        let addresses: Vec<SocketAddr> = lookup_host(listen).await?.collect();
        let listener = connections::listen(&addresses, None)?;
        let address = listener.local_addr()?;
        Ok::<_, io::Error>((listener, address))
    };
    bound.await.map_err(|cause| {
        let other = hints::OTHER_ADDRESS;
        format!("failed to listen on {listen}: {cause}; {other}")
    })
}

/// Has manifests made; returns why that is not possible.
fn make_manifests(
    origin: &mut Origin,
    store: Option<PathBuf>,
    warnings: &Sender<String>,
) -> Option<String> {
    let warnings = warnings.clone();
    let warn = Arc::new(move |message| drop(warnings.try_send(message)));
    let store = store.or_else(state::default_folder);
    let made = origin.make_manifests(store.as_deref(), warn);
    made.err()
        .map(|cause| format!("no manifests are made, because there is no folder for them: {cause}"))
}

/// Runs the server, and prints its warnings meanwhile.
async fn print_while(
    serving: impl Future<Output = ()>,
    mut told: Receiver<String>,
    output: &mut Output,
) {
    let mut serving = pin!(serving);
    loop {
        tokio::select! {
            () = &mut serving => return,
            Some(message) = told.recv() => output.event(Event::Warning { message }),
        }
    }
}

/// Whether everyone could read a file: the folder and that of finished uploads are both served.
fn is_served(file: &Path, args: &ServeArgs) -> bool {
    let storage = args.uploads.storage.as_deref().map(Path::new);
    is_below(file, &args.folder) || storage.is_some_and(|storage| is_below(file, storage))
}

fn tls(args: &ServeArgs, warnings: &Sender<String>) -> Result<Option<Arc<Tls>>, Refusal> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else {
        return Ok(None);
    };
    if is_served(key, args) {
        let message = format!(
            "{} is in the folder that is served: everyone could read the key. {}",
            key.display(),
            hints::KEY_ELSEWHERE
        );
        return Err(Refusal(Exit::Unsafe, message));
    }
    let warnings = warnings.clone();
    let warn = Box::new(move |message| drop(warnings.try_send(message)));
    match Tls::load(certificate, key, warn) {
        Ok(tls) => Ok(Some(Arc::new(tls))),
        Err(cause) => Err(Refusal::usage(cause.to_string())),
    }
}

/// Refuses sessions that everyone could read.
fn check_sessions(args: &ServeArgs) -> Result<(), Refusal> {
    let file = args.uploads.sessions.as_deref();
    let Some(file) = file
        .filter(|file| !uploads::is_database(file))
        .map(Path::new)
    else {
        return Ok(());
    };
    // It is made if it is missing.
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let is_staged = file.iter().any(files::is_staged_uploads);
    match is_served(folder, args) && !is_staged {
        true => {
            let message = format!(
                "{} is in the folder that is served: everyone could read the sessions. {}",
                file.display(),
                hints::SESSIONS_ELSEWHERE
            );
            Err(Refusal(Exit::Unsafe, message))
        }
        false => Ok(()),
    }
}

/// Who may upload.
fn tokens(args: &ServeArgs, warnings: &Sender<String>) -> Result<Option<TokenFile>, Refusal> {
    let Some(file) = &args.uploads.token_file else {
        return Ok(None);
    };
    let shown = file.display();
    if is_served(file, args) {
        let elsewhere = hints::TOKENS_ELSEWHERE;
        let message = format!(
            "{shown} is in the folder that is served: everyone could read the tokens. {elsewhere}"
        );
        return Err(Refusal(Exit::Unsafe, message));
    }
    let warnings = warnings.clone();
    let warn = Box::new(move |message| drop(warnings.try_send(message)));
    match TokenFile::load(file, warn) {
        Ok(tokens) => Ok(Some(tokens)),
        Err(cause @ BadTokens::Unread { .. }) => Err(Refusal(Exit::Failed, cause.to_string())),
        Err(cause @ BadTokens::None { .. }) => Err(Refusal::usage(cause.to_string())),
    }
}

fn log(args: &ServeArgs, warnings: &Sender<String>) -> Result<Option<Log>, DiskError> {
    let Some(target) = &args.access_log else {
        return Ok(None);
    };
    let warnings = warnings.clone();
    let warn = Box::new(move |message| drop(warnings.try_send(message)));
    Log::start(target, warn).map(Some)
}

/// What the operator should know of these arguments.
fn cautions(args: &ServeArgs, folder: &Folder) -> Vec<String> {
    let mut cautions = Vec::new();
    if let Some(log) = args.access_log.as_deref()
        && is_served(log, args)
    {
        cautions.push(format!(
            "{} is in the folder that is served: everyone can read the access log",
            log.display()
        ));
    }
    for name in status::NAMES {
        if !args.no_metrics
            && folder
                .entry(OsStr::new(name))
                .is_ok_and(|entry| entry.is_some())
        {
            let file = folder.path_of(OsStr::new(name));
            cautions.push(format!(
                "/{name} is the file {}, not the server's own page",
                file.display()
            ));
        }
    }
    cautions
}

/// Whether a file that exists is in this folder.
fn is_below(file: &Path, folder: &Path) -> bool {
    let place = |path| fs::canonicalize(path).ok();
    matches!((place(file), place(folder)), (Some(file), Some(folder)) if file.starts_with(&folder))
}
