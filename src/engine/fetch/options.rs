//! The options of a fetch.

use std::path::PathBuf;

use crate::{
    disk::{files::Folder, journal::JournalKeeper},
    engine::remote::{OpenRequest, manifest::ManifestPlace},
    format::{digests::Digest, keys::PublicKey, tree::Root, trust::Trust},
    net::location::Location,
};

use super::locks::Locks;

/// What to fetch, where to put it, and what the object must be.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub struct FetchOptions {
    /// The URL of the object.
    pub url: Location,
    /// The final name. An existing file is replaced when the object is proven.
    pub target: PathBuf,
    /// The folder of the target, if it is open already: what lies on its path does not matter then.
    pub folder: Option<Folder>,
    /// Other URLs of the same object.
    pub mirrors: Vec<Location>,
    /// Files that may contain some of its bytes, and folders of such files. A missing one is not an error.
    pub seeds: Vec<PathBuf>,
    /// Search everything that the store knows, not only files from the same origin or under the same key.
    pub seed_store: bool,
    /// `None`: beside the object, if there is one that can be read.
    pub manifest: Option<ManifestPlace>,
    /// The object must be this one.
    pub root: Option<Root>,
    /// The manifest must be signed by this key, for the name of the URL.
    pub key: Option<PublicKey>,
    /// Digests that the object must have.
    pub digests: Vec<Digest>,
    /// The least trust that is accepted.
    pub require: Trust,
    /// The largest object, in bytes.
    pub max_size: Option<u64>,
    /// Fail if the target exists.
    pub no_clobber: bool,
    /// Delete a file that does not verify, instead of keeping it as `FILE.quarantined`.
    pub discard: bool,
    /// Write the manifest beside the file. An existing one is replaced.
    pub save_manifest: bool,
    /// Where to write the receipt. An existing one is replaced.
    pub receipt: Option<PathBuf>,
    /// Where to keep the journal instead of `FILE.part.journal`.
    pub journal: Option<Box<dyn JournalKeeper>>,
    /// Shared by the fetches of a run, whose targets are locked together.
    pub locks: Locks,
}

impl FetchOptions {
    /// The defaults of the program.
    pub fn new(url: Location, target: impl Into<PathBuf>) -> FetchOptions {
        FetchOptions {
            url,
            target: target.into(),
            folder: None,
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
            save_manifest: false,
            receipt: None,
            journal: None,
            locks: Locks::default(),
        }
    }

    /// What to open. `keeps_first`: see [`OpenRequest::keeps_first`].
    pub(super) fn open_request(&self, keeps_first: bool) -> OpenRequest<'_> {
        OpenRequest {
            url: &self.url,
            mirrors: &self.mirrors,
            manifest: self.manifest.as_ref(),
            keeps_first,
            needs_manifest: self.requires_manifest(),
        }
    }

    /// Whether the first bytes of the object may be requested before its manifest came: nothing could refuse the object, they come
    /// from one source, and no file that the user allows to search may have them.
    pub(super) fn takes_first_bytes(&self) -> bool {
        let nothing_refuses = !self.requires_manifest() && self.max_size.is_none();
        nothing_refuses && self.mirrors.is_empty() && self.seeds.is_empty() && !self.seed_store
    }

    /// Whether what an earlier run proved is enough now.
    pub(super) fn is_satisfied_by(&self, proven: Trust) -> bool {
        let nothing_named = self.manifest.is_none() && self.mirrors.is_empty();
        let nothing_to_prove = self.root.is_none() && self.key.is_none() && self.digests.is_empty();
        nothing_named && nothing_to_prove && proven >= self.require
    }

    /// Whether the object may not be fetched without its manifest.
    pub(super) fn requires_manifest(&self) -> bool {
        let named = self.manifest.as_ref();
        named.is_some_and(|place| !matches!(place, ManifestPlace::Nowhere))
            || self.root.is_some()
            || self.key.is_some()
            || self.require > Trust::default()
    }
}
