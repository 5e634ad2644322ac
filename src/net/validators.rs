//! Validators: they identify the version of an object that a response is from, and make a request conditional on it.

use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};

/// A `Last-Modified` that is at least this much older than the response counts as strong (RFC 9110, 8.8.2.2).
const STRONG_DATE_AGE: Duration = Duration::from_secs(60);

/// The validators of a response, which identify the version of the object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    /// Only if it is strong.
    pub etag: Option<String>,
    /// Only if it is strong: at least a minute older than the response (RFC 9110, 8.8.2.2).
    pub last_modified: Option<String>,
}

impl Validators {
    /// Those of a response.
    pub fn of(headers: &HeaderMap) -> Validators {
        let text = |name| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let strong =
            |etag: &String| etag.len() >= 2 && etag.starts_with('"') && etag.ends_with('"');
        let date = |text: &Option<String>| httpdate::parse_http_date(text.as_deref()?).ok();
        let (last_modified, now) = (text(header::LAST_MODIFIED), text(header::DATE));
        let age = date(&now)
            .zip(date(&last_modified))
            .and_then(|(now, modified)| now.duration_since(modified).ok());
        let last_modified = last_modified.filter(|_| age.is_some_and(|age| age >= STRONG_DATE_AGE));
        Validators {
            etag: text(header::ETAG).filter(strong),
            last_modified,
        }
    }

    /// Whether two parts with these validators are certainly of one version.
    pub fn are_strong(&self) -> bool {
        self.etag.is_some() || self.last_modified.is_some()
    }

    /// Whether a response with these validators is of another version.
    pub fn differ(&self, response: &Validators) -> bool {
        match &self.etag {
            Some(etag) => response.etag.as_ref() != Some(etag),
            None => self.last_modified.is_some() && self.last_modified != response.last_modified,
        }
    }

    /// The field that makes a request conditional on this version. A date alone is a condition for ranges only (`If-Range`): the
    /// server then sends another version whole, with status 200.
    pub fn condition(&self, ranged: bool) -> Option<(HeaderName, HeaderValue)> {
        let value = |text: &String| HeaderValue::try_from(text).ok();
        match (&self.etag, &self.last_modified) {
            (Some(etag), _) => Some((header::IF_MATCH, value(etag)?)),
            (None, Some(date)) if ranged => Some((header::IF_RANGE, value(date)?)),
            _ => None,
        }
    }
}
