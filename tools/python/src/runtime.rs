//! The runtime of this process, and waiting for work in it without the GIL.

use std::{future::Future, pin::pin, process, time::Duration};

use parking_lot::Mutex;
use pyo3::{PyResult, Python};
use sapwood::engine::error_kind::ErrorKind;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    time::sleep,
};

use crate::errors;

/// Between two looks at whether Python has a signal to handle.
const SIGNALS: Duration = Duration::from_millis(100);
/// Transfers wait more than they work; files have threads of their own.
const WORKERS: usize = 2;

/// The runtime, and the process that it belongs to: after a fork its threads are gone.
static RUNTIME: Mutex<Option<(u32, &'static Runtime)>> = Mutex::new(None);

/// The runtime of this process. It lives as long as the process.
pub fn get() -> PyResult<&'static Runtime> {
    let mut runtime = RUNTIME.lock();
    if let Some((process, runtime)) = *runtime
        && process == process::id()
    {
        return Ok(runtime);
    }
    let made = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("sapwood")
        .enable_all()
        .build()
        .map_err(|cause| {
            let message = format!("failed to start threads: {cause}");
            errors::of_kind(ErrorKind::Failed, message)
        })?;
    let made: &Runtime = Box::leak(Box::new(made));
    *runtime = Some((process::id(), made));
    Ok(made)
}

/// Waits without the GIL. A signal that Python handles by an exception, such as Ctrl-C, drops the work and raises that exception.
pub fn wait<T: Send>(
    py: Python<'_>,
    work: impl Future<Output = PyResult<T>> + Send,
) -> PyResult<T> {
    if Handle::try_current().is_ok() {
        let message = "on_event was called in the middle of a call, and cannot make another one";
        return Err(errors::of_kind(ErrorKind::Usage, message.to_owned()));
    }
    let runtime = get()?;
    py.detach(|| {
        runtime.block_on(async {
            let mut work = pin!(work);
            loop {
                tokio::select! {
                    biased;
                    done = &mut work => return done,
                    () = sleep(SIGNALS) => Python::attach(|py| py.check_signals())?,
                }
            }
        })
    })
}
