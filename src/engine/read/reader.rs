//! A reader of some bytes of an object, in order.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Stream, future::BoxFuture};

use crate::{
    engine::error::Error,
    format::{
        geometry::{BlockRange, ByteRange},
        judge::Proven,
    },
};

use super::{Handle, plan::Sequence, taking::Next};

/// A stream of proven bytes in order. Dropping it gives up what only it waited for.
///
/// It ends after its last byte, or with an error exactly before the first byte that cannot be proven.
pub struct Reader {
    handle: Arc<Handle>,
    id: Sequence,
    /// Bytes that were not taken from memory or the cache yet.
    left: u64,
    ready: VecDeque<Bytes>,
    cache_read: CacheRead,
    ended: bool,
}

enum CacheRead {
    None,
    Running(BoxFuture<'static, Vec<Proven>>),
    Done(Vec<Proven>),
}

impl Reader {
    pub(super) fn new(handle: Arc<Handle>, bytes: ByteRange) -> Reader {
        let id = handle.shared.add_reader(bytes);
        Reader {
            handle,
            id,
            left: bytes.length(),
            ready: VecDeque::new(),
            cache_read: CacheRead::None,
            ended: false,
        }
    }

    fn take(&mut self, chunks: Vec<Bytes>) {
        self.left -= chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        self.ready.extend(chunks);
    }

    /// Reads blocks from the cache on another thread.
    fn read_cache(&mut self, blocks: BlockRange, cx: &mut Context<'_>) {
        let cache = self.handle.shared.cache.clone();
        let mut running: BoxFuture<'static, _> = Box::pin(async move { cache.read(blocks).await });
        // The first poll starts it.
        self.cache_read = match running.as_mut().poll(cx) {
            Poll::Ready(read) => CacheRead::Done(read),
            Poll::Pending => CacheRead::Running(running),
        };
    }

    /// Takes what was read from the cache, and starts to read what follows. `false`: the read still runs.
    fn take_cached(&mut self, cx: &mut Context<'_>) -> bool {
        let read = match std::mem::replace(&mut self.cache_read, CacheRead::None) {
            CacheRead::None => return true,
            CacheRead::Done(read) => read,
            CacheRead::Running(mut running) => match running.as_mut().poll(cx) {
                Poll::Ready(read) => read,
                Poll::Pending => {
                    self.cache_read = CacheRead::Running(running);
                    return false;
                }
            },
        };
        let chunks = self.handle.shared.take_cached(self.id, &read);
        self.take(chunks);
        if self.left > 0
            && let Some(blocks) = self.handle.shared.next_cached(self.id)
        {
            self.read_cache(blocks, cx);
        }
        true
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
            if !self.take_cached(cx) {
                return Poll::Pending;
            }
            if !self.ready.is_empty() || !matches!(self.cache_read, CacheRead::None) {
                continue;
            }
            match self.handle.shared.next(self.id, cx) {
                Next::Take(chunks) => self.take(chunks),
                Next::ReadCache(blocks) => self.read_cache(blocks, cx),
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
