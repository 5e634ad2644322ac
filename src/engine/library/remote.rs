//! A library elsewhere: its index is read, proven and kept, and its files are read one by one, each proven by its root in the index.

use tokio::time::sleep;

use crate::{
    engine::{
        cat::{self, CatOptions, Wanted},
        context::Context,
        error::Error,
        events::Events,
        read::ReadOptions,
        remote::manifest::ManifestPlace,
    },
    format::{
        keys::PublicKey,
        library::{self, Entry, Index, IndexHeader},
        tree::Root,
        trust::Trust,
    },
    net::location::Location,
};

use super::{AGAIN, INDEX_BYTES_MAX, are_apart};

/// Which library.
#[derive(Clone)]
pub struct RemoteOptions {
    /// Its folder, with a slash at the end, or its index.
    pub url: Location,
    /// The index must have this root.
    pub root: Option<Root>,
    /// The index must be signed by this key, for the name of the folder.
    pub key: Option<PublicKey>,
    /// The least trust that is accepted.
    pub require: Trust,
    /// The largest file, in bytes.
    pub max_size: Option<u64>,
    /// Other URLs of the same library.
    pub mirrors: Vec<Location>,
}

/// A library whose index was proven. It stays what it was, whatever its server publishes later.
pub struct RemoteLibrary {
    /// The files.
    pub index: Index,
    /// The root of the index.
    pub root: Root,
    /// What the index is proven against, and so all files.
    pub trust: Trust,
    folder: Location,
    mirrors: Vec<Location>,
    max_size: Option<u64>,
}

/// Reads the index of a library. Index and manifest that do not belong together are both read once more.
pub async fn open(
    context: &Context,
    options: &RemoteOptions,
    events: &mut dyn Events,
) -> Result<RemoteLibrary, Error> {
    match open_once(context, options, events).await {
        // The manifest has another root than the user requires.
        Err(error @ Error::OtherRoot { .. }) => Err(error),
        Err(error) if are_apart(&error) => {
            sleep(AGAIN).await;
            open_once(context, options, events).await
        }
        opened => opened,
    }
}

async fn open_once(
    context: &Context,
    options: &RemoteOptions,
    events: &mut dyn Events,
) -> Result<RemoteLibrary, Error> {
    let folder = options.url.of_library();
    let url = folder.below(library::NAME);
    let read = CatOptions {
        url: url.clone(),
        wanted: Wanted::All,
        manifest: Some(ManifestPlace::Url(folder.below(library::MANIFEST))),
        root: options.root,
        key: options.key.clone(),
        require: options.require,
        max_size: Some(INDEX_BYTES_MAX),
        name: Some(folder.folder_name().unwrap_or_default()),
    };
    let mut bytes = Vec::new();
    let trust = cat::cat(context, read, events, |some| {
        bytes.extend_from_slice(some);
        Ok(())
    });
    let trust = trust.await?;
    let refuse = |cause| Error::Index {
        place: url.to_string(),
        cause,
    };
    let header = IndexHeader::read(&bytes, bytes.len() as u64).map_err(refuse)?;
    let entries = header.entries();
    let entries = &bytes[entries.start as usize..entries.end as usize];
    Ok(RemoteLibrary {
        index: Index::read(&header, entries).map_err(refuse)?,
        root: Root(*blake3::hash(&bytes).as_bytes()),
        trust,
        folder,
        mirrors: options.mirrors.iter().map(Location::of_library).collect(),
        max_size: options.max_size,
    })
}

impl RemoteLibrary {
    /// How to read a file of it.
    pub fn object(&self, entry: &Entry) -> ReadOptions {
        let name = library::manifest_name(entry.root);
        let manifest = self.folder.below(&format!("{}/{name}", library::MANIFESTS));
        let of = |folder: &Location| folder.below(entry.path.as_str());
        ReadOptions {
            url: of(&self.folder),
            manifest: Some(ManifestPlace::Url(manifest)),
            root: Some(entry.root),
            // The index, which names the root, is signed.
            key: None,
            require: Trust::default(),
            max_size: self.max_size,
            mirrors: self.mirrors.iter().map(of).collect(),
            name: None,
            length: Some(entry.length),
        }
    }
}
