//! The options of users, as the library takes them.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use pyo3::prelude::*;
use sapwood::{
    disk::state,
    engine::{
        connections::Connections,
        context::{Context, StoreHandle},
        error_kind::ErrorKind,
        fetch::ManifestPlace,
        host_memory,
    },
    format::{keys::PublicKey, tree::Root, trust::Trust},
    net::{
        auth::{Credentials, netrc::Netrc},
        authorities::Authorities,
        client::Client,
        hosts::Hosts,
        location::Location,
        options::ClientOptions,
        proxies,
    },
    policy::schedule::Limits,
};

use crate::errors::{self, usage};

/// The folder of the store that the program uses.
#[pyfunction]
pub fn default_store() -> Option<PathBuf> {
    state::default_folder()
}

/// How requests are made.
#[derive(Clone, FromPyObject)]
#[pyo3(from_item_all)]
pub struct NetworkOptions {
    #[pyo3(default)]
    connections: Option<u32>,
    #[pyo3(default)]
    limit_rate: Option<u64>,
    #[pyo3(default)]
    headers: Option<HashMap<String, String>>,
    #[pyo3(default)]
    netrc: Option<PathBuf>,
    #[pyo3(default)]
    cacert: Option<PathBuf>,
    #[pyo3(default)]
    proxy: Option<String>,
    #[pyo3(default)]
    connect_timeout: Option<f64>,
    #[pyo3(default)]
    patience: Option<f64>,
    #[pyo3(default)]
    tries: Option<u32>,
    #[pyo3(default)]
    allow_private: Option<bool>,
    store: Option<PathBuf>,
}

impl NetworkOptions {
    /// The client, the store and the limits.
    pub fn context(&self) -> PyResult<Context> {
        if self.proxy.is_none() {
            proxies::check().map_err(usage)?;
        }
        let store = self.store();
        let context = Context::new(Client::new(self.client_options(&store)?));
        let connections = self.connections.unwrap_or(context.limits.connections);
        let limits = Limits {
            connections,
            tries: self.tries.unwrap_or(context.limits.tries),
            patience_ms: match self.patience {
                Some(patience) => {
                    u64::try_from(seconds("patience", patience)?.as_millis()).unwrap_or(u64::MAX)
                }
                None => context.limits.patience_ms,
            },
            ..context.limits
        };
        Ok(Context {
            store,
            limits,
            connections: Connections::at_most(connections),
            ..context
        })
    }

    /// The store, if there is one.
    pub fn store(&self) -> StoreHandle {
        self.store
            .clone()
            .map_or_else(StoreHandle::default, StoreHandle::at)
    }

    fn client_options(&self, store: &StoreHandle) -> PyResult<ClientOptions> {
        let mut fields = Vec::new();
        for (name, value) in self.headers.iter().flatten() {
            // Its value may be a secret, so it is not repeated in the message.
            let wrong = |_| usage(format!("the header {name:?} is not one of HTTP"));
            let name = HeaderName::from_str(name).map_err(|cause| wrong(cause.to_string()))?;
            let value = HeaderValue::from_str(value).map_err(|cause| wrong(cause.to_string()));
            let mut value = value?;
            value.set_sensitive(true);
            fields.push((name, value));
        }
        let netrc = match &self.netrc {
            Some(file) => Netrc::parse(&String::from_utf8_lossy(&read(file)?)),
            None => Netrc::default(),
        };
        let authorities = match &self.cacert {
            Some(file) => Authorities::parse(&read(file)?).ok_or_else(|| {
                usage(format!(
                    "{} has no certificate in PEM, or a malformed one",
                    file.display()
                ))
            })?,
            None => Authorities::default(),
        };
        let timeout = self
            .connect_timeout
            .map(|timeout| seconds("connect_timeout", timeout));
        Ok(ClientOptions {
            authorities,
            credentials: Credentials {
                netrc,
                fields,
                keys: None,
            },
            limit_rate: self.limit_rate.filter(|rate| *rate > 0),
            proxy: parsed("proxy", self.proxy.as_deref())?,
            connect_timeout: timeout.transpose()?,
            allow_private: self.allow_private.unwrap_or(false),
            hosts: match store.is_some() {
                true => host_memory::remembered(store.clone()),
                false => Hosts::default(),
            },
            ..ClientOptions::default()
        })
    }
}

/// What the object must be, and where its manifest is.
#[derive(Clone, FromPyObject)]
#[pyo3(from_item_all)]
pub struct ObjectOptions {
    pub manifest: Option<Manifest>,
    pub root: Option<String>,
    pub key: Option<String>,
    pub require: Option<String>,
    pub mirrors: Option<Vec<String>>,
    pub max_size: Option<u64>,
}

/// Where a manifest is; `False`: the object has none.
#[derive(Clone, FromPyObject)]
pub enum Manifest {
    Flag(bool),
    Place(String),
    Bytes(Vec<u8>),
}

impl ObjectOptions {
    pub fn manifest(&self) -> PyResult<Option<ManifestPlace>> {
        Ok(match &self.manifest {
            None | Some(Manifest::Flag(true)) => None,
            Some(Manifest::Flag(false)) => Some(ManifestPlace::Nowhere),
            Some(Manifest::Bytes(bytes)) => Some(ManifestPlace::Bytes(bytes.clone().into())),
            Some(Manifest::Place(place)) => Some(manifest_place(place)?),
        })
    }

    pub fn root(&self) -> PyResult<Option<Root>> {
        parsed("root", self.root.as_deref())
    }

    pub fn key(&self) -> PyResult<Option<PublicKey>> {
        self.key.as_deref().map(public_key).transpose()
    }

    pub fn require(&self) -> PyResult<Trust> {
        Ok(parsed("require", self.require.as_deref())?.unwrap_or_default())
    }

    pub fn mirrors(&self) -> PyResult<Vec<Location>> {
        self.mirrors
            .iter()
            .flatten()
            .map(|url| location(url))
            .collect()
    }
}

/// An URL of http or https.
pub fn location(url: &str) -> PyResult<Location> {
    let location = Location::parse(url)
        .map_err(|cause| errors::of_kind(ErrorKind::of_bad_url(&cause), cause.to_string()))?;
    match location.is_in_s3() {
        true => Err(usage(format!(
            "{location}: this package reads http and https only"
        ))),
        false => Ok(location),
    }
}

/// A manifest at a URL, or in a file.
pub fn manifest_place(place: &str) -> PyResult<ManifestPlace> {
    Ok(match place.contains("://") {
        true => ManifestPlace::Url(location(place)?),
        false => ManifestPlace::File(place.into()),
    })
}

/// A public key: its text, or a file with it.
fn public_key(key: &str) -> PyResult<PublicKey> {
    let text = match Path::new(key).exists() {
        true => String::from_utf8_lossy(&read(Path::new(key))?).into_owned(),
        false => key.to_owned(),
    };
    PublicKey::from_text(&text).map_err(|cause| usage(format!("key {key}: {cause}")))
}

/// The value of an option that is given as text.
pub fn parsed<T: FromStr<Err: std::fmt::Display>>(
    name: &str,
    text: Option<&str>,
) -> PyResult<Option<T>> {
    let parse = |text: &str| {
        text.parse()
            .map_err(|cause| usage(format!("{name}={text:?}: {cause}")))
    };
    text.map(parse).transpose()
}

fn seconds(name: &str, seconds: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| usage(format!("{name}={seconds} is no time in seconds")))
}

fn read(file: &Path) -> PyResult<Vec<u8>> {
    fs::read(file).map_err(|cause| {
        let message = format!("failed to read {}: {cause}", file.display());
        errors::of_kind(ErrorKind::Failed, message)
    })
}
