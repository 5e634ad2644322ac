//! The library for Python: the native half of the package `sapwood`. The other half, in `sapwood/`, is what users see; it has the
//! documentation.

mod errors;
mod events;
mod files;
mod object;
mod options;
mod runtime;
mod session;

#[pyo3::pymodule]
mod _sapwood {
    #[pymodule_export]
    use crate::{
        files::{make_manifest, verify_file},
        object::{Cursor, Object},
        options::default_store,
        session::Session,
    };
}
