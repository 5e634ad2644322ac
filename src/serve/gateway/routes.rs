//! Which path leads to what: `/TOKEN/` to the page, `/TOKEN/-/...` to the files of the page, `/TOKEN/NAME` to an object, and
//! `/TOKEN/PATH` to a file of a library. No name of an object begins with a dash; the files of a library in a folder named `-` are
//! not served if they are named like those of the page.

use axum::http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::token::Token;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    Page,
    Style,
    Script,
    State,
    /// The list of a folder of a library.
    Folder,
    /// The object of this path, if there is one; percent-encoded.
    Object(&'a str),
}

impl Route<'_> {
    /// `None`: to nothing, which must look the same whether the token is right or not.
    pub fn of<'a>(path: &'a str, token: &Token) -> Option<Route<'a>> {
        let (first, rest) = path.strip_prefix('/')?.split_once('/')?;
        if !token.is(first) {
            return None;
        }
        match rest {
            "" => Some(Route::Page),
            "-/page.css" => Some(Route::Style),
            "-/page.js" => Some(Route::Script),
            "-/state.json" => Some(Route::State),
            "-/folder.json" => Some(Route::Folder),
            path => Some(Route::Object(path)),
        }
    }
}

/// A percent-encoded path, each segment decoded once. `None`: it is no UTF-8, or has an encoded slash.
pub fn decoded(path: &str) -> Option<String> {
    let segments = path.split('/').map(|segment| {
        let decoded = percent_decode_str(segment).decode_utf8().ok()?;
        (!decoded.contains('/')).then(|| decoded.into_owned())
    });
    let segments: Option<Vec<String>> = segments.collect();
    Some(segments?.join("/"))
}

/// A value in the query of a request, decoded.
pub fn in_query(request: &Parts, name: &str) -> Option<String> {
    let mut pairs = request.uri.query()?.split('&');
    let value = pairs.find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

/// Characters of a segment that need no encoding (RFC 3986, 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A path as part of a URL.
pub fn encoded(path: &str) -> String {
    let segments = path.split('/');
    let segments: Vec<String> = segments
        .map(|segment| utf8_percent_encode(segment, SEGMENT).to_string())
        .collect();
    segments.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let token = Token::random().unwrap();
        let route = |path: &str| Route::of(path, &token).map(|route| format!("{route:?}"));
        let route = |path: &str| route(&path.replace('T', &token.to_string()));
        assert_eq!(route("/T/").as_deref(), Some("Page"));
        assert_eq!(route("/T/-/state.json").as_deref(), Some("State"));
        assert_eq!(route("/T/a.mp4").as_deref(), Some("Object(\"a.mp4\")"));
        for nothing in [
            "", "/", "T/", "/T", "//T/", "/./T/", "/x/../T/", "/0/", "//", "/T0/a",
        ] {
            assert_eq!(route(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn paths_are_decoded_once() {
        let names = ["a.mp4", "b c.mp4", "%41.mp4", "é.mp4", "x/y z/é#?.ts"];
        for name in names {
            assert_eq!(decoded(&encoded(name)).as_deref(), Some(name));
        }
        let is_name = |path: &str| decoded(path).is_some_and(|path| names.contains(&path.as_str()));
        assert!(is_name("%61.mp4"));
        for nothing in [
            "",
            "a",
            "A.mp4",
            "a.mp4/",
            "./a.mp4",
            "../a.mp4",
            "x/../a.mp4",
            "%2e/a.mp4",
            "a.mp4%00",
            "a%252emp4",
            "%FF",
            "A.mp4",
            "x%2Fy%20z%2F%C3%A9%23%3F.ts",
            "x/./y%20z/%C3%A9%23%3F.ts",
        ] {
            assert!(!is_name(nothing), "{nothing}");
        }
        assert_eq!(encoded("a/b c#?%é.mp4"), "a/b%20c%23%3F%25%C3%A9.mp4");
    }
}
