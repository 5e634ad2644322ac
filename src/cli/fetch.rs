//! `sapwood fetch`

use std::{
    collections::BTreeSet,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
};

use reqwest::header::{HeaderName, HeaderValue};
use serde_json::json;

use crate::{
    core::{reader, schedule::Limits},
    disk::state,
    engine::fetch::{self, FetchOptions, ManifestPlace},
    net::{
        client::{ClientOptions, Http},
        location::Location,
        netrc::Netrc,
    },
};

use super::{
    args::{FetchArgs, HttpVersion, NetworkArgs},
    exit::Exit,
    keys,
    output::Output,
    signals,
};

/// Something that was typed and cannot be meant, with its exit code.
pub struct Refusal(pub Exit, pub String);

pub async fn run(args: FetchArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    let state = state_folder(args.no_store, store);
    let jobs = match jobs(&args, state) {
        Ok(jobs) => jobs,
        Err(Refusal(exit, message)) => {
            let exit = output.fail(None, None, exit, &message, json!({}));
            return output.done(exit);
        }
    };
    let mut exits = Vec::new();
    for options in jobs {
        let (path, url) = (
            options.target.display().to_string(),
            options.url.to_string(),
        );
        let counter = options.client.counter.clone();
        output.about(Some(path.clone()));
        let ended = signals::unless_stopped(Box::pin(fetch::fetch(options, output))).await;
        output.count_fetched(counter.load(Ordering::Relaxed));
        let exit = match ended {
            Some(Ok(_)) => Exit::Ok,
            Some(Err(error)) => output.error(Some(&path), Some(&url), &error),
            None => {
                let message =
                    "stopped; what is proven is kept. Run the same command again to go on";
                let exit = output.fail(Some(&path), Some(&url), Exit::Again, message, json!({}));
                exits.push(exit);
                break;
            }
        };
        exits.push(exit);
    }
    output.about(None);
    let exit = Exit::of_all(exits);
    output.done(exit)
}

/// One fetch for each URL, or what is wrong with the arguments.
fn jobs(args: &FetchArgs, state: Option<PathBuf>) -> Result<Vec<FetchOptions>, Refusal> {
    let usage = |message: &str| Refusal(Exit::Usage, message.to_owned());
    if args.output.as_deref() == Some(Path::new("-")) {
        return Err(usage(
            "-o - is not possible: nothing unproven is shown. Use sapwood cat URL for a stream of proven bytes",
        ));
    }
    if args.urls.len() > 1
        && (args.root.is_some()
            || args.manifest.is_some()
            || !args.digest.is_empty()
            || args.sha256.is_some()
            || !args.mirror.is_empty())
    {
        return Err(usage(
            "--root, --manifest, --digest and --mirror go with one URL",
        ));
    }
    let folder = output_folder(args.output.as_deref());
    if args.urls.len() > 1 && args.output.is_some() && folder.is_none() {
        return Err(usage(
            "several URLs need a folder as -o (an existing one, or with a slash at its end)",
        ));
    }
    let client = client_options(&args.network)?;
    let key = args
        .key
        .as_deref()
        .map(keys::public_key)
        .transpose()
        .map_err(|message| Refusal(Exit::Usage, message))?;
    let mirrors = args
        .mirror
        .iter()
        .map(|text| location(text))
        .collect::<Result<Vec<_>, _>>()?;
    let mut targets = BTreeSet::new();
    let mut jobs = Vec::new();
    for text in &args.urls {
        let url = location(text)?;
        let target = match (&args.output, &folder) {
            (Some(file), None) => file.clone(),
            (_, folder) => {
                let name = url.safe_name().ok_or_else(|| {
                    Refusal(
                        Exit::Unsafe,
                        format!(
                            "{url} has no name that is safe for a file; choose one with -o FILE"
                        ),
                    )
                })?;
                folder.as_deref().unwrap_or(Path::new("")).join(name)
            }
        };
        if !targets.insert(target.clone()) {
            return Err(usage(&format!(
                "two URLs would both become {}; fetch them one by one with -o",
                target.display()
            )));
        }
        let mut options = FetchOptions::new(url, target);
        options.manifest = args.manifest.as_deref().map(manifest_place).transpose()?;
        options.root = args.root;
        options.mirrors.clone_from(&mirrors);
        options.key.clone_from(&key);
        options.digests = args.digest.iter().chain(&args.sha256).cloned().collect();
        options.discard = args.discard;
        options.state.clone_from(&state);
        options.require = args.require;
        options.no_clobber = args.no_clobber;
        options.client = ClientOptions {
            counter: Arc::default(),
            ..client.clone()
        };
        options.connections = args.network.connections;
        options.tries = args.network.tries;
        options.patience = args.network.patience;
        options.max_size = args.network.max_size;
        jobs.push(options);
    }
    Ok(jobs)
}

/// The folder that -o names, if it names one: it exists, or ends with a slash.
fn output_folder(output: Option<&Path>) -> Option<PathBuf> {
    let output = output?;
    let slash = output.as_os_str().as_encoded_bytes().ends_with(b"/");
    (slash || output.is_dir()).then(|| output.to_owned())
}

pub fn location(text: &str) -> Result<Location, Refusal> {
    Location::parse(text).map_err(|cause| Refusal(Exit::of_bad_url(&cause), cause.to_string()))
}

pub fn manifest_place(text: &str) -> Result<ManifestPlace, Refusal> {
    if text == "-" {
        let mut bytes = Vec::new();
        let most = reader::MANIFEST_BYTES_MAX;
        std::io::stdin()
            .take(most)
            .read_to_end(&mut bytes)
            .map_err(|cause| {
                Refusal(
                    Exit::Failed,
                    format!("failed to read the manifest from standard input: {cause}"),
                )
            })?;
        return Ok(ManifestPlace::Bytes(bytes.into()));
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return location(text).map(ManifestPlace::Url);
    }
    Ok(ManifestPlace::File(text.into()))
}

/// Where to remember what must be known in the next run.
pub fn state_folder(no_store: bool, store: Option<PathBuf>) -> Option<PathBuf> {
    match no_store {
        true => None,
        false => store.or_else(state::default_folder),
    }
}

/// Tries and patience of requests that are made one by one.
pub fn limits(args: &NetworkArgs) -> Limits {
    Limits {
        connections: args.connections,
        tries: args.tries,
        patience_ms: args.patience.as_millis() as u64,
        seed: std::process::id().into(),
    }
}

/// What the network flags mean.
pub fn client_options(args: &NetworkArgs) -> Result<ClientOptions, Refusal> {
    let mut headers = Vec::new();
    for text in &args.headers {
        match text.strip_prefix('@') {
            None => headers.push(header(text)?),
            Some(file) => {
                let lines = std::fs::read_to_string(file).map_err(|cause| {
                    Refusal(
                        Exit::Failed,
                        format!("failed to read the headers in {file}: {cause}"),
                    )
                })?;
                for line in lines.lines().filter(|line| !line.trim().is_empty()) {
                    headers.push(header(line)?);
                }
            }
        }
    }
    let read = |file: &Path| {
        std::fs::read(file).map_err(|cause| {
            Refusal(
                Exit::Failed,
                format!("failed to read {}: {cause}", file.display()),
            )
        })
    };
    let netrc = match args.netrc.then(netrc_path).flatten() {
        Some(path) => Netrc::parse(&String::from_utf8_lossy(&read(&path)?)),
        None => Netrc::default(),
    };
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
            .map(read)
            .transpose()?
            .unwrap_or_default(),
        netrc,
        headers,
        limit_rate: args.limit_rate,
        allow_private: args.allow_private,
        ..ClientOptions::default()
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
    Err(Refusal(Exit::Usage, message.to_owned()))
}

fn netrc_path() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".netrc"));
    std::env::var_os("NETRC").map(PathBuf::from).or_else(home)
}

/// A header as it is typed. Its value may be a secret, so it is not repeated in the message.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), Refusal> {
    let wrong = || Refusal(Exit::Usage, "headers are given as 'Name: value'".to_owned());
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
    let mut value = HeaderValue::try_from(value.trim()).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((name, value))
}
