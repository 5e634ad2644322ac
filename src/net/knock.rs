//! Knocking at the door of a host that did not answer: a new connection is begun every second, so that the first one after the
//! line is back gets through at once. One that was begun before it went on asking in longer and longer steps.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpStream, lookup_host},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use super::{CONNECT_MS, address::is_private, location::Location};

const EVERY: Duration = Duration::from_millis(crate::core::recovery::PROBE_EVERY_MS);

/// Whether somebody opened within the time that a connection may take. `guarded`: private addresses are not knocked at.
pub async fn knock(location: &Location, guarded: bool) -> bool {
    let (Some(host), Some(port)) = (
        location.url().host_str(),
        location.url().port_or_known_default(),
    ) else {
        return false;
    };
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let knocking = async {
        let mut attempts = JoinSet::new();
        let mut next = Instant::now();
        loop {
            if next <= Instant::now() {
                attempts.spawn(attempt(host.clone(), port, guarded));
                next += EVERY;
            }
            tokio::select! {
                Some(opened) = attempts.join_next() => match opened {
                    Ok(true) => return true,
                    // Refused, or no way there: that is an answer too.
                    Ok(false) | Err(_) if attempts.is_empty() => return false,
                    Ok(false) | Err(_) => (),
                },
                () = sleep_until(next) => (),
            }
        }
    };
    timeout(Duration::from_millis(CONNECT_MS), knocking)
        .await
        .unwrap_or(false)
}

/// One connection to any of the addresses.
async fn attempt(host: String, port: u16, guarded: bool) -> bool {
    let Ok(found) = lookup_host((host, port)).await else {
        return false;
    };
    let addresses: Vec<SocketAddr> = found
        .filter(|address| !guarded || !is_private(address.ip()))
        .collect();
    let mut connecting = JoinSet::new();
    for address in addresses {
        connecting.spawn(TcpStream::connect(address));
    }
    loop {
        match connecting.join_next().await {
            Some(Ok(Ok(_))) => return true,
            Some(_) => (),
            None => return false,
        }
    }
}
