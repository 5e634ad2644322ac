//! What the network flags mean.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use reqwest::header::{HeaderName, HeaderValue};

use crate::{
    disk::state::{self, State},
    engine::{
        events::{Event, Events},
        fetch::ManifestPlace,
        host_memory,
    },
    format::reader,
    net::{
        client::{ClientOptions, Http},
        hosts::Hosts,
        location::Location,
        netrc::Netrc,
    },
    policy::schedule::Limits,
};

use super::{
    args::{HttpVersion, NetworkArgs},
    exit::Exit,
    output::Output,
};

/// Something that was typed and makes no sense, or cannot be read: the exit code and the message.
pub struct Refusal(pub Exit, pub String);

impl Refusal {
    pub fn usage(message: impl Into<String>) -> Refusal {
        Refusal(Exit::Usage, message.into())
    }

    /// What was named could not be read.
    fn unread(what: &str, cause: &std::io::Error) -> Refusal {
        Refusal(Exit::Failed, format!("failed to read {what}: {cause}"))
    }
}

pub fn location(text: &str) -> Result<Location, Refusal> {
    Location::parse(text).map_err(|cause| Refusal(Exit::of_bad_url(&cause), cause.to_string()))
}

pub fn manifest_place(text: &str) -> Result<ManifestPlace, Refusal> {
    if text == "-" {
        let mut bytes = Vec::new();
        let mut input = std::io::stdin().take(reader::MANIFEST_BYTES_MAX);
        let read = input.read_to_end(&mut bytes);
        read.map_err(|cause| Refusal::unread("the manifest from standard input", &cause))?;
        return Ok(ManifestPlace::Bytes(bytes.into()));
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return location(text).map(ManifestPlace::Url);
    }
    Ok(ManifestPlace::File(text.into()))
}

/// The folder with what is remembered between runs, if it can be used. If not, that is one warning.
pub fn state_folder(
    no_store: bool,
    store: Option<PathBuf>,
    output: &mut Output,
) -> Option<PathBuf> {
    let folder = match no_store {
        true => return None,
        false => store.or_else(state::default_folder)?,
    };
    match State::open(&folder) {
        Ok(_) => Some(folder),
        Err(error) => {
            output.event(Event::Warning {
                message: format!("{error}; this run goes on without it"),
            });
            None
        }
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
pub fn client_options(args: &NetworkArgs, state: Option<&Path>) -> Result<ClientOptions, Refusal> {
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
        headers: headers(&args.headers)?,
        limit_rate: args.limit_rate,
        allow_private: args.allow_private,
        hosts: state.map_or_else(Hosts::default, |folder| {
            host_memory::remembered(folder.to_owned())
        }),
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

fn read(file: &Path) -> Result<Vec<u8>, Refusal> {
    std::fs::read(file).map_err(|cause| Refusal::unread(&file.display().to_string(), &cause))
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
            .map_err(|cause| Refusal::unread(&format!("the headers in {file}"), &cause))?;
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            headers.push(header(line)?);
        }
    }
    Ok(headers)
}

/// One header. Its value may be a secret, so it is not repeated in the message.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), Refusal> {
    let wrong = || Refusal::usage("headers are given as 'Name: value'");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
    let mut value = HeaderValue::try_from(value.trim()).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((name, value))
}
