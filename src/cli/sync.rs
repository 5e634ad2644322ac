//! `sapwood sync`

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    disk::machine::unix_time,
    engine::{
        context::{Context, StoreHandle},
        error::Error,
        event_fields,
        events::{Event, Events},
        sync::{self, SyncOptions},
    },
    policy::{filters::Filters, sync::Wishes},
};

use super::{
    args::SyncArgs,
    exit::Exit,
    hints, keys,
    network::{self, Refusal, location},
    output::Output,
    signals,
};

pub async fn run(args: SyncArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    let store = network::store(args.no_store, store, output).await;
    let (context, options) = match checked(args, store) {
        Ok(checked) => checked,
        Err(Refusal(exit, message)) => {
            let exit = output.refuse(exit, &message);
            return output.done(exit);
        }
    };
    let (folder, url) = (
        options.folder.display().to_string(),
        options.url.to_string(),
    );
    let fetched = Arc::new(AtomicU64::new(0));
    let context = context.counting(fetched.clone());
    let mut noted = Noted {
        output: &mut *output,
        exits: Vec::new(),
    };
    let stop = signals::stop(true);
    let outcome = sync::sync(&context, options, stop, &mut noted).await;
    let mut exits = noted.exits;
    match outcome {
        Ok(synced) => {
            output.count_fetched(synced.bytes_fetched);
            if synced.is_stopped {
                let message = hints::SYNC_STOPPED;
                exits.push(output.fail(Some(&folder), Some(&url), Exit::Again, message));
            }
        }
        Err(error) => {
            output.count_fetched(fetched.load(Ordering::Relaxed));
            exits.push(failed(&folder, &url, &error, output));
        }
    }
    let exit = output.results(Exit::of_all(exits));
    output.done(exit)
}

/// Tells why nothing was synced.
fn failed(folder: &str, url: &str, error: &Error, output: &mut Output) -> Exit {
    match error {
        Error::NoManifest { .. } => {
            let message = format!("{error}; {}", hints::NO_REMOTE_LIBRARY);
            output.fail(Some(folder), Some(url), Exit::of(error), &message)
        }
        Error::Manifest { .. } => {
            let message = error.to_string();
            output.fail(Some(folder), Some(url), Exit::of(error), &message)
        }
        other => output.error(Some(folder), Some(url), other),
    }
}

/// Notes how files failed.
struct Noted<'a> {
    output: &'a mut Output,
    exits: Vec<Exit>,
}

impl Events for Noted<'_> {
    fn event(&mut self, event: Event) {
        match event {
            Event::FileFailed { path, url, error } => {
                let (path, exit) = (path.to_string_lossy(), Exit::of(&error));
                // Flags that name another manifest are of other commands.
                let message = match &*error {
                    Error::NoManifest { .. } => format!("{error}; {}", hints::LIBRARY_NOT_WHOLE),
                    Error::Manifest { .. } | Error::OtherRoot { .. } => error.to_string(),
                    other => hints::message(other),
                };
                let url = url.as_deref();
                self.output.fail(Some(&path), url, exit, &message);
                self.exits.push(exit);
            }
            other => self.output.event(other),
        }
    }
}

fn checked(args: SyncArgs, store: StoreHandle) -> Result<(Context, SyncOptions), Refusal> {
    if args.folder.as_os_str() == "-" {
        return Err(Refusal::usage(hints::SYNC_TO_STDOUT));
    }
    let key = args.key.as_deref().map(keys::public_key).transpose();
    let options = SyncOptions {
        url: location(&args.url)?,
        folder: args.folder,
        key: key.map_err(Refusal::usage)?,
        wishes: Wishes {
            filters: Filters {
                include: args.include,
                exclude: args.exclude,
            },
            deletes: args.delete,
            delete_max: args.delete_max,
        },
        // Not all systems have names with a colon.
        trash: (!args.no_trash).then(|| event_fields::rfc3339(unix_time()).replace(':', "-")),
        is_dry_run: args.dry_run,
        max_size: args.network.max_size,
        rounds: args.network.tries,
        patience: args.network.patience,
    };
    Ok((network::context(&args.network, store)?, options))
}
