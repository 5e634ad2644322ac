//! Which files of a library a user wants: globs on their paths.

use glob::MatchOptions;

use crate::format::library::LibraryPath;

const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// The most patterns that the braces of one may stand for.
const ALTERNATIVES_MAX: usize = 1000;

/// A pattern of paths. One without `/` matches any segment, another one the path from the folder on; what matches a folder matches
/// all files below it, and a pattern with `/` at its end only these. `*` and `?` match no `/`, `**` does; `{a,b}` is either.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// One of these.
    globs: Vec<glob::Pattern>,
    of_segments: bool,
    of_folders: bool,
}

/// A text that is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a pattern: {why}")]
#[allow(missing_docs, reason = "the message says it")]
pub struct BadPattern {
    text: String,
    why: String,
}

impl std::str::FromStr for Pattern {
    type Err = BadPattern;

    fn from_str(text: &str) -> Result<Pattern, BadPattern> {
        let bad = |why: &str| BadPattern {
            text: text.to_owned(),
            why: why.to_owned(),
        };
        let of_folders = text.ends_with('/');
        let path = text.strip_suffix('/').unwrap_or(text);
        let of_segments = !path.contains('/');
        let path = path.strip_prefix('/').unwrap_or(path);
        if path.is_empty() {
            return Err(bad("it is empty"));
        }
        let globs = alternatives(path).map_err(bad)?;
        let globs = globs.iter().map(|text| glob::Pattern::new(text));
        let globs = globs.collect::<Result<_, _>>();
        Ok(Pattern {
            globs: globs.map_err(|cause| bad(cause.msg))?,
            of_segments,
            of_folders,
        })
    }
}

/// The patterns without braces that together are this one.
fn alternatives(text: &str) -> Result<Vec<String>, &'static str> {
    let Some(open) = text.find(['{', '}']) else {
        return Ok(vec![text.to_owned()]);
    };
    if text[open..].starts_with('}') {
        return Err("a } has no { before it");
    }
    let (mut depth, mut cuts, mut close) = (0, vec![open], None);
    for (at, sign) in text.char_indices().skip_while(|(at, _)| *at < open) {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => cuts.push(at),
            _ => (),
        }
        if depth == 0 {
            close = Some(at);
            break;
        }
    }
    let close = close.ok_or("a { has no } behind it")?;
    cuts.push(close);
    let mut all = Vec::new();
    for cut in cuts.windows(2) {
        let one = [&text[..open], &text[cut[0] + 1..cut[1]], &text[close + 1..]];
        all.extend(alternatives(&one.concat())?);
        if all.len() > ALTERNATIVES_MAX {
            return Err("its braces have too many meanings");
        }
    }
    Ok(all)
}

impl Pattern {
    /// Whether the path, or a folder on it, matches.
    pub fn matches(&self, path: &LibraryPath) -> bool {
        let text = path.as_str();
        let ends = text.match_indices('/').map(|(at, _)| at);
        let mut start = 0;
        ends.chain([text.len()]).any(|end| {
            let from = if self.of_segments { start } else { 0 };
            start = end + 1;
            let is_wanted = end < text.len() || !self.of_folders;
            let matches = |glob: &glob::Pattern| glob.matches_with(&text[from..end], OPTIONS);
            is_wanted && self.globs.iter().any(matches)
        })
    }
}

/// The files that a user wants: those of `include`, or all if it is empty, without those of `exclude`.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "fields are named after the flags")]
pub struct Filters {
    pub include: Vec<Pattern>,
    pub exclude: Vec<Pattern>,
}

impl Filters {
    /// Whether this file is wanted.
    pub fn select(&self, path: &LibraryPath) -> bool {
        let any = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(path));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_files_and_all_below_folders() {
        let matches = |pattern: &str, path: &str| {
            let pattern: Pattern = pattern.parse().unwrap();
            pattern.matches(&LibraryPath::new(path).unwrap())
        };
        for (pattern, path, expected) in [
            ("*.mp4", "a.mp4", true),
            ("*.mp4", "films/deep/a.mp4", true),
            ("*.mp4", "a.mp4x", false),
            ("a.mp4", "films/ba.mp4", false),
            ("films", "films/deep/a.mp4", true),
            ("deep", "films/deep/a.mp4", true),
            ("deep/", "films/deep/a.mp4", true),
            ("deep/", "films/deep", false),
            ("/deep", "films/deep/x", false),
            ("/films", "films/deep/x", true),
            ("films/*.mp4", "films/a.mp4", true),
            ("films/*.mp4", "films/deep/a.mp4", false),
            ("films/**/*.mp4", "films/deep/er/a.mp4", true),
            ("films/**/*.mp4", "films/a.mp4", true),
            ("films/deep", "films/deep/er/x", true),
            ("films/deep", "films/deeper", false),
            ("deep/er", "films/deep/er/x", false),
            ("**/deep/er", "films/deep/er/x", true),
            ("?.txt", "a.txt", true),
            ("[ab].txt", "c.txt", false),
            ("{a,b}.txt", "b.txt", true),
            ("{a,b}.txt", "a,b.txt", false),
            ("x{1{2,3},}y{4,5}", "x13y5", true),
            ("x{1{2,3},}y{4,5}", "xy4", true),
            ("x{1{2,3},}y{4,5}", "x1y4", false),
            ("*.MP4", "a.mp4", false),
            ("*", ".hidden", true),
            ("[!a].txt", "b.txt", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
        let many = "{a,b}".repeat(20);
        for bad in ["", "/", "[", "a{b", "a}b", "{a,b}}", "a**", &many] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_excluded_is_not_included() {
        let patterns = |all: &[&str]| all.iter().map(|text| text.parse().unwrap()).collect();
        let filters = Filters {
            include: patterns(&["films", "*.txt"]),
            exclude: patterns(&["*.tmp"]),
        };
        let selected = |path: &str| filters.select(&LibraryPath::new(path).unwrap());
        assert!(selected("films/a.mp4") && selected("notes/a.txt"));
        assert!(!selected("films/a.tmp") && !selected("notes/a.doc"));
        assert!(Filters::default().select(&LibraryPath::new("x").unwrap()));
    }
}
