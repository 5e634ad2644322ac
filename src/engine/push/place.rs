//! Where uploads go.

use std::{fmt, sync::Arc};

use crate::{
    engine::storage::Recorded,
    net::{auth::Token, location::Location},
};

/// Where uploads go.
#[derive(Clone, Debug)]
pub enum Place {
    /// To a server that takes uploads.
    Server(Server),
    /// Into a storage, without a server.
    Storage(Bucket),
}

/// A server, and the token that it gets.
#[derive(Clone, Debug)]
pub struct Server {
    /// As the user typed it: any URL of its origin.
    pub url: Location,
    /// Never sent over plain HTTP, except to this machine.
    pub token: Option<Token>,
}

/// A folder of objects in a storage.
#[derive(Clone)]
pub struct Bucket {
    /// The names of objects are below it.
    pub folder: Location,
    /// Of this folder.
    pub storage: Arc<dyn Recorded>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.folder, f)
    }
}

impl Place {
    /// What the user typed, without a name.
    pub fn url(&self) -> &Location {
        match self {
            Place::Server(server) => &server.url,
            Place::Storage(bucket) => &bucket.folder,
        }
    }

    /// Where an object of this name will be.
    pub fn url_of(&self, name: &str) -> Location {
        match self {
            Place::Server(server) => server.url.at_origin("/", None).below(name),
            Place::Storage(bucket) => bucket.folder.below(name),
        }
    }
}
