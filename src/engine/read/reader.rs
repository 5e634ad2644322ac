//! A reader of some bytes of an object, in order.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::Stream;

use crate::{
    engine::error::Error,
    format::{geometry::ByteRange, judge::Proven},
};

use super::{
    Handle,
    shared::{Next, Sequence},
};

/// A stream of proven bytes in order. Dropping it gives up what only it waited for.
///
/// It ends after its last byte, or with an error exactly before the first byte that cannot be proven.
pub struct Reader {
    handle: Arc<Handle>,
    id: Sequence,
    /// Bytes that were not taken from memory or the cache yet.
    left: u64,
    ready: VecDeque<Bytes>,
    reading: Option<Pin<Box<dyn Future<Output = Vec<Proven>> + Send>>>,
    ended: bool,
}

impl Reader {
    pub(super) fn new(handle: Arc<Handle>, bytes: ByteRange) -> Reader {
        let id = handle.shared.add_reader(bytes);
        Reader {
            handle,
            id,
            left: bytes.length(),
            ready: VecDeque::new(),
            reading: None,
            ended: false,
        }
    }

    fn take(&mut self, chunks: Vec<Bytes>) {
        self.left -= chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        self.ready.extend(chunks);
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, Arc<Error>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(chunk) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(chunk)));
            }
            if self.ended || self.left == 0 {
                return Poll::Ready(None);
            }
            if let Some(reading) = &mut self.reading {
                let Poll::Ready(read) = reading.as_mut().poll(cx) else {
                    return Poll::Pending;
                };
                self.reading = None;
                let chunks = self.handle.shared.take_cached(self.id, &read);
                self.take(chunks);
                continue;
            }
            match self.handle.shared.next(self.id, cx) {
                Next::Take(chunks) => self.take(chunks),
                Next::ReadCache(blocks) => {
                    let cache = self.handle.shared.cache.clone();
                    self.reading = Some(Box::pin(async move { cache.read(blocks).await }));
                }
                Next::Wait => return Poll::Pending,
                Next::Failed(error) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.handle.shared.remove_reader(self.id);
    }
}
