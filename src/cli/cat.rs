//! `sapwood cat`

use std::{
    io::{self, Write},
    path::PathBuf,
};

use crate::engine::{
    cat::{self, CatOptions},
    error::Error,
};

use super::{args::CatArgs, exit::Exit, keys, network, output::Output, signals};

pub async fn run(args: CatArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    output.stdout_is_data();
    let store = network::store(args.no_store, store, output).await;
    let ready =
        network::context(&args.network, store).and_then(|context| Ok((context, options(&args)?)));
    let (context, options) = match ready {
        Ok(ready) => ready,
        Err(network::Refusal(exit, message)) => {
            let exit = output.refuse(exit, &message);
            return output.done(exit);
        }
    };
    let url = options.url.to_string();
    let mut stdout = io::stdout();
    let mut write = |bytes: &[u8]| stdout.write_all(bytes);
    let streaming = Box::pin(cat::cat(&context, options, output, &mut write));
    let exit = match signals::unless_stopped(streaming).await {
        // What standard output has not passed on yet may still fail.
        Some(Ok(_)) => output.data_written(io::stdout().flush()),
        Some(Err(Error::Output(cause))) => output.data_written(Err(cause)),
        Some(Err(error)) => output.error(None, Some(&url), &error),
        None => Exit::Again,
    };
    output.count_fetched(context.client.bytes_fetched());
    output.done(exit)
}

fn options(args: &CatArgs) -> Result<CatOptions, network::Refusal> {
    Ok(CatOptions {
        name: None,
        url: network::object(&args.url)?,
        wanted: args.range,
        manifest: args
            .manifest
            .as_deref()
            .map(network::manifest_place)
            .transpose()?,
        root: args.root,
        key: args
            .key
            .as_deref()
            .map(keys::public_key)
            .transpose()
            .map_err(network::Refusal::usage)?,
        require: args.require,
        max_size: args.network.max_size,
    })
}
