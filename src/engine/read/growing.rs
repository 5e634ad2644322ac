//! Reading an object while it is uploaded (upload.md, "A growing object"). Each block is proven by its leaf, and the leaves are the word
//! of the server: nothing is kept, and nothing of it is ever taken for the object of a root.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use tokio::time::sleep;

use crate::{
    engine::{
        context::Context,
        error::Error,
        events::{Event, Events},
        remote::retry::{Attempts, reported},
        trust,
    },
    format::{
        geometry::{BlockIndex, BlockRange, BlockSize, ByteRange, Geometry},
        ingest::{
            self, DOCUMENT_BYTES_MAX, Detail, GrowingStatus, PATH, Problem, RefusedUpload, State,
        },
        judge::{self, Leaves, Mismatch, ObjectKey, Unproven},
        tree::{Cv, Root},
        upload::SessionId,
    },
    net::{
        client::Reply,
        location::Location,
        request::{Body, Method, Request},
    },
};

use super::{ReadOptions, conditions};

/// Bytes that are requested at a time.
const CHUNK: u64 = 1 << 20;
/// The bytes of a leaf.
const LEAF: u64 = 32;
/// While a part gets another content, its leaves and bytes may not fit: so often they are read again.
const TRIES: u32 = 10;
/// The pause before that.
const PAUSE: Duration = Duration::from_millis(500);

/// An object that is uploaded.
#[derive(Clone)]
pub struct GrowingObject {
    context: Context,
    options: ReadOptions,
    id: SessionId,
    block_size: BlockSize,
}

/// How an object is that is uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Growth {
    /// So many bytes from its start are proven.
    Grows(u64),
    /// It is published.
    Published(PublishedAs),
}

/// What became of an object that was uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedAs {
    /// Where it is.
    pub url: Location,
    /// Its name.
    pub root: Root,
    /// In bytes.
    pub length: u64,
}

/// The upload of a URL of an object that is uploaded.
pub fn session_of(url: &Location) -> Option<SessionId> {
    let path = url.url().path();
    let mut segments = path.strip_prefix(PATH)?.strip_prefix('/')?.split('/');
    let id = segments.next()?.parse().ok()?;
    let rest = (segments.next(), segments.next(), segments.next());
    matches!(rest, (Some("object"), Some(_), None)).then_some(id)
}

impl GrowingObject {
    /// Opens an object by its URL at the server that takes it. Its trust is that of a manifest: more cannot be required.
    pub async fn open(
        context: &Context,
        options: ReadOptions,
        events: &mut dyn Events,
    ) -> Result<GrowingObject, Error> {
        let place = options.url.to_string();
        let trusted = conditions(&options).of_growing();
        trusted.map_err(|cause| trust::refused(&place, cause))?;
        let missing = || refused(&place, RefusedUpload::NoSession { status: 404 });
        let id = session_of(&options.url).ok_or_else(missing)?;
        let mut object = GrowingObject {
            context: context.clone(),
            options,
            id,
            block_size: BlockSize::DEFAULT,
        };
        let status = reported(events, object.status(None)).await?;
        let what = || RefusedUpload::Document("it has no block size".to_owned());
        let block_size = BlockSize::new(status.block_size);
        object.block_size = block_size.ok_or_else(|| refused(&place, what()))?;
        Ok(object)
    }

    /// How it is now; with `beyond`, when there are more bytes than that, or after some seconds.
    pub async fn growth(&self, beyond: Option<u64>) -> Result<Growth, Error> {
        let status = self.status(beyond).await?;
        let place = || self.options.url.to_string();
        Ok(match status.state {
            State::Open | State::Finalizing => Growth::Grows(status.proven),
            State::Done => {
                let url = status.url.and_then(|url| self.options.url.join(&url));
                let url = url.and_then(Location::from_url);
                let what = || RefusedUpload::Document("it does not say what it published".into());
                let published = url.zip(status.root).zip(status.length);
                let ((url, root), length) = published.ok_or_else(|| refused(&place(), what()))?;
                Growth::Published(PublishedAs { url, root, length })
            }
            _ => return Err(refused(&place(), RefusedUpload::Ended(Detail::default()))),
        })
    }

    /// With these the published object is read.
    pub fn options_of(&self, url: Location) -> ReadOptions {
        ReadOptions {
            url,
            ..self.options.clone()
        }
    }

    async fn status(&self, beyond: Option<u64>) -> Result<GrowingStatus, Error> {
        let beyond = beyond.map(|beyond| beyond.to_string());
        let query = beyond.as_deref().map(|beyond| ("beyond", beyond));
        let place = self.at("growing", query);
        let reply = self.get(&place, None).await?;
        let cause = match reply.status {
            200..=299 => match ingest::read(&reply.bytes) {
                Ok(status) => return Ok(status),
                Err(cause) => cause,
            },
            status => Problem::read(&reply.bytes).refusal(status),
        };
        Err(refused(&self.options.url.to_string(), cause))
    }

    fn at(&self, what: &str, query: Option<(&str, &str)>) -> Location {
        let path = format!("{PATH}/{}/{what}", self.id);
        self.options.url.at_origin(&path, query)
    }

    async fn get(&self, place: &Location, range: Option<ByteRange>) -> Result<Reply, Error> {
        let mut attempts = Attempts::new(&self.context.limits_now());
        loop {
            let request = Request {
                named_by: Some(&self.options.url),
                range,
                ..Request::new(Method::Get, place, Body::Empty)
            };
            let called = self.context.client.call(request, DOCUMENT_BYTES_MAX);
            match called.await {
                Ok(reply) => return Ok(reply),
                Err(error) => attempts.wait_after(error).await?,
            }
        }
    }

    /// Exactly these bytes; `None`: they are not there now.
    async fn range(&self, place: &Location, range: ByteRange) -> Result<Option<Bytes>, Error> {
        let reply = self.get(place, Some(range)).await?;
        let is_it = reply.status == 206 && reply.bytes.len() as u64 == range.length();
        Ok(is_it.then(|| reply.bytes.into()))
    }

    /// A reader of its bytes, from this one on.
    pub fn reader(&self, at: u64) -> GrowingReader {
        GrowingReader {
            object: self.clone(),
            at,
            proven: 0,
            ready: VecDeque::new(),
        }
    }
}

fn refused(place: &str, cause: RefusedUpload) -> Error {
    Error::Upload {
        place: place.to_owned(),
        cause: Box::new(cause),
    }
}

/// Reads an object that grows, in order.
pub struct GrowingReader {
    object: GrowingObject,
    /// The next byte.
    at: u64,
    /// So many bytes were proven when we looked last.
    proven: u64,
    /// Proven, and not taken.
    ready: VecDeque<Bytes>,
}

/// What a reader found.
#[derive(Debug)]
pub enum Next {
    /// Proven bytes.
    Bytes(Bytes),
    /// The object is published; the next bytes, from this one on, are read there.
    Published(u64, PublishedAs),
}

/// Why blocks are read again.
enum Again {
    /// The server does not have them now.
    Missing,
    Wrong(BlockIndex, Mismatch),
}

impl GrowingReader {
    /// The next bytes, when there are some. Dropping the future loses nothing.
    pub async fn next(&mut self, events: &mut dyn Events) -> Result<Next, Error> {
        let mut tries = 0;
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.at += bytes.len() as u64;
                return Ok(Next::Bytes(bytes));
            }
            if self.proven <= self.at || tries > 0 {
                let beyond = (tries == 0).then_some(self.at);
                match reported(events, self.object.growth(beyond)).await? {
                    Growth::Grows(proven) => self.proven = proven,
                    Growth::Published(published) => {
                        return Ok(Next::Published(self.at, published));
                    }
                }
                if self.proven <= self.at {
                    continue;
                }
            }
            let why = match reported(events, self.read()).await? {
                Ok(ready) => {
                    self.ready = ready;
                    continue;
                }
                Err(why) => why,
            };
            tries += 1;
            if let Again::Wrong(block, found) = why {
                events.event(self.wrong(block, found));
            }
            if tries >= TRIES {
                return Err(self.failed(why));
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads and proves the next blocks.
    async fn read(&self) -> Result<Result<VecDeque<Bytes>, Again>, Error> {
        let object = &self.object;
        let geometry = Geometry::new(self.proven, object.block_size);
        // The leaf of an object of one block is its root, which is not known.
        let Some(geometry) = geometry.filter(|geometry| geometry.blocks() > 1) else {
            return Ok(Err(Again::Missing));
        };
        let until = self.proven.min(self.at + CHUNK);
        let (first, last) = (geometry.block_at(self.at), geometry.block_at(until - 1));
        let blocks = BlockRange::new(first.0, last.0 + 1);
        let of_leaves =
            ByteRange::new(u64::from(blocks.start) * LEAF, u64::from(blocks.end) * LEAF);
        let (leaves_at, bytes_at) = (object.at("leaves", None), &object.options.url);
        let bytes = geometry.bytes_of_range(blocks);
        let read = futures_util::future::try_join(
            object.range(&leaves_at, of_leaves),
            object.range(bytes_at, bytes),
        );
        let (Some(leaves), Some(content)) = read.await? else {
            return Ok(Err(Again::Missing));
        };
        let values: Vec<Cv> = leaves.as_chunks::<32>().0.to_vec();
        // The root is none: what is proven is of no object that has a name.
        let known = Leaves::empty(ObjectKey::of_root(Root([0; 32]), geometry));
        known.insert(BlockIndex(blocks.start), &values);
        let mut ready = VecDeque::new();
        for block in blocks.iter() {
            let place = geometry.bytes_of(block);
            let from = (place.start - bytes.start) as usize;
            let of_block = content.slice(from..from + place.length() as usize);
            match judge::prove(&known, block, of_block) {
                Ok(proven) => {
                    let wanted = ByteRange::new(self.at.max(place.start), place.end);
                    ready.extend(proven.within(wanted));
                }
                Err(Unproven::Wrong(mismatch)) if ready.is_empty() => {
                    return Ok(Err(Again::Wrong(block, mismatch)));
                }
                Err(Unproven::Unknown) if ready.is_empty() => return Ok(Err(Again::Missing)),
                // Those before it are proven.
                Err(_) => break,
            }
        }
        Ok(Ok(ready))
    }

    fn wrong(&self, block: BlockIndex, found: Mismatch) -> Event {
        Event::BlockWrong {
            block,
            bytes: ByteRange::new(self.at, self.proven),
            expected: found.expected,
            found: found.found,
            source: self.object.options.url.to_string(),
        }
    }

    fn failed(&self, why: Again) -> Error {
        let place = self.object.options.url.to_string();
        match why {
            Again::Wrong(block, found) => Error::Wrong {
                block,
                bytes: ByteRange::new(self.at, self.proven),
                expected: Box::new(found.expected),
                found: Box::new(found.found),
                source_name: place,
            },
            Again::Missing => {
                let what = "it does not give the bytes that it says are there".to_owned();
                refused(&place, RefusedUpload::Document(what))
            }
        }
    }
}
