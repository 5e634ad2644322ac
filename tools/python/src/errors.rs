//! Errors as exceptions, which `sapwood/errors.py` defines.

use pyo3::{prelude::*, types::PyDict};
use sapwood::{
    engine::{error::Error, error_kind::ErrorKind, event_fields},
    policy::recovery::Failure,
};
use serde_json::Value;

use crate::events;

/// The exception of an error.
pub fn of(error: &Error) -> PyErr {
    let fields = event_fields::fields_of_error(error);
    let kind = match is_missing(error) {
        true => "not-found",
        false => ErrorKind::of(error).name(),
    };
    exception(kind, error.to_string(), &fields)
}

/// An exception of this kind.
pub fn of_kind(kind: ErrorKind, message: String) -> PyErr {
    exception(kind.name(), message, &Value::Null)
}

/// What was given makes no sense.
pub fn usage(message: impl ToString) -> PyErr {
    of_kind(ErrorKind::Usage, message.to_string())
}

/// Whether there is no such file or object.
fn is_missing(error: &Error) -> bool {
    match error {
        Error::NoManifest { .. } => true,
        Error::Disk(cause) => cause.is_missing(),
        Error::Net { cause, .. } => {
            matches!(cause.failure, Failure::Refused { status: 404 | 410 })
        }
        _ => false,
    }
}

fn exception(kind: &str, message: String, fields: &Value) -> PyErr {
    Python::attach(|py| {
        let made = || {
            let known = PyDict::new(py);
            events::fill(&known, fields)?;
            let errors = py.import("sapwood.errors")?;
            errors.call_method1("_of_kind", (kind, message, known))
        };
        made().map_or_else(|cause| cause, PyErr::from_value)
    })
}
