//! `sapwood verify`

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::{
    disk::{error::DiskError, files, quarantine::quarantine},
    engine::{
        against::{self, Named, Sought},
        blocking,
        context::StoreHandle,
        error::Error,
        events::{Event, Events},
        fetch::ManifestPlace,
        library::verify::{self as library, LibraryCheck},
        trust::{self, ManifestFront},
        verify::{self, Against, Verdict},
    },
    format::statement,
    policy::conditions::Conditions,
};

use super::{
    args::VerifyArgs,
    exit::Exit,
    hints, keys,
    network::{self, Refusal},
    output::Output,
    signals,
};

/// Events that wait to be printed; then the hashing waits.
const EVENTS_WAITING_MAX: usize = 256;

pub async fn run(args: VerifyArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    if args.paths.len() > 1 && (args.manifest.is_some() || args.root.is_some()) {
        let exit = output.usage(hints::VERIFY_ONE_FILE);
        return output.done(exit);
    }
    let key = match args.key.as_deref().map(keys::public_key).transpose() {
        Ok(key) => key,
        Err(message) => {
            let exit = output.usage(&message);
            return output.done(exit);
        }
    };
    signals::stop_reading_on_signal();
    // Only sequences under a key are remembered. The leaves of a damaged file may be known.
    let store = match key {
        Some(_) => network::store(false, store, output).await,
        None => network::unopened_store(store),
    };
    let named = match named_manifest(&args, &store) {
        Ok(named) => named,
        Err(Refusal(exit, message)) => {
            let exit = output.refuse(exit, &message);
            return output.done(exit);
        }
    };
    let mut exits = Vec::new();
    for path in &args.paths {
        let conditions = Conditions {
            root: args.root,
            key: key.clone(),
            // A copy of a folder may have any name.
            name: (!path.is_dir()).then(|| name_of(path)),
            ..Conditions::default()
        };
        let task = Task {
            path,
            args: &args,
            named: named.as_ref(),
            conditions: &conditions,
            store: &store,
        };
        exits.push(task.run(output).await);
    }
    let exit = output.results(Exit::of_all(exits));
    output.done(exit)
}

/// The name that must be signed: as `sapwood manifest` writes it.
fn name_of(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(statement::default_name).unwrap_or_default()
}

fn named_manifest(args: &VerifyArgs, store: &StoreHandle) -> Result<Option<Named>, Refusal> {
    let place = args.manifest.as_deref().map(network::manifest_place);
    let Some(place) = place.transpose()? else {
        return Ok(None);
    };
    let context = match place {
        ManifestPlace::File(_) => None,
        _ => Some(network::context(&args.network, store.clone())?),
    };
    Ok(Some(Named { place, context }))
}

/// A path to verify.
struct Task<'a> {
    path: &'a Path,
    args: &'a VerifyArgs,
    named: Option<&'a Named>,
    conditions: &'a Conditions,
    store: &'a StoreHandle,
}

impl Task<'_> {
    async fn run(&self, output: &mut Output) -> Exit {
        let shown = self.path.display().to_string();
        let checked = match self.path.is_dir() {
            true => check_library(self.path, self.args, self.conditions, self.store, output).await,
            false => self.check(output).await,
        };
        match checked {
            Ok(None) => Exit::Ok,
            Ok(Some((exit, message))) => {
                output.fail(Some(&shown), None, exit, &format!("{shown} {message}"))
            }
            Err(error) => output.error(Some(&shown), None, &error),
        }
    }

    /// `None`: it verifies.
    async fn check(&self, output: &mut Output) -> Result<Option<(Exit, String)>, Error> {
        let path = self.path;
        let is_own = path.file_name().is_some_and(files::is_own);
        if self.args.quarantine && is_own {
            let message = hints::QUARANTINE_PART.to_owned();
            return Ok(Some((Exit::Usage, message)));
        }
        let sought = Sought {
            path,
            named: self.named,
            conditions: self.conditions,
            store: self.store,
        };
        let found = signals::unless_stopped(against::find(&sought, output)).await;
        let stopped = || DiskError::Stopped {
            path: path.to_owned(),
        };
        let Some(mut against) = found.ok_or_else(stopped)?? else {
            let message = format!("has no manifest beside it; {}", hints::VERIFY_AGAINST);
            return Ok(Some((Exit::Usage, message)));
        };
        if let Against::Manifest { hints, .. } = &mut against {
            *hints = self.args.hints;
        }
        output.reads_file(path);
        let verdict = compare(path, against, output).await;
        output.has_read();
        let Verdict::Damaged { blocks } = verdict? else {
            return Ok(None);
        };
        let next = match self.args.quarantine {
            true => format!("It is kept as {}", quarantine(path)?.display()),
            false => "Fetch it again to repair it".to_owned(),
        };
        let places = match blocks {
            1 => "1 place differs".to_owned(),
            _ => format!("{blocks} places differ"),
        };
        let message = format!("does not verify: {places}. {next}");
        Ok(Some((Exit::NotVerified, message)))
    }
}

/// The same for a folder and its library.
async fn check_library(
    path: &Path,
    args: &VerifyArgs,
    conditions: &Conditions,
    store: &StoreHandle,
    output: &mut Output,
) -> Result<Option<(Exit, String)>, Error> {
    if args.manifest.is_some() {
        return Ok(Some((Exit::Usage, hints::VERIFY_FOLDER.to_owned())));
    }
    let folder = path.to_owned();
    let opened = blocking::run(move || library::open(&folder)).await?;
    let Some(library) = opened else {
        return Ok(Some((Exit::Usage, hints::NO_LIBRARY.to_owned())));
    };
    let front = ManifestFront {
        statement: &library.manifest.statement,
        signature: &library.manifest.signature,
        place: &library.manifest.path.display().to_string(),
    };
    let trust = trust::check(store, conditions, front, output).await?;
    let bytes = library.bytes_total();
    let how = LibraryCheck {
        trust,
        quarantines: args.quarantine,
        hints: args.hints,
        store: store.clone(),
    };
    let verify = move |tell: &(dyn Fn(Event) + Sync)| library.verify(&how, tell);
    output.reads(&path.display().to_string(), bytes);
    let checked = told(verify, output).await;
    output.has_read();
    let checked = checked?;
    Ok((!checked.is_sound()).then(|| (Exit::NotVerified, hints::library_differs(&checked))))
}

/// Hashes the file, and prints its events meanwhile.
async fn compare(path: &Path, against: Against, output: &mut Output) -> Result<Verdict, Error> {
    let path = path.to_owned();
    let verify = move |tell: &(dyn Fn(Event) + Sync)| {
        verify::verify(&path, &against, &mut |event: Event| tell(event))
    };
    told(verify, output).await
}

/// Works on a thread that may block, and prints its events meanwhile.
async fn told<T: Send + 'static>(
    work: impl FnOnce(&(dyn Fn(Event) + Sync)) -> Result<T, Error> + Send + 'static,
    output: &mut Output,
) -> Result<T, Error> {
    let (sender, mut receiver) = mpsc::channel(EVENTS_WAITING_MAX);
    let done = blocking::run(move || {
        // The other end is there until this one is dropped.
        work(&|event: Event| drop(sender.blocking_send(event)))
    });
    let print = async {
        while let Some(event) = receiver.recv().await {
            output.event(event);
        }
    };
    tokio::join!(done, print).0
}
