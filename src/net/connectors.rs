//! The clients of the HTTP library: how connections are made.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use reqwest::redirect;

use super::{CONNECT_MS, address::PublicResolver, client::ClientOptions};

/// The clients of the HTTP library, one for each way to connect.
#[derive(Default)]
pub struct Connectors([OnceLock<reqwest::Client>; 8]);

impl Connectors {
    /// `guarded`: it does not connect to private addresses.
    pub fn get(
        &self,
        options: &ClientOptions,
        guarded: bool,
        two: bool,
        https: bool,
    ) -> Result<&reqwest::Client, reqwest::Error> {
        // HTTP/2 in the clear has no way to ask for it: it must be known. Over TLS it is agreed on.
        let in_the_clear = two && !https;
        let slot =
            &self.0[usize::from(guarded) | usize::from(two) << 1 | usize::from(in_the_clear) << 2];
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("sapwood/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_millis(CONNECT_MS))
            .redirect(redirect::Policy::none())
            .referer(false)
            .tcp_nodelay(true);
        builder = match (two, in_the_clear) {
            (false, _) => builder.http1_only(),
            (true, true) => builder.http2_prior_knowledge(),
            // Without a window of their own size, streams that share a connection would be slow.
            (true, false) => builder.http2_adaptive_window(true),
        };
        if guarded {
            builder = builder.dns_resolver(Arc::new(PublicResolver));
        }
        if !options.authorities.is_empty() {
            builder = builder
                .tls_certs_merge(reqwest::Certificate::from_pem_bundle(&options.authorities)?);
        }
        let client = builder.build()?;
        Ok(slot.get_or_init(|| client))
    }
}
