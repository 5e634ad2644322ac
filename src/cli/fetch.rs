//! `sapwood fetch`

use std::{
    collections::HashSet,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Notify};

use crate::{
    disk::{destination::Destination, machine},
    engine::{
        context::{Context, StoreHandle},
        events::{Event, Events},
        fetch::{self, FetchOptions, Locks, ManifestPlace},
        queue::{JobEvent, Queue},
    },
    format::keys::PublicKey,
    net::location::Location,
};

use super::{
    args::FetchArgs,
    exit::Exit,
    hints, input, keys,
    list::Line,
    names,
    network::{self, Refusal, location, manifest_place},
    output::Output,
    signals,
    targets::{self, Job},
};

/// Of these files, as many as there are connections are fetched; the others wait for the disk, which syncs many as fast as one.
const FILES_AT_ONCE: u64 = 128;
/// The journal, the file without a name, a connection or two, and reserve.
const DESCRIPTORS_A_FILE: u64 = 6;

/// Whether there is more than one file.
pub fn has_several(args: &FetchArgs) -> bool {
    args.input.is_some() || args.urls.len() > 1
}

/// `transfers`: see [`Context::transfers`].
pub async fn run(
    mut args: FetchArgs,
    store: Option<PathBuf>,
    transfers: Option<Handle>,
    output: &mut Output,
) -> Exit {
    let store = network::store(args.no_store, store, output).await;
    let ready = checked(&args, store).and_then(|input| Ok((input, targets::entries(&args)?)));
    let named = match ready {
        Ok((mut input, entries)) => {
            input.context.transfers = transfers;
            let entries = named(&args, &input.context, entries, output).await;
            entries.and_then(|entries| Ok((input, targets::jobs(&args, entries)?)))
        }
        Err(refusal) => Err(refusal),
    };
    let (input, (jobs, refusals)) = match named {
        Ok(ready) => ready,
        Err(Refusal(exit, message)) => {
            let exit = output.refuse(exit, &message);
            return output.done(exit);
        }
    };
    if jobs.is_empty()
        && refusals.is_empty()
        && let Some(list) = &args.input
    {
        let message = format!("{} has no URL in it", input::name_of(list));
        output.event(Event::Warning { message });
    }
    leave_out_missing(&mut args.seed, output);
    // Empty ones go again at the end.
    let _made = match targets::make_folders(&args, &jobs) {
        Ok(made) => made,
        Err(cause) => {
            let exit = output.error(None, None, &cause.into());
            return output.done(exit);
        }
    };
    let mut exits: Vec<Exit> = refusals
        .into_iter()
        .map(|Refusal(exit, message)| output.refuse(exit, &message))
        .collect();
    let locks = Locks::default();
    let mut kept = HashSet::new();
    for job in jobs.iter().filter(|job| job.is_suggested) {
        if !fetch::came_from(&input.context, &job.url, &job.target).await {
            kept.insert(job.target.clone());
        }
    }
    let options = |job: &Job| FetchOptions {
        no_clobber: args.no_clobber || kept.contains(&job.target),
        ..input.options(&args, job, locks.clone())
    };
    let queue = input.queue(&args);
    let jobs = match args.fail_fast && !exits.is_empty() {
        true => Vec::new(),
        false => jobs,
    };
    let run = Run {
        queue: &queue,
        jobs: &jobs,
        fail_fast: args.fail_fast,
    };
    exits.extend(run.fetch_all(&input.context, options, output).await);
    let exit = Exit::of_all(exits);
    output.done(exit)
}

/// A seed only saves bytes: one that is not there, probably a mistake in its name, ends nothing.
fn leave_out_missing(seeds: &mut Vec<PathBuf>, output: &mut Output) {
    seeds.retain(|seed| match seed.symlink_metadata() {
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            let message = format!("a seed is left out: there is no {}", seed.display());
            output.event(Event::Warning { message });
            false
        }
        _ => true,
    });
}

/// The entries, with the names that their servers suggest if the user wants those.
async fn named(
    args: &FetchArgs,
    context: &Context,
    mut entries: Vec<Line>,
    output: &mut Output,
) -> Result<Vec<Line>, Refusal> {
    let names_file = args.output.is_some() && targets::folder(args.output.as_deref()).is_none();
    if !args.content_disposition || names_file {
        return Ok(entries);
    }
    let suggested = names::suggest(context, &mut entries, output);
    match signals::unless_stopped(suggested).await {
        Some(()) => Ok(entries),
        None => {
            let message = "stopped before a file was begun".to_owned();
            Err(Refusal(Exit::Again, message))
        }
    }
}

/// The jobs of a run.
struct Run<'r> {
    queue: &'r Queue,
    jobs: &'r [Job],
    fail_fast: bool,
}

impl Run<'_> {
    /// Runs all jobs, or until the user stops it; how each one ended. `options` is called once an attempt.
    async fn fetch_all(
        &self,
        context: &Context,
        options: impl Fn(&Job) -> FetchOptions,
        output: &mut Output,
    ) -> Vec<Exit> {
        let jobs = self.jobs;
        if jobs.len() > 1 {
            output.is_about_several(true);
            output.begin_total(jobs.len());
        }
        if let [job] = jobs {
            output.connects(&job.path(), &job.url.host());
        }
        let output = Mutex::new(output);
        let mut exits = vec![None; jobs.len()];
        let has_failed = Notify::new();
        let attempt = async |job: &Job| {
            let path = job.path();
            let output = &output;
            let context = context.counting(job.fetched.clone());
            fetch::fetch(&context, options(job), &mut Labelled { output, path }).await
        };
        let each = |index: usize, event| {
            let job: &Job = &jobs[index];
            let (path, url) = (job.path(), job.url.to_string());
            let mut output = output.lock();
            match event {
                JobEvent::Ended(Ok(_)) => exits[index] = Some(Exit::Ok),
                JobEvent::Ended(Err(error)) => {
                    exits[index] = Some(output.error(Some(&path), Some(&url), &error));
                    if self.fail_fast {
                        has_failed.notify_one();
                    }
                }
                JobEvent::Again { error, round, wait } => {
                    output.about(Some(path));
                    output.queued_again(&url, &error, round, wait);
                    output.about(None);
                }
            }
        };
        let work = async {
            tokio::select! {
                biased;
                () = has_failed.notified() => true,
                () = self.queue.run(jobs, attempt, each) => false,
            }
        };
        // `None`: stopped.
        let another_failed = signals::unless_stopped(work).await == Some(true);
        let mut output = output.lock();
        for (job, _) in jobs.iter().zip(&exits).filter(|(_, exit)| exit.is_none()) {
            let message = stopped(another_failed, has_part(&job.target));
            let (path, url) = (job.path(), job.url.to_string());
            output.fail(Some(&path), Some(&url), Exit::Again, message);
        }
        for job in jobs {
            output.count_fetched(job.fetched.load(Ordering::Relaxed));
        }
        output.end_total();
        exits
            .into_iter()
            .map(|exit| exit.unwrap_or(Exit::Again))
            .collect()
    }
}

/// Why a file is not there, of a run that ended before it.
fn stopped(another_failed: bool, has_part: bool) -> &'static str {
    match (another_failed, has_part) {
        (false, true) => "stopped; verified blocks are kept. Run the same command again to resume",
        (false, false) => "stopped before a block was kept. Run the same command again",
        (true, true) => "stopped, because another file failed; verified blocks are kept",
        (true, false) => "not fetched, because another file failed",
    }
}

/// Whether a run left a part of this target.
fn has_part(target: &Path) -> bool {
    let destination = Destination::new(target);
    destination.is_ok_and(|destination| destination.has_part().unwrap_or(false))
}

/// Labels the events of one job with its path.
struct Labelled<'q, 'o> {
    output: &'q Mutex<&'o mut Output>,
    path: String,
}

impl Events for Labelled<'_, '_> {
    fn event(&mut self, event: Event) {
        let mut output = self.output.lock();
        output.about(Some(self.path.clone()));
        output.event(event);
        output.about(None);
    }
}

/// What was typed, as the library takes it.
struct FetchInput {
    context: Context,
    key: Option<PublicKey>,
    manifest: Option<ManifestPlace>,
    mirrors: Vec<Location>,
}

impl FetchInput {
    fn options(&self, args: &FetchArgs, job: &Job, locks: Locks) -> FetchOptions {
        let digests = args.digest.iter().chain(&args.sha256).chain(&job.digests);
        FetchOptions {
            mirrors: [&self.mirrors[..], &job.mirrors].concat(),
            seeds: args.seed.clone(),
            seed_store: args.seed_store,
            manifest: job.manifest.clone().or_else(|| self.manifest.clone()),
            root: job.root.or(args.root),
            key: self.key.clone(),
            digests: digests.cloned().collect(),
            require: args.require,
            max_size: args.network.max_size,
            discard: args.discard,
            save_manifest: args.save_manifest,
            receipt: job.receipt.clone(),
            locks,
            ..FetchOptions::new(job.url.clone(), &job.target)
        }
    }

    fn queue(&self, args: &FetchArgs) -> Queue {
        let at_once = args.jobs.map_or(FILES_AT_ONCE, u64::from);
        Queue {
            rounds: match args.input {
                Some(_) => args.network.tries,
                None => 1,
            },
            patience: args.network.patience,
            at_once: at_once.min(machine::descriptors_max() / DESCRIPTORS_A_FILE) as usize,
            connections: self.context.connections.clone(),
        }
    }
}

fn checked(args: &FetchArgs, store: StoreHandle) -> Result<FetchInput, Refusal> {
    if args.output.as_deref() == Some(Path::new("-")) {
        let message = "-o - is not possible: fetch publishes whole files. Use sapwood cat URL for a stream of proven bytes";
        return Err(Refusal::usage(message));
    }
    if args.receipt.as_deref() == Some(Path::new("-")) {
        return Err(Refusal::usage(hints::RECEIPT_TO_STDOUT));
    }
    let key = args.key.as_deref().map(keys::public_key).transpose();
    Ok(FetchInput {
        context: network::context(&args.network, store)?,
        key: key.map_err(Refusal::usage)?,
        manifest: match args.no_manifest {
            true => Some(ManifestPlace::Nowhere),
            false => args.manifest.as_deref().map(manifest_place).transpose()?,
        },
        mirrors: args
            .mirror
            .iter()
            .map(|text| location(text))
            .collect::<Result<_, _>>()?,
    })
}
