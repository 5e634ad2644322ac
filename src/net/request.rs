//! One request: method, target, range, version and body.

use std::{fmt, io, sync::Arc};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::format::{geometry::ByteRange, validators::Validators};

use super::{auth::Token, location::Location, validators};

/// What the request does with its target. All but POST are idempotent (RFC 9110, 9.2.2), and what this program sends by POST is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Transfers a representation, or ranges of it.
    Get,
    /// The same without the representation.
    Head,
    /// Replaces the state of the target by the content of the request.
    Put,
    /// Lets the target process the content of the request.
    Post,
    /// Removes the target.
    Delete,
}

impl Method {
    /// As a request has it.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        }
    }

    /// Whether it changes nothing at the server.
    pub fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Head)
    }
}

/// Content that is too large for memory. It is read when it is sent.
pub trait Content: Send + Sync {
    /// In bytes.
    fn length(&self) -> u64;
    /// All of it, from the start. An error, or another length than the declared one, breaks the request.
    fn chunks(&self) -> Chunks;
    /// Called when so many more bytes were handed to the connection.
    fn sent(&self, bytes: u64);
}

/// Content as it is read.
pub type Chunks = BoxStream<'static, io::Result<Bytes>>;

/// The content of the request.
///
/// INVARIANT: it can be produced again, so that a request whose response was lost can be repeated.
#[derive(Clone)]
pub enum Body {
    /// No content.
    Empty,
    /// Content in memory.
    Bytes {
        /// All of it.
        bytes: Bytes,
        /// Its media type.
        media_type: &'static str,
    },
    /// Content that is read piece by piece.
    Content(Arc<dyn Content>),
}

impl Body {
    /// A document in JSON.
    pub fn json(text: String) -> Body {
        Body::Bytes {
            bytes: text.into(),
            media_type: "application/json",
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Empty => f.write_str("Empty"),
            Body::Bytes { bytes, .. } => write!(f, "Bytes({})", bytes.len()),
            Body::Content(content) => write!(f, "Content({})", content.length()),
        }
    }
}

/// Fields that a server requires on a request that it described: a signature may include them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequiredFields(Vec<(HeaderName, HeaderValue)>);

impl RequiredFields {
    /// `None`: one of them is no field, or not one that a server may choose. Those that route, frame or authorize a request are ours.
    pub fn parse<'f>(
        fields: impl IntoIterator<Item = (&'f String, &'f String)>,
    ) -> Option<RequiredFields> {
        let field = |(name, value): (&String, &String)| {
            let name = HeaderName::try_from(name).ok()?;
            let is_allowed =
                name.as_str().starts_with("x-") || CONTENT_FIELDS.contains(&name.as_str());
            let mut value = HeaderValue::try_from(value).ok()?;
            value.set_sensitive(true);
            is_allowed.then_some((name, value))
        };
        let fields: Option<Vec<_>> = fields.into_iter().map(field).collect();
        fields.map(RequiredFields)
    }
}

impl FromIterator<(&'static str, String)> for RequiredFields {
    /// Our own fields for a service of a vendor. A value that no field can have is left out.
    fn from_iter<I: IntoIterator<Item = (&'static str, String)>>(fields: I) -> RequiredFields {
        let field = |(name, value): (&'static str, String)| {
            let value = HeaderValue::try_from(value).ok()?;
            Some((HeaderName::from_static(name), value))
        };
        RequiredFields(fields.into_iter().filter_map(field).collect())
    }
}

/// Fields that describe content, besides those of a vendor (`x-`).
const CONTENT_FIELDS: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-md5",
    "content-type",
    "if-none-match",
    "repr-digest",
];

/// The field with the object that an S3 service copies.
const COPY_SOURCE: &str = "x-amz-copy-source";

/// A request, before redirects are followed and fields for single origins are added.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// See [`Method`].
    pub method: Method,
    /// The URL as the user typed it, one made from it, or one that a server named: see `named_by`.
    pub target: &'a Location,
    /// The URL, as the user typed it, whose server named the target. Like a redirect, the target may then not be everywhere, and only
    /// the typed origin gets credentials.
    pub named_by: Option<&'a Location>,
    /// `None`: the whole representation.
    pub range: Option<ByteRange>,
    /// More ranges, for [`super::client::Client::send_multi_range`].
    pub more: &'a [ByteRange],
    /// The wanted version; another one is an error, if the server declares it.
    pub version: Option<&'a Validators>,
    /// Whether the server is asked to compare the version; the response is compared with it anyway.
    pub conditional: bool,
    /// The length that the representation must have; another one in a 416 means that it was replaced. `None`: any, or not known.
    pub length: Option<u64>,
    /// See [`Refusals`].
    pub refusals: Refusals,
    /// For the typed origin only.
    pub token: Option<&'a Token>,
    /// See [`RequiredFields`].
    pub required: Option<&'a RequiredFields>,
    /// See [`Body`].
    pub body: Body,
}

/// What a 429 or 503 is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusals {
    /// The host limits requests.
    #[default]
    OfTheHost,
    /// The target is made on demand, as a manifest may be: a 503 with `Retry-After` means that it is not ready.
    NotReady,
    /// The target, which can be done without: the host is requested for other things at once.
    OfTheTarget,
}

impl<'a> Request<'a> {
    /// A request without conditions.
    pub fn new(method: Method, target: &'a Location, body: Body) -> Request<'a> {
        Request {
            method,
            target,
            named_by: None,
            range: None,
            more: &[],
            version: None,
            conditional: true,
            length: None,
            refusals: Refusals::OfTheHost,
            token: None,
            required: None,
            body,
        }
    }

    /// A GET of the whole representation, whatever its version.
    pub fn whole(target: &'a Location) -> Request<'a> {
        Request::new(Method::Get, target, Body::Empty)
    }

    /// The URL that the user typed, or one made from it.
    pub fn typed(&self) -> &'a Location {
        self.named_by.unwrap_or(self.target)
    }

    /// A GET of a range, whatever the version.
    pub fn range(target: &'a Location, range: ByteRange) -> Request<'a> {
        Request {
            range: Some(range),
            ..Request::whole(target)
        }
    }

    /// The fields of the request. They are the same for every origin.
    pub(super) fn fields(&self) -> HeaderMap {
        let mut fields = HeaderMap::new();
        // An encoding would change the bytes that ranges and digests count.
        let identity = HeaderValue::from_static("identity");
        fields.insert(header::ACCEPT_ENCODING, identity);
        if let Some(range) = self.range {
            let mut value = format!("bytes={range}");
            for more in self.more {
                value.push_str(&format!(",{more}"));
            }
            let value = HeaderValue::try_from(value).expect("digits are a field value");
            fields.insert(header::RANGE, value);
        }
        fields.extend(self.condition());
        match &self.body {
            Body::Empty => (),
            Body::Bytes { media_type, .. } => {
                fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
            }
            // The HTTP library does not know it.
            Body::Content(content) => {
                fields.insert(header::CONTENT_LENGTH, content.length().into());
            }
        }
        fields.extend(self.required_fields());
        fields
    }

    /// The ranges, for a line of the log; empty without them.
    pub(super) fn logged_range(&self) -> String {
        let range = |range: ByteRange| format!(" bytes {range}");
        let more = match self.more.len() {
            0 => String::new(),
            count => format!(" and {count} more ranges"),
        };
        self.range.map_or_else(String::new, range) + &more
    }

    /// See [`RequiredFields`].
    pub(super) fn required_fields(&self) -> HeaderMap {
        let required = self.required.map(|required| required.0.iter().cloned());
        required.into_iter().flatten().collect()
    }

    /// Whether an S3 service at this address does work on what it has before it responds.
    pub(super) fn is_work_for(&self, location: &Location) -> bool {
        let copies = || {
            let required = self.required.into_iter().flat_map(|required| &required.0);
            required.into_iter().any(|(name, _)| name == COPY_SOURCE)
        };
        let is_in_s3 = location.s3_region().is_some();
        is_in_s3 && (self.method == Method::Post || self.method == Method::Put && copies())
    }

    /// The field that makes it conditional, if there is one. A whole representation shows its version, and needs none.
    pub(super) fn condition(&self) -> Option<(HeaderName, HeaderValue)> {
        let is_conditional = self.conditional && self.range.is_some();
        let version = self.version.filter(|_| is_conditional);
        version.and_then(validators::condition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_say_what_is_asked_for() {
        let target = Location::parse("http://h/a").unwrap();
        let fields = |request: &Request| {
            let fields = request.fields();
            let field = |name| Some(fields.get(name)?.to_str().unwrap().to_owned());
            assert_eq!(field(header::ACCEPT_ENCODING).as_deref(), Some("identity"));
            [header::RANGE, header::IF_MATCH, header::IF_RANGE].map(field)
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(fields(&Request::whole(&target)), [None, None, None]);
        let mut request = Request::range(&target, ByteRange::new(3, 7));
        assert_eq!(fields(&request), [some("bytes=3-6"), None, None]);
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let dated = Validators {
            etag: None,
            last_modified: some(date),
        };
        let tagged = Validators {
            etag: some("\"t\""),
            ..dated.clone()
        };
        let more = [ByteRange::new(9, 10), ByteRange::new(20, 30)];
        (request.more, request.version) = (&more, Some(&tagged));
        let ranges = some("bytes=3-6,9-9,20-29");
        assert_eq!(fields(&request), [ranges, some("\"t\""), None]);
        (request.more, request.version) = (&[], Some(&dated));
        assert_eq!(fields(&request), [some("bytes=3-6"), None, some(date)]);
        request.conditional = false;
        assert_eq!(fields(&request), [some("bytes=3-6"), None, None]);
        // A plain GET, as every client sends it.
        (request.conditional, request.range) = (true, None);
        for version in [&dated, &tagged] {
            request.version = Some(version);
            assert_eq!(fields(&request), [None, None, None]);
        }
    }

    /// A server could have had a request routed elsewhere, or its body framed anew.
    #[test]
    fn a_server_chooses_only_fields_that_describe_content() {
        let parse = |name: &str| {
            let (name, value) = (name.to_owned(), "v".to_owned());
            RequiredFields::parse([(&name, &value)])
        };
        for good in ["X-Amz-Checksum-Sha256", "content-type", "Content-MD5"] {
            assert!(parse(good).is_some(), "{good}");
        }
        for bad in [
            "host",
            "Authorization",
            "Cookie",
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "Proxy-Authorization",
            "Expect",
            "a b",
            "",
        ] {
            assert!(parse(bad).is_none(), "{bad}");
        }
        let required = parse("x-a").unwrap();
        let target = Location::parse("http://h/a").unwrap();
        let body = Body::json("{}".to_owned());
        let request = Request {
            required: Some(&required),
            ..Request::new(Method::Put, &target, body)
        };
        let fields = request.fields();
        assert_eq!(fields["x-a"], "v");
        assert_eq!(fields[header::CONTENT_TYPE], "application/json");
    }
}
