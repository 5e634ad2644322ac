//! Which path leads to what: `/TOKEN/` to the page, `/TOKEN/-/...` to the files of the page, `/TOKEN/NAME` to an object. No object
//! has a name that begins with a dash or has a slash, so these never meet.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::token::Token;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    Page,
    Style,
    Script,
    State,
    /// The object of this name, if there is one; percent-encoded.
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
            name => Some(Route::Object(name)),
        }
    }
}

/// Which of the names a percent-encoded segment is. It is decoded once.
pub fn position<'a>(segment: &str, names: impl IntoIterator<Item = &'a str>) -> Option<usize> {
    let name = percent_decode_str(segment).decode_utf8().ok()?;
    names.into_iter().position(|other| other == name)
}

/// Characters of a segment that need no encoding (RFC 3986, 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A name as a segment of a URL.
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, SEGMENT).to_string()
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
    fn names_are_whole_segments() {
        let names = ["a.mp4", "b c.mp4", "%41.mp4", "é.mp4"];
        for (index, name) in names.into_iter().enumerate() {
            assert_eq!(position(&segment(name), names), Some(index), "{name}");
        }
        assert_eq!(position("%61.mp4", names), Some(0));
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
        ] {
            assert_eq!(position(nothing, names), None, "{nothing}");
        }
        assert_eq!(segment("b c#?%é.mp4"), "b%20c%23%3F%25%C3%A9.mp4");
    }
}
