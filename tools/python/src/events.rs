//! Events as dicts, with the fields of the JSON events of the program.

use std::{future::Future, sync::Arc, time::UNIX_EPOCH};

use parking_lot::Mutex;
use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyDict, PyList},
};
use sapwood::engine::{
    event_fields,
    events::{Event, Events},
};
use serde_json::Value;
use tokio::sync::Notify;

use crate::errors;

/// Calls a function of the user with each event, in the thread that waits for the work.
pub struct Caller {
    call: Option<Py<PyAny>>,
    /// The file that the events are about.
    path: Option<String>,
    raised: Arc<Raised>,
}

/// The exception that the function raised. It ends the work.
#[derive(Default)]
pub struct Raised {
    exception: Mutex<Option<PyErr>>,
    notify: Notify,
}

impl Raised {
    /// Does work until there is an exception. One that the last event caused counts too.
    pub async fn or<T>(&self, work: impl Future<Output = PyResult<T>>) -> PyResult<T> {
        let done = tokio::select! {
            biased;
            done = work => done,
            () = self.notify.notified() => Err(errors::usage("the work was ended")),
        };
        match self.exception.lock().take() {
            Some(exception) => Err(exception),
            None => done,
        }
    }
}

impl Caller {
    pub fn new(call: Option<Py<PyAny>>, path: Option<String>) -> Caller {
        Caller {
            call,
            path,
            raised: Arc::default(),
        }
    }

    /// For whoever ends the work.
    pub fn raised(&self) -> Arc<Raised> {
        self.raised.clone()
    }
}

impl Events for Caller {
    fn event(&mut self, event: Event) {
        let Some(call) = &self.call else { return };
        if self.raised.exception.lock().is_some() {
            return;
        }
        let called = Python::attach(|py| {
            let event = of(py, &event, self.path.as_deref())?;
            call.call1(py, (event,)).map(drop)
        });
        if let Err(exception) = called {
            *self.raised.exception.lock() = Some(exception);
            self.raised.notify.notify_one();
        }
    }
}

/// The dict of an event.
pub fn of<'py>(py: Python<'py>, event: &Event, path: Option<&str>) -> PyResult<Bound<'py, PyDict>> {
    let (name, fields) = event_fields::of(event);
    let dict = PyDict::new(py);
    dict.set_item("event", name)?;
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    dict.set_item(
        "time_ms",
        u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
    )?;
    if let Some(path) = path {
        dict.set_item("path", path)?;
    }
    fill(&dict, &fields)?;
    Ok(dict)
}

/// Puts the fields of a JSON object into a dict.
pub fn fill(dict: &Bound<'_, PyDict>, fields: &Value) -> PyResult<()> {
    for (name, value) in fields.as_object().into_iter().flatten() {
        dict.set_item(name, to_python(dict.py(), value)?)?;
    }
    Ok(())
}

fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::Null => Ok(py.None().into_bound(py)),
        Value::Bool(value) => value.into_bound_py_any(py),
        Value::Number(number) => match number.as_u64() {
            Some(number) => number.into_bound_py_any(py),
            None => number.as_f64().into_bound_py_any(py),
        },
        Value::String(text) => text.into_bound_py_any(py),
        Value::Array(values) => {
            let list = PyList::empty(py);
            for value in values {
                list.append(to_python(py, value)?)?;
            }
            Ok(list.into_any())
        }
        Value::Object(_) => {
            let dict = PyDict::new(py);
            fill(&dict, value)?;
            Ok(dict.into_any())
        }
    }
}
