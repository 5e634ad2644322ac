//! Validators as fields: those of a response, and that which makes a request conditional.

use std::time::{Duration, SystemTime};

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::format::validators::Validators;

/// A `Last-Modified` that is at least this much older than the response counts as strong (RFC 9110, 8.8.2.2).
const STRONG_DATE_AGE: Duration = Duration::from_secs(60);

/// The validators of a response.
pub fn of_response(headers: &HeaderMap) -> Validators {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let date = |text: &Option<String>| httpdate::parse_http_date(text.as_deref()?).ok();
    let (last_modified, sent) = (text(header::LAST_MODIFIED), text(header::DATE));
    // A response without a date was sent when it came (RFC 9110, 6.6.1).
    let now = match sent {
        Some(_) => date(&sent),
        None => Some(SystemTime::now()),
    };
    let age = now
        .zip(date(&last_modified))
        .and_then(|(now, modified)| now.duration_since(modified).ok());
    let date_is_strong = age.is_some_and(|age| age >= STRONG_DATE_AGE);
    Validators::new(text(header::ETAG), last_modified, date_is_strong)
}

/// The field that makes a request for a range conditional on a version. With a date alone the server sends another version whole,
/// with status 200.
pub fn condition(version: &Validators) -> Option<(HeaderName, HeaderValue)> {
    let value = |text: &str| HeaderValue::try_from(text).ok();
    match (version.strong_etag(), &version.last_modified) {
        (Some(etag), _) => Some((header::IF_MATCH, value(etag)?)),
        (None, Some(date)) => Some((header::IF_RANGE, value(date)?)),
        _ => None,
    }
}
