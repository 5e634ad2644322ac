//! What a caller may ask of a fetch.

use std::path::PathBuf;

use crate::{
    disk::journal::JournalKeeper,
    engine::remote::manifest::ManifestPlace,
    format::{digests::Digest, keys::PublicKey, tree::Root, trust::Trust},
    net::location::Location,
};

/// What to fetch, where to, and what to ask of it.
pub struct FetchOptions {
    /// The object.
    pub url: Location,
    /// The final name. An existing file is replaced when the object is proven.
    pub target: PathBuf,
    /// Other places of the same object.
    pub mirrors: Vec<Location>,
    /// Files that may hold some of its bytes, and folders of such files. One that is not there is no error.
    pub seeds: Vec<PathBuf>,
    /// All that the store knows of may be searched, not only what came from the same origin or under the same key.
    pub seed_store: bool,
    /// `None`: beside the object.
    pub manifest: Option<ManifestPlace>,
    /// The object must be this one.
    pub root: Option<Root>,
    /// The manifest must be signed by this key, for the name of the URL.
    pub key: Option<PublicKey>,
    /// Digests that the object must have.
    pub digests: Vec<Digest>,
    /// The least trust.
    pub require: Trust,
    /// The largest object, in bytes.
    pub max_size: Option<u64>,
    /// Fail if the target is there.
    pub no_clobber: bool,
    /// What does not verify is deleted, not kept as `FILE.quarantined`.
    pub discard: bool,
    /// Where the receipt goes. An existing one is replaced.
    pub receipt: Option<PathBuf>,
    /// Keeps the journal somewhere else than in `FILE.part.journal`.
    pub journal: Option<Box<dyn JournalKeeper>>,
}

impl FetchOptions {
    /// The defaults of the program.
    pub fn new(url: Location, target: impl Into<PathBuf>) -> FetchOptions {
        FetchOptions {
            url,
            target: target.into(),
            mirrors: Vec::new(),
            seeds: Vec::new(),
            seed_store: false,
            manifest: None,
            root: None,
            key: None,
            digests: Vec::new(),
            require: Trust::default(),
            max_size: None,
            no_clobber: false,
            discard: false,
            receipt: None,
            journal: None,
        }
    }
}
