//! What browsers upload with: a module for any page, and a page of our own (src/docs/browser.md).

use std::{io, sync::LazyLock};

use axum::{
    body::Bytes,
    http::{HeaderName, HeaderValue, header, request::Parts},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use sha2::{Digest as _, Sha256};

use crate::{
    format::geometry::ByteRange,
    serve::representation::{self, Metadata, Representation},
};

use super::Uploads;

/// The path of the page.
pub const PAGE: &str = "/.sapwood/upload";

const CLIENT: &str = include_str!("web/client.js");
const TYPES: &str = include_str!("web/client.d.ts");
const STYLE: &str = include_str!("web/upload.css");
const SCRIPT: &str = include_str!("web/upload.js");
/// Without its style and script.
const FRAME: &str = include_str!("web/upload.html");

/// The page: one file, so that it is of one version.
static WHOLE_PAGE: LazyLock<String> = LazyLock::new(|| {
    let styled = FRAME.replace("<style></style>", &format!("<style>{STYLE}</style>"));
    let script = format!("<script type=module>{SCRIPT}</script>");
    styled.replace("<script type=module></script>", &script)
});

/// A text of this program.
struct Text {
    metadata: Metadata,
    text: &'static str,
}

impl Text {
    fn new(text: &'static str, media_type: &'static str) -> Text {
        let metadata = Metadata {
            length: text.len() as u64,
            etag: format!("\"{}\"", digest(text)),
            last_modified: None,
            media_type: HeaderValue::from_static(media_type),
        };
        Text { metadata, text }
    }
}

impl Representation for Text {
    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn body(&self, bytes: ByteRange) -> BoxStream<'static, io::Result<Bytes>> {
        let text = self.text.as_bytes();
        let bytes = &text[bytes.start as usize..bytes.end as usize];
        stream::iter([Ok(Bytes::from_static(bytes))]).boxed()
    }
}

/// The SHA-256 of a text, as a policy writes it (CSP, level 3).
fn digest(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text))
}

impl Uploads {
    /// The response to a GET or HEAD of the page, or of what pages of others use.
    pub fn web(&self, request: &Parts) -> Option<Response> {
        let text = match request.uri.path() {
            PAGE => Text::new(&WHOLE_PAGE, "text/html; charset=utf-8"),
            "/.sapwood/client.js" => Text::new(CLIENT, "text/javascript; charset=utf-8"),
            "/.sapwood/client.d.ts" => Text::new(TYPES, "text/plain; charset=utf-8"),
            _ => return None,
        };
        let mut response = representation::respond(request, text);
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: &'static str| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        set(header::CACHE_CONTROL, "no-cache");
        set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        if request.uri.path() == PAGE {
            set(header::REFERRER_POLICY, "no-referrer");
            if let Ok(policy) = HeaderValue::try_from(self.policy()) {
                headers.insert(header::CONTENT_SECURITY_POLICY, policy);
            }
        } else {
            // They are public. What a page may do with them is decided at each request of the API.
            set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
            let name = HeaderName::from_static("cross-origin-resource-policy");
            set(name, "cross-origin");
        }
        Some(response)
    }

    /// Our own script and style, requests to this server and to its storage, and nothing else.
    fn policy(&self) -> String {
        let storage = self.stored.origin().unwrap_or_default();
        let (style, script) = (digest(STYLE), digest(SCRIPT));
        format!(
            "default-src 'none'; script-src 'self' 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self' {storage}; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
        )
    }
}
