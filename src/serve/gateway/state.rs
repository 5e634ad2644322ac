//! What the page shows, as JSON: all objects whose URLs were given and all libraries in short, and one object in full.

use axum::{
    body::Body,
    http::{HeaderValue, header, request::Parts},
    response::Response,
};
use serde_json::{Value, json};

use crate::{
    engine::read::{BlockState, ObjectState},
    format::geometry::{BlockIndex, BlockRange, Geometry},
    serve::media_types,
};

use super::{
    objects::{Library, Object, Objects, Version},
    routes::{encoded, in_query},
};

/// The most cells of a map: more of them are no longer told apart on a screen. A cell of a larger object is a range of its blocks.
const CELLS_MAX: u32 = 1024;

/// `?object=INDEX` or `?path=PATH` chooses the object that is shown in full.
pub fn of(request: &Parts, objects: &Objects) -> Response {
    let index = in_query(request, "object").and_then(|index| index.parse().ok());
    let path = in_query(request, "path");
    let shown = match &path {
        Some(path) => objects.find_open(path),
        None => objects.own().get(index.unwrap_or(0)).cloned(),
    };
    let all = objects.own().iter();
    let all = all.filter_map(|object| Some(in_short(object, &object.version()?)));
    let state = json!({
        "bytes_fetched": objects.bytes_fetched(),
        "objects": all.collect::<Vec<_>>(),
        "libraries": objects.libraries().iter().map(of_library).collect::<Vec<_>>(),
        "shown": match shown.and_then(|object| Some((object.version()?, object))) {
            Some((version, object)) => {
                let mut shown = in_full(&version.object.state(), version.object.geometry());
                shown["index"] = index.unwrap_or(0).into();
                shown["object"] = in_short(&object, &version);
                shown
            }
            None => path.map_or(Value::Null, |path| closed(&path, objects)),
        },
    });
    json_response(&state)
}

pub fn json_response(value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    let media_type = HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}

fn of_library(library: &Library) -> Value {
    let (remote, entries) = (&library.remote, library.remote.index.entries());
    json!({
        "name": library.name,
        "prefix": library.prefix,
        "root": remote.root.to_string(),
        "trust": remote.trust.name(),
        "files": entries.len(),
        "bytes": entries.iter().map(|entry| entry.length).sum::<u64>(),
    })
}

/// What is known of a file of a library that nobody has requested yet.
fn closed(path: &str, objects: &Objects) -> Value {
    let Some((library, entry)) = objects.entry(path) else {
        return Value::Null;
    };
    let media_type = media_types::of(path.rsplit('/').next().unwrap_or_default());
    let object = json!({
        "name": path,
        "href": encoded(path),
        "type": media_type.to_str().unwrap_or_default(),
        "length": entry.length,
        "length_proven": false,
        "root": entry.root.to_string(),
        "trust": library.remote.trust.name(),
    });
    json!({ "object": object })
}

fn in_short(object: &Object, version: &Version) -> Value {
    let (state, geometry) = (version.object.state(), *version.object.geometry());
    let bytes_in = |wanted: BlockState| -> u64 {
        let ranges = state.blocks.iter().filter(|(_, state)| *state == wanted);
        ranges
            .map(|(blocks, _)| geometry.bytes_of_range(*blocks).length())
            .sum()
    };
    json!({
        "name": object.path,
        "href": encoded(&object.path),
        "type": object.media_type.to_str().unwrap_or_default(),
        "length": geometry.length(),
        "length_proven": state.length_proven,
        "block_size": geometry.block_size().bytes(),
        "blocks": geometry.blocks(),
        "bytes_proven": bytes_in(BlockState::Proven),
        "bytes_cached": bytes_in(BlockState::Cached),
        "bytes_wrong": bytes_in(BlockState::Wrong),
        "readers": state.readers.len(),
        "root": version.object.root().to_string(),
        "trust": object.trust(version).name(),
    })
}

fn in_full(state: &ObjectState, geometry: &Geometry) -> Value {
    let is_wrong = |block: BlockIndex| {
        let mut wrong = state
            .blocks
            .iter()
            .filter(|(_, state)| *state == BlockState::Wrong);
        wrong.any(|(blocks, _)| blocks.contains(block))
    };
    let wrong = state.wrong.iter().map(|wrong| {
        json!({
            "block": wrong.block.0, "start": wrong.bytes.start, "end": wrong.bytes.end, "source": wrong.source,
            "is_here": !is_wrong(wrong.block),
            "expected": hex::encode(wrong.expected), "found": hex::encode(wrong.found),
        })
    });
    let readers = state
        .readers
        .iter()
        .map(|bytes| json!({ "start": bytes.start, "end": bytes.end }));
    json!({
        "sources": state.sources,
        "bytes_fetched": state.bytes_fetched,
        "cells": cells(&state.blocks, geometry.blocks()),
        "wrong": wrong.collect::<Vec<_>>(),
        "readers": readers.collect::<Vec<_>>(),
    })
}

/// One letter for each cell: `m` nothing of it is here, `h` a part is here, `c` all is in the store, `p` all is here and some of it was
/// proven in this run, `w` a block of it is wrong. Cell k of n begins with block k * blocks / n, rounded down.
fn cells(ranges: &[(BlockRange, BlockState)], blocks: u32) -> String {
    let count = blocks.min(CELLS_MAX);
    let first = |cell: u32| (u64::from(cell) * u64::from(blocks) / u64::from(count)) as u32;
    let mut ranges = ranges.iter().peekable();
    let cell = |cell: u32| {
        let (start, end) = (first(cell), first(cell + 1));
        // Blocks of it that are proven, cached and wrong.
        let (mut proven, mut cached, mut wrong) = (0, 0, 0);
        while let Some((range, state)) = ranges.peek() {
            let within = range.end.min(end).saturating_sub(range.start.max(start));
            match state {
                BlockState::Proven => proven += within,
                BlockState::Cached => cached += within,
                BlockState::Wrong => wrong += within,
                BlockState::Missing => (),
            }
            if range.end > end {
                break;
            }
            ranges.next();
        }
        match (proven, cached, wrong) {
            (_, _, 1..) => 'w',
            (0, 0, _) => 'm',
            _ if proven + cached < end - start => 'h',
            (0, _, _) => 'c',
            _ => 'p',
        }
    };
    (0..count).map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_many_blocks() {
        use BlockState::{Cached, Missing, Proven, Wrong};
        let of = |states: &[(u32, BlockState)], blocks| {
            let mut start = 0;
            let ranges: Vec<_> = states
                .iter()
                .map(|(end, state)| {
                    (
                        BlockRange::new(std::mem::replace(&mut start, *end), *end),
                        *state,
                    )
                })
                .collect();
            cells(&ranges, blocks)
        };
        assert_eq!(of(&[(1, Missing)], 1), "m");
        assert_eq!(
            of(&[(1, Proven), (3, Cached), (4, Wrong), (5, Missing)], 5),
            "pccwm"
        );
        let all = |letter: &str| letter.repeat(CELLS_MAX as usize);
        for blocks in [CELLS_MAX, CELLS_MAX + 1, 3 * CELLS_MAX - 1, 1 << 24] {
            assert_eq!(of(&[(blocks, Cached)], blocks), all("c"), "{blocks}");
        }
        // Four blocks a cell.
        let blocks = 4 * CELLS_MAX;
        let mixed = [
            (4, Proven),
            (6, Cached),
            (8, Proven),
            (9, Proven),
            (13, Missing),
            (14, Wrong),
            (blocks, Missing),
        ];
        assert_eq!(
            of(&mixed, blocks),
            format!("pphw{}", "m".repeat(CELLS_MAX as usize - 4))
        );
    }
}
