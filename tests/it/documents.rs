//! README.md and the pages in `src/docs/`: links lead somewhere, lines are short, no page is forgotten, no event is left out.

use std::{
    collections::BTreeSet,
    fs,
    path::{Component, Path, PathBuf},
};

use crate::support::pages::{Line, lines, pages};

const LINE_CHARACTERS_MAX: usize = 130;
const README_LINES_MAX: usize = 120;
const PICTURE_BYTES_MAX: usize = 60_000;

type Wrong = Vec<String>;

/// The paths in the repository that have a text, and the text.
type Tree<'a> = &'a dyn Fn(&Path) -> Option<String>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder has no headings.
fn of_repository(path: &Path) -> Option<String> {
    let path = root().join(path);
    match path.is_dir() {
        true => Some(String::new()),
        // Pictures and binaries have none either.
        false => fs::read(path)
            .ok()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    }
}

// ---- The checks -----------------------------------------------------------------------------------------------------

/// The targets of the links and pictures in a text, with the numbers of their lines.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut is_code = false;
    for (number, line) in lines(text) {
        let line = match line {
            Line::Prose(line) if !line.is_empty() => line,
            // What is between backticks may go on in the next line, but not in another paragraph.
            Line::Prose(_) | Line::Code(_) => {
                is_code = false;
                continue;
            }
            Line::Table(line) => {
                is_code = false;
                line
            }
        };
        let mut outside = String::new();
        for (index, text) in line.split('`').enumerate() {
            is_code ^= index > 0;
            outside.push_str(if is_code { "" } else { text });
        }
        for (at, _) in outside.match_indices("](") {
            let rest = &outside[at + 2..];
            let end = rest.find(')').unwrap_or(rest.len());
            found.push((number, rest[..end].to_owned()));
        }
    }
    found
}

/// The anchors of a text's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = lines(text).filter_map(|(_, line)| match line {
        Line::Prose(text) => text
            .strip_prefix('#')
            .map(|rest| rest.trim_start_matches('#').trim()),
        _ => None,
    });
    headings
        .map(|heading| {
            let kept = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        })
        .collect()
}

/// The path without `.` and `..`; `None`: it leads out of the repository.
fn resolved(path: &Path) -> Option<PathBuf> {
    let mut found = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => found.push(name),
            Component::ParentDir if !found.pop() => return None,
            Component::ParentDir | Component::CurDir => (),
            _ => return None,
        }
    }
    Some(found)
}

fn dead_links(path: &str, text: &str, tree: Tree) -> Wrong {
    let mut wrong = Vec::new();
    for (number, link) in links(text) {
        if link.contains("://") {
            continue;
        }
        let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
        let there = match target {
            "" => Some(text.to_owned()),
            _ => {
                let from = Path::new(path).parent().unwrap_or(Path::new(""));
                resolved(&from.join(target)).and_then(|path| tree(&path))
            }
        };
        match there {
            None => wrong.push(format!("{path}:{number}: {link} is not there")),
            Some(there) if !anchor.is_empty() && !anchors(&there).contains(anchor) => {
                wrong.push(format!("{path}:{number}: {link} has no such heading"));
            }
            Some(_) => (),
        }
    }
    wrong
}

fn long_lines(path: &str, text: &str) -> Wrong {
    lines(text)
        .filter_map(|(number, line)| match line {
            Line::Prose(text) if text.chars().count() > LINE_CHARACTERS_MAX => {
                Some(format!("{path}:{number}: {}", text.chars().count()))
            }
            _ => None,
        })
        .collect()
}

/// A page begins with its title, and with what it is for.
fn beginning(path: &str, text: &str) -> Wrong {
    let mut lines = text.lines();
    let (title, gap, purpose) = (lines.next(), lines.next(), lines.next());
    let is_title = title.is_some_and(|line| line.starts_with("# "));
    let is_purpose = purpose.is_some_and(|line| line.starts_with(|c: char| c.is_alphabetic()));
    match is_title && gap == Some("") && is_purpose {
        true => Vec::new(),
        false => vec![format!("{path}: {title:?}, {gap:?}, {purpose:?}")],
    }
}

/// Names that a source gives to events and their fields, which the page lacks: what is a string before a colon or `json!`.
fn missing_names(source: &str, page: &str) -> Wrong {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let mut names = BTreeSet::new();
    for (number, text) in code.split('"').enumerate() {
        let is_name = !text.is_empty()
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let rest = code.split('"').nth(number + 1).unwrap_or_default();
        let is_field = rest.starts_with(':') && !rest.starts_with("::");
        let is_event = rest
            .strip_prefix(',')
            .is_some_and(|rest| rest.trim_start().starts_with("json!"));
        if number % 2 == 1 && is_name && (is_field || is_event) {
            names.insert(text);
        }
    }
    assert!(!names.is_empty(), "a source of events");
    names
        .into_iter()
        .filter(|name| !page.contains(&format!("`{name}`")))
        .map(|name| format!("`{name}` is not on the page"))
        .collect()
}

#[track_caller]
fn none(wrong: impl IntoIterator<Item = String>) {
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

// ---- The pages ------------------------------------------------------------------------------------------------------

#[test]
fn every_link_leads_somewhere() {
    none(
        pages()
            .iter()
            .flat_map(|(path, text)| dead_links(path, text, &of_repository)),
    );
}

#[test]
fn lines_are_short() {
    none(
        pages()
            .iter()
            .flat_map(|(path, text)| long_lines(path, text)),
    );
}

#[test]
fn pages_say_what_they_are_for() {
    none(
        pages()
            .iter()
            .flat_map(|(path, text)| beginning(path, text)),
    );
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let pages = pages();
    let (_, readme) = &pages[0];
    assert!(readme.lines().count() <= README_LINES_MAX);
    let linked: Vec<String> = links(readme).into_iter().map(|(_, link)| link).collect();
    assert!(pages.len() > 10, "they are found");
    let pages = pages[1..].iter().filter(|(path, _)| !linked.contains(path));
    none(pages.map(|(path, _)| format!("README.md does not link {path}")));
    // What others call by the README's word.
    for command in ["tools/quickstart", "tools/test"] {
        assert!(readme.contains(&format!("`{command}`")), "{command}");
    }
}

/// Of real runs, by `tools/picture`: what is shown everywhere, without code in it.
#[test]
fn pictures_are_small() {
    let (_, readme) = &pages()[0];
    let pictures: Vec<String> = links(readme)
        .into_iter()
        .map(|(_, link)| link)
        .filter(|link| link.ends_with(".svg"))
        .collect();
    assert_eq!(pictures, ["src/docs/kill.svg"]);
    for path in pictures {
        let picture = of_repository(Path::new(&path)).expect("a picture");
        assert!(picture.len() < PICTURE_BYTES_MAX, "{}", picture.len());
        assert!(picture.contains("@keyframes") && !picture.contains("<script"));
    }
}

#[test]
fn every_event_is_on_its_page() {
    let read = |path: &str| fs::read_to_string(root().join(path)).expect("a file");
    let page = read("src/docs/events.md");
    for source in [
        "src/engine/event_fields.rs",
        "src/cli/output/mod.rs",
        "src/cli/keys.rs",
    ] {
        none(missing_names(&read(source), &page));
    }
}

// ---- Each check can fail --------------------------------------------------------------------------------------------

#[test]
fn mistakes_are_seen() {
    let tree = |path: &Path| match path.to_str()? {
        "a/there.md" => Some("# One\n\n## `sapwood serve`, with TLS\n".to_owned()),
        _ => None,
    };
    let dead = |text: &str| dead_links("a/page.md", text, &tree);
    for bad in [
        "[x](gone.md)",
        "[x](../there.md)",
        "[x](../../a/there.md)",
        "[x](there.md#two)",
        "![x](gone.svg)",
        "[x](#one)",
        "| [x](gone.md) |",
        "[a](there.md) [x](gone.md)",
        "`[x](gone.md)\n` [x](gone.md)",
    ] {
        assert_eq!(dead(bad).len(), 1, "{bad}");
    }
    none(dead(
        "# One\n\n[x](there.md) [x](../a/there.md#sapwood-serve-with-tls) [x](#one) [x](https://a.example/b) `[x](gone.md)`\n\n```\n[x](gone.md)\n```\n",
    ));

    let long = "x ".repeat(66);
    assert_eq!(long_lines("p.md", &long).len(), 1);
    none(long_lines(
        "p.md",
        &format!("| {long}\n\n```sh\n{long}\n```\n"),
    ));

    for bad in ["", "Words\n", "# Title\nWords\n", "# Title\n\n## Another\n"] {
        assert_eq!(beginning("p.md", bad).len(), 1, "{bad}");
    }
    none(beginning("p.md", "# Title\n\nWords\n"));

    let source = "json_event(\"keygen\", json!({ \"secret\": a::b, \"text\": \"no_name\" }))";
    assert_eq!(missing_names(source, "`text` secret").len(), 2);
    none(missing_names(source, "`text` `secret` `keygen`"));
}
