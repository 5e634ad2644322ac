//! Proxies, as the environment names them: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`.
//!
//! The HTTP client reads them by itself. What must be known here is whether one stands between us and a server: then the
//! address that we are connected to is the proxy's, and says nothing about where the answer comes from.

use hyper_util::client::proxy::matcher::Matcher;

use super::location::Location;

/// The proxies of this process, by the rules that the HTTP client goes by.
#[derive(Debug)]
pub struct Proxies(Matcher);

impl Default for Proxies {
    fn default() -> Proxies {
        Proxies(Matcher::from_system())
    }
}

impl Proxies {
    /// Whether requests for this place go through a proxy.
    pub fn carry(&self, location: &Location) -> bool {
        location
            .url()
            .as_str()
            .parse()
            .is_ok_and(|uri| self.0.intercept(&uri).is_some())
    }
}
