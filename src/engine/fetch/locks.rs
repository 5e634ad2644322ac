//! Locking targets, and what is at them: for many fetches of a run together.

use std::{path::PathBuf, sync::Arc};

use crate::{
    disk::{
        destination::{Destination, Locked},
        destinations::Destinations,
        error::DiskError,
        files::{Entry, Folder, NotedPaths},
        store::{Store, StoreError},
    },
    engine::{
        blocking::{self, BatchLimits, Batches},
        context::StoreHandle,
    },
    net::{hosts::Hosts, location::Location},
};

use super::{
    adopt, check_places,
    known::{self, Known, Remembered},
};

/// The disk may be slow, or at the other end of a network.
const LIMITS: BatchLimits = BatchLimits {
    items: 16,
    threads: 4,
};

/// Locks targets. Fetches of one context whose options share it lock theirs together, which costs less.
#[derive(Clone, Default)]
pub struct Locks {
    requests: Batches<Request, Result<Outcome, DiskError>>,
    /// Of files that are at their targets already.
    discarded: Batches<Locked, Result<(), DiskError>>,
}

/// A target, and what must not be replaced.
pub(super) struct Request {
    pub target: PathBuf,
    pub receipt: Option<PathBuf>,
    pub manifest: Option<PathBuf>,
    /// The folder of the target, if it is open.
    pub folder: Option<Arc<Folder>>,
    pub no_clobber: bool,
    pub url: Location,
    pub hosts: Hosts,
    pub store: StoreHandle,
}

enum Outcome {
    Locked(Box<Held>),
    /// Another run has it, or has not ended yet.
    Busy(Box<Request>),
}

/// A locked target.
pub(super) struct Held {
    pub locked: Locked,
    pub here: Here,
    /// The URL as the store keeps it; `None`: there is no store.
    pub url_hash: Option<[u8; 32]>,
}

/// What is at the target when it is locked.
pub(super) enum Here {
    /// Neither a file nor a part.
    Nothing {
        /// The store knows files of the same origin.
        is_of_known_origin: bool,
        /// The store knows another file that is all of the object which came from the URL last.
        is_elsewhere: bool,
    },
    /// What an earlier run published.
    Known(Known),
    Other,
}

impl Locks {
    /// Locks a target, and looks for what is there.
    pub(super) async fn lock(&self, request: Request) -> Result<Held, DiskError> {
        match self.requests.run(request, LIMITS, lock_all).await? {
            Outcome::Locked(held) => Ok(*held),
            Outcome::Busy(request) => {
                blocking::on_disk(move || {
                    let locked = request.destination(&mut Destinations::default())?.lock()?;
                    let target = Target::new(&request, locked)?;
                    Ok(look_up(vec![(*request, target)]).remove(0))
                })
                .await
            }
        }
    }

    /// [`Locked::discard`].
    pub(super) async fn discard(&self, locked: Locked) -> Result<(), DiskError> {
        let discard = |all: Vec<Locked>| all.into_iter().map(Locked::discard).collect();
        self.discarded.run(locked, LIMITS, discard).await
    }
}

impl Request {
    /// Checks what needs no lock.
    fn destination(&self, destinations: &mut Destinations) -> Result<Destination, DiskError> {
        let (receipt, manifest) = (self.receipt.as_deref(), self.manifest.as_deref());
        check_places(&self.target, receipt, manifest)?;
        match (&self.folder, self.target.file_name()) {
            (Some(folder), Some(name)) => Destination::in_folder(folder.clone(), name.to_owned()),
            _ => destinations.open(&self.target),
        }
    }
}

/// A target that was locked.
struct Target {
    locked: Locked,
    existing: Option<Entry>,
    /// There is neither a file nor a part.
    is_empty: bool,
}

impl Target {
    fn new(request: &Request, locked: Locked) -> Result<Target, DiskError> {
        let destination = locked.destination();
        let existing = destination.existing()?;
        if request.no_clobber && existing.is_some() {
            let path = destination.path();
            return Err(DiskError::Exists { path });
        }
        let is_empty = existing.is_none() && destination.has_no_part()?;
        Ok(Target {
            locked,
            existing,
            is_empty,
        })
    }
}

/// Locks these targets; one outcome for each, in the same order. Waits for none of them.
fn lock_all(requests: Vec<Request>) -> Vec<Result<Outcome, DiskError>> {
    let mut destinations = Destinations::default();
    let mut outcomes: Vec<Option<Result<Outcome, DiskError>>> = Vec::new();
    let mut targets = Vec::new();
    for request in requests {
        request.hosts.refresh();
        let tried = request.destination(&mut destinations);
        let tried = tried.and_then(Destination::try_lock);
        let target = match tried {
            Ok(Ok(locked)) => Target::new(&request, locked),
            Ok(Err(_)) => {
                outcomes.push(Some(Ok(Outcome::Busy(Box::new(request)))));
                continue;
            }
            Err(cause) => Err(cause),
        };
        outcomes.push(match target {
            Ok(target) => {
                targets.push((request, target));
                None
            }
            Err(cause) => Some(Err(cause)),
        });
    }
    let mut held = look_up(targets).into_iter();
    let mut next = || Ok(Outcome::Locked(Box::new(held.next().expect("one each"))));
    let outcomes = outcomes.into_iter();
    outcomes
        .map(|outcome| outcome.unwrap_or_else(&mut next))
        .collect()
}

/// Adds what the store knows of these targets; one for each, in the same order.
fn look_up(targets: Vec<(Request, Target)>) -> Vec<Held> {
    let store = targets.first().map(|(request, _)| request.store.clone());
    let noted = store.and_then(|store| store.with_blocking(|store| noted(store, &targets)));
    let mut noted = noted.into_iter().flatten();
    let held = targets.into_iter().map(|(_, target)| {
        let (url_hash, here) = match noted.next() {
            Some((hash, here)) => (Some(hash), here),
            None if target.is_empty => (None, Here::NOTHING),
            None => (None, Here::Other),
        };
        let here = match here {
            Here::Known(known) if !known.is_at(&target.locked.destination().path()) => Here::Other,
            here => here,
        };
        Held {
            locked: target.locked,
            here,
            url_hash,
        }
    });
    held.collect()
}

/// What the store knows of each target, with the URL as the store keeps it.
fn noted(
    store: &mut Store,
    targets: &[(Request, Target)],
) -> Result<Vec<([u8; 32], Here)>, StoreError> {
    let urls = targets.iter().map(|(request, _)| &request.url);
    let hashes: Result<Vec<_>, StoreError> = urls.map(|url| adopt::url_hash(store, url)).collect();
    let hashes = hashes?;
    let mut paths = NotedPaths::default();
    let remembered = store.state().together(|state| {
        let mut all = Vec::with_capacity(targets.len());
        for ((request, target), hash) in targets.iter().zip(hashes) {
            let path = target.locked.destination().path();
            let found = match target.existing {
                Some(entry) => {
                    let path = paths.of(&path);
                    known::find(state, path.as_deref(), entry, &hash)?
                        .map_or(Remembered::Nothing, Remembered::Known)
                }
                None if target.is_empty => known::elsewhere(state, &request.url, &hash)?,
                None => Remembered::Nothing,
            };
            all.push((hash, found));
        }
        Ok(all)
    })?;
    let mut all = Vec::with_capacity(targets.len());
    for ((_, target), (hash, found)) in targets.iter().zip(remembered) {
        let here = match found {
            Remembered::Known(known) => Here::Known(known),
            Remembered::Elsewhere {
                is_of_known_origin,
                holdings,
            } => Here::Nothing {
                is_of_known_origin,
                is_elsewhere: known::is_one_there(store, &holdings)?,
            },
            Remembered::Nothing if target.is_empty => Here::NOTHING,
            Remembered::Nothing => Here::Other,
        };
        all.push((hash, here));
    }
    Ok(all)
}

impl Here {
    /// Nothing is here, and the store knows nothing.
    const NOTHING: Here = Here::Nothing {
        is_of_known_origin: false,
        is_elsewhere: false,
    };
}
