//! A list of objects to fetch, as it is read: lines, or a Metalink document.

use std::{
    io::{self, Read},
    path::Path,
};

use super::{
    exit::Exit,
    list::{self, Line},
    metalink,
    network::Refusal,
};

/// Reads a list. A byte order mark is skipped.
pub fn read(place: &Path) -> Result<Vec<Line>, Refusal> {
    let mut text = String::new();
    let read = match place == Path::new("-") {
        true => io::stdin().read_to_string(&mut text),
        false => std::fs::File::open(place).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.map_err(|cause| {
        let message = format!("failed to read the list {}: {cause}", name_of(place));
        Refusal(Exit::Failed, message)
    })?;
    let text = text.trim_start_matches('\u{feff}');
    match metalink::is_xml(text) {
        true => metalink::lines(text).map_err(|why| {
            Refusal::usage(format!(
                "{} cannot be read as a list: {why}",
                name_of(place)
            ))
        }),
        false => Ok(list::lines(text)),
    }
}

/// A list, for messages.
pub fn name_of(list: &Path) -> String {
    match list == Path::new("-") {
        true => "standard input".to_owned(),
        false => list.display().to_string(),
    }
}
