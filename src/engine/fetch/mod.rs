//! Fetching an object: find its manifest, use what is here, move the rest in spans, prove, publish.

mod adopt;
mod find;
mod leftovers;
mod options;
mod publish;
mod receipt;
mod unknown_length;
mod with_manifest;
mod without_manifest;

use std::time::Instant;

use crate::{
    disk::{
        destination::{Destination, Found, Locked, Opened},
        error::DiskError,
        machine::unix_time,
        temporary::Temporary,
    },
    engine::{
        blocking::{self, StopWhenDropped},
        context::Context,
        error::Error,
        events::{Event, Events, Planned, Published},
        remote::{manifest::OpenManifest, preflight, retry::retried},
    },
    format::{anchors::BlockAnchor, journal::Identity, manifest::Tree, trust::Trust},
    net::client::Client,
    policy::{conditions::Conditions, schedule::Limits},
};

pub use super::remote::manifest::ManifestPlace;
pub use options::FetchOptions;

/// A mirror that has not answered by then is not asked for the manifest.
const FIRST_CONTACT_MS: u64 = 15_000;

/// Fetches one object to its target. The file appears there whole and proven, or not at all.
///
/// Dropping the future is a clean stop: what is proven is in the part file and noted in its journal, and the same call goes on
/// from there.
pub async fn fetch(
    context: &Context,
    options: FetchOptions,
    events: &mut dyn Events,
) -> Result<Published, Error> {
    let began = Instant::now();
    let target = options.target.clone();
    let receipt = options.receipt.clone();
    let hosts = context.client.hosts().clone();
    let locked = blocking::on_disk({
        let target = target.clone();
        move || {
            hosts.refresh();
            receipt.as_deref().map(Temporary::check).transpose()?;
            Destination::new(&target)?.lock()
        }
    })
    .await?;
    let fetch = Fetch {
        context: context.clone(),
        client: context.client.clone(),
        options,
        events: &mut *events,
        began,
        started: unix_time(),
        bytes_manifest: 0,
        tree: None,
        anchors: None,
        stop: StopWhenDropped::default(),
    };
    // On the heap: callers should not have to carry it around.
    let outcome = Box::pin(fetch.run(locked)).await;
    if let Err(error) = &outcome {
        leftovers::after(error, target, events).await;
    }
    outcome
}

struct Fetch<'a> {
    options: FetchOptions,
    context: Context,
    client: Client,
    events: &'a mut dyn Events,
    began: Instant,
    /// The same by the clock on the wall, in Unix seconds.
    started: u64,
    bytes_manifest: u64,
    /// Of the object, when all of it is here: for the store.
    tree: Option<Tree>,
    /// The anchors of its blocks, as its manifest has them.
    anchors: Option<Vec<BlockAnchor>>,
    stop: StopWhenDropped,
}

impl Fetch<'_> {
    async fn run(mut self, locked: Locked) -> Result<Published, Error> {
        if self.options.no_clobber && locked.destination().existing()?.is_some() {
            return Err(DiskError::Exists {
                path: locked.destination().path(),
            }
            .into());
        }
        let given = self.options.manifest.take();
        let mut candidates = vec![self.options.url.clone()];
        candidates.extend(self.options.mirrors.iter().cloned());
        let mut first_error = None;
        for (index, url) in candidates.iter().enumerate() {
            let place = given
                .clone()
                .unwrap_or_else(|| ManifestPlace::Beside(url.of_manifest()));
            let limits = self.limits_of_first_contact(candidates.len() > 1);
            let context = &self.context;
            let (preflight, front) = {
                let client = &self.client;
                let preflight = retried(&limits, async || preflight::preflight(client, url).await);
                let front = OpenManifest::open(context, &place, &limits);
                match self.context.connections.of_each() {
                    1 => (preflight.await, front.await),
                    // Both at once: one round trip.
                    _ => tokio::join!(preflight, front),
                }
            };
            match (preflight, front) {
                (Ok(preflight), Ok(front)) => {
                    match self.matching(front, &place, &preflight).await {
                        Ok(front) => {
                            // The one that answered comes first: what is known of it is true.
                            let mut sources = candidates.clone();
                            sources.swap(0, index);
                            return self
                                .with_manifest(locked, sources, preflight, front, place)
                                .await;
                        }
                        Err(error) => {
                            first_error.get_or_insert(error);
                        }
                    }
                }
                (Ok(preflight), Err(Error::NoManifest { .. }))
                    if matches!(place, ManifestPlace::Beside(_)) =>
                {
                    let plain = self.without_manifest(locked, url.clone(), preflight);
                    return Box::pin(plain).await;
                }
                // Of an object that is not there it does not matter that its manifest is not there either.
                (Err(error), Ok(_) | Err(Error::NoManifest { .. }))
                | (Ok(_) | Err(_), Err(error)) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        Err(first_error.expect("there is at least one candidate"))
    }

    /// Of several mirrors none is waited for as long as the only one would be.
    fn limits_of_first_contact(&self, several: bool) -> Limits {
        let limits = self.limits();
        match several {
            true => Limits {
                tries: limits.tries.min(2),
                patience_ms: limits.patience_ms.min(FIRST_CONTACT_MS),
                ..limits
            },
            false => limits,
        }
    }

    fn limits(&self) -> Limits {
        self.context.limits_now()
    }

    /// More than the user allows is refused before any byte of the body.
    fn check_length(&self, length: Option<u64>) -> Result<(), Error> {
        match length.filter(|length| self.options.max_size.is_some_and(|most| *length > most)) {
            Some(bytes) => Err(Error::TooLarge {
                place: self.options.url.to_string(),
                bytes,
            }),
            None => Ok(()),
        }
    }

    fn check_room(locked: &Locked, needed: u64) -> Result<(), Error> {
        let available = locked.destination().bytes_free()?;
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

    /// Opens part and journal, and tells what was found and what is to be done.
    async fn open(
        &mut self,
        locked: Locked,
        identity: &Identity,
        trust: Trust,
        local: u64,
    ) -> Result<(Locked, Opened), Error> {
        let keeper = self.options.journal.take();
        let (identity_of_part, url) = (identity.clone(), self.options.url.to_string());
        let (locked, opened) = blocking::on_disk(move || {
            let opened = locked.open(&identity_of_part, &url, keeper)?;
            Ok((locked, opened))
        })
        .await?;
        let geometry = identity.geometry;
        let held = opened.claimed.bytes(&geometry);
        let path = locked.destination().part_path();
        match opened.found {
            Found::Nothing => (),
            Found::Part => self.events.event(Event::Resumed { bytes_held: held }),
            Found::Seed { bytes } => self.events.event(Event::PartReused { path, bytes }),
            Found::Outdated { bytes } => self.events.event(Event::StartedOver { path, bytes }),
        }
        // What an earlier run left may have come from here too.
        let local = local.min(geometry.length() - held);
        self.plan(&locked, identity, held, local, trust);
        Self::check_room(&locked, geometry.length() - held)?;
        Ok((locked, opened))
    }

    fn plan(&mut self, locked: &Locked, identity: &Identity, held: u64, local: u64, trust: Trust) {
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

/// What the user asks of the object, as far as its manifest can tell.
fn conditions(options: &FetchOptions) -> Conditions {
    Conditions {
        root: options.root,
        digests: options.digests.clone(),
        key: options.key.clone(),
        name: Some(options.url.last_segment().unwrap_or_default()),
        require: options.require,
    }
}
