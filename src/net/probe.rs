//! Probes an unreachable host with a new TCP connection every second: an older one retransmits its SYN after 1, 3, 7 s.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{address::is_private, location::Location};

const PROBE_INTERVAL: Duration = Duration::from_millis(crate::policy::recovery::PROBE_EVERY_MS);

/// Returns when the host accepts a connection, or fails after `limit`. `guarded`: do not connect to private
/// addresses.
pub async fn probe(location: &Location, guarded: bool, limit: Duration) -> io::Result<()> {
    let (Some(host), Some(port)) = (
        location.url().host_str(),
        location.url().port_or_known_default(),
    ) else {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    };
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let probing = async {
        let mut attempts = JoinSet::new();
        let mut next = Instant::now();
        loop {
            if next <= Instant::now() {
                attempts.spawn(attempt(host.clone(), port, guarded));
                next += PROBE_INTERVAL;
            }
            tokio::select! {
                Some(Ok(connected)) = attempts.join_next() => match connected {
                    // Refused, or no route: an immediate retry is useless.
                    Err(cause) if attempts.is_empty() => return Err(cause),
                    Err(_) => (),
                    Ok(()) => return Ok(()),
                },
                () = sleep_until(next) => (),
            }
        }
    };
    timeout(limit, probing)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// One connection attempt to each of the addresses.
async fn attempt(host: String, port: u16, guarded: bool) -> io::Result<()> {
    let found = lookup_host((host, port)).await?;
    let addresses: Vec<SocketAddr> = found
        .filter(|address| !guarded || !is_private(address.ip()))
        .collect();
    let mut connecting = JoinSet::new();
    for address in addresses {
        connecting.spawn(TcpStream::connect(address));
    }
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    while let Some(connected) = connecting.join_next().await {
        match connected {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(cause)) => last = cause,
            Err(_) => (),
        }
    }
    Err(last)
}
