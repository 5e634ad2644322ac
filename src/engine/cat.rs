//! Streaming proven bytes of a remote object in order.

use std::{io, pin::pin, sync::Arc};

use futures_util::StreamExt;

use crate::{
    format::{geometry::ByteRange, keys::PublicKey, tree::Root, trust::Trust},
    net::location::Location,
};

use super::{
    context::Context,
    error::Error,
    events::{Event, Events},
    read::{self, ReadOptions, Reader, Transfer, Tuning},
    remote::manifest::ManifestPlace,
};

/// The range is known, and all of it is wanted: the read-ahead is large from the start, and nothing else is proven.
const TUNING: Tuning = Tuning {
    prove_length: false,
    // A reader in order gains little from more connections: they would deliver the last bytes as early as the first.
    connections_max: 4,
    memory_bytes: 16 << 20,
    first_bytes: 16 << 20,
    ahead_bytes_max: 16 << 20,
    bytes_wanted: u64::MAX,
    unit_bytes: 1,
};

/// The range of an object, as in HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// All bytes.
    All,
    /// From the first to the last byte, inclusive, or to the end.
    From(u64, Option<u64>),
    /// This many bytes at the end.
    Last(u64),
}

impl Wanted {
    /// How many bytes it is, at most.
    fn bytes_max(self) -> u64 {
        match self {
            Wanted::All | Wanted::From(_, None) => u64::MAX,
            Wanted::From(first, Some(last)) => last.saturating_sub(first).saturating_add(1),
            Wanted::Last(count) => count,
        }
    }

    /// The range in an object of this length; `None`: the object has no such bytes.
    pub fn within(self, length: u64) -> Option<ByteRange> {
        let (start, end) = match self {
            Wanted::All => return Some(ByteRange::new(0, length)),
            Wanted::From(first, last) => (
                first,
                last.map_or(length, |last| last.saturating_add(1).min(length)),
            ),
            Wanted::Last(count) => (length.saturating_sub(count), length),
        };
        (start < end).then(|| ByteRange::new(start, end))
    }
}

/// What to stream.
pub struct CatOptions {
    /// The URL of the object.
    pub url: Location,
    /// The range to stream.
    pub wanted: Wanted,
    /// `None`: beside the object.
    pub manifest: Option<ManifestPlace>,
    /// The object must be this one.
    pub root: Option<Root>,
    /// The manifest must be signed by this key, for the name of the URL.
    pub key: Option<PublicKey>,
    /// The least trust that is accepted.
    pub require: Trust,
    /// The largest object, in bytes.
    pub max_size: Option<u64>,
    /// The name that the key must have signed. `None`: the last segment of the URL.
    pub name: Option<String>,
}

/// Streams the wanted bytes to `out`, whose error ends the stream as [`Error::Output`]. Returns the trust of the bytes.
pub async fn cat(
    context: &Context,
    options: CatOptions,
    events: &mut dyn Events,
    mut out: impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<Trust, Error> {
    let (name, wanted) = (options.url.to_string(), options.wanted);
    let options = ReadOptions {
        url: options.url,
        manifest: options.manifest,
        root: options.root,
        key: options.key,
        require: options.require,
        max_size: options.max_size,
        mirrors: Vec::new(),
        name: options.name,
        length: None,
    };
    let tuning = Tuning {
        bytes_wanted: wanted.bytes_max(),
        ..TUNING
    };
    let (object, mut transfer) = read::open_tuned(context, options, tuning, events).await?;
    let (trust, length) = (object.trust(), object.geometry().length());
    let bytes = wanted.within(length).ok_or(Error::NoSuchRange {
        place: name,
        length,
    })?;
    let mut reader = object.reader(bytes);
    let streamed = stream(&mut reader, &mut transfer, events, &mut out).await;
    drop((reader, object));
    transfer.finish().await;
    match streamed {
        Ok(()) => Ok(trust),
        Err(Ended::Output(cause)) => Err(Error::Output(cause)),
        Err(Ended::Failed(error)) => {
            Err(Arc::into_inner(error).expect("the transfer and its reader are gone"))
        }
    }
}

/// Why a stream ended early.
enum Ended {
    Output(io::Error),
    Failed(Arc<Error>),
}

/// Runs the transfer until everything was read.
async fn stream(
    reader: &mut Reader,
    transfer: &mut Transfer,
    events: &mut dyn Events,
    out: &mut impl FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Ended> {
    let mut events = StreamEvents(events);
    let mut run = pin!(transfer.run(&mut events));
    loop {
        let next = tokio::select! {
            biased;
            next = reader.next() => next,
            () = &mut run => return Ok(()),
        };
        match next {
            Some(Ok(chunk)) => out(&chunk).map_err(Ended::Output)?,
            Some(Err(error)) => return Err(Ended::Failed(error)),
            None => return Ok(()),
        }
    }
}

/// Forwards events about problems, not about progress.
struct StreamEvents<'a>(&'a mut dyn Events);

impl Events for StreamEvents<'_> {
    fn event(&mut self, event: Event) {
        if matches!(
            event,
            Event::Warning { .. }
                | Event::Retry(_)
                | Event::HostSlowed { .. }
                | Event::SourceDropped { .. }
                | Event::BlockWrong { .. }
        ) {
            self.0.event(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_send<T: Send>(_: T) {}

    /// A server spawns a stream as a task, so its future must be `Send`. This need only compile.
    #[test]
    fn the_future_of_cat_is_send() {
        let _ = |context: Context, options: CatOptions| {
            is_send(async move {
                let mut events = |_: Event| ();
                cat(&context, options, &mut events, |_: &[u8]| Ok(())).await
            });
        };
    }

    #[test]
    fn ranges_as_in_http() {
        let range =
            |wanted: Wanted, length| wanted.within(length).map(|range| (range.start, range.end));
        assert_eq!(range(Wanted::All, 0), Some((0, 0)));
        assert_eq!(range(Wanted::From(0, Some(0)), 9), Some((0, 1)));
        assert_eq!(range(Wanted::From(3, None), 9), Some((3, 9)));
        assert_eq!(range(Wanted::From(3, Some(u64::MAX)), 9), Some((3, 9)));
        assert_eq!(range(Wanted::From(9, None), 9), None);
        assert_eq!(range(Wanted::Last(4), 9), Some((5, 9)));
        assert_eq!(range(Wanted::Last(40), 9), Some((0, 9)));
        assert_eq!(range(Wanted::Last(0), 9), None);
    }
}
