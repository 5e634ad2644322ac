//! `sapwood hosts`

use std::path::PathBuf;

use serde_json::json;

use crate::{
    disk::state::{self, State},
    engine::{context::open_store, error::Error},
    net::hosts::Hosts,
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
        HostsCommand::Forget { host, .. } => {
            let count = store.state().forget_hosts(host.as_deref())?;
            output.result(&format!("forgot {count} host(s)"));
            Ok(Exit::Ok)
        }
    });
    let exit = match done {
        Ok(exit) => exit,
        Err(error) => output.refuse(Exit::Failed, &error.to_string()),
    };
    output.done(exit)
}

fn list(state: &State, output: &mut Output) -> Result<Exit, Error> {
    let now = Hosts::now_ms();
    for (host, known) in state.hosts()? {
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
