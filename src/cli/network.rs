//! What the network flags mean.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use reqwest::header::{HeaderName, HeaderValue};

use crate::{
    disk::state,
    engine::{
        blocking::Threads,
        connections::Connections,
        context::{Context, StoreHandle},
        events::{Event, Events},
        fetch::ManifestPlace,
        host_memory,
    },
    format::reader,
    net::{
        auth::{Credentials, netrc::Netrc},
        authorities::Authorities,
        client::Client,
        hosts::Hosts,
        location::Location,
        options::{ClientOptions, Http},
        proxies::{self, BadProxy},
        s3::service::Service,
    },
    policy::schedule::Limits,
};

use super::{
    args::{HttpVersion, NetworkArgs},
    aws,
    exit::Exit,
    hints,
    output::Output,
};

/// Something that was typed and makes no sense, or cannot be read: the exit code and the message.
pub struct Refusal(pub Exit, pub String);

impl Refusal {
    pub fn usage(message: impl Into<String>) -> Refusal {
        Refusal(Exit::Usage, message.into())
    }

    /// A named file could not be read.
    fn unread(what: &str, cause: &std::io::Error) -> Refusal {
        Refusal(Exit::Failed, format!("failed to read {what}: {cause}"))
    }
}

pub fn location(text: &str) -> Result<Location, Refusal> {
    let location = Location::parse(text);
    let location =
        location.map_err(|cause| Refusal(Exit::of_bad_url(&cause), cause.to_string()))?;
    match aws::access() {
        Err(cause) if location.is_in_s3() => Err(Refusal::usage(hints::of_aws(cause))),
        _ => Ok(location),
    }
}

/// The URL of an object; a bucket is none.
pub fn object(text: &str) -> Result<Location, Refusal> {
    let location = location(text)?;
    match location.is_bucket() {
        true => Err(Refusal::usage(format!(
            "{location} is a bucket; an object is s3://BUCKET/KEY"
        ))),
        false => Ok(location),
    }
}

/// Whether a place is a URL, and not a file.
pub fn is_url(text: &str) -> bool {
    let schemes = ["http://", "https://", "s3://"];
    schemes.iter().any(|scheme| text.starts_with(scheme))
}

pub fn manifest_place(text: &str) -> Result<ManifestPlace, Refusal> {
    if text == "-" {
        let mut bytes = Vec::new();
        let mut input = std::io::stdin().take(reader::MANIFEST_BYTES_MAX);
        let read = input.read_to_end(&mut bytes);
        read.map_err(|cause| Refusal::unread("the manifest from standard input", &cause))?;
        return Ok(ManifestPlace::Bytes(bytes.into()));
    }
    if is_url(text) {
        return object(text).map(ManifestPlace::Url);
    }
    Ok(ManifestPlace::File(text.into()))
}

/// The store of this run. One that cannot be used is one warning, and the run remembers nothing.
pub async fn store(no_store: bool, folder: Option<PathBuf>, output: &mut Output) -> StoreHandle {
    let store = match no_store {
        true => StoreHandle::default(),
        false => {
            let store = unopened_store(folder);
            if !store.is_some() {
                let message = hints::NOTHING_REMEMBERED.to_owned();
                output.event(Event::Warning { message });
            }
            store
        }
    };
    if let Err(error) = store.with(|_| Ok(())).await {
        output.event(Event::Warning {
            message: format!("{error}; this run goes on without it"),
        });
    }
    store
}

/// The store of a run that may not need it.
pub fn unopened_store(folder: Option<PathBuf>) -> StoreHandle {
    let folder = folder.or_else(state::default_folder);
    folder.map_or_else(StoreHandle::default, StoreHandle::at)
}

/// What the network flags mean.
pub fn context(args: &NetworkArgs, store: StoreHandle) -> Result<Context, Refusal> {
    // A proxy that is chosen stands above the environment.
    if args.proxy.is_none() {
        proxies::check().map_err(|cause| {
            let exit = match cause {
                BadProxy::Malformed(_) => Exit::Usage,
                BadProxy::Scheme { .. } => Exit::Failed,
            };
            Refusal(exit, hints::of_proxy(&cause))
        })?;
    }
    let client = Client::new(client_options(args, &store)?);
    Ok(Context {
        store,
        limits: Limits {
            connections: args.connections,
            tries: args.tries,
            patience_ms: args.patience.as_millis() as u64,
            seed: std::process::id().into(),
        },
        connections: Connections::at_most(args.connections),
        // The program has nothing else to do, and a thread for each processor.
        threads: Threads::Runtime,
        ..Context::new(client)
    })
}

/// How long a server repeats a request to its storage: its clients wait for it.
const SERVER_PATIENCE_MS: u64 = 30_000;

/// For the requests of a server to S3, as the AWS variables and files say.
pub fn for_servers() -> Context {
    let access = aws::access().as_ref().ok().cloned().unwrap_or_default();
    let context = Context::new(Client::new(ClientOptions {
        credentials: Credentials {
            keys: access.keys,
            ..Credentials::default()
        },
        s3: access.service,
        ..ClientOptions::default()
    }));
    Context {
        limits: Limits {
            patience_ms: SERVER_PATIENCE_MS,
            ..context.limits
        },
        ..context
    }
}

fn client_options(args: &NetworkArgs, store: &StoreHandle) -> Result<ClientOptions, Refusal> {
    let access = aws::access().as_ref().ok().cloned().unwrap_or_default();
    let s3 = match &args.endpoint {
        Some(endpoint) => Service {
            endpoint: Some(endpoint.clone()),
            ..access.service
        },
        None => access.service,
    };
    let netrc = match args.netrc.then(netrc_path).flatten() {
        Some(path) => Netrc::parse(&String::from_utf8_lossy(&read(
            &path,
            "the logins of --netrc",
        )?)),
        None => Netrc::default(),
    };
    if args.proxy.is_some() && args.http == HttpVersion::Three {
        let message = "--http 3 does not go through a proxy; choose another --http with --proxy";
        return Err(Refusal::usage(message));
    }
    Ok(ClientOptions {
        http: match args.http {
            HttpVersion::Auto => Http::Auto,
            HttpVersion::One => Http::One,
            HttpVersion::Two => Http::Two,
            HttpVersion::Three => http3()?,
        },
        authorities: args
            .cacert
            .as_deref()
            .map(authorities)
            .transpose()?
            .unwrap_or_default(),
        credentials: Credentials {
            netrc,
            fields: headers(&args.headers)?,
            keys: access.keys,
        },
        s3,
        // As in curl: 0 is no limit.
        limit_rate: args.limit_rate.filter(|rate| *rate > 0),
        proxy: args.proxy.clone(),
        connect_timeout: Some(args.connect_timeout),
        allow_private: args.allow_private,
        hosts: match store.is_some() {
            true => host_memory::remembered(store.clone()),
            false => Hosts::default(),
        },
    })
}

#[cfg(feature = "http3")]
#[allow(clippy::unnecessary_wraps, reason = "other builds refuse")]
fn http3() -> Result<Http, Refusal> {
    Ok(Http::Three)
}

#[cfg(not(feature = "http3"))]
fn http3() -> Result<Http, Refusal> {
    let message = "this build of sapwood has no HTTP/3; choose another --http, or build it with the feature http3";
    Err(Refusal::usage(message))
}

fn netrc_path() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".netrc"));
    std::env::var_os("NETRC").map(PathBuf::from).or_else(home)
}

fn read(file: &Path, what: &str) -> Result<Vec<u8>, Refusal> {
    let what = format!("{}, {what}", file.display());
    std::fs::read(file).map_err(|cause| Refusal::unread(&what, &cause))
}

/// Certificates in PEM, at least one.
fn authorities(file: &Path) -> Result<Authorities, Refusal> {
    Authorities::parse(&read(file, "the certificates of --cacert")?).ok_or_else(|| {
        Refusal::usage(format!(
            "{} has no certificate in PEM (BEGIN CERTIFICATE), or a malformed one; --cacert needs certificates",
            file.display()
        ))
    })
}

/// Headers as they are typed, or in files: `@FILE`, one a line.
fn headers(typed: &[String]) -> Result<Vec<(HeaderName, HeaderValue)>, Refusal> {
    let mut headers = Vec::new();
    for text in typed {
        let Some(file) = text.strip_prefix('@') else {
            headers.push(header(text)?);
            continue;
        };
        let lines = std::fs::read_to_string(file)
            .map_err(|cause| Refusal::unread(&format!("{file}, the headers of -H"), &cause))?;
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            headers.push(header(line)?);
        }
    }
    Ok(headers)
}

/// One header. Its value may be a secret, so it is not repeated in the message.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), Refusal> {
    let wrong = || Refusal::usage(hints::BAD_HEADER);
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
    let mut value = HeaderValue::try_from(value.trim()).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((name, value))
}
