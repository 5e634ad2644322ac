//! README.md and the pages in `src/docs/`, line by line and block by block.

use std::{fs, path::Path};

/// README.md, then the pages by their names: the path in the repository, and the text.
pub fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<String> = fs::read_dir(root.join("src/docs"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .filter_map(|name| Some(format!("src/docs/{}", name.to_str()?)))
        .filter(|path| path.ends_with(".md"))
        .collect();
    paths.sort();
    paths.insert(0, "README.md".to_owned());
    let read = |path: &String| fs::read_to_string(root.join(path)).expect("a page");
    paths
        .into_iter()
        .map(|path| (path.clone(), read(&path)))
        .collect()
}

/// A line of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// In a block, or one of its fences.
    Code(&'a str),
    Table(&'a str),
    Prose(&'a str),
}

impl<'a> Line<'a> {
    pub fn text(self) -> &'a str {
        match self {
            Line::Code(text) | Line::Table(text) | Line::Prose(text) => text,
        }
    }
}

/// The lines with their numbers, from 1.
pub fn lines(text: &str) -> impl Iterator<Item = (usize, Line<'_>)> {
    let mut is_inside = false;
    text.lines().enumerate().map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        let was_inside = is_inside;
        is_inside ^= is_fence;
        let kind = match line {
            _ if is_fence || was_inside => Line::Code(line),
            _ if line.starts_with('|') => Line::Table(line),
            _ => Line::Prose(line),
        };
        (index + 1, kind)
    })
}
