//! `sapwood serve`

use std::{ffi::OsStr, fs, future::Future, path::Path, pin::pin, sync::Arc};

use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::mpsc::{Receiver, Sender, channel},
};

use crate::{
    disk::{error::DiskError, files::Folder, machine},
    engine::events::{Event, Events},
    serve::{
        connections::{Limits, Options},
        metrics::Metrics,
        origin, status,
        tls::Tls,
    },
};

use super::{
    access_log::Log, args::ServeArgs, exit::Exit, hints, network::Refusal, output::Output, signals,
};

/// Warnings that wait to be printed. More are dropped: they repeat what was said.
const WARNINGS: usize = 16;

pub async fn run(args: ServeArgs, output: &mut Output) -> Exit {
    let folder = match Folder::open(&args.folder) {
        Ok(folder) => folder,
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
    let bound = async {
        let listener = TcpListener::bind(&*args.listen).await?;
        let address = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, address))
    };
    let (listener, address) = match bound.await {
        Ok(bound) => bound,
        Err(cause) => {
            let message = format!(
                "failed to listen on {}: {cause}; {}",
                args.listen,
                hints::OTHER_ADDRESS
            );
            return output.refuse(Exit::Failed, &message);
        }
    };
    // Before the URL is printed: from then on signals may come.
    let stop = signals::stop(log.is_none());
    let reopening = signals::at_hangup(log.as_ref().map(|log| || log.reopen()));
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}/");
    match output.is_json() {
        true => output.json_event("listening", json!({ "url": url })),
        false => output.line(&url),
    }
    for message in cautions(&args, &folder) {
        output.event(Event::Warning { message });
    }
    output.flush();
    let options = Options {
        limits: Limits::default(),
        tls,
        log: log.as_ref().map(Log::lines),
        metrics: Metrics::new(),
        status_paths: !args.no_metrics,
    };
    let serving = async {
        tokio::select! {
            () = origin::run(listener, folder, options, stop) => (),
            () = reopening => (),
        }
    };
    print_while(serving, told, output).await;
    if let Some(log) = log {
        log.end();
    }
    Exit::Ok
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

fn tls(args: &ServeArgs, warnings: &Sender<String>) -> Result<Option<Arc<Tls>>, Refusal> {
    let (Some(certificate), Some(key)) = (&args.tls_cert, &args.tls_key) else {
        return Ok(None);
    };
    if is_below(key, &args.folder) {
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
        && is_below(log, &args.folder)
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
