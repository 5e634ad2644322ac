//! `Link` fields (RFC 8288) that name mirrors of an object: `rel=duplicate` (RFC 6249).

use reqwest::header::{self, HeaderMap};

/// So many are taken, the best ones.
const DUPLICATES_MAX: usize = 16;
/// The priority of a mirror that has none (RFC 6249, 3.1); 1 is the best.
const LAST: u32 = 999_999;

/// The references of the mirrors, the best first, as they were sent.
pub fn duplicates(headers: &HeaderMap) -> Vec<String> {
    let mut found = Vec::new();
    for value in headers.get_all(header::LINK) {
        let mut rest = value.to_str().unwrap_or_default();
        while let Some((link, after)) = link(rest) {
            found.extend(link);
            rest = after;
        }
    }
    found.sort_by_key(|(priority, _)| *priority);
    found.truncate(DUPLICATES_MAX);
    found.into_iter().map(|(_, reference)| reference).collect()
}

/// The next link, if it is a mirror, and what comes after it.
fn link(text: &str) -> Option<(Option<(u32, String)>, &str)> {
    let (_, text) = text.split_once('<')?;
    let (reference, mut rest) = text.split_once('>')?;
    let (mut priority, mut is_duplicate) = (LAST, false);
    // Parameters up to a comma that no quotes enclose.
    while let Some(parameters) = rest.trim_start().strip_prefix(';') {
        let end = end_of_parameter(parameters);
        let (name, value) = match parameters[..end].split_once('=') {
            Some((name, value)) => (name.trim(), value.trim().trim_matches('"')),
            None => (parameters[..end].trim(), ""),
        };
        match name.to_ascii_lowercase().as_str() {
            "rel" => {
                let mut types = value.split_ascii_whitespace();
                is_duplicate |= types.any(|rel| rel.eq_ignore_ascii_case("duplicate"));
            }
            "pri" => priority = value.parse().unwrap_or(LAST),
            _ => (),
        }
        rest = &parameters[end..];
    }
    let found = is_duplicate.then(|| (priority, reference.trim().to_owned()));
    Some((found, rest))
}

/// Where a parameter ends: at the next `;` or `,` outside of quotes.
fn end_of_parameter(text: &str) -> usize {
    let mut is_quoted = false;
    let mut is_escaped = false;
    for (at, character) in text.char_indices() {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ';' | ',' if !is_quoted => return at,
            _ => (),
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::LINK, value.parse().unwrap());
        }
        duplicates(&headers)
    }

    #[test]
    fn mirrors_in_their_order() {
        let found = of(&[
            "<http://www2.example.com/example.ext>; rel=duplicate",
            "<http://c.example/x>; pri=3; rel=\"duplicate\"; geo=de, <http://a.example/x?a=1,2;b>; rel=\"Duplicate preconnect\"; pri=1; pref",
            "<http://example.com/example.ext.torrent>; rel=describedby; type=\"application/x-bittorrent\"",
            "<http://d.example/x>; title=\"a, <b>; rel=duplicate\"; rel=next",
        ]);
        let expected = [
            "http://a.example/x?a=1,2;b",
            "http://c.example/x",
            "http://www2.example.com/example.ext",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_link() {
        for value in [
            "",
            "<",
            "<http://a.example/x",
            "http://a.example/x; rel=duplicate",
            "<x>; rel",
        ] {
            assert!(of(&[value]).is_empty(), "{value}");
        }
        let many: Vec<&str> = vec!["<http://a.example/x>; rel=duplicate"; 100];
        assert_eq!(of(&many).len(), DUPLICATES_MAX);
    }
}
