//! What a sync does with the files that are here: moves, copies, attributes, deletions.

use crate::{
    disk::replica::Staged,
    engine::{blocking, events::Event},
    policy::sync::{Action, Step},
};

use super::{
    fetch::attributes,
    place::{self, FILES_MAX, Ready, Source},
    removal::Removal,
    run::Run,
};

impl Run<'_> {
    /// Sets the attributes of files whose content is as listed.
    pub async fn set_attributes(&mut self, steps: Vec<Step>) {
        let (replica, index) = (self.replica.clone(), self.results.index.clone());
        let entries = self.entries.clone();
        let set = move || {
            let set = |step: &Step| {
                let listed = &index.entries()[step.entry];
                let file = step.here?;
                let stamp = entries[file].stamp();
                let set = replica.set_attributes(&listed.path, stamp, attributes(listed));
                Some((step.entry, file, set))
            };
            steps.iter().filter_map(set).collect::<Vec<_>>()
        };
        for (entry, file, outcome) in blocking::run(set).await {
            match outcome {
                Ok(now) => self.results.attributes_set(entry, file, &now),
                Err(cause) => self.results.failed(entry, cause.into()),
            }
        }
    }

    /// Moves and copies local files. What cannot be moved or copied, because it changed meanwhile, is returned: it is fetched.
    pub async fn move_and_copy(&mut self, steps: Vec<Step>) -> Vec<Step> {
        let (replica, index) = (self.replica.clone(), self.results.index.clone());
        let (here, entries) = (self.results.here.clone(), self.entries.clone());
        // All are staged before any is placed, so that no source is lost: names may be swapped.
        let stage = move || {
            let stage = |step: Step| {
                let listed = &index.entries()[step.entry];
                let of = attributes(listed);
                let staged = match step.action {
                    Action::Move { from } => {
                        let stamp = entries[from].stamp();
                        let staged = replica.stage_move(&here[from].path, stamp, of);
                        staged.map(|staged| (staged, Source::Moved(from)))
                    }
                    Action::Copy { from } => {
                        let staged = replica.stage_copy(&here[from].path, listed.root, of);
                        staged.map(|staged| (staged, Source::Copied))
                    }
                    _ => return None,
                };
                Some((step, staged))
            };
            steps.into_iter().filter_map(stage).collect::<Vec<_>>()
        };
        let (mut ready, mut again) = (Vec::new(), Vec::new());
        for (step, staged) in blocking::run(stage).await {
            match staged {
                Ok((staged, source)) if step.is_blocked => {
                    let ready = self.ready(&step, staged.closed(), source);
                    self.blocked.push(ready);
                }
                Ok((staged, source)) => ready.push(self.ready(&step, staged.closed(), source)),
                Err(_) => again.push(step),
            }
        }
        self.place(ready).await;
        again
    }

    /// A staged file of a step.
    pub fn ready(&self, step: &Step, staged: Staged, source: Source) -> Ready {
        Ready::new(&self.results.index, &self.entries, step, (staged, source))
    }

    /// Places these files, and removes the old names of those that were moved.
    pub async fn place(&mut self, mut ready: Vec<Ready>) {
        while !ready.is_empty() {
            let rest = ready.split_off(ready.len().min(FILES_MAX));
            let placed = place::place(&self.replica, std::mem::replace(&mut ready, rest)).await;
            let mut moved = Vec::new();
            for placed in placed {
                match placed.source {
                    Source::Moved(from) if placed.outcome.is_ok() => moved.push(from),
                    _ => (),
                }
                self.results.placed(placed);
            }
            moved.retain(|from| self.moved_away.remove(from));
            self.remove(moved, Removal::Moved).await;
        }
    }

    /// Removes local files.
    pub async fn remove(&mut self, files: Vec<usize>, why: Removal) {
        let (here, entries) = (self.results.here.clone(), self.entries.clone());
        let (replica, of_removal) = (self.replica.clone(), why.clone());
        let remove = move || {
            let remove = |file: usize| {
                let stamp = entries[file].stamp();
                let trash = of_removal.trash();
                (file, replica.delete(&here[file].path, stamp, trash))
            };
            files.into_iter().map(remove).collect::<Vec<_>>()
        };
        for (file, outcome) in blocking::run(remove).await {
            let gone = &self.results.here[file].path;
            let path = self.replica.path_of(gone);
            match (outcome, &why) {
                (Err(cause), _) => self.results.not_deleted(path, cause.into()),
                (Ok(trash), why) => {
                    self.gone.push(gone.clone());
                    self.results.known.here[file] = None;
                    self.results.has_changed = true;
                    if let Removal::Deleted(_) = why {
                        self.results.counts.deleted += 1;
                        let trash = trash.map(|trash| self.options.folder.join(trash));
                        let event = Event::Deleted { path, trash };
                        self.results.events.event(event);
                    }
                }
            }
        }
    }
}
