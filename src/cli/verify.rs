//! `sapwood verify`

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::{
    disk::{files, quarantine::quarantine},
    engine::{
        blocking,
        context::StoreHandle,
        error::Error,
        events::{Event, Events},
        library::verify as library,
        manifest_file::{self, ManifestFile},
        trust::{self, ManifestFront},
        verify::{self, Against, Verdict},
    },
    format::{keys::NotSigned, statement},
    policy::conditions::Conditions,
};

use super::{args::VerifyArgs, exit::Exit, hints, keys, network, output::Output, signals};

/// Events that wait to be printed; then the hashing waits.
const EVENTS_WAITING_MAX: usize = 256;

pub async fn run(args: VerifyArgs, store: Option<PathBuf>, output: &mut Output) -> Exit {
    if args.paths.len() > 1 && (args.manifest.is_some() || args.root.is_some()) {
        let exit = output.usage(hints::VERIFY_ONE_FILE);
        return output.done(exit);
    }
    let is_no_file = |manifest: &Path| {
        let text = manifest.to_string_lossy();
        text == "-" || network::is_url(&text)
    };
    if args.manifest.as_deref().is_some_and(is_no_file) {
        let exit = output.usage(hints::VERIFY_A_FILE);
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
    let mut exits = Vec::new();
    for path in &args.paths {
        let conditions = Conditions {
            root: args.root,
            key: key.clone(),
            // A copy of a folder may have any name.
            name: (!path.is_dir()).then(|| name_of(path)),
            ..Conditions::default()
        };
        exits.push(one(path, &args, &conditions, &store, output).await);
    }
    let exit = output.results(Exit::of_all(exits));
    output.done(exit)
}

/// The name that must be signed: as `sapwood manifest` writes it.
fn name_of(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(statement::default_name).unwrap_or_default()
}

async fn one(
    path: &Path,
    args: &VerifyArgs,
    conditions: &Conditions,
    store: &StoreHandle,
    output: &mut Output,
) -> Exit {
    let shown = path.display().to_string();
    let checked = match path.is_dir() {
        true => check_library(path, args, conditions, store, output).await,
        false => check(path, args, conditions, store, output).await,
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
async fn check(
    path: &Path,
    args: &VerifyArgs,
    conditions: &Conditions,
    store: &StoreHandle,
    output: &mut Output,
) -> Result<Option<(Exit, String)>, Error> {
    let is_own = path.file_name().is_some_and(files::is_own);
    if args.quarantine && is_own {
        let message = hints::QUARANTINE_PART.to_owned();
        return Ok(Some((Exit::Usage, message)));
    }
    let (object, manifest) = (path.to_owned(), args.manifest.clone());
    // With a root of the user's own, what lies beside the file is not needed; unless it must be signed.
    let needed = conditions.root.is_none() || conditions.key.is_some();
    let manifest = blocking::run(move || {
        files::open_for_reading(&object)?;
        open_manifest(&object, manifest.as_deref(), needed)
    });
    let Some(mut against) = against(path, manifest.await?, conditions, store, output).await? else {
        let message = format!("has no manifest beside it; {}", hints::VERIFY_AGAINST);
        return Ok(Some((Exit::Usage, message)));
    };
    if let Against::Manifest { hints, .. } = &mut against {
        *hints = args.hints;
    }
    let Verdict::Damaged { blocks } = compare(path, against, output).await? else {
        return Ok(None);
    };
    let next = match args.quarantine {
        true => format!("It is kept as {}", quarantine(path)?.display()),
        false => "Fetch it again to repair it".to_owned(),
    };
    let message = format!("does not verify: {blocks} place(s) differ. {next}");
    Ok(Some((Exit::NotVerified, message)))
}

/// The same for a folder and its library.
async fn check_library(
    path: &Path,
    args: &VerifyArgs,
    conditions: &Conditions,
    store: &StoreHandle,
    output: &mut Output,
) -> Result<Option<(Exit, String)>, Error> {
    if args.manifest.is_some() || args.hints {
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
    let (quarantines, store) = (args.quarantine, store.clone());
    let verify =
        move |tell: &(dyn Fn(Event) + Sync)| library.verify(trust, quarantines, &store, tell);
    let checked = told(verify, output).await?;
    Ok((checked.damaged > 0).then(|| {
        let message = format!(
            "does not verify: {} of {} files differ",
            checked.damaged, checked.files
        );
        (Exit::NotVerified, message)
    }))
}

/// The named manifest, or the one beside the file; `None`: there is none, or none that can be read and it is not needed.
fn open_manifest(
    path: &Path,
    named: Option<&Path>,
    needed: bool,
) -> Result<Option<ManifestFile>, Error> {
    let Some(named) = named else {
        return match ManifestFile::open(&manifest_file::beside(path)) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(Error::Disk(cause)) if cause.is_missing() => Ok(None),
            Err(_) if !needed => Ok(None),
            Err(other) => Err(other),
        };
    };
    ManifestFile::open(named).map(Some)
}

/// What to compare with; `None`: there is neither a manifest nor a root.
async fn against(
    path: &Path,
    manifest: Option<ManifestFile>,
    conditions: &Conditions,
    store: &StoreHandle,
    output: &mut Output,
) -> Result<Option<Against>, Error> {
    if let Some(manifest) = manifest {
        let front = ManifestFront {
            statement: &manifest.manifest.statement,
            signature: &manifest.manifest.signature,
            place: &manifest.path.display().to_string(),
        };
        let trust = trust::check(store, conditions, front, output).await?;
        let manifest = Box::new(manifest);
        return Ok(Some(Against::Manifest {
            manifest,
            trust,
            hints: false,
        }));
    }
    let Some(root) = conditions.root else {
        return Ok(None);
    };
    match conditions.without_manifest(&[]) {
        Ok(_) => Ok(Some(Against::Root(root))),
        // A root is less than the signature that the key asks for.
        Err(_) => Err(Error::NotSigned {
            place: manifest_file::beside(path).display().to_string(),
            cause: NotSigned::Unsigned,
        }),
    }
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
