//! `sapwood hosts`

use std::path::PathBuf;

use serde_json::json;

use crate::{
    disk::state::{self, State},
    engine::{context::open_store, error::Error},
    net::{hosts::Hosts, location::Location},
};

use super::{
    args::{HostsArgs, HostsCommand},
    exit::Exit,
    hints,
    output::Output,
};

pub fn run(args: &HostsArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    let Some(folder) = store.or_else(state::default_folder) else {
        let exit = output.usage(hints::NO_STORE_FOLDER);
        return output.done(exit);
    };
    let done = open_store(&folder).and_then(|mut store| match &args.command {
        HostsCommand::List => list(store.state(), output),
        HostsCommand::Forget { host, .. } => forget(store.state(), host.as_deref(), output),
    });
    let exit = match done {
        Ok(exit) => exit,
        Err(error) => output.refuse(Exit::Failed, &error.to_string()),
    };
    output.done(exit)
}

/// Forgets a host, or all. A host that is not known is a mistake; that none is known is not.
fn forget(state: &State, typed: Option<&str>, output: &mut Output) -> Result<Exit, Error> {
    let Some(typed) = typed else {
        let count = state.forget_hosts(None)?;
        output.result(&format!("forgot {count} host(s)"));
        return Ok(output.printed());
    };
    let mut count = 0;
    for (host, _) in state.hosts()? {
        if is_meant(typed, &host) {
            count += state.forget_hosts(Some(&host))?;
        }
    }
    if count == 0 {
        let message = format!("no host {typed} is known; sapwood hosts list prints those that are");
        return Ok(output.refuse(Exit::Failed, &message));
    }
    output.result(&format!("forgot {count} host(s)"));
    Ok(output.printed())
}

/// Whether a host, stored with the port that it needs, is the one that was typed: as HOST (with any port), as HOST:PORT, or as a URL.
fn is_meant(typed: &str, host: &str) -> bool {
    if typed.contains("://") {
        return Location::parse(typed).is_ok_and(|url| url.host() == host);
    }
    let without_port = host
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .map_or(host, |(name, _)| name);
    typed.eq_ignore_ascii_case(host) || typed.eq_ignore_ascii_case(without_port)
}

fn list(state: &State, output: &mut Output) -> Result<Exit, Error> {
    let now = Hosts::now_ms();
    let hosts = state.hosts()?;
    if hosts.is_empty() {
        output.result("none");
    }
    for (host, known) in hosts {
        let known = known.repaired(now);
        let connections = known.connections.unwrap_or_default();
        let cooldown_ms = known.cooldown_ends_ms().saturating_sub(now);
        let wait_ms = known.wait_ms(now);
        let seconds = |what: &str, ms: u64| match ms {
            0 => String::new(),
            _ => format!(", {what} in {} s", ms.div_ceil(1000)),
        };
        output.result(&format!(
            "{host}: at most {connections} connection(s){}{}",
            seconds("more at the earliest", cooldown_ms),
            seconds("the next request", wait_ms)
        ));
        output.json_event(
            "host",
            json!({
                "host": host, "connections": connections, "until_ms": known.cooldown_ends_ms(), "wait_ms": wait_ms,
            }),
        );
    }
    Ok(output.printed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_as_they_are_typed() {
        for (typed, host) in [
            ("a.example", "a.example"),
            ("a.example", "a.example:8443"),
            ("A.example:8443", "a.example:8443"),
            ("https://u:p@a.example/x?y", "a.example"),
            ("http://a.example:8080/x", "a.example:8080"),
            ("[::1]", "[::1]:8080"),
        ] {
            assert!(is_meant(typed, host), "{typed} {host}");
        }
        for (typed, host) in [
            ("example", "a.example"),
            ("a.example:80", "a.example:8080"),
            ("http://a.example/", "a.example:8080"),
            ("http://", "a.example"),
        ] {
            assert!(!is_meant(typed, host), "{typed} {host}");
        }
    }
}
