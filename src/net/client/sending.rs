//! Sending one request to one place: which protocol is spoken, who may see which header, and what is learnt of the host.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::MutexGuard,
    time::Duration,
};

use reqwest::{
    Response,
    header::{self, HeaderMap, HeaderValue},
};
use tokio::time::timeout;

use crate::{
    net::{
        CONNECT_MS, STALL_MS,
        address::{is_private, leads_inside},
        connectors::Protocol,
        error::NetError,
        hosts::Asking,
        location::Location,
        probe::knock,
    },
    policy::recovery::Failure,
};

use super::{Answered, Client, Http, Request, is_private_literal};

/// Connecting and waiting for headers together: a connection that took long leaves less for the answer.
const HEADERS_MS: u64 = STALL_MS + CONNECT_MS / 5;
/// What a TLS library says when client and server offer no common version of HTTP.
const NO_COMMON_PROTOCOL: &str = "NoApplicationProtocol";

impl Client {
    /// Whether a proxy stands before this place. The address that we are connected to is then the proxy's, so that only an
    /// address in the URL itself tells where an answer comes from.
    pub(super) fn is_proxied(&self, location: &Location) -> bool {
        match self.options.http {
            // It knows no proxies.
            #[cfg(feature = "http3")]
            Http::Three => false,
            _ => self.proxies.carry(location),
        }
    }

    /// Who connects must look where a name leads. Behind a proxy that is the proxy, which may reach more than we know: what
    /// leads inside by our own lights is refused, a name that is unknown here is the proxy's to judge. A place of the origin
    /// that the user named needs no look: he led there.
    pub(super) async fn may_ask_proxy(&self, request: Request<'_>, location: &Location) -> bool {
        location.same_origin(request.location)
            || match location.url().host() {
                Some(url::Host::Domain(name)) => !leads_inside(name).await,
                _ => !is_private_literal(location),
            }
    }

    pub(super) async fn send(
        &self,
        request: Request<'_>,
        location: &Location,
        guarded: bool,
    ) -> Result<(Response, Asking), NetError> {
        let asking = self.options.hosts.ask(location.host());
        let asking =
            asking.map_err(|rest_ms| NetError::new(location, Failure::Resting { rest_ms }))?;
        let guarded = match guarded && self.is_proxied(location) {
            true if !self.may_ask_proxy(request, location).await => {
                return Err(NetError::new(location, Failure::Unsafe));
            }
            true => false,
            false => guarded,
        };
        let two = match location.is_https() {
            true => Protocol::Two,
            false => Protocol::TwoInTheClear,
        };
        let protocol = match self.options.http {
            Http::Two => two,
            Http::Auto if self.only_two().contains(&location.host()) => two,
            Http::Auto | Http::One if location.is_https() || self.is_proxied(location) => {
                Protocol::One
            }
            Http::Auto | Http::One => Protocol::OneInTheClear,
            #[cfg(feature = "http3")]
            Http::Three if location.is_https() => Protocol::Three,
            #[cfg(feature = "http3")]
            Http::Three => {
                let detail = "there is no HTTP/3 in the clear; ask for it by https";
                return Err(NetError::with_detail(location, Failure::Tls, detail));
            }
        };
        self.knock(location, guarded, &asking).await?;
        let known = self.answered().get(&location.host()).copied();
        let proxied = self.is_proxied(location);
        // A name that led to a public address must not lead inside the next time.
        let guarded = guarded
            || (known.is_some_and(|known| known.public) && !proxied && !self.options.allow_private);
        let sent = match self
            .send_as(request, location, guarded, false, protocol)
            .await
        {
            // Its TLS was fine but for the version: it does not offer HTTP/1.1.
            Err(error)
                if error.failure == Failure::Tls
                    && error.detail().contains(NO_COMMON_PROTOCOL)
                    && self.options.http == Http::Auto
                    && protocol == Protocol::One =>
            {
                self.only_two().insert(location.host());
                self.send_as(request, location, guarded, false, two).await
            }
            // A connection that was kept may be closed just when it is used again: that says nothing of the server, once.
            Err(error)
                if error.failure == Failure::Broken && known.is_some_and(|known| known.last) =>
            {
                if let Some(known) = self.answered().get_mut(&location.host()) {
                    known.last = false;
                }
                self.send_as(request, location, guarded, true, protocol)
                    .await
            }
            other => other,
        };
        let response = match sent {
            Ok(response) => response,
            Err(error) => {
                if matches!(error.failure, Failure::Unreachable | Failure::Stalled) {
                    asking.was_in_vain();
                }
                return Err(error);
            }
        };
        asking.was_heard();
        let is_public = |address: SocketAddr| !is_private(address.ip());
        let public = !proxied && response.remote_addr().is_some_and(is_public);
        let (last, several) = (true, known.and_then(|known| known.several));
        let now = Answered {
            public,
            last,
            several,
        };
        self.answered().insert(location.host(), now);
        Ok((response, asking))
    }

    pub(super) fn answered(&self) -> MutexGuard<'_, HashMap<String, Answered>> {
        self.answered
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Of those who want something of a host in doubt one knocks, and the others wait for what becomes of that. Behind a proxy it
    /// is not the host that we connect to.
    async fn knock(
        &self,
        location: &Location,
        guarded: bool,
        asking: &Asking,
    ) -> Result<(), NetError> {
        if !asking.is_in_doubt() || self.is_proxied(location) {
            return Ok(());
        }
        let door = asking.door();
        let _one_at_a_time = door.lock().await;
        if asking.is_in_doubt() {
            knock(location, guarded)
                .await
                .map_err(|cause| NetError::unreachable(location, &cause))?;
            asking.was_heard();
        }
        Ok(())
    }

    fn only_two(&self) -> MutexGuard<'_, HashSet<String>> {
        self.only_two
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn send_as(
        &self,
        request: Request<'_>,
        location: &Location,
        guarded: bool,
        fresh: bool,
        protocol: Protocol,
    ) -> Result<Response, NetError> {
        let client = self.connectors.get(&self.options, guarded, fresh, protocol);
        let client = client
            .map_err(|cause| NetError::with_detail(location, Failure::Tls, cause.to_string()))?;
        let mut headers = HeaderMap::new();
        let mut login = None;
        if location.same_origin(request.location) {
            headers.extend(
                self.options
                    .headers
                    .iter()
                    .map(|(name, value)| (name.clone(), value.clone())),
            );
            let named = location.url().username().is_empty()
                && !headers.contains_key(header::AUTHORIZATION);
            login = location
                .url()
                .host_str()
                .filter(|_| named)
                .and_then(|host| self.options.netrc.login(host));
        }
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        if let Some(range) = request.range {
            let mut value = format!("bytes={range}");
            for more in request.more {
                value.push_str(&format!(",{more}"));
            }
            headers.insert(
                header::RANGE,
                HeaderValue::try_from(value).expect("digits are a header value"),
            );
        }
        if let Some((name, value)) = request
            .version
            .and_then(|version| version.condition(request.range.is_some()))
        {
            headers.insert(name, value);
        }
        let mut builder = client.get(location.url().clone()).headers(headers);
        #[cfg(feature = "http3")]
        if protocol == Protocol::Three {
            // Who does not say so in each request gets another version, by TCP.
            builder = builder.version(reqwest::Version::HTTP_3);
        }
        if let Some(login) = login {
            builder = builder.basic_auth(&login.user, Some(&login.password));
        }
        match timeout(Duration::from_millis(HEADERS_MS), builder.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(cause)) => Err(NetError::from_reqwest(location, &cause)),
            Err(_) => Err(NetError::new(location, Failure::Stalled)),
        }
    }
}
