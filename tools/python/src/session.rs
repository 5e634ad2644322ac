//! Fetching and opening objects, with connections and limits that all calls of a session share.

use std::{
    mem,
    path::PathBuf,
    process,
    sync::{Arc, atomic::AtomicU64},
};

use parking_lot::Mutex;
use pyo3::{prelude::*, types::PyDict};
use sapwood::{
    engine::{
        context::Context,
        events::Event,
        fetch::{self, FetchOptions},
        read::{self, ReadOptions},
    },
    format::digests::Digest,
};

use crate::{
    errors,
    events::{self, Caller},
    object::Object,
    options::{NetworkOptions, ObjectOptions, location, parsed},
    runtime,
};

/// Connections, store and limits of calls that belong together.
#[pyclass(frozen)]
pub struct Session {
    options: NetworkOptions,
    /// As Python has them, for files that are pickled.
    given: Py<PyDict>,
    /// And the process that it belongs to: after a fork its connections are of the other one.
    context: Mutex<(u32, Context)>,
}

/// What else there is to say about a fetch.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct TargetOptions {
    digests: Vec<String>,
    seeds: Vec<PathBuf>,
    receipt: Option<PathBuf>,
    save_manifest: bool,
    no_clobber: bool,
    discard: bool,
}

#[pymethods]
impl Session {
    #[new]
    fn new(given: Bound<'_, PyDict>) -> PyResult<Session> {
        let options: NetworkOptions = given.extract()?;
        // Hosts that are remembered need it.
        let _entered = runtime::get()?.enter();
        let context = Mutex::new((process::id(), options.context()?));
        Ok(Session {
            options,
            given: given.unbind(),
            context,
        })
    }

    /// The options that it was made with.
    fn options(&self, py: Python<'_>) -> Py<PyDict> {
        self.given.clone_ref(py)
    }

    /// Fetches an object; returns the event `published`.
    fn fetch<'py>(
        &self,
        py: Python<'py>,
        url: &str,
        path: PathBuf,
        on_event: Option<Py<PyAny>>,
        options: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let context = self.context()?.counting(Arc::default());
        let shown = path.to_string_lossy().into_owned();
        let options = fetch_options(url, path, options)?;
        let mut caller = Caller::new(on_event, Some(shown));
        let raised = caller.raised();
        let published = runtime::wait(py, async move {
            let work = async {
                let published = fetch::fetch(&context, options, &mut caller).await;
                published.map_err(|error| errors::of(&error))
            };
            raised.or(work).await
        })?;
        events::of(py, &Event::Published(published), None)
    }

    /// Opens an object to read it.
    fn open(&self, py: Python<'_>, url: &str, options: ObjectOptions) -> PyResult<Object> {
        let fetched = Arc::new(AtomicU64::new(0));
        let context = self.context()?.counting(fetched.clone());
        let location = location(url)?;
        let shown = location.to_string();
        let options = ReadOptions {
            manifest: options.manifest()?,
            root: options.root()?,
            key: options.key()?,
            require: options.require()?,
            max_size: options.max_size,
            mirrors: options.mirrors()?,
            name: None,
            length: None,
            url: location,
        };
        runtime::wait(py, async move {
            let opened = read::open(&context, options, &mut |_: Event| ()).await;
            let (object, mut transfer) = opened.map_err(|error| errors::of(&error))?;
            let transfer = tokio::spawn(async move {
                transfer.run(&mut |_: Event| ()).await;
                transfer.finish().await;
            });
            let length = object.proven_length().await;
            let length = length.map_err(|error| errors::of(&error))?;
            Ok(Object::new(shown, object, length, fetched, transfer))
        })
    }
}

impl Session {
    fn context(&self) -> PyResult<Context> {
        let mut context = self.context.lock();
        if context.0 != process::id() {
            let _entered = runtime::get()?.enter();
            let made = (process::id(), self.options.context()?);
            // Its threads and its database are those of the other process.
            mem::forget(mem::replace(&mut *context, made));
        }
        Ok(context.1.clone())
    }
}

fn fetch_options(url: &str, path: PathBuf, options: &Bound<'_, PyDict>) -> PyResult<FetchOptions> {
    let (object, target): (ObjectOptions, TargetOptions) = (options.extract()?, options.extract()?);
    let digest = |text: &String| -> PyResult<Digest> {
        let digest = parsed("digests", Some(text))?;
        digest.ok_or_else(|| errors::usage("an empty digest"))
    };
    Ok(FetchOptions {
        mirrors: object.mirrors()?,
        seeds: target.seeds,
        manifest: object.manifest()?,
        root: object.root()?,
        key: object.key()?,
        digests: target.digests.iter().map(digest).collect::<PyResult<_>>()?,
        require: object.require()?,
        max_size: object.max_size,
        no_clobber: target.no_clobber,
        discard: target.discard,
        save_manifest: target.save_manifest,
        receipt: target.receipt,
        ..FetchOptions::new(location(url)?, path)
    })
}
