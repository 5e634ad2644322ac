//! Fetching an object: find its manifest, use what is here, move the rest in spans, prove, publish.

mod assemble;
mod claims;
mod remote_manifest;
mod span;
mod transfer;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    core::{
        blockset::BlockSet,
        geometry::{ByteRange, Geometry},
        journal::Identity,
        judge::Leaves,
        recovery::{Changed, Failure},
        schedule::Limits,
        statement::Header,
        tree::Root,
        trust::Trust,
    },
    disk::{
        destination::{Destination, Found, Locked},
        error::DiskError,
        files::EntryKind,
        journal::JournalKeeper,
    },
    net::{
        client::{Client, ClientOptions, Content, Request, Validators},
        error::NetError,
        location::Location,
    },
};

use super::{
    error::Error,
    events::{Event, Events, Planned, Published},
    verify,
};

pub use remote_manifest::ManifestPlace;

/// What to fetch, where to, and what to ask of it.
pub struct FetchOptions {
    pub url: Location,
    pub target: PathBuf,
    /// `None`: beside the object.
    pub manifest: Option<ManifestPlace>,
    /// The object must be this one.
    pub root: Option<Root>,
    /// The least trust.
    pub require: Trust,
    pub client: ClientOptions,
    pub connections: u32,
    pub tries: u32,
    /// Time without a newly proven byte.
    pub patience: Duration,
    /// The largest object, in bytes.
    pub max_size: Option<u64>,
    pub no_clobber: bool,
    /// Keeps the journal somewhere else than in `FILE.part.journal`.
    pub journal: Option<Box<dyn JournalKeeper>>,
}

impl FetchOptions {
    /// The defaults of the program.
    pub fn new(url: Location, target: impl Into<PathBuf>) -> FetchOptions {
        FetchOptions {
            url,
            target: target.into(),
            manifest: None,
            root: None,
            require: Trust::None,
            client: ClientOptions::default(),
            connections: 16,
            tries: 5,
            patience: Duration::from_secs(5 * 60),
            max_size: None,
            no_clobber: false,
            journal: None,
        }
    }
}

/// Fetches one object to its target. The file appears there whole and proven, or not at all.
///
/// Dropping the future is a clean stop: what is proven is in the part file and noted in its journal, and the same call goes on
/// from there.
pub async fn fetch(options: FetchOptions, events: &mut dyn Events) -> Result<Published, Error> {
    let began = Instant::now();
    let target = options.target.clone();
    let locked = blocking(move || Destination::new(&target)?.lock()).await?;
    let client = Client::new(options.client.clone());
    let fetch = Fetch { options, client, events, began, bytes_manifest: 0 };
    fetch.run(locked).await
}

/// Runs file work where it may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, DiskError> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => Ok(outcome?),
        Err(cause) => std::panic::resume_unwind(cause.into_panic()),
    }
}

struct Fetch<'a> {
    options: FetchOptions,
    client: Client,
    events: &'a mut dyn Events,
    began: Instant,
    bytes_manifest: u64,
}

/// What the server says of the object before anything is asked for in earnest.
struct Preflight {
    /// `None`: it does not tell.
    length: Option<u64>,
    ranges: bool,
    validators: Validators,
}

impl Fetch<'_> {
    async fn run(mut self, locked: Locked) -> Result<Published, Error> {
        if self.options.no_clobber && locked.destination().existing()?.is_some() {
            return Err(DiskError::Exists { path: locked.destination().path() }.into());
        }
        let place = self.manifest_place();
        let (preflight, front) = {
            let limits = self.limits();
            let (client, url) = (&self.client, &self.options.url);
            let preflight = remote_manifest::retried(&limits, async || preflight(client, url).await);
            let front = remote_manifest::Front::read(client, &place, &limits);
            // Both at once: one round trip. A missing manifest is told before a missing object.
            let (preflight, front) = tokio::join!(preflight, front);
            (preflight, front?)
        };
        let preflight = preflight?;
        let (front, place) = self.matching(front, place, &preflight).await?;
        let header = front.statement.header().clone();
        let trust = self.check_trust(&header, &place)?;
        let identity = Identity {
            root: Some(header.root),
            geometry: header.geometry,
            etag: preflight.validators.etag.clone(),
            last_modified: preflight.validators.last_modified.clone(),
        };
        self.bytes_manifest = front.bytes_read();
        if self.is_there_already(&locked, &header).await? {
            return self.unchanged(locked, &header, &identity, trust).await;
        }
        let leaves = front.read_leaves(&self.client, &place, &self.limits(), &mut self.bytes_manifest).await?;
        let leaves = Arc::new(Leaves::new(header.geometry, leaves));
        self.transfer(locked, header, identity, trust, leaves, preflight.ranges, place).await
    }

    fn limits(&self) -> Limits {
        Limits {
            connections: self.options.connections.max(1),
            tries: self.options.tries.max(1),
            patience_ms: self.options.patience.as_millis() as u64,
            seed: std::process::id().into(),
        }
    }

    fn manifest_place(&mut self) -> ManifestPlace {
        match self.options.manifest.take() {
            Some(place) => place,
            None => ManifestPlace::Beside(self.options.url.of_manifest()),
        }
    }

    /// The front of a manifest whose length is that of the object. One that is not was perhaps replaced just now.
    async fn matching(
        &mut self,
        front: remote_manifest::Front,
        place: ManifestPlace,
        preflight: &Preflight,
    ) -> Result<(remote_manifest::Front, ManifestPlace), Error> {
        let fits = |front: &remote_manifest::Front| {
            preflight.length.is_none_or(|length| length == front.statement.header().geometry.length())
        };
        let front = match fits(&front) {
            true => front,
            false => remote_manifest::Front::read(&self.client, &place, &self.limits()).await?,
        };
        match fits(&front) {
            true => Ok((front, place)),
            false => Err(Error::Changed { place: self.options.url.to_string(), how: Changed::Length }),
        }
    }

    /// Everything that can be refused before any byte of the body.
    fn check_trust(&self, header: &Header, place: &ManifestPlace) -> Result<Trust, Error> {
        let trust = match self.options.root {
            Some(asked) if asked != header.root => {
                return Err(Error::OtherRoot { place: place.to_string(), asked, found: header.root });
            }
            Some(_) => Trust::Root,
            None => Trust::Manifest,
        };
        if trust < self.options.require {
            return Err(Error::BelowRequired { asked: self.options.require, found: trust });
        }
        let bytes = header.geometry.length();
        match self.options.max_size.is_some_and(|most| bytes > most) {
            true => Err(Error::TooLarge { place: self.options.url.to_string(), bytes }),
            false => Ok(trust),
        }
    }

    /// Whether the file under the final name is the object.
    async fn is_there_already(&self, locked: &Locked, header: &Header) -> Result<bool, Error> {
        let candidate = locked.destination().existing()?;
        if candidate.is_none_or(|entry| entry.kind != EntryKind::Regular || entry.length != header.geometry.length()) {
            return Ok(false);
        }
        let path = locked.destination().path();
        let root = tokio::task::spawn_blocking(move || verify::root_of_file(&path)).await;
        match root {
            Ok(Ok(root)) => Ok(root == header.root),
            // A file that cannot be read is no source; it is replaced when the object is proven.
            Ok(Err(_)) => Ok(false),
            Err(cause) => std::panic::resume_unwind(cause.into_panic()),
        }
    }

    async fn unchanged(self, locked: Locked, header: &Header, identity: &Identity, trust: Trust) -> Result<Published, Error> {
        let path = locked.destination().path();
        let identity = identity.clone();
        blocking(move || locked.discard_leftovers(&identity)).await?;
        let length = header.geometry.length();
        self.events.event(Event::Planned(Planned {
            path: path.clone(),
            url: self.options.url.to_string(),
            root: Some(header.root),
            bytes_total: length,
            bytes_held: 0,
            bytes_local: length,
            bytes_to_fetch: 0,
            block_size: Some(header.geometry.block_size()),
            trust,
        }));
        Ok(self.published(path, header, trust, 0, length, true))
    }

    #[allow(clippy::too_many_arguments, reason = "each is decided in an earlier step and used only here")]
    async fn transfer(
        mut self,
        locked: Locked,
        header: Header,
        identity: Identity,
        trust: Trust,
        leaves: Arc<Leaves>,
        ranges: bool,
        place: ManifestPlace,
    ) -> Result<Published, Error> {
        let path = locked.destination().path();
        let keeper = self.options.journal.take();
        let url = self.options.url.to_string();
        let (locked, opened) = blocking(move || {
            let opened = locked.open(&identity, &url, keeper)?;
            Ok((locked, opened))
        })
        .await?;
        let geometry = header.geometry;
        let held = bytes_of_set(&geometry, &opened.claimed);
        match opened.found {
            Found::Nothing => (),
            Found::Part => self.events.event(Event::Resumed { bytes_held: held }),
            Found::Seed { bytes } => {
                self.events.event(Event::PartReused { path: locked.destination().part_path(), bytes });
            }
        }
        self.events.event(Event::Planned(Planned {
            path: path.clone(),
            url: self.options.url.to_string(),
            root: Some(header.root),
            bytes_total: geometry.length(),
            bytes_held: held,
            bytes_local: 0,
            bytes_to_fetch: geometry.length() - held,
            block_size: Some(geometry.block_size()),
            trust,
        }));
        self.check_room(&locked, geometry.length() - held)?;
        let transfer = transfer::Transfer {
            client: self.client.clone(),
            sources: vec![self.options.url.clone()],
            ranges,
            leaves,
            limits: self.limits(),
            length_proven: trust == Trust::Signed,
            events: self.events,
        };
        let outcome = transfer.run(opened).await;
        let (part, resumed) = match outcome {
            Ok(done) => done,
            Err(error) => return Err(self.explain(error, &header, &place).await),
        };
        let no_clobber = self.options.no_clobber;
        blocking(move || {
            part.set_length(geometry.length())?;
            locked.publish(part, no_clobber)
        })
        .await?;
        Ok(self.published(path, &header, trust, resumed, 0, false))
    }

    fn check_room(&self, locked: &Locked, needed: u64) -> Result<(), Error> {
        let available = locked.destination().bytes_free()?;
        match needed > available {
            true => Err(DiskError::NoRoom { path: locked.destination().path(), needed, available }.into()),
            false => Ok(()),
        }
    }

    /// A block that is wrong everywhere, or an object of another length: the manifest is asked again before anyone is blamed.
    async fn explain(&self, error: Error, header: &Header, place: &ManifestPlace) -> Error {
        if !matches!(error, Error::Wrong { .. }) {
            return error;
        }
        match remote_manifest::Front::read(&self.client, place, &self.limits()).await {
            Ok(now) if now.statement.header().root != header.root => {
                Error::Changed { place: self.options.url.to_string(), how: Changed::Root }
            }
            Ok(_) | Err(_) => error,
        }
    }

    fn published(self, path: PathBuf, header: &Header, trust: Trust, resumed: u64, reused: u64, unchanged: bool) -> Published {
        let published = Published {
            path,
            url: self.options.url.to_string(),
            root: header.root,
            trust,
            bytes_total: header.geometry.length(),
            bytes_fetched: self.client.bytes_fetched(),
            bytes_manifest: self.bytes_manifest,
            bytes_reused: reused,
            bytes_resumed: resumed,
            unchanged,
            elapsed_ms: self.began.elapsed().as_millis() as u64,
        };
        self.events.event(Event::Published(published.clone()));
        published
    }
}

/// The bytes that a set of blocks has.
fn bytes_of_set(geometry: &Geometry, blocks: &BlockSet) -> u64 {
    let full = u64::from(blocks.count()) * geometry.block_size().bytes();
    let last = geometry.last();
    let missing = geometry.block_size().bytes() - geometry.bytes_of(last).length();
    if blocks.contains(last) { full - missing } else { full }
}

/// Asks for the first byte: whether the object is there, how long it is, whether ranges work, and which version it is.
async fn preflight(client: &Client, url: &Location) -> Result<Preflight, NetError> {
    let first = Request { location: url, range: Some(ByteRange::new(0, 1)), if_match: None };
    let answer = match client.get(first).await {
        // An empty object has no first byte.
        Err(error) if error.failure == (Failure::Refused { status: 416 }) => {
            client.get(Request { range: None, ..first }).await?
        }
        other => other?,
    };
    let (length, ranges) = match answer.content {
        Content::Whole { length } => (length, false),
        Content::Part { total, .. } => (total, true),
    };
    Ok(Preflight { length, ranges, validators: answer.validators })
}
