//! A line of the log for each request, with what came of it.

use std::time::Duration;

use reqwest::Response;

use super::{error::NetError, location::Location, request::Request};

/// Logs a request and what came of it, without secrets.
pub fn log(
    request: &Request<'_>,
    location: &Location,
    response: &Result<Response, NetError>,
    time: Duration,
) {
    let method = request.method.name();
    let range = request.logged_range();
    let ms = time.as_millis();
    match response {
        Ok(response) => {
            let (status, version) = (response.status().as_u16(), response.version());
            tracing::info!("{method} {location}{range}: status {status} in {ms} ms");
            let address = response.remote_addr();
            let from = address.map_or_else(String::new, |address| format!(" from {address}"));
            let length = response.content_length();
            let length = length.map_or_else(String::new, |length| format!(", {length} bytes"));
            tracing::debug!("{location}: {version:?}{from}{length}");
        }
        Err(error) => tracing::info!("{method} {location}{range}: {} in {ms} ms", error.detail()),
    }
}
