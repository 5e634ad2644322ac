//! The variables and files of the AWS tools, for objects in S3.

use std::{io, path::PathBuf, sync::OnceLock};

use crate::net::auth::aws::{Access, BadAccess, Files};

/// What they say; read once. An error concerns those alone who name an object in S3.
pub fn access() -> &'static Result<Access, Unusable> {
    static ACCESS: OnceLock<Result<Access, Unusable>> = OnceLock::new();
    ACCESS.get_or_init(|| {
        let files = Files {
            config: read("AWS_CONFIG_FILE", "config")?,
            credentials: read("AWS_SHARED_CREDENTIALS_FILE", "credentials")?,
        };
        Ok(Access::read(variable, &files)?)
    })
}

#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error(transparent)]
    Access(#[from] BadAccess),
    #[error("failed to read {}: {cause}", path.display())]
    File { path: PathBuf, cause: io::Error },
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A file; nothing, if it is not there.
fn read(variable: &str, name: &str) -> Result<String, Unusable> {
    let home = || {
        Some(
            PathBuf::from(std::env::var_os("HOME")?)
                .join(".aws")
                .join(name),
        )
    };
    let named = std::env::var_os(variable).filter(|path| !path.is_empty());
    let Some(path) = named.map(PathBuf::from).or_else(home) else {
        return Ok(String::new());
    };
    match std::fs::read(&path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(cause) => Err(Unusable::File { path, cause }),
    }
}
