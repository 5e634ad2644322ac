//! The border between async code and files: where work runs that may wait for the disk or needs the processor.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::task::JoinError;

use crate::disk::error::DiskError;

use super::error::Error;

/// Where work is done that needs the processor or may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// On threads for such work: nobody else waits.
    Blocking,
    /// On that thread of the runtime on which the bytes arrive, which takes a tenth less time than to hand them over. It is for
    /// runtimes with several threads and nothing else to do.
    Runtime,
}

/// Runs file work where it may block.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, Error> {
    Ok(joined(tokio::task::spawn_blocking(work)).await?)
}

/// Runs work on a thread where it may block.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work)).await
}

/// What work elsewhere returned; its panic goes on here.
pub async fn joined<T>(work: impl Future<Output = Result<T, JoinError>>) -> T {
    match work.await.map_err(JoinError::try_into_panic) {
        Ok(outcome) => outcome,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // It was never begun, because the runtime is shutting down. So is this future: it will be dropped.
        Err(Err(_)) => std::future::pending().await,
    }
}

/// Ends work on files when the fetch is dropped.
#[derive(Default)]
pub struct StopWhenDropped(pub Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A stop by a signal ended in a panic when a span was waiting for work that had not begun.
    #[tokio::test]
    async fn work_that_was_cancelled_before_it_began_is_no_panic() {
        let work = tokio::spawn(std::future::pending::<()>());
        work.abort();
        let waited = tokio::time::timeout(Duration::from_millis(50), joined(work));
        assert!(waited.await.is_err(), "it came back");
    }
}
