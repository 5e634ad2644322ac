//! Proxies: the one that the user chose, else those of the environment (`http_proxy`, `https_proxy`, `all_proxy`). `no_proxy` holds for
//! both.
//!
//! The HTTP library reads the environment by itself. We must know whether a proxy is between us and a host: then the address that we
//! connect to is the proxy's, and does not show which host responds.

use std::{fmt, str::FromStr};

use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use super::location::Location;

/// The proxies that can be chosen. `socks5h` resolves names at the proxy, `socks5` here.
const SCHEMES: [&str; 4] = ["http", "https", "socks5", "socks5h"];

/// Others that the environment may name.
const OLD_SCHEMES: [&str; 2] = ["socks4", "socks4a"];

/// A proxy that the user chose. Its text has no login.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy(Url);

/// Not a proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a proxy is http://HOST:PORT, https://HOST:PORT, socks5://HOST:PORT or socks5h://HOST:PORT"
)]
pub struct NotAProxy;

impl FromStr for Proxy {
    type Err = NotAProxy;

    /// Without a scheme it is http, as for curl.
    fn from_str(text: &str) -> Result<Proxy, NotAProxy> {
        let url = match text.contains("://") {
            true => Url::parse(text),
            false => Url::parse(&format!("http://{text}")),
        };
        let url = url.map_err(|_| NotAProxy)?;
        let is_known = SCHEMES.contains(&url.scheme());
        let is_bare = matches!(url.path(), "" | "/") && url.query().is_none();
        match is_known && is_bare && url.has_host() && url.fragment().is_none() {
            true => Ok(Proxy(url)),
            false => Err(NotAProxy),
        }
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}",
            self.0.scheme(),
            self.0.host_str().unwrap_or_default()
        )?;
        (self.0.port()).map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl Proxy {
    /// This proxy for all requests, but those that `no_proxy` excepts.
    pub(super) fn for_all(&self) -> reqwest::Result<reqwest::Proxy> {
        let proxy = reqwest::Proxy::all(self.0.clone())?;
        Ok(proxy.no_proxy(reqwest::NoProxy::from_env()))
    }
}

/// The proxies of a client, by the rules of the HTTP library.
#[derive(Debug)]
pub struct Proxies(Option<Matcher>);

impl Default for Proxies {
    fn default() -> Proxies {
        Proxies((!are_off()).then(Matcher::from_system))
    }
}

impl Proxies {
    /// The proxy that the user chose, else those of the environment.
    pub fn chosen(proxy: Option<&Proxy>) -> Proxies {
        let Some(proxy) = proxy.filter(|_| !are_off()) else {
            return Proxies::default();
        };
        let exceptions = std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy"));
        let matcher = Matcher::builder().all(proxy.0.to_string());
        Proxies(Some(matcher.no(exceptions.unwrap_or_default()).build()))
    }

    /// Host and port of the proxy that carries requests for this place; `None`: they go to the place itself.
    pub fn of(&self, location: &Location) -> Option<String> {
        let matcher = self.0.as_ref()?;
        let uri = location.url().as_str().parse().ok()?;
        let proxy = matcher.intercept(&uri)?;
        proxy
            .uri()
            .authority()
            .map(|authority| authority.to_string())
    }
}

/// The variables that name proxies. Of each pair the first that is set counts.
const VARIABLES: [[&str; 2]; 3] = [
    ["HTTP_PROXY", "http_proxy"],
    ["HTTPS_PROXY", "https_proxy"],
    ["ALL_PROXY", "all_proxy"],
];

/// Why a variable cannot be used. The value may have a password, and is not repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum BadProxy {
    #[error("{0} is no URL of a proxy")]
    Malformed(&'static str),
    #[error("{variable} names a proxy of the kind {scheme}, which is not supported")]
    Scheme {
        variable: &'static str,
        scheme: String,
    },
}

/// Checks what the environment names: the HTTP library ignores what it cannot use.
pub fn check() -> Result<(), BadProxy> {
    if are_off() {
        return Ok(());
    }
    let set = |[upper, lower]: [&'static str; 2]| {
        let value = |name| Some((name, std::env::var_os(name)?));
        value(upper).or_else(|| value(lower))
    };
    for (variable, value) in VARIABLES.into_iter().filter_map(set) {
        let value = value.to_str().ok_or(BadProxy::Malformed(variable))?;
        check_value(variable, value)?;
    }
    Ok(())
}

fn check_value(variable: &'static str, value: &str) -> Result<(), BadProxy> {
    if value.is_empty() {
        return Ok(());
    }
    let malformed = || BadProxy::Malformed(variable);
    let (scheme, rest) = value.split_once("://").unwrap_or(("http", value));
    let scheme = scheme.to_ascii_lowercase();
    let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if scheme.is_empty() || !scheme.chars().all(is_scheme) {
        return Err(malformed());
    }
    if !SCHEMES.contains(&scheme.as_str()) && !OLD_SCHEMES.contains(&scheme.as_str()) {
        return Err(BadProxy::Scheme { variable, scheme });
    }
    let url = Url::parse(&format!("http://{rest}")).map_err(|_| malformed())?;
    let is_taken = Matcher::builder().all(value.to_owned()).build();
    let any = "http://host.invalid".parse().map_err(|_| malformed())?;
    match url.has_host() && is_taken.intercept(&any).is_some() {
        true => Ok(()),
        false => Err(malformed()),
    }
}

/// `no_proxy=*` means every host, as for curl. The HTTP library takes it for every name, but for no address.
pub fn are_off() -> bool {
    let all = |name| std::env::var(name).is_ok_and(|value| value.trim() == "*");
    all("no_proxy") || all("NO_PROXY")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_variables_may_name() {
        for good in [
            "",
            "h:1",
            "http://h:1",
            "https://user:pass@h",
            "http://h:1/",
            "[::1]:3128",
            "socks5h://h:1",
            "socks4://h:1",
        ] {
            assert_eq!(check_value("all_proxy", good), Ok(()), "{good}");
        }
        for bad in [
            "bad proxy",
            "http://",
            "http://h:99999",
            "://h",
            "h:x",
            "http://h h:1",
        ] {
            let malformed = Err(BadProxy::Malformed("all_proxy"));
            assert_eq!(check_value("all_proxy", bad), malformed, "{bad}");
        }
        for other in ["ftp://h:1", "foo://h"] {
            let refused = check_value("all_proxy", other);
            assert!(matches!(refused, Err(BadProxy::Scheme { .. })), "{other}");
        }
    }

    #[test]
    fn what_can_be_chosen() {
        for (typed, shown) in [
            ("http://proxy.example:3128", "http://proxy.example:3128"),
            ("proxy.example:3128", "http://proxy.example:3128"),
            (
                "https://user:secret@proxy.example/",
                "https://proxy.example",
            ),
            ("socks5://127.0.0.1:1080", "socks5://127.0.0.1:1080"),
            ("socks5h://[::1]", "socks5h://[::1]"),
        ] {
            let proxy = typed.parse::<Proxy>();
            assert_eq!(proxy.map(|proxy| proxy.to_string()).as_deref(), Ok(shown));
        }
        for bad in [
            "",
            "ftp://h",
            "http://",
            "http://h/path",
            "http://h?q",
            "socks9://h:1",
            "h:99999",
        ] {
            assert_eq!(bad.parse::<Proxy>(), Err(NotAProxy), "{bad}");
        }
    }
}
