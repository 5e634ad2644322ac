//! Running async commands, and stopping them cleanly.

use std::{future::Future, pin::pin};

use tokio::signal::unix::{SignalKind, signal};

/// Runs a command on a few worker threads. What a fetch brings is hashed and written there too; the rest of file work has threads of
/// its own.
pub fn block_on<T>(command: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::thread::available_parallelism()
                .map_or(2, usize::from)
                .clamp(2, 8),
        )
        .enable_all()
        .build()
        .expect("threads and an event queue can be had");
    let outcome = runtime.block_on(command);
    // File work that is under way ends; connections need not.
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    outcome
}

/// Runs the work until it ends or a signal arrives; `None`: a signal. Dropping the work stops it cleanly.
pub async fn unless_stopped<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut stopped = pin!(stop());
    tokio::select! {
        outcome = &mut work => Some(outcome),
        () = &mut stopped => None,
    }
}

/// Waits for SIGINT, SIGTERM or SIGHUP.
pub async fn stop() {
    let wait = async |kind| match signal(kind) {
        Ok(mut signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => (),
        () = wait(SignalKind::terminate()) => (),
        () = wait(SignalKind::hangup()) => (),
    }
}
