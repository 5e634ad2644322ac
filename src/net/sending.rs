//! Sending content that is read piece by piece: within the rate limit, and with a timeout for stalls.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::time::{Instant, sleep};

use super::{
    STALL_BYTES, STALL_MS,
    rate_limit::RateLimit,
    request::{Chunks, Content},
};

/// Bytes that are handed to the connection at a time. What the connection took is known to this many bytes.
const PIECE: usize = 16 * 1024;
/// How often the progress is looked at.
const TICK: Duration = Duration::from_millis(200);
/// The longest time from the last byte to the response: the system still holds some megabytes, and the server makes all of it durable.
const RESPONSE_MS: u64 = 60_000;

/// A body that is being sent. When this is dropped before all was sent, the connection ends.
pub struct Sending(Arc<Progress>);

struct Progress {
    length: u64,
    handed: AtomicU64,
    /// The next bytes are being read, or the rate limit holds them back: the connection is not what takes time.
    is_held: AtomicBool,
    is_abandoned: AtomicBool,
}

/// What the next piece comes from.
struct Source {
    chunks: Chunks,
    /// Read and not handed yet.
    ahead: Bytes,
    content: Arc<dyn Content>,
    progress: Arc<Progress>,
    rate_limit: Arc<RateLimit>,
}

impl Sending {
    /// The body, and its progress.
    pub fn start(
        content: &Arc<dyn Content>,
        rate_limit: Arc<RateLimit>,
    ) -> (reqwest::Body, Sending) {
        let (pieces, sending) = Sending::pieces(content, rate_limit);
        (reqwest::Body::wrap_stream(pieces), sending)
    }

    fn pieces(
        content: &Arc<dyn Content>,
        rate_limit: Arc<RateLimit>,
    ) -> (
        impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        Sending,
    ) {
        let progress = Arc::new(Progress {
            length: content.length(),
            handed: AtomicU64::new(0),
            is_held: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
        });
        let source = Source {
            chunks: content.chunks(),
            ahead: Bytes::new(),
            content: content.clone(),
            progress: progress.clone(),
            rate_limit,
        };
        let pieces = stream::try_unfold(source, |mut source| async move {
            let piece = source.next().await?;
            Ok::<_, io::Error>(piece.map(|piece| (piece, source)))
        });
        (pieces, Sending(progress))
    }

    /// Waits for the response; `None`: a stall, fewer than [`STALL_BYTES`] in [`STALL_MS`] while there were bytes to send, or no
    /// response in time. `first_ms`: the longest time until the first bytes are sent.
    pub async fn unless_stalled<T>(
        &self,
        first_ms: u64,
        response: impl Future<Output = T>,
    ) -> Option<T> {
        let mut response = pin!(response);
        // Since the last bytes: how many went, and how long the connection was waited for.
        let (mut seen, mut waited) = (0, Duration::ZERO);
        loop {
            let since = Instant::now();
            tokio::select! {
                biased;
                response = &mut response => return Some(response),
                () = sleep(TICK) => (),
            }
            let progress = &self.0;
            let handed = progress.handed.load(Ordering::Relaxed);
            let is_all = handed == progress.length;
            if handed >= seen + STALL_BYTES || is_all && handed > seen {
                (seen, waited) = (handed, Duration::ZERO);
            } else if !progress.is_held.load(Ordering::Relaxed) {
                waited += since.elapsed();
            }
            let most_ms = match handed {
                _ if is_all => RESPONSE_MS,
                0 => first_ms,
                _ => STALL_MS,
            };
            if waited > Duration::from_millis(most_ms) {
                return None;
            }
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.is_abandoned.store(true, Ordering::Relaxed);
    }
}

impl Source {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let progress = &self.progress;
        if progress.is_abandoned.load(Ordering::Relaxed) {
            // A response came before all was sent, or nobody waits for it.
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        progress.is_held.store(true, Ordering::Relaxed);
        while self.ahead.is_empty() {
            let Some(chunk) = self.chunks.next().await else {
                return Ok(None);
            };
            self.ahead = chunk?;
        }
        let piece = self.ahead.split_to(self.ahead.len().min(PIECE));
        self.rate_limit.take(piece.len()).await;
        let bytes = piece.len() as u64;
        self.content.sent(bytes);
        progress.handed.fetch_add(bytes, Ordering::Relaxed);
        progress.is_held.store(false, Ordering::Relaxed);
        Ok(Some(piece))
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    struct Held(Bytes, Mutex<u64>);

    impl Content for Held {
        fn length(&self) -> u64 {
            self.0.len() as u64
        }

        fn chunks(&self) -> Chunks {
            stream::iter([Ok(self.0.clone())]).boxed()
        }

        fn sent(&self, bytes: u64) {
            *self.1.lock() += bytes;
        }
    }

    /// Takes pieces of a body at these intervals, the last one repeated; `false`: it stalled.
    async fn goes(rate: Option<u64>, length: usize, seconds: &[u64]) -> bool {
        let held = Arc::new(Held(vec![0; length].into(), Mutex::new(0)));
        let content: Arc<dyn Content> = held.clone();
        let (body, sending) = Sending::pieces(&content, Arc::new(RateLimit::new(rate)));
        let mut body = Box::pin(body);
        let response = async {
            let last = std::iter::repeat(&seconds[seconds.len() - 1]);
            for second in seconds.iter().chain(last) {
                sleep(Duration::from_secs(*second)).await;
                if body.next().await.is_none() {
                    return;
                }
            }
        };
        let ended = sending.unless_stalled(12_000, response).await.is_some();
        if ended {
            assert_eq!(*held.1.lock(), length as u64);
        }
        ended
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_takes_nothing_for_long_is_a_stall() {
        assert!(goes(None, 100_000, &[0]).await);
        assert!(goes(None, 100_000, &[9]).await, "slow is no stall");
        assert!(!goes(None, 100_000, &[0, 0, 11]).await);
        assert!(
            goes(None, 100_000, &[11, 0]).await,
            "connecting takes longer"
        );
        assert!(!goes(None, 100_000, &[13, 0]).await);
        assert!(
            goes(None, 16_384, &[0, 50]).await,
            "the server makes it durable"
        );
        assert!(!goes(None, 16_384, &[0, 70]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_rate_limit_holds_back_is_no_stall() {
        let began = Instant::now();
        assert!(goes(Some(1_000), 64_000, &[0]).await);
        let took = began.elapsed().as_secs();
        assert!((60..=70).contains(&took), "{took} s");
    }

    /// The rest of a part was sent after its refusal.
    #[tokio::test]
    async fn nothing_is_sent_after_the_response() {
        let content: Arc<dyn Content> = Arc::new(Held(vec![0; 100_000].into(), Mutex::new(0)));
        let (pieces, sending) = Sending::pieces(&content, Arc::default());
        let mut pieces = Box::pin(pieces);
        assert_eq!(pieces.next().await.unwrap().unwrap().len(), PIECE);
        drop(sending);
        assert!(pieces.next().await.unwrap().is_err());
    }
}
