//! The names of files that users do not name: from the URL, or as servers suggest them.

use std::path::Path;

use crate::{
    engine::{
        context::Context,
        events::{Event, Events},
        fetch::suggested_names,
    },
    net::location::{self, Location},
};

use super::{
    exit::Exit,
    hints,
    list::Line,
    network::{Refusal, object},
};

/// Parameters of a query that name a file.
const PARAMETERS: [&str; 2] = ["file", "filename"];
/// The ends of paths that name a program.
const PROGRAMS: [&str; 8] = [
    ".asp", ".aspx", ".cgi", ".do", ".fcgi", ".jsp", ".php", ".pl",
];

/// Names the entries that have no name as their servers suggest. An unsafe name is not taken.
pub async fn suggest(context: &Context, entries: &mut [Line], events: &mut dyn Events) {
    // A URL that is refused is refused later.
    let (lines, urls): (Vec<&mut Line>, Vec<Location>) = entries
        .iter_mut()
        .filter_map(|line| {
            let entry = line.as_ref().ok().filter(|entry| entry.name.is_none())?;
            let url = object(&entry.url).ok()?;
            Some((line, url))
        })
        .unzip();
    let names = suggested_names(context, &urls, events).await;
    for ((line, url), name) in lines.into_iter().zip(&urls).zip(names) {
        match (name, line) {
            (Ok(name), Ok(entry)) => {
                entry.name = name.filter(|name| is_safe(name, url, events));
                entry.is_suggested = entry.name.is_some();
            }
            (Err(error), line) => {
                let message = format!("{url}: {}", hints::message(&error));
                let number = line.as_ref().ok().and_then(|entry| entry.line);
                *line = Err((number, Refusal(Exit::of(&error), message)));
            }
            (Ok(_), Err(_)) => (),
        }
    }
}

fn is_safe(name: &str, url: &Location, events: &mut dyn Events) -> bool {
    let Some(why) = location::unsafe_name(name) else {
        return true;
    };
    let message = format!(
        "{url} suggests {name:?} as its name, which is not safe: {why}. The name in the URL is used"
    );
    events.event(Event::Warning { message });
    false
}

/// The name that a query has for the file, where the path names a program: that of `download?file=x.iso` and `get.php?file=a/x.iso` is
/// `x.iso`.
pub fn in_query(url: &Location) -> Option<String> {
    let program = url.last_segment()?.to_ascii_lowercase();
    let is_program =
        !program.contains('.') || PROGRAMS.iter().any(|suffix| program.ends_with(suffix));
    if url.is_in_s3() || !is_program {
        return None;
    }
    let mut pairs = url.url().query_pairs();
    let (_, value) = pairs.find(|(key, _)| {
        let mut names = PARAMETERS.iter();
        names.any(|name| key.eq_ignore_ascii_case(name))
    })?;
    let name = value.rsplit('/').next()?;
    let has_suffix = Path::new(name).extension().is_some();
    (has_suffix && location::unsafe_name(name).is_none()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_queries() {
        for (path, name) in [
            ("download?file=x.iso", Some("x.iso")),
            ("download?id=7&FileName=a%20b.mp4#t", Some("a b.mp4")),
            ("get.php?file=pub/films/x.iso", Some("x.iso")),
            ("?file=x.iso", Some("x.iso")),
            // A file of its own, whatever the query says.
            ("talk.mp4?file=x.iso", None),
            ("download?file=x", None),
            ("download?file=../..", None),
            ("download?file=a/..%2fx.iso", Some("x.iso")),
            ("download?file=C:%5cx.iso", None),
            ("download?file=x.iso.part", None),
            ("download?name=x.iso", None),
            ("download", None),
        ] {
            let url = Location::parse(&format!("http://h/pub/{path}")).unwrap();
            assert_eq!(in_query(&url).as_deref(), name, "{path}");
        }
    }
}
