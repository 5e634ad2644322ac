//! What is in a folder: a page for people, which needs no script, or JSON for programs (`Accept: application/json`).
//!
//! A file `index.html` is not taken for it: this server publishes files to be fetched and proven, and what a folder has should be seen.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, header, request::Parts},
    response::Response,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    disk::{
        error::{DiskError, FileOperation},
        files::{EntryKind, Folder, Version},
        listing::{self, Listed},
    },
    engine::blocking,
    format::characters::{is_invisible, turns_text},
    serve::ingest::PAGE,
};

use super::{
    Origin,
    endpoint::time,
    path::{encoded, is_described, is_served, url_path},
    status,
};

/// Entries on a page; its bytes are then at most about 5 MB.
const ENTRIES_MAX: usize = 10_000;
/// Folders that are read at a time.
static READING: Semaphore = Semaphore::const_new(4);

/// Nothing but our own style; no other site may show the page as its own.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const STYLE: &str = include_str!("index_page.css");

/// An entry as it is shown.
struct Shown {
    name: OsString,
    version: Version,
    root: Option<String>,
    has_manifest: bool,
}

/// The entries of a folder, sorted.
struct Contents {
    folders: Vec<OsString>,
    files: Vec<Shown>,
    /// There are more.
    truncated: bool,
    /// It is the served folder itself, and has an index.
    is_library: bool,
    /// It is the served folder itself, and the server takes uploads.
    takes_uploads: bool,
}

/// The response for a folder without the slash at its end, on which the links of its page depend.
pub fn redirect(path: &Path) -> Response {
    let mut response = status(StatusCode::TEMPORARY_REDIRECT);
    if let Ok(place) = HeaderValue::try_from(format!("{}/", url_path(path))) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

impl Origin {
    /// The response for a folder.
    pub(super) async fn index(
        &self,
        request: &Parts,
        path: PathBuf,
    ) -> Result<Response, DiskError> {
        let Ok(_permit) = READING.acquire().await else {
            return Ok(status(StatusCode::SERVICE_UNAVAILABLE));
        };
        let (folder, at) = (self.folders.first().clone(), path.clone());
        let Some((entries, truncated)) = blocking::on_disk(move || entries(&folder, &at)).await?
        else {
            return Ok(status(StatusCode::NOT_FOUND));
        };
        let contents = self.contents(&path, entries, truncated);
        let (text, media_type) = match wants_json(request) {
            true => (json(&path, &contents).to_string(), "application/json"),
            false => {
                let page = page(&path, &contents, &self.base(request));
                (page, "text/html; charset=utf-8")
            }
        };
        let length = text.len();
        let mut response = Response::new(match request.method == Method::HEAD {
            true => Body::empty(),
            false => Body::from(text),
        });
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        let policy = HeaderValue::from_static(POLICY);
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        Ok(response)
    }

    fn contents(&self, path: &Path, mut entries: Vec<Listed>, truncated: bool) -> Contents {
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let kind = |kind: EntryKind| move |entry: &Listed| entry.version.kind() == kind;
        let (folders, others): (Vec<Listed>, Vec<Listed>) =
            entries.into_iter().partition(kind(EntryKind::Folder));
        let mut files: Vec<Listed> = others;
        files.retain(kind(EntryKind::Regular));
        let names: Vec<OsString> = files.iter().map(|file| file.name.clone()).collect();
        let is_there = |name: &OsString| names.binary_search(name).is_ok();
        // A manifest is a link in the row of its file.
        files.retain(|file| {
            let object = Path::new(&file.name).with_extension("");
            let is_manifest = Path::new(&file.name).extension() == Some("sapwood".as_ref());
            !(is_manifest && is_described(&object) && is_there(&object.into_os_string()))
        });
        let shown = |file: Listed| {
            let place = path.join(&file.name);
            let place = place.strip_prefix(".").unwrap_or(&place);
            let manifests = self.manifests.as_ref();
            let known = manifests.and_then(|manifests| manifests.known(place, &file.version));
            let mut beside = file.name.clone();
            beside.push(".sapwood");
            Shown {
                root: known.map(|known| known.root.to_string()),
                has_manifest: is_described(place) && (manifests.is_some() || is_there(&beside)),
                name: file.name,
                version: file.version,
            }
        };
        Contents {
            folders: folders.into_iter().map(|folder| folder.name).collect(),
            files: files.into_iter().map(shown).collect(),
            truncated,
            is_library: path == Path::new(".") && self.library.is_some(),
            takes_uploads: path == Path::new(".") && self.uploads.is_some(),
        }
    }

    /// The URL of this server, as the client wrote it.
    fn base(&self, request: &Parts) -> String {
        let host = request.headers.get(header::HOST);
        let host = host.and_then(|host| host.to_str().ok());
        let authority = request.uri.authority().map(|authority| authority.as_str());
        let is_name = |host: &&str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte);
            !host.is_empty() && host.bytes().all(allowed)
        };
        let host = host.or(authority).filter(is_name).unwrap_or("HOST");
        format!("{}://{host}", self.scheme)
    }
}

/// The entries of a folder. Links are what they lead to inside the served folder.
fn entries(folder: &Arc<Folder>, path: &Path) -> Result<Option<(Vec<Listed>, bool)>, DiskError> {
    let Some((opened, version)) = folder.open_beneath(path)? else {
        return Ok(None);
    };
    if version.kind() != EntryKind::Folder {
        return Ok(None);
    }
    let listed = listing::entries(&opened, ENTRIES_MAX, is_served);
    let (mut entries, truncated) =
        listed.map_err(|cause| DiskError::io(FileOperation::Read, path, cause))?;
    entries.retain_mut(|entry| {
        if entry.version.kind() == EntryKind::Link {
            match folder.open_beneath(&path.join(&entry.name)) {
                Ok(Some((_, version))) => entry.version = version,
                _ => return false,
            }
        }
        true
    });
    Ok(Some((entries, truncated)))
}

fn wants_json(request: &Parts) -> bool {
    let mut accept = request.headers.get_all(header::ACCEPT).iter();
    let accepts = |value: &HeaderValue, wanted: &str| {
        value
            .to_str()
            .is_ok_and(|value| value.to_ascii_lowercase().contains(wanted))
    };
    accept.any(|value| accepts(value, "application/json") && !accepts(value, "text/html"))
}

fn json(path: &Path, contents: &Contents) -> Value {
    let files = contents.files.iter().map(|file| {
        let url = encoded(&file.name);
        json!({
            "name": file.name.to_string_lossy(),
            "url": url,
            "length": file.version.stamp().length,
            "last_modified": time(&file.version),
            "root": file.root,
            "manifest": file.has_manifest.then(|| format!("{url}.sapwood")),
        })
    });
    let folders = contents.folders.iter().map(
        |name| json!({ "name": name.to_string_lossy(), "url": format!("{}/", encoded(name)) }),
    );
    json!({
        "path": format!("{}/", url_path(path)),
        "folders": folders.collect::<Vec<Value>>(),
        "files": files.collect::<Vec<Value>>(),
        "truncated": contents.truncated,
    })
}

fn page(path: &Path, contents: &Contents, base: &str) -> String {
    let title = match path == Path::new(".") {
        true => "/".to_owned(),
        false => format!("/{}/", shown(&path.to_string_lossy())),
    };
    let mut rows = String::new();
    if path != Path::new(".") {
        rows += "<tr><td class=name><a href=\"../\">../</a><td><td><td><td>\n";
    }
    for name in &contents.folders {
        let url = encoded(name);
        let name = shown(&name.to_string_lossy());
        rows += &format!("<tr><td class=name><a href=\"{url}/\">{name}/</a><td><td><td><td>\n");
    }
    for file in &contents.files {
        rows += &row(file);
    }
    let more = match contents.truncated {
        true => format!("<p>There are more than the {ENTRIES_MAX} entries that are shown.\n"),
        false => String::new(),
    };
    let empty = match contents.folders.is_empty() && contents.files.is_empty() {
        true => "<p>Nothing is here yet.\n",
        false => "",
    };
    let example = contents.files.iter().find(|file| file.has_manifest);
    let fetch = example.map_or_else(String::new, |file| {
        let url = format!("{base}{}/{}", url_path(path), encoded(&file.name));
        format!(
            "<p>Fetch a file, proven block by block:\n<pre>sapwood fetch {}</pre>\n",
            shown(&url)
        )
    });
    let sync = match contents.is_library {
        true => format!(
            "<p>Keep a copy of the whole folder in step:\n<pre>sapwood sync {}/ DIR</pre>\n",
            shown(base)
        ),
        false => String::new(),
    };
    let upload = match contents.takes_uploads {
        true => format!("<p><a href=\"{PAGE}\">Upload files</a>\n"),
        false => String::new(),
    };
    format!(
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n\
         <meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta name=color-scheme content=\"light dark\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n<h1>{title}</h1>\n\
         <table>\n<thead><tr><th scope=col>Name<th scope=col class=size>Size<th scope=col>Modified\
         <th scope=col>Root<th scope=col>Proof\n<tbody>\n{rows}</table>\n{empty}{more}{upload}{fetch}{sync}</html>\n"
    )
}

fn row(file: &Shown) -> String {
    let url = encoded(&file.name);
    let name = shown(&file.name.to_string_lossy());
    let length = file.version.stamp().length;
    let modified = time(&file.version).unwrap_or_default();
    let modified = modified.trim_end_matches('Z').replace('T', " ");
    let root = file.root.as_ref().map_or_else(String::new, |root| {
        format!("<code title=\"{root}\">{root}</code>")
    });
    let manifest = match file.has_manifest {
        true => format!("<a href=\"{url}.sapwood\">manifest</a>"),
        false => String::new(),
    };
    format!(
        "<tr><td class=name><a href=\"{url}\">{name}</a><td class=size title=\"{length} bytes\">{}\
         <td class=time>{modified}<td class=root>{root}<td>{manifest}\n",
        size(length)
    )
}

/// A length for people.
fn size(length: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = length as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{length} B"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

/// Text as HTML. Characters that cannot be seen, or that make other text look different, are shown as their numbers.
fn shown(text: &str) -> String {
    let mut html = String::new();
    for c in text.chars() {
        match c {
            '<' => html += "&lt;",
            '>' => html += "&gt;",
            '&' => html += "&amp;",
            '"' => html += "&quot;",
            '\'' => html += "&#39;",
            c if turns_text(c) || is_invisible(c) => html.extend(c.escape_unicode()),
            c => html.push(c),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_only_text() {
        for (name, html) in [
            ("a.mp4", "a.mp4"),
            ("<script>", "&lt;script&gt;"),
            ("a&b\"'", "a&amp;b&quot;&#39;"),
            ("x\u{202e}4pm.exe", "x\\u{202e}4pm.exe"),
            ("a\nb\u{1b}[31m", "a\\u{a}b\\u{1b}[31m"),
            ("caf\u{e9}", "caf\u{e9}"),
        ] {
            assert_eq!(shown(name), html);
        }
    }

    #[test]
    fn lengths_for_people() {
        for (length, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_949, "999.9 kB"),
            (999_950, "1.0 MB"),
            (454_000_000, "454.0 MB"),
            (u64::MAX, "18446.7 PB"),
        ] {
            assert_eq!(size(length), text);
        }
    }
}
