//! `sapwood fetch`

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::{
    engine::{
        context::{Context, StoreHandle},
        fetch::{FetchOptions, ManifestPlace},
    },
    format::keys::PublicKey,
    net::location::Location,
};

use super::{
    args::FetchArgs,
    exit::Exit,
    keys,
    network::{self, Refusal, location, manifest_place},
    output::Output,
    queue::{Job, Queue},
    targets,
};

pub async fn run(args: FetchArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    let store = network::store(args.no_store, store, output).await;
    let ready = checked(&args, store).and_then(|given| Ok((given, targets::jobs(&args)?)));
    let (given, (jobs, refusals)) = match ready {
        Ok(ready) => ready,
        Err(Refusal(exit, message)) => {
            let exit = output.fail(None, None, exit, &message, json!({}));
            return output.done(exit);
        }
    };
    // Empty ones go again at the end.
    let _made = match targets::make_folders(&args) {
        Ok(made) => made,
        Err(cause) => {
            let exit = output.error(None, None, &cause.into());
            return output.done(exit);
        }
    };
    let mut exits: Vec<Exit> = refusals
        .into_iter()
        .map(|Refusal(exit, message)| output.fail(None, None, exit, &message, json!({})))
        .collect();
    let options = |job: &Job| FetchOptions {
        mirrors: given.mirrors.clone(),
        seeds: args.seed.clone(),
        seed_store: args.seed_store,
        manifest: given.manifest.clone(),
        root: args.root,
        key: given.key.clone(),
        digests: args.digest.iter().chain(&args.sha256).cloned().collect(),
        require: args.require,
        max_size: args.network.max_size,
        no_clobber: args.no_clobber,
        discard: args.discard,
        receipt: job.receipt.clone(),
        ..FetchOptions::new(job.url.clone(), &job.target)
    };
    let rounds = if args.input.is_some() {
        args.network.tries
    } else {
        1
    };
    let queue = Queue::new(&jobs, rounds, &given.context, output);
    exits.extend(queue.run(options).await);
    let exit = Exit::of_all(exits);
    output.done(exit)
}

/// What was typed, as the library takes it.
struct Given {
    context: Context,
    key: Option<PublicKey>,
    manifest: Option<ManifestPlace>,
    mirrors: Vec<Location>,
}

fn checked(args: &FetchArgs, store: StoreHandle) -> Result<Given, Refusal> {
    if args.output.as_deref() == Some(Path::new("-")) {
        let message = "-o - is not possible: nothing unproven is shown. Use sapwood cat URL for a stream of proven bytes";
        return Err(Refusal(Exit::Usage, message.to_owned()));
    }
    let key = args.key.as_deref().map(keys::public_key).transpose();
    Ok(Given {
        context: network::context(&args.network, store)?,
        key: key.map_err(|message| Refusal(Exit::Usage, message))?,
        manifest: args.manifest.as_deref().map(manifest_place).transpose()?,
        mirrors: args
            .mirror
            .iter()
            .map(|text| location(text))
            .collect::<Result<_, _>>()?,
    })
}
