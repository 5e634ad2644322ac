//! URLs that do not show their secrets: the printed form has no user, query or fragment.

use std::{fmt, sync::Arc};

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::{Position, Url};

use crate::format::{characters, library};

use super::s3::name;

/// An http or https URL, or an `s3://` URL: an object in S3, or a folder of objects.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    url: Url,
    /// `url` is the address of an object in S3.
    s3: Option<Arc<InS3>>,
}

/// What a request to S3 needs besides the address.
#[derive(PartialEq, Eq)]
struct InS3 {
    /// The `s3://` URL.
    object: Url,
    region: String,
}

/// The text is no URL that can be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what it is")]
pub enum BadUrl {
    #[error("{text:?} is not a URL{}; URLs begin with http://, https:// or s3://", reason(*.cause))]
    Malformed {
        text: String,
        cause: url::ParseError,
    },
    #[error("{text:?} has the scheme {scheme:?}; only http, https and s3 are supported")]
    Scheme { text: String, scheme: String },
    #[error("{text:?} is not s3://BUCKET/KEY: {reason}")]
    NotInS3 { text: String, reason: &'static str },
}

/// The cause, unless the scheme is missing, which the message says anyway.
fn reason(cause: url::ParseError) -> String {
    match cause {
        url::ParseError::RelativeUrlWithoutBase => String::new(),
        cause => format!(" ({cause})"),
    }
}

impl Location {
    /// Parses a URL as the user typed it. After `s3://BUCKET/`, the rest of the text is the key as it is, without escapes.
    pub fn parse(text: &str) -> Result<Location, BadUrl> {
        if let Some(rest) = name::after_scheme(text) {
            let not_in_s3 = |reason| BadUrl::NotInS3 {
                text: without_secrets(text),
                reason,
            };
            return Ok(Location::new(name::parse(rest).map_err(not_in_s3)?));
        }
        let url = Url::parse(text).map_err(|cause| BadUrl::Malformed {
            text: without_secrets(text),
            cause,
        })?;
        match url.scheme() {
            "http" | "https" if url.has_host() => Ok(Location::new(url)),
            scheme => Err(BadUrl::Scheme {
                text: without_secrets(text),
                scheme: scheme.to_owned(),
            }),
        }
    }

    fn new(url: Url) -> Location {
        Location { url, s3: None }
    }

    /// The address at which this object of S3 is requested.
    pub(super) fn at(&self, address: Url, region: &str) -> Location {
        let in_s3 = InS3 {
            object: self.shown().clone(),
            region: region.to_owned(),
        };
        Location {
            url: address,
            s3: Some(Arc::new(in_s3)),
        }
    }

    /// The whole URL, secrets included: for requests, never for messages.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The URL that the user knows.
    fn shown(&self) -> &Url {
        self.s3.as_ref().map_or(&self.url, |s3| &s3.object)
    }

    /// Whether it is an object or a folder in S3.
    pub fn is_in_s3(&self) -> bool {
        self.shown().scheme() == name::SCHEME
    }

    /// The region of the S3 service at whose address the object is; `None`: the URL is no address in S3.
    pub fn s3_region(&self) -> Option<&str> {
        self.s3.as_ref().map(|s3| s3.region.as_str())
    }

    /// Whether it is a bucket in S3, which is a folder and no object.
    pub fn is_bucket(&self) -> bool {
        self.bucket_and_key().is_some_and(|(_, key)| key.is_empty())
    }

    /// The bucket and the key, decoded; `None`: the URL is not in S3.
    pub fn bucket_and_key(&self) -> Option<(&str, String)> {
        let object = self.is_in_s3().then(|| self.shown())?;
        let key = object.path().strip_prefix('/').unwrap_or_default();
        let key = percent_decode_str(key).decode_utf8_lossy();
        Some((object.host_str()?, key.into_owned()))
    }

    /// The target of a redirect from here; `None` if that is no URL. The caller checks the scheme.
    pub fn join(&self, target: &str) -> Option<Url> {
        let mut url = self.url.join(target).ok()?;
        url.set_fragment(None);
        Some(url)
    }

    /// `None` unless it is http or https with a host.
    pub fn from_url(url: Url) -> Option<Location> {
        (matches!(url.scheme(), "http" | "https") && url.has_host()).then(|| Location::new(url))
    }

    /// The URL of the manifest: `.sapwood` added to the path, before the query.
    #[must_use]
    pub fn of_manifest(&self) -> Location {
        self.with_suffix(".sapwood")
    }

    /// A file beside this one: something added to the path, before the query.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> Location {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{suffix}", self.url.path()));
        Location::new(url)
    }

    /// A file of this name in the same folder. The query stays.
    #[must_use]
    pub fn beside(&self, name: &str) -> Location {
        let mut url = self.url.clone();
        let path = url.path();
        let end = path.rfind('/').map_or(0, |slash| slash + 1);
        let path = format!("{}{name}", &path[..end]);
        url.set_path(&path);
        Location::new(url)
    }

    /// The folder of a library, from the URL of the folder or of its index. Its path ends with a slash; the query stays.
    #[must_use]
    pub fn of_library(&self) -> Location {
        let mut url = self.url.clone();
        let is_index = self.last_segment().as_deref() == Some(library::NAME);
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
            if is_index {
                segments.pop();
            }
            segments.push("");
        }
        Location::new(url)
    }

    /// A file below this folder, by its path, which is encoded. The query stays.
    #[must_use]
    pub fn below(&self, path: &str) -> Location {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path.split('/'));
        }
        Location::new(url)
    }

    /// Another place at the same origin. `query`: a name and its value, which is encoded.
    #[must_use]
    pub fn at_origin(&self, path: &str, query: Option<(&str, &str)>) -> Location {
        let mut url = self.url.clone();
        url.set_path(path);
        url.set_fragment(None);
        let query = query.map(|(name, value)| {
            let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
            format!("{name}={value}")
        });
        url.set_query(query.as_deref());
        Location::new(url)
    }

    /// The same with this query, whose names and values are encoded. Of an object or a bucket in S3 it is a view: its parts, its uploads.
    #[must_use]
    pub fn with_query(&self, members: &[(&str, &str)]) -> Location {
        let encoded = |text: &str| utf8_percent_encode(text, name::ENCODED).to_string();
        let member = |(name, value): &(&str, &str)| match value.is_empty() {
            true => encoded(name),
            false => format!("{}={}", encoded(name), encoded(value)),
        };
        let members: Vec<String> = members.iter().map(member).collect();
        let mut url = self.url.clone();
        url.set_query(Some(&members.join("&")));
        Location::new(url)
    }

    /// What a request to copy this object of S3 names.
    pub fn s3_source(&self) -> Option<String> {
        let (bucket, key) = self.bucket_and_key()?;
        Some(format!("{bucket}/{}", name::encoded(&key)))
    }

    /// The query of an object or a bucket in S3.
    pub(super) fn s3_query(&self) -> Option<&str> {
        self.shown().query()
    }

    /// The path without its first slash, each segment decoded once. `None`: it is not UTF-8, or has an encoded slash.
    pub fn decoded_path(&self) -> Option<String> {
        let decode = |segment: &str| {
            let segment = percent_decode_str(segment).decode_utf8().ok()?;
            (!segment.contains('/')).then(|| segment.into_owned())
        };
        let segments: Option<Vec<String>> = self.url.path_segments()?.map(decode).collect();
        Some(segments?.join("/"))
    }

    /// Whether there is a query or a fragment.
    pub fn has_query(&self) -> bool {
        self.url.query().is_some() || self.url.fragment().is_some()
    }

    /// The name of a folder: the last segment of its path that is not empty, decoded once.
    pub fn folder_name(&self) -> Option<String> {
        let mut url = self.url.clone();
        url.path_segments_mut().ok()?.pop_if_empty();
        Location::new(url).last_segment()
    }

    /// Whether its scheme is https.
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Whether its host is this machine, by its address or as `localhost` (RFC 6761, 6.3).
    pub fn is_loopback(&self) -> bool {
        match self.url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        }
    }

    /// Whether scheme, host and port are the same (RFC 9110, 4.3.1); in S3 the bucket, whatever its address.
    pub fn same_origin(&self, other: &Location) -> bool {
        match self.is_in_s3() || other.is_in_s3() {
            true => self.origin() == other.origin(),
            false => {
                let (own, other) = (&self.url, &other.url);
                own.scheme() == other.scheme()
                    && own[Position::BeforeHost..Position::AfterPort]
                        == other[Position::BeforeHost..Position::AfterPort]
            }
        }
    }

    /// Scheme, host and port as a text; in S3 the scheme and the bucket.
    pub fn origin(&self) -> String {
        let url = self.shown();
        let host = &url[Position::BeforeHost..Position::AfterPort];
        [url.scheme(), "://", host].concat()
    }

    /// Host and port, for messages and per-host state; the bucket of an `s3://` URL.
    pub fn host(&self) -> String {
        self.url[Position::BeforeHost..Position::AfterPort].to_owned()
    }

    /// The URL up to the last slash of its path.
    pub fn folder(&self) -> String {
        let path = self.shown().path();
        let end = path.rfind('/').map_or(0, |slash| slash + 1);
        format!("{}{}", self.origin(), &path[..end])
    }

    /// The last segment of the path, decoded once.
    pub fn last_segment(&self) -> Option<String> {
        let segment = self.url.path_segments()?.next_back()?;
        percent_decode_str(segment)
            .decode_utf8()
            .ok()
            .map(String::from)
    }

    /// The last segment, if a file may safely have that name.
    pub fn safe_name(&self) -> Option<String> {
        self.last_segment()
            .filter(|name| unsafe_name(name).is_none())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((bucket, key)) = self.bucket_and_key() {
            return write!(f, "{}://{bucket}/{key}", name::SCHEME);
        }
        f.write_str(self.url.scheme())?;
        f.write_str("://")?;
        f.write_str(&self.url[Position::BeforeHost..Position::AfterPath])
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Cuts a text that is no URL where secrets could begin, and removes what is before an `@`.
fn without_secrets(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => {
            format!("{}://{}", &text[..scheme], &text[at + 1..])
        }
        (None, Some(at)) => text[at + 1..].to_owned(),
        _ => text.to_owned(),
    }
}

/// The longest name that still leaves room for `.part.journal` on file systems with names of 255 bytes.
const NAME_BYTES_MAX: usize = 255 - ".part.journal".len();

/// Why a name from a URL or a list may not name a local file; `None`: it may. A safe name is one segment, nothing with a meaning to a
/// shell, a terminal or another system, and none of our own names.
pub fn unsafe_name(name: &str) -> Option<&'static str> {
    let own = [".part", ".journal", ".quarantined"]
        .iter()
        .any(|suffix| name.ends_with(suffix));
    let hidden = |c: char| characters::turns_text(c) || characters::is_invisible(c);
    let stem = name
        .split('.')
        .next()
        .unwrap_or_default()
        .trim_end()
        .to_ascii_uppercase();
    let port = |prefix: &str| {
        stem.strip_prefix(prefix)
            .is_some_and(|rest| rest.len() == 1 && rest.chars().all(|c| c.is_ascii_digit()))
    };
    let device =
        matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL") || port("COM") || port("LPT");
    let reasons = [
        (name.is_empty(), "it is empty"),
        (name.len() > NAME_BYTES_MAX, "it is longer than 242 bytes"),
        (name == "." || name == "..", "it stands for a folder"),
        (name.starts_with('.'), "it begins with a dot"),
        (
            name.starts_with([' ', '~', '-']),
            "it begins with a blank, ~ or -",
        ),
        (name.ends_with([' ', '.']), "it ends with a blank or a dot"),
        (own, "it ends like the files of an unfinished download"),
        (device, "some systems have a device of this name"),
        (name.contains('/'), "it has a slash"),
        (name.contains('\\'), "it has a backslash"),
        (name.contains(':'), "it has a colon"),
        (
            name.contains(hidden),
            "it has a control character, an invisible one, or one that turns the text around it",
        ),
    ];
    let found = reasons.into_iter().find(|(is_so, _)| *is_so);
    found.map(|(_, why)| why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_shown() {
        let location =
            Location::parse("https://user:pw@h.example:8443/a/b.mp4?sig=SECRET#SECRET").unwrap();
        assert_eq!(location.to_string(), "https://h.example:8443/a/b.mp4");
        assert_eq!(format!("{location:?}"), "https://h.example:8443/a/b.mp4");
        for bad in [
            "SECRET@nowhere",
            "ftp://u:SECRET@h/x?SECRET",
            "http://?SECRET",
            "http://u:SECRET@:99999/",
            "x?SECRET",
        ] {
            let message = Location::parse(bad).unwrap_err().to_string();
            assert!(!message.contains("SECRET"), "{message}");
        }
    }

    #[test]
    fn keys_are_what_stands_there() {
        let place = |text: &str| Location::parse(text).unwrap();
        for (typed, path, name) in [
            ("s3://media/a/talk.mp4", "/a/talk.mp4", "talk.mp4"),
            ("S3://Media_1/a b+c", "/a%20b%2Bc", "a b+c"),
            (
                "s3://media/what?#1 é%20",
                "/what%3F%231%20%C3%A9%2520",
                "what?#1 é%20",
            ),
            ("s3://media//x~y", "//x~y", "x~y"),
        ] {
            let location = place(typed);
            assert_eq!(location.url().path(), path);
            assert_eq!(location.safe_name().as_deref(), Some(name), "{typed}");
            let shown = location.to_string();
            assert_eq!(shown, typed.replacen("S3", "s3", 1));
            assert_eq!(place(&shown), location, "{typed}");
            let manifest = location.of_manifest().to_string();
            assert_eq!(manifest, format!("{shown}.sapwood"));
        }
        let folder = place("s3://media/shows");
        assert_eq!(folder.origin(), "s3://media");
        assert!(folder.same_origin(&place("s3://media/other")));
        assert!(!folder.same_origin(&place("s3://other/shows")));
        assert!(!folder.same_origin(&place("http://media/shows")));
        let below = folder.of_library().below("a b/50%?#é");
        assert_eq!(below.to_string(), "s3://media/shows/a b/50%?#é");
        let (address, object) = (place("https://h:1/media/shows?x"), "s3://media/shows");
        let address = folder.at(address.url().clone(), "r");
        assert_eq!(
            (address.to_string().as_str(), address.host()),
            (object, "h:1".into())
        );
        assert!(address.same_origin(&folder) && address.is_https());
    }

    #[test]
    fn nothing_else_is_a_bucket_or_a_key() {
        let long = format!("s3://media/{}", "k".repeat(1025));
        for bad in [
            "s3://",
            "s3:///key",
            "s3://ab/key",
            "s3://-media/key",
            "s3://a..b/key",
            "s3://../key",
            "s3://media:80/key",
            "s3://arn:aws:s3:eu-1:1:accesspoint/x/key",
            "s3://me:SECRET@media/key",
            "s3://media/a/../b",
            "s3://media/.",
            "s3://media/a\nb",
            &long,
        ] {
            let error = Location::parse(bad).unwrap_err();
            assert!(matches!(error, BadUrl::NotInS3 { .. }), "{error}");
            assert!(!error.to_string().contains("SECRET"), "{error}");
        }
    }

    #[test]
    fn manifests_lie_beside_their_objects() {
        let of = |url: &str| {
            Location::parse(url)
                .unwrap()
                .of_manifest()
                .url()
                .to_string()
        };
        assert_eq!(of("http://h/a.mp4"), "http://h/a.mp4.sapwood");
        assert_eq!(of("http://h/a%20b?x=1"), "http://h/a%20b.sapwood?x=1");
    }

    #[test]
    fn libraries_are_named_by_their_folder_or_their_index() {
        for (typed, folder, name) in [
            ("http://h/a/media", "http://h/a/media/", "media"),
            ("http://h/a/media/", "http://h/a/media/", "media"),
            (
                "http://h/a/media/library.sapwood",
                "http://h/a/media/",
                "media",
            ),
            ("http://h/a%20b?t=1", "http://h/a%20b/?t=1", "a b"),
            (
                "http://h/x/%C3%A9%2520/",
                "http://h/x/%C3%A9%2520/",
                "\u{e9}%20",
            ),
            ("http://h/library.sapwood", "http://h/", ""),
            ("http://h", "http://h/", ""),
        ] {
            let location = Location::parse(typed).unwrap().of_library();
            assert_eq!(location.url().as_str(), folder);
            assert_eq!(location.folder_name().as_deref(), Some(name));
        }
        let folder = Location::parse("http://h/m?t=1").unwrap().of_library();
        let below = folder.below("a b/50%?#é");
        let expected = "http://h/m/a%20b/50%25%3F%23%C3%A9?t=1";
        assert_eq!(below.url().as_str(), expected);
    }

    #[test]
    fn other_places_of_an_origin() {
        let typed = Location::parse("http://u:p@h:7/a/?t=1#x").unwrap();
        let place = typed.at_origin("/b", None);
        assert_eq!(place.url().as_str(), "http://u:p@h:7/b");
        let place = typed.at_origin("/b", Some(("name", "a b/+&é")));
        let expected = "http://u:p@h:7/b?name=a%20b%2F%2B%26%C3%A9";
        assert_eq!(place.url().as_str(), expected);
        let path = |url: &str| Location::parse(url).unwrap().decoded_path();
        assert_eq!(path("http://h/a%20b/c/").as_deref(), Some("a b/c/"));
        assert_eq!(path("http://h").as_deref(), Some(""));
        assert_eq!(path("http://h/a%2Fb"), None);
        assert_eq!(path("http://h/%FF"), None);
        assert!(typed.has_query());
    }

    #[test]
    fn names_from_urls() {
        let name = |path: &str| {
            Location::parse(&format!("http://h/{path}"))
                .unwrap()
                .safe_name()
        };
        assert_eq!(name("a/b%20c.mp4?x=/y"), Some("b c.mp4".into()));
        assert_eq!(name("%252e%252e%252f"), Some("%2e%2e%2f".into()));
        assert_eq!(NAME_BYTES_MAX, 242, "as the reason says");
        let long = "n".repeat(5000);
        for bad in [
            "",
            "a/",
            "..",
            "%2e%2e",
            "x/%2e%2e%2f",
            "%00",
            "a%0Ab",
            ".hidden",
            "C%3Ax",
            "C:x",
            "a%5Cb",
            "nul",
            "com1.txt",
            "a%E2%80%AEgpj.exe",
            "a%E2%80%8B.mp4",
            "x.part",
            "x.part.journal",
            "a.",
            "a%20",
            "~x",
            "-rf",
            "%E2%80%AEgpj.exe",
            "%FF",
            &long,
        ] {
            assert_eq!(name(bad), None, "{bad}");
        }
        for (name, why) in [
            ("..", "it stands for a folder"),
            (".x", "it begins with a dot"),
            ("a/b", "it has a slash"),
            ("a\\b", "it has a backslash"),
            ("a:b", "it has a colon"),
        ] {
            assert_eq!(unsafe_name(name), Some(why), "{name}");
        }
    }
}
