//! Proxies, as the environment names them: `http_proxy`, `https_proxy`, `all_proxy` and `no_proxy`.
//!
//! The HTTP library reads them by itself. We must know whether a proxy is between us and a host: then the address that we
//! connect to is the proxy's, and does not show which host responds.

use hyper_util::client::proxy::matcher::Matcher;

use super::location::Location;

/// The proxies of this process, by the rules of the HTTP library.
#[derive(Debug)]
pub struct Proxies(Option<Matcher>);

impl Default for Proxies {
    fn default() -> Proxies {
        Proxies((!are_off()).then(Matcher::from_system))
    }
}

impl Proxies {
    /// Whether requests for this place go through a proxy.
    pub fn carry(&self, location: &Location) -> bool {
        let Some(matcher) = &self.0 else { return false };
        let uri = location.url().as_str().parse();
        uri.is_ok_and(|uri| matcher.intercept(&uri).is_some())
    }
}

/// `no_proxy=*` means every host, as for curl. The HTTP library takes it for every name, but for no address.
pub fn are_off() -> bool {
    let all = |name| std::env::var(name).is_ok_and(|value| value.trim() == "*");
    all("no_proxy") || all("NO_PROXY")
}
