//! The state that the steps of one fetch share.

use std::time::Instant;

use crate::{
    disk::{
        destination::{Found, Locked, Opened},
        error::DiskError,
        machine::unix_time,
        store::{Store, StoreError},
    },
    engine::{
        blocking::{self, StopWhenDropped},
        connections::Admitted,
        context::Context,
        error::Error,
        events::{Event, Events, Planned},
        trust::warned,
    },
    format::{journal::Identity, trust::Trust},
    policy::conditions::Conditions,
};

use super::options::FetchOptions;

/// One fetch. Async functions take `&mut Run`: `events` is not `Sync`, so a future that holds `&Run` would not be `Send`.
pub struct Run<'a> {
    pub context: Context,
    pub options: FetchOptions,
    pub events: &'a mut dyn Events,
    /// Stops work on files when the fetch is dropped.
    pub stop: StopWhenDropped,
    pub began: Instant,
    /// The start in Unix seconds.
    pub started: u64,
    /// Bytes of the manifest that were fetched.
    pub bytes_manifest: u64,
    /// The fetch counts among those that have connections, until this is dropped.
    pub admitted: Option<Admitted>,
    /// When the target was locked, there was neither a file nor a part.
    pub nothing_is_here: bool,
    /// Another file may have bytes of the object.
    pub may_be_elsewhere: bool,
    /// The URL as the store keeps it; `None`: there is no store.
    pub url_hash: Option<[u8; 32]>,
    /// The front of the manifest that the object is proven by.
    pub front: Option<Vec<u8>>,
}

impl<'a> Run<'a> {
    pub fn new(context: &Context, options: FetchOptions, events: &'a mut dyn Events) -> Run<'a> {
        Run {
            context: context.clone(),
            options,
            events,
            stop: StopWhenDropped::default(),
            began: Instant::now(),
            started: unix_time(),
            bytes_manifest: 0,
            admitted: None,
            nothing_is_here: false,
            may_be_elsewhere: false,
            url_hash: None,
            front: None,
        }
    }

    /// What the user requires of the manifest.
    pub fn conditions(&self) -> Conditions {
        Conditions {
            root: self.options.root,
            digests: self.options.digests.clone(),
            key: self.options.key.clone(),
            name: Some(self.options.url.last_segment().unwrap_or_default()),
            require: self.options.require,
        }
    }

    /// Refuses an object larger than the user allows, before any byte of its body arrives.
    pub fn check_length(&self, length: Option<u64>) -> Result<(), Error> {
        let too_long = |length: &u64| self.options.max_size.is_some_and(|most| *length > most);
        match length.filter(too_long) {
            Some(bytes) => Err(Error::TooLarge {
                place: self.options.url.to_string(),
                bytes,
            }),
            None => Ok(()),
        }
    }

    /// Runs `work` on the store, if there is one. A store failure is a warning and never an error of the fetch.
    pub async fn in_store<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<T> {
        let done = self.context.store.with(work).await;
        warned(done, self.events)
    }

    /// Opens the part and its journal, and reports the state of the part and the plan. Fails if the disk has too little room.
    /// `local`: bytes of the object that were found in other files.
    pub async fn open_part(
        &mut self,
        locked: Locked,
        identity: &Identity,
        trust: Trust,
        local: u64,
    ) -> Result<(Locked, Opened), Error> {
        let keeper = self.options.journal.take();
        let (of_part, url) = (identity.clone(), self.options.url.to_string());
        let (locked, opened, bytes_free) = blocking::on_disk(move || {
            let opened = locked.open(&of_part, &url, keeper)?;
            let bytes_free = locked.destination().bytes_free()?;
            Ok((locked, opened, bytes_free))
        })
        .await?;
        let geometry = identity.geometry;
        let held = opened.claimed.bytes(&geometry);
        let path = locked.destination().part_path();
        match opened.found.clone() {
            Found::Nothing => (),
            Found::Part => self.events.event(Event::Resumed { bytes_held: held }),
            Found::Seed { bytes } => self.events.event(Event::PartReused { path, bytes }),
            Found::Outdated { bytes, url } => {
                self.events.event(Event::StartedOver { path, bytes, url });
            }
        }
        // An earlier run may have copied some of these local bytes into the part.
        let local = local.min(geometry.length() - held);
        self.report_plan(&locked, identity, held, local, trust);
        has_room(&locked, geometry.length() - held, bytes_free)?;
        Ok((locked, opened))
    }

    pub fn report_plan(
        &mut self,
        locked: &Locked,
        identity: &Identity,
        held: u64,
        local: u64,
        trust: Trust,
    ) {
        let length = identity.geometry.length();
        self.events.event(Event::Planned(Planned {
            path: locked.destination().path(),
            url: self.options.url.to_string(),
            root: identity.root,
            bytes_total: length,
            bytes_held: held,
            bytes_local: local,
            bytes_to_fetch: length - held - local,
            block_size: identity.root.map(|_| identity.geometry.block_size()),
            trust,
        }));
    }
}

/// The room for an object of which nothing was fetched yet, in bytes; `None`: an earlier run left a part.
pub async fn room_for_all(locked: Locked) -> Result<(Locked, Option<u64>), Error> {
    let found = blocking::on_disk(move || {
        let destination = locked.destination();
        let room = match destination.has_part()? {
            true => None,
            false => Some(destination.bytes_free()?),
        };
        Ok((locked, room))
    });
    Ok(found.await?)
}

pub fn has_room(locked: &Locked, needed: u64, available: u64) -> Result<(), Error> {
    match needed > available {
        true => Err(DiskError::NoRoom {
            path: locked.destination().path(),
            needed,
            available,
        }
        .into()),
        false => Ok(()),
    }
}
