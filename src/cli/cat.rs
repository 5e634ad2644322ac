//! `sapwood cat`

use std::io::{self, Write};

use serde_json::json;

use crate::{
    core::schedule::Limits,
    engine::cat::{self, CatOptions},
};

use super::{args::CatArgs, exit::Exit, fetch, output::Output, signals};

pub async fn run(args: CatArgs, output: &mut Output) -> Exit {
    output.stdout_is_data();
    let options = match options(&args) {
        Ok(options) => options,
        Err(fetch::Refusal(exit, message)) => {
            let exit = output.fail(None, None, exit, &message, json!({}));
            return output.done(exit);
        }
    };
    let url = options.url.to_string();
    let mut stdout = io::stdout();
    let mut write = |bytes: &[u8]| stdout.write_all(bytes);
    let exit = match signals::unless_stopped(cat::cat(options, &mut write)).await {
        Some(Ok((_, fetched))) => {
            output.count_fetched(fetched);
            Exit::Ok
        }
        Some(Err(error)) => output.error(None, Some(&url), &error),
        None => Exit::Again,
    };
    output.done(exit)
}

fn options(args: &CatArgs) -> Result<CatOptions, fetch::Refusal> {
    let network = &args.network;
    Ok(CatOptions {
        url: fetch::location(&args.url)?,
        wanted: args.range,
        manifest: args
            .manifest
            .as_deref()
            .map(fetch::manifest_place)
            .transpose()?,
        root: args.root,
        client: fetch::client_options(network)?,
        limits: Limits {
            connections: network.connections,
            tries: network.tries,
            patience_ms: network.patience.as_millis() as u64,
            seed: std::process::id().into(),
        },
    })
}
