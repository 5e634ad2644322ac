//! Carrying out a plan: what is here first, then what is fetched, then deletions.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    sync::Arc,
};

use crate::{
    disk::{
        error::DiskError,
        files::Entry,
        replica::{Replica, Trash},
        temporary::{Replaces, Temporary},
    },
    engine::{
        blocking,
        context::Context,
        error::Error,
        events::{Event, Events, FileCounts, Planned, Synced},
    },
    format::library::{self, LibraryPath},
    net::location::Location,
    policy::sync::{Action, Plan, Step},
};

use super::{
    Stop, SyncOptions,
    fetch::{attributes, is_whole},
    here::Here,
    index::{ACCEPTED, OpenIndex},
    place::{Ready, Source},
    removal::Removal,
    results::{Reports, Results, no_place},
    state,
};

/// One sync.
pub struct Run<'a> {
    pub context: Context,
    pub options: SyncOptions,
    pub url: Location,
    pub replica: Arc<Replica>,
    pub results: Results<'a>,
    /// The entries of the files that are here.
    pub entries: Arc<[Entry]>,
    /// The state of the last run says all that is known.
    is_all_in_state: bool,
    /// Local files whose content gets another name, and that have their old one.
    pub moved_away: HashSet<usize>,
    /// Staged, and to be placed when what is in their way was deleted.
    pub blocked: Vec<Ready>,
    /// Paths of files that lost their names.
    pub gone: Vec<LibraryPath>,
    pub is_stopped: bool,
}

impl<'a> Run<'a> {
    pub fn new(
        context: &Context,
        (options, url): (SyncOptions, Location),
        replica: Arc<Replica>,
        index: Arc<OpenIndex>,
        here: Here,
        events: &'a mut dyn Events,
    ) -> Run<'a> {
        Run {
            context: context.clone(),
            results: Results {
                events,
                replica: replica.clone(),
                index,
                url: url.clone(),
                here: here.files.into(),
                known: here.known,
                counts: FileCounts::default(),
                has_changed: false,
                ended: HashMap::new(),
                progress: Reports::new(0, 0),
            },
            options,
            url,
            replica,
            entries: here.entries.into(),
            is_all_in_state: here.is_all_in_state,
            moved_away: HashSet::new(),
            blocked: Vec::new(),
            gone: Vec::new(),
            is_stopped: false,
        }
    }

    /// Carries out the plan, as far as it is possible.
    pub async fn carry_out(mut self, plan: Plan, stop: Stop<'_>) -> Result<Synced, Error> {
        let (index, replica) = (self.results.index.clone(), self.replica.clone());
        let parts = roots_of_parts(&index, &plan.steps);
        let has_key = self.options.key.is_some();
        blocking::run(move || publish_index(&index, has_key, &replica, &parts)).await?;
        let entries = self.results.index.clone();
        let length = |step: &Step| entries.entries()[step.entry].length;
        let bytes_total = plan.steps.iter().map(length).sum();
        self.results.progress = Reports::new(plan.steps.len() as u64, bytes_total);
        self.moved_away = plan.moved_away.iter().copied().collect();
        self.report_plan(&plan.steps);
        let mut kinds = Kinds::default();
        for step in plan.steps {
            self.sort(step, &mut kinds);
        }
        self.set_attributes(kinds.attributes).await;
        let again = self.move_and_copy(kinds.local).await;
        kinds.fetch.extend(again);
        let fetched = self.fetch(kinds.fetch, &kinds.copies, stop).await;
        self.copy_fetched(kinds.copies).await;
        self.delete(plan.deletions).await;
        self.finish().await;
        Ok(Synced {
            path: self.options.folder.clone(),
            url: self.url.to_string(),
            root: self.results.index.file.root,
            trust: self.results.index.trust,
            is_dry_run: false,
            files_total: self.results.progress.files_total,
            bytes_total,
            bytes_to_fetch: 0,
            files: self.results.counts,
            bytes_fetched: self.context.client.bytes_fetched() + fetched,
            elapsed_ms: 0,
            is_stopped: self.is_stopped,
        })
    }

    fn report_plan(&mut self, steps: &[Step]) {
        let index = self.results.index.clone();
        let sum = |is_one: fn(&Action) -> bool| -> u64 {
            let these = steps.iter().filter(|step| is_one(&step.action));
            these.map(|step| index.entries()[step.entry].length).sum()
        };
        self.results.events.event(Event::Planned(Planned {
            path: self.options.folder.clone(),
            url: self.url.to_string(),
            root: Some(index.file.root),
            bytes_total: sum(|_| true),
            bytes_held: sum(|action| matches!(action, Action::Keep | Action::SetAttributes)),
            bytes_local: sum(|action| matches!(action, Action::Move { .. } | Action::Copy { .. })),
            bytes_to_fetch: sum(|action| *action == Action::Fetch),
            block_size: None,
            trust: index.trust,
        }));
    }

    fn sort(&mut self, step: Step, kinds: &mut Kinds) {
        let index = self.results.index.clone();
        let listed = &index.entries()[step.entry];
        match &step.action {
            Action::Keep => self.results.kept(step.entry),
            Action::SetAttributes => kinds.attributes.push(step),
            Action::Move { .. } | Action::Copy { .. } => kinds.local.push(step),
            Action::Fetch => kinds.fetch.push(step),
            Action::FetchOnce { .. } => kinds.copies.push(step),
            Action::Refuse(cause) => {
                self.results.counts.failed += 1;
                let path = self.replica.path_of(&listed.path);
                self.results.events.event(no_place(path, cause));
            }
        }
    }

    /// Copies the larger files that were fetched for another path.
    async fn copy_fetched(&mut self, copies: Vec<Step>) {
        let index = self.results.index.clone();
        let is_large = |step: &&Step| !index.entries()[step.entry].is_small();
        for step in copies.iter().filter(is_large) {
            let Action::FetchOnce { with } = step.action else {
                continue;
            };
            match self.results.ended.get(&with) {
                Some(Ok(())) => (),
                Some(Err(error)) => {
                    let error = error.clone();
                    self.results.failed_like(step.entry, error);
                    continue;
                }
                // It was not begun, or waits for the deletions.
                None => continue,
            }
            let (replica, index, entry) = (self.replica.clone(), index.clone(), step.entry);
            let staged = blocking::on_disk(move || {
                let listed = &index.entries()[entry];
                let from = &index.entries()[with].path;
                replica.stage_copy(from, listed.root, attributes(listed))
            });
            match staged.await {
                Ok(staged) => {
                    let ready = self.ready(step, staged.closed(), Source::Copied);
                    match step.is_blocked {
                        true => self.blocked.push(ready),
                        false => self.place(vec![ready]).await,
                    }
                }
                Err(cause) => self.results.failed(step.entry, cause.into()),
            }
        }
    }

    /// Deletes what the index does not list, if nothing failed; then places what was blocked.
    async fn delete(&mut self, deletions: Vec<usize>) {
        let is_complete = !self.is_stopped && self.results.ended.values().all(Result::is_ok);
        let blocked = std::mem::take(&mut self.blocked);
        if !is_complete {
            if !deletions.is_empty() && !self.is_stopped {
                let message = "nothing is deleted, because not all files could be synced";
                let message = message.to_owned();
                self.results.events.event(Event::Warning { message });
            }
            let error = Arc::new(Error::Disk(DiskError::Stopped {
                path: self.options.folder.clone(),
            }));
            for ready in blocked {
                self.results.failed_like(ready.entry, error.clone());
            }
            return;
        }
        let trash = self.options.trash.as_deref().map(Trash::new).map(Arc::new);
        self.remove(deletions, Removal::Deleted(trash)).await;
        let moved = self.moved_away.drain().collect();
        self.remove(moved, Removal::Moved).await;
        let (gone, replica) = (self.gone.clone(), self.replica.clone());
        let emptied = blocking::on_disk(move || replica.remove_emptied(&gone)).await;
        self.warn(emptied.map_err(Error::from));
        self.place(blocked).await;
    }

    /// Removes emptied folders and the staging folder, and writes the state.
    async fn finish(&mut self) {
        let (gone, replica) = (std::mem::take(&mut self.gone), self.replica.clone());
        let cleared = blocking::on_disk(move || {
            replica.remove_emptied(&gone)?;
            replica.remove_staging()
        });
        let cleared = cleared.await.map_err(Error::from);
        self.warn(cleared);
        if self.is_all_in_state && !self.results.has_changed {
            return;
        }
        let known = std::mem::take(&mut self.results.known);
        let (here, replica) = (self.results.here.clone(), self.replica.clone());
        let written = blocking::run(move || state::write(replica.folder(), &known, &here)).await;
        self.warn(written);
    }

    /// What is not needed for the files themselves is a warning if it fails.
    fn warn(&mut self, outcome: Result<(), Error>) {
        if let Err(error) = outcome {
            let message = error.to_string();
            self.results.events.event(Event::Warning { message });
        }
    }
}

/// The steps of a plan by what is to be done.
#[derive(Default)]
struct Kinds {
    attributes: Vec<Step>,
    local: Vec<Step>,
    fetch: Vec<Step>,
    copies: Vec<Step>,
}

/// The roots of the files of which this run or a later one can use a part.
fn roots_of_parts(index: &OpenIndex, steps: &[Step]) -> HashSet<String> {
    let whole: HashSet<usize> = steps
        .iter()
        .filter(|step| step.action == Action::Fetch)
        .filter(|step| is_whole(&index.entries()[step.entry], step.here.is_some()))
        .map(|step| step.entry)
        .collect();
    let entries = index.entries().iter().enumerate();
    entries
        .filter(|(at, entry)| !entry.is_small() && !whole.contains(at))
        .map(|(_, entry)| entry.root.to_string())
        .collect()
}

/// Writes index and manifest into the folder: they say what it is to become. Leaves in the staging folder only what is of these roots.
fn publish_index(
    index: &OpenIndex,
    has_key: bool,
    replica: &Replica,
    parts: &HashSet<String>,
) -> Result<(), Error> {
    replica.clean_staging(|name| {
        let name = name.to_str().unwrap_or_default();
        parts.contains(name.split('.').next().unwrap_or_default())
    })?;
    let publish = |name: &str, bytes: &[u8], replaces| -> Result<(), DiskError> {
        let path = replica.folder().path_of(OsStr::new(name));
        let temporary = Temporary::create(&path, replaces)?;
        temporary.write_at(bytes, 0)?;
        temporary.publish(None)
    };
    if index.is_new {
        publish(library::NAME, index.file.bytes(), Replaces::Index)?;
    }
    if let Some(manifest) = &index.manifest {
        publish(library::MANIFEST, manifest, Replaces::Manifest)?;
        if has_key {
            publish(ACCEPTED, manifest, Replaces::Manifest)?;
        }
    }
    Ok(())
}
