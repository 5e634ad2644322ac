//! Running async commands, and stopping them cleanly.

use std::{
    future::Future,
    io,
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    task::Poll,
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};

use crate::disk::{error::is_out_of_descriptors, machine, regions};

/// Threads beside those of the runtime that a command cannot do without: for files and for names.
const THREADS_BESIDE: usize = 2;
/// Descriptors that the runtime opens by itself, and a few for files.
const DESCRIPTORS: usize = 12;

/// How long file work that is under way may take to end; connections need not.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Runs a command on a few worker threads. What a fetch brings is hashed and written there too; the rest of file work has threads of
/// its own.
pub fn block_on<T>(command: impl Future<Output = T>) -> T {
    let runtime = runtime(Builder::new_multi_thread().worker_threads(workers()));
    let outcome = runtime.block_on(command);
    runtime.shutdown_timeout(SHUTDOWN);
    outcome
}

/// Waits on this thread for something that takes no time to speak of, in a command that is not async.
pub fn block_on_here<T>(work: impl Future<Output = T>) -> T {
    runtime(&mut Builder::new_current_thread()).block_on(work)
}

/// Runs a command of many small requests on this thread: they take longer on their way from one thread to another than for
/// themselves. Its transfers run on the threads of [`block_on`], by the handle.
pub fn block_on_this_thread<T, F>(command: impl FnOnce(Handle) -> F) -> T
where
    F: Future<Output = T>,
{
    let of_transfers = runtime(Builder::new_multi_thread().worker_threads(workers()));
    let here = runtime(&mut Builder::new_current_thread());
    let outcome = here.block_on(command(of_transfers.handle().clone()));
    for runtime in [here, of_transfers] {
        runtime.shutdown_timeout(SHUTDOWN);
    }
    outcome
}

fn runtime(builder: &mut Builder) -> Runtime {
    let runtime = builder.enable_all().build();
    runtime.expect("threads and an event queue can be had")
}

fn workers() -> usize {
    thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, 8)
}

/// Fails if this process may not open the few files that every command needs: the runtime would panic.
pub fn check_descriptors() -> io::Result<()> {
    let copy = |_| io::stderr().as_fd().try_clone_to_owned();
    let opened: io::Result<Vec<OwnedFd>> = (0..DESCRIPTORS).map(copy).collect();
    match opened {
        Err(cause) if is_out_of_descriptors(&cause) => Err(cause),
        // Standard error may be closed.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Fails if [`block_on`] could not start its threads: the runtime would panic, or wait for ever.
pub fn check_threads() -> io::Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        let _closed = gate.lock();
        for _ in 0..workers() + THREADS_BESIDE {
            thread::Builder::new().spawn_scoped(scope, || drop(gate.lock()))?;
        }
        Ok(())
    })
}

/// Lets a write beyond the limit on the size of files fail, instead of ending the program by a signal.
pub fn survive_file_size_limit() {
    let handled = || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        // The handler stays when this is dropped.
        runtime.block_on(async { signal(SignalKind::from_raw(machine::file_size_signal())) })
    };
    if let Err(cause) = handled() {
        tracing::debug!("SIGXFSZ is not handled: {cause}");
    }
}

/// From now on a signal ends the reading of files, and with it a command that runs on this thread.
pub fn stop_reading_on_signal() {
    let wait = || {
        let runtime = Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            runtime.block_on(async { stop(true).await });
            regions::stop();
        }
    };
    // Without it a signal ends the program at once.
    if let Err(cause) = thread::Builder::new().spawn(wait) {
        tracing::debug!("signals end the program at once: {cause}");
    }
}

/// Runs the work until it ends or a signal arrives; `None`: a signal. Dropping the work stops it cleanly.
pub async fn unless_stopped<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut stopped = pin!(stop(true));
    tokio::select! {
        outcome = &mut work => Some(outcome),
        () = &mut stopped => None,
    }
}

/// Waits for SIGINT or SIGTERM, or also for SIGHUP. From the call on, they do not end the program.
pub fn stop(at_hangup: bool) -> impl Future<Output = ()> {
    let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
    kinds.extend(at_hangup.then(SignalKind::hangup));
    let mut signals: Vec<Signal> = kinds
        .into_iter()
        .filter_map(|kind| signal(kind).ok())
        .collect();
    std::future::poll_fn(move |context| {
        let is_here = |signal: &mut Signal| signal.poll_recv(context).is_ready();
        match signals.iter_mut().any(is_here) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
}

/// Does this at each SIGHUP from the call on; without an action it only waits.
pub fn at_hangup(action: Option<impl Fn()>) -> impl Future<Output = ()> {
    let both = action.and_then(|action| Some((signal(SignalKind::hangup()).ok()?, action)));
    async move {
        let Some((mut hangups, action)) = both else {
            return std::future::pending().await;
        };
        while hangups.recv().await.is_some() {
            action();
        }
    }
}
