//! What a sync would do.

use std::path::PathBuf;

use crate::{
    engine::events::{Event, Events, FileCounts, Intended, Intent, Synced},
    format::library::LibraryPath,
    net::location::Location,
    policy::sync::{Action, Local, Plan, Step},
};

use super::{SyncOptions, index::OpenIndex, results::no_place};

/// Reports what would be done to each file, and returns the sums. The bytes to fetch are the most that would be: a changed file
/// usually needs less.
pub fn report(
    (options, url): (&SyncOptions, &Location),
    index: &OpenIndex,
    here: &[Local],
    plan: &Plan,
    events: &mut dyn Events,
) -> Synced {
    let path_of = |path: &LibraryPath| options.folder.join(path.as_str());
    let mut counts = FileCounts::default();
    let (mut bytes_total, mut bytes_to_fetch) = (0, 0);
    for step in &plan.steps {
        let entry = &index.entries()[step.entry];
        bytes_total += entry.length;
        let from: Option<PathBuf> = match step.action {
            Action::Move { from } | Action::Copy { from } => Some(path_of(&here[from].path)),
            Action::FetchOnce { with } => Some(path_of(&index.entries()[with].path)),
            _ => None,
        };
        let (what, count) = match &step.action {
            Action::Keep => {
                counts.unchanged += 1;
                continue;
            }
            Action::Refuse(cause) => {
                counts.failed += 1;
                events.event(no_place(path_of(&entry.path), cause));
                continue;
            }
            Action::SetAttributes => (Intent::SetAttributes, &mut counts.unchanged),
            Action::Move { .. } => (Intent::Move, &mut counts.moved),
            Action::Copy { .. } => (Intent::Copy, &mut counts.copied),
            Action::FetchOnce { .. } => (Intent::Copy, &mut counts.fetched),
            Action::Fetch => {
                bytes_to_fetch += entry.length;
                (of_fetch(step, here), &mut counts.fetched)
            }
        };
        *count += 1;
        events.event(Event::Intended(Intended {
            path: path_of(&entry.path),
            what,
            from,
            bytes: entry.length,
        }));
    }
    counts.deleted = plan.deletions.len() as u64;
    for local in &plan.deletions {
        events.event(Event::Intended(Intended {
            path: path_of(&here[*local].path),
            what: Intent::Delete,
            from: None,
            bytes: here[*local].length,
        }));
    }
    Synced {
        path: options.folder.clone(),
        url: url.to_string(),
        root: index.file.root,
        trust: index.trust,
        is_dry_run: true,
        files_total: plan.steps.len() as u64,
        bytes_total,
        bytes_to_fetch,
        files: counts,
        bytes_fetched: 0,
        elapsed_ms: 0,
        is_stopped: false,
    }
}

/// A file that is here in another version is updated.
fn of_fetch(step: &Step, here: &[Local]) -> Intent {
    match step.here.is_some_and(|local| here[local].length > 0) {
        true => Intent::Update,
        false => Intent::Fetch,
    }
}
