//! One request: method, target, range, version and body.

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::format::{geometry::ByteRange, validators::Validators};

use super::{location::Location, validators};

/// What the request does with its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Transfers a representation, or ranges of it.
    Get,
}

/// The content of the request.
///
/// INVARIANT: it can be produced again, so that a request whose response was lost can be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// No content.
    Empty,
}

/// A request, before redirects are followed and fields for single origins are added.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// See [`Method`].
    pub method: Method,
    /// The URL as the user typed it, or one made from it. Its origin alone gets credentials.
    pub target: &'a Location,
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
    /// It is made on demand, as a manifest may be: a 503 with `Retry-After` means that it is not ready, and says nothing of the host.
    pub made_on_demand: bool,
    /// See [`Body`].
    pub body: Body,
}

impl<'a> Request<'a> {
    /// A GET of the whole representation, whatever its version.
    pub fn whole(target: &'a Location) -> Request<'a> {
        Request {
            method: Method::Get,
            target,
            range: None,
            more: &[],
            version: None,
            conditional: true,
            length: None,
            made_on_demand: false,
            body: Body::Empty,
        }
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
        fields
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
}
