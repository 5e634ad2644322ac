//! What is in a folder of a library, as JSON for the page.

use axum::{
    http::{HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::serve::media_types;

use super::{
    objects::{Library, Objects},
    routes::{encoded, in_query},
    state::json_response,
    token::Token,
};

/// Folders and files in a response, each; more are found by a filter.
const SHOWN_MAX: usize = 1000;

/// `?library=INDEX&folder=PATH/&filter=TEXT`. With a filter: all files below the folder whose path has the text, in any case of letters.
pub fn of(request: &Parts, objects: &Objects) -> Option<Response> {
    let index: usize = in_query(request, "library")?.parse().ok()?;
    let library = objects.libraries().get(index)?;
    let folder = in_query(request, "folder").unwrap_or_default();
    let filter = in_query(request, "filter").unwrap_or_default();
    Some(json_response(&list(library, &folder, &filter)))
}

fn list(library: &Library, folder: &str, filter: &str) -> Value {
    let filter = filter.to_lowercase();
    let (mut folders, mut files): (Vec<(&str, u64, u64)>, Vec<Value>) = (Vec::new(), Vec::new());
    let mut is_truncated = false;
    for entry in library.remote.index.entries() {
        let path = entry.path.as_str();
        let Some(rest) = path.strip_prefix(folder) else {
            continue;
        };
        if let (true, Some((name, _))) = (filter.is_empty(), rest.split_once('/')) {
            // All files of a folder are together.
            if folders.last().is_none_or(|(last, ..)| *last != name) {
                folders.push((name, 0, 0));
            }
            if let Some((_, count, bytes)) = folders.last_mut() {
                (*count, *bytes) = (*count + 1, *bytes + entry.length);
            }
            continue;
        }
        if !rest.to_lowercase().contains(&filter) {
            continue;
        }
        if files.len() == SHOWN_MAX {
            is_truncated = true;
            continue;
        }
        let place = format!("{}{path}", library.prefix);
        let media_type = media_types::of(path.rsplit('/').next().unwrap_or_default());
        files.push(json!({
            "name": rest,
            "path": place,
            "href": encoded(&place),
            "type": media_type.to_str().unwrap_or_default(),
            "length": entry.length,
        }));
    }
    is_truncated |= folders.len() > SHOWN_MAX;
    let folders = folders
        .iter()
        .take(SHOWN_MAX)
        .map(|(name, files, bytes)| json!({ "name": name, "files": files, "bytes": bytes }));
    json!({
        "folder": folder,
        "folders": folders.collect::<Vec<_>>(),
        "files": files,
        "truncated": is_truncated,
    })
}

/// Whether a path, with its slash at the end, is that of a folder.
pub fn is_one(path: &str, objects: &Objects) -> bool {
    let is_in = |library: &Library| {
        let rest = path.strip_prefix(&library.prefix);
        rest.is_some_and(|rest| {
            let mut entries = library.remote.index.entries().iter();
            rest.is_empty() || entries.any(|entry| entry.path.as_str().starts_with(rest))
        })
    };
    path.ends_with('/') && objects.libraries().iter().any(is_in)
}

/// The page, which shows this folder.
pub fn on_page(path: &str, token: &Token) -> Response {
    let place = HeaderValue::try_from(format!("/{token}/#{}", encoded(path)));
    let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
    if let Ok(place) = place {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}
