//! Local files: making manifests, and verifying.

use std::{convert::Infallible, path::PathBuf, sync::mpsc as mpsc_std};

use pyo3::{prelude::*, types::PyDict};
use sapwood::{
    disk::regions,
    engine::{
        against::{self, Named, Sought},
        blocking,
        create::{self, CreateOptions, Input, Output},
        error_kind::ErrorKind,
        events::{Event, Events},
        fetch::ManifestPlace,
        manifest_file,
        verify::{self, Against, Verdict},
    },
    format::{digests::Algorithm, geometry::BlockSize},
    policy::conditions::Conditions,
};
use tokio::sync::mpsc;

use crate::{
    errors,
    events::{self, Caller},
    options::{NetworkOptions, ObjectOptions, parsed},
    runtime,
};

/// Events that wait for Python; then the work waits.
const EVENTS_WAITING_MAX: usize = 256;

/// Makes the manifest of a file; returns the event `manifest`.
#[pyfunction]
#[pyo3(name = "manifest")]
#[allow(
    clippy::too_many_arguments,
    reason = "the options, as the Python half names them"
)]
pub fn make_manifest<'py>(
    py: Python<'py>,
    path: PathBuf,
    out: Option<PathBuf>,
    block_size: Option<u64>,
    digests: Vec<String>,
    hints: bool,
    name: Option<String>,
    sequence: u64,
) -> PyResult<Bound<'py, PyDict>> {
    let size = |bytes| {
        BlockSize::new(bytes).ok_or_else(|| {
            errors::usage("block sizes are powers of two from 16 KiB to 16 MiB, in bytes")
        })
    };
    let algorithm = |name: &String| -> PyResult<Algorithm> {
        let algorithm = parsed("digests", Some(name))?;
        algorithm.ok_or_else(|| errors::usage("an empty name of a digest"))
    };
    let options = CreateOptions {
        block_size: block_size.map(size).transpose()?,
        no_hints: !hints,
        digests: digests.iter().map(algorithm).collect::<PyResult<_>>()?,
        name,
        sequence,
        ..CreateOptions::default()
    };
    let manifest = out.unwrap_or_else(|| manifest_file::beside(&path));
    let to = Output::File(manifest.clone());
    let work = move || create::create(Input::File(path), to, &options, None);
    let tree = runtime::wait(py, async move {
        let (running, _stops) = StopsReading::new();
        start(running, work)
            .await
            .map_err(|error| errors::of(&error))
    })?;
    let geometry = *tree.geometry();
    let made = Event::Manifest {
        manifest,
        root: tree.root(),
        bytes_total: geometry.length(),
        block_size: geometry.block_size(),
        blocks: geometry.blocks(),
    };
    events::of(py, &made, None)
}

/// Verifies a file; returns the event `verified`.
#[pyfunction]
#[pyo3(name = "verify")]
pub fn verify_file<'py>(
    py: Python<'py>,
    path: PathBuf,
    on_event: Option<Py<PyAny>>,
    object: ObjectOptions,
    network: NetworkOptions,
    hints: bool,
) -> PyResult<Bound<'py, PyDict>> {
    if path.is_dir() {
        let message = format!("{} is a folder; only files are verified", path.display());
        return Err(errors::usage(message));
    }
    let named = match object.manifest()? {
        None | Some(ManifestPlace::Nowhere) => None,
        Some(place @ ManifestPlace::File(_)) => Some(Named {
            place,
            context: None,
        }),
        Some(place) => {
            let _entered = runtime::get()?.enter();
            let context = Some(network.context()?);
            Some(Named { place, context })
        }
    };
    let conditions = Conditions {
        root: object.root()?,
        key: object.key()?,
        name: Some(create::name_of(&path)),
        require: object.require()?,
        ..Conditions::default()
    };
    let shown = path.display().to_string();
    let mut verified = None;
    let mut caller = Caller::new(on_event, Some(shown.clone()));
    let verdict = runtime::wait(py, async {
        let sought = Sought {
            path: &path,
            named: named.as_ref(),
            conditions: &conditions,
            store: &network.store(),
        };
        let found = against::find(&sought, &mut caller).await;
        let Some(mut against) = found.map_err(|error| errors::of(&error))? else {
            let message = format!("{shown} has no manifest beside it; give manifest= or root=");
            return Err(errors::usage(message));
        };
        if let Against::Manifest { hints: checks, .. } = &mut against {
            *checks = hints;
        }
        compare(path.clone(), against, &mut caller, &mut verified).await
    })?;
    match (verdict, verified) {
        (Verdict::Verified, Some(verified)) => events::of(py, &verified, None),
        (Verdict::Damaged { blocks }, _) => Err(errors::of_kind(
            ErrorKind::NotVerified,
            format!("{shown} does not verify: {blocks} of its places differ"),
        )),
        (Verdict::Verified, None) => Err(errors::of_kind(
            ErrorKind::Failed,
            format!("{shown} verifies, and nothing says against what"),
        )),
    }
}

/// Hashes the file, and hands on the events meanwhile.
async fn compare(
    path: PathBuf,
    against: Against,
    caller: &mut Caller,
    verified: &mut Option<Event>,
) -> PyResult<Verdict> {
    let (running, _stops) = StopsReading::new();
    // Dropped first: without it the work does not wait.
    let (sender, mut receiver) = mpsc::channel(EVENTS_WAITING_MAX);
    let raised = caller.raised();
    let work = start(running, move || {
        let mut tell = |event: Event| drop(sender.blocking_send(event));
        verify::verify(&path, &against, &mut tell)
    });
    let told = async {
        while let Some(event) = receiver.recv().await {
            if matches!(event, Event::Verified { .. }) {
                *verified = Some(event.clone());
            }
            caller.event(event);
        }
    };
    let done = async {
        let (verdict, ()) = tokio::join!(work, told);
        verdict.map_err(|error| errors::of(&error))
    };
    raised.or(done).await
}

/// Exists while work on files runs.
struct Running(mpsc_std::Sender<Infallible>);

/// Ends work on files when it is dropped before the work has ended, and waits for that end: nothing appears after Ctrl-C.
struct StopsReading(mpsc_std::Receiver<Infallible>);

impl StopsReading {
    fn new() -> (Running, StopsReading) {
        let (running, ended) = mpsc_std::channel();
        (Running(running), StopsReading(ended))
    }
}

impl Drop for StopsReading {
    fn drop(&mut self) {
        if self.0.try_recv() == Err(mpsc_std::TryRecvError::Empty) {
            regions::stop();
            // It only ever says that the other end is gone.
            let _ = self.0.recv();
            regions::allow_again();
        }
    }
}

/// Starts work on a thread of its own.
fn start<T: Send + 'static>(
    running: Running,
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> {
    blocking::run(move || {
        let Running(_alive) = running;
        work()
    })
}
